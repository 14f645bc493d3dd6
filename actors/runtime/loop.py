"""The poll loop of a process: readable and writable sources, and timers, in one thread."""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections.abc import Callable
from typing import Any, Protocol

import zmq


class HasFileno(Protocol):
    """Anything with a descriptor."""

    def fileno(self) -> int:
        """The descriptor."""


Source = Any
"""A ZeroMQ socket or a descriptor."""


class Timer:
    """One call at one time; `cancel` takes it back."""

    __slots__ = ("_call", "when")

    def __init__(self, when: float, call: Callable[[], None]) -> None:
        self.when = when
        self._call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """After this the call does not happen."""
        self._call = None

    def fire(self) -> None:
        """Runs the call unless it was cancelled."""
        call, self._call = self._call, None
        if call is not None:
            call()

    @property
    def cancelled(self) -> bool:
        """Whether there is nothing left to run."""
        return self._call is None


class Loop:
    """Waits for whatever comes next and calls the one who wants it.

    Sources are served in the order of their `priority` (0 first), so that control overtakes data in every round.
    """

    def __init__(self) -> None:
        self._poller = zmq.Poller()
        self._calls: dict[Source, tuple[int, Callable[[int], None]]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._count = itertools.count()
        self._running = False
        self._deferred: list[Callable[[], None]] = []

    @staticmethod
    def now() -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def watch(
        self, source: Source, call: Callable[[int], None], *, events: int = zmq.POLLIN, priority: int = 5
    ) -> None:
        """Calls `call(events that happened)` from now on; a second call for the same source replaces the first."""
        self._calls[source] = (priority, call)
        self._poller.register(source, events)

    def want(self, source: Source, events: int) -> None:
        """Changes what a watched source is polled for; 0 leaves it watched but silent."""
        self._poller.register(source, events)

    def forget(self, source: Source) -> None:
        """Stops watching."""
        if self._calls.pop(source, None) is not None and source in self._poller:
            self._poller.unregister(source)

    def call_at(self, when: float, call: Callable[[], None]) -> Timer:
        """Runs `call` once, not before the monotonic time `when`."""
        timer = Timer(when, call)
        heapq.heappush(self._timers, (when, next(self._count), timer))
        return timer

    def call_after(self, delay: float, call: Callable[[], None]) -> Timer:
        """Runs `call` once, after `delay` seconds."""
        return self.call_at(self.now() + delay, call)

    def every(self, period: float, call: Callable[[], None]) -> None:
        """Runs `call` each `period` seconds from now on, without catching up on missed rounds."""

        def again() -> None:
            self.call_after(period, again)
            call()

        self.call_after(period, again)

    def defer(self, call: Callable[[], None]) -> None:
        """Runs `call` once, at the end of this round: when all that arrived together was looked at."""
        self._deferred.append(call)

    def stop(self) -> None:
        """Makes `run` return after the present round."""
        self._running = False

    def run(self) -> None:
        """Serves until `stop`."""
        self._running = True
        while self._running:
            self.turn()

    def turn(self) -> None:
        """One round: waits for the next event or timer and serves what is due."""
        ready = self._poller.poll(self._wait_ms())
        if len(ready) > 1:
            ready.sort(key=self._priority)
        for source, events in ready:
            # An earlier call of this round may have dropped the source.
            entry = self._calls.get(source)
            if entry is not None:
                entry[1](events)
        self._fire_due()
        while self._deferred:
            calls, self._deferred = self._deferred, []
            for call in calls:
                call()

    def _priority(self, item: tuple[Source, int]) -> int:
        entry = self._calls.get(item[0])
        return entry[0] if entry is not None else 0

    def _wait_ms(self) -> int | None:
        if self._deferred:
            return 0
        timers = self._timers
        while timers and timers[0][2].cancelled:
            heapq.heappop(timers)
        if not timers:
            return None
        # Rounded up: a wait that ends a fraction too early would spin until the timer is due.
        return max(0, math.ceil((timers[0][0] - self.now()) * 1000))

    def _fire_due(self) -> None:
        timers = self._timers
        if not timers:
            return
        now = self.now()
        while timers and timers[0][0] <= now:
            heapq.heappop(timers)[2].fire()
