"""Waits for the disk in a thread of its own, so that the loop goes on meanwhile.

One wait after the other: what asks while one is under way is served by the next, all of it at once.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from actors.runtime.loop import Loop

_STOP_SECONDS: Final = 5.0
"""A disk that takes longer than this is not waited for at the end."""


class _Job(NamedTuple):
    descriptors: tuple[int, ...]
    then: Callable[[], None]


class Disk:
    """The thread, and what it was asked. Who asks bounds how often: once per round, once per message handed over."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._done: deque[tuple[_Job, OSError | None]] = deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        loop.watch(self._wake, self._on_done)
        self._thread = threading.Thread(target=self._run, name="disk", daemon=True)
        self._thread.start()

    def keep(self, descriptors: Sequence[int], then: Callable[[], None]) -> None:
        """Calls `then` in the loop when all that was written to these files until now is on disk.

        They stay open until then. An error of the disk is raised in the loop, as an `OSError`.
        """
        self._jobs.put(_Job(tuple(descriptors), then))

    def stop(self) -> None:
        """Ends the thread, behind what it was asked; nobody is told of that any more."""
        self._jobs.put(None)
        self._thread.join(_STOP_SECONDS)
        self._loop.forget(self._wake)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            failure = None
            try:
                for descriptor in job.descriptors:
                    os.fdatasync(descriptor)
            except OSError as error:
                failure = error
            self._done.append((job, failure))
            os.eventfd_write(self._wake, 1)

    def _on_done(self, _events: int) -> None:
        os.eventfd_read(self._wake)
        while self._done:
            job, failure = self._done.popleft()
            if failure is not None:
                raise failure
            job.then()
