"""Calls that wait for long: how many there may be, and who notices that a caller went away."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from actors.api.faults import ApiError, Fault
from actors.runtime.dialogue import Abandonment

LOOK_AFTER_CALLERS_S: Final = 0.25


class Waits:
    """The waiting calls of one server."""

    def __init__(self, most: int, counters: Counter[str]) -> None:
        self._most = most
        self._counters = counters
        self._some = threading.Condition()
        self._waiting: set[Abandonment] = set()
        self._left: set[Abandonment] = set()
        """Those of them whose caller went away."""
        self._watcher: threading.Thread | None = None

    def __len__(self) -> int:
        """How many calls wait."""
        return len(self._waiting)

    @contextmanager
    def entered(self, wait_s: float, is_gone: Callable[[], bool]) -> Iterator[Abandonment | None]:
        """Room for one call that waits for `wait_s` seconds; what is yielded abandons when `is_gone` says so.

        None for one that does not wait at all. Raises `ApiError` (`NO_ROOM`) where too many wait.
        """
        if not wait_s:
            yield None
            return
        abandonment = self._enter(is_gone)
        try:
            yield abandonment
        finally:
            with self._some:
                self._waiting.remove(abandonment)
                self._left.discard(abandonment)
            abandonment.close()

    def _enter(self, is_gone: Callable[[], bool]) -> Abandonment:
        with self._some:
            if len(self._waiting) >= self._most:
                self._counters["waits.refused"] += 1
                raise ApiError(Fault.NO_ROOM, f"{self._most} calls wait already; try again when some are answered")
            abandonment = Abandonment(is_gone)
            self._waiting.add(abandonment)
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, name="callers", daemon=True)
                self._watcher.start()
            self._some.notify()
        return abandonment

    def _watch(self) -> None:
        # One thread for all of them: that each wakes up now and then to look would cost a hundred times as much.
        while True:
            with self._some:
                while not self._waiting:
                    self._some.wait()
                for abandonment in self._waiting - self._left:
                    if abandonment.is_gone():
                        # Under the lock: behind it the descriptor may be another's.
                        abandonment.abandon()
                        self._left.add(abandonment)
                        self._counters["waits.abandoned"] += 1
            time.sleep(LOOK_AFTER_CALLERS_S)
