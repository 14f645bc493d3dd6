"""The poll loop of a process: readable and writable sources, and timers, in one thread."""

from __future__ import annotations

import heapq
import itertools
import select
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

import zmq


class HasFileno(Protocol):
    """Anything with a descriptor."""

    def fileno(self) -> int:
        """The descriptor."""


READABLE: Final = int(zmq.POLLIN)
WRITABLE: Final = int(zmq.POLLOUT)
BROKEN: Final = int(zmq.POLLERR)
"""What happens to sources. Plain numbers: with pyzmq's enumerations each test of a bit costs a microsecond."""

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


class _Watch:
    """One source: what it is polled for, and who hears of it."""

    __slots__ = ("call", "descriptor", "events", "priority", "socket")

    def __init__(self, descriptor: int, socket: Any, call: Callable[[int], None], events: int, priority: int) -> None:
        self.descriptor = descriptor
        self.socket = socket
        self.call = call
        self.events = events
        self.priority = priority


class Loop:
    """Waits for whatever comes next and calls the one who wants it.

    Sources are served in the order of their `priority` (0 first), so that control overtakes data in every round.

    A ZeroMQ socket has a descriptor, but that only tells that something about the socket has changed since somebody
    last looked, and any call on the socket looks. So all of them are asked after every round in which one of them was
    used (`touched`) and when one's descriptor wakes us. Rounds that only move packets between plain descriptors, which
    are most, don't pay for that: `zmq.Poller` would, some 20 µs in each.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._plain: dict[int, _Watch] = {}
        self._sockets: dict[Any, _Watch] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._count = itertools.count()
        self._running = False
        self._deferred: list[Callable[[], None]] = []
        self._ask_sockets = False

    @staticmethod
    def now() -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def watch(self, source: Source, call: Callable[[int], None], *, events: int = READABLE, priority: int = 5) -> None:
        """Calls `call(events that happened)` from now on; a second call for the same source replaces the first."""
        self.forget(source)
        if isinstance(source, int):
            self._plain[source] = _Watch(source, None, call, 0, priority)
            self.want(source, events)
            return
        watch = _Watch(source.getsockopt(zmq.FD), source, call, events, priority)
        self._sockets[source] = watch
        self._epoll.register(watch.descriptor, select.EPOLLIN)
        self._ask_sockets = True

    def want(self, source: Source, events: int) -> None:
        """Changes what a watched source is polled for; 0 leaves it watched but silent."""
        watch = self._plain.get(source) if isinstance(source, int) else self._sockets.get(source)
        if watch is None or watch.events == events:
            return
        before, watch.events = watch.events, events
        if watch.socket is not None:
            self._ask_sockets = True
        elif not events:
            # Registered for nothing it would still wake us for a hang-up.
            self._epoll.unregister(watch.descriptor)
        elif not before:
            self._epoll.register(watch.descriptor, _epoll_events(events))
        else:
            self._epoll.modify(watch.descriptor, _epoll_events(events))

    def forget(self, source: Source) -> None:
        """Stops watching; to be called before a descriptor is closed."""
        if isinstance(source, int):
            watch = self._plain.pop(source, None)
            if watch is not None and watch.events:
                self._epoll.unregister(source)
            return
        watch = self._sockets.pop(source, None)
        if watch is not None:
            self._epoll.unregister(watch.descriptor)

    def touched(self) -> None:
        """Somebody called a ZeroMQ socket: what it has to tell may not show in its descriptor any more."""
        self._ask_sockets = True

    def call_at(self, when: float, call: Callable[[], None]) -> Timer:
        """Runs `call` once, not before the monotonic time `when`."""
        timer = Timer(when, call)
        heapq.heappush(self._timers, (when, next(self._count), timer))
        return timer

    def call_after(self, delay: float, call: Callable[[], None]) -> Timer:
        """Runs `call` once, after `delay` seconds."""
        return self.call_at(self.now() + delay, call)

    def every(self, period: float, call: Callable[[], None]) -> None:
        """Runs `call` each `period` seconds, without catching up on missed rounds.

        At whole multiples on the machine's clock, so that what is done now and then is done together: one wake-up, also
        for whoever hears of it.
        """

        def next_time() -> float:
            return (self.now() // period + 1) * period

        def again() -> None:
            self.call_at(next_time(), again)
            call()

        self.call_at(next_time(), again)

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
        ready = sockets = self._asked() if self._ask_sockets else []
        woken = False
        for descriptor, happened in self._epoll.poll(0 if sockets else self._wait_seconds()):
            watch = self._plain.get(descriptor)
            if watch is None:
                woken = True
            else:
                ready = [*ready, (watch.priority, _zmq_events(happened), watch)]
        if woken and not sockets:
            ready = [*ready, *self._asked()]
        if len(ready) > 1:
            ready.sort(key=_priority)
        for _, events, watch in ready:
            # An earlier call of this round may have dropped the source, or silenced it.
            if watch.events and self._is_watched(watch):
                watch.call(events)
        self._fire_due()
        while self._deferred:
            calls, self._deferred = self._deferred, []
            for call in calls:
                call()

    def _asked(self) -> list[tuple[int, int, _Watch]]:
        """The ZeroMQ sockets that have something; asked until none has."""
        self._ask_sockets = False
        ready = []
        for watch in self._sockets.values():
            events = watch.socket.getsockopt(zmq.EVENTS) & watch.events
            if events:
                ready.append((watch.priority, events, watch))
        # Those that are served may have more behind that.
        self._ask_sockets = bool(ready)
        return ready

    def _is_watched(self, watch: _Watch) -> bool:
        found = self._plain.get(watch.descriptor) if watch.socket is None else self._sockets.get(watch.socket)
        return found is watch

    def _wait_seconds(self) -> float:
        """How long to wait for events, -1 for ever; epoll rounds up to whole milliseconds."""
        if self._deferred:
            return 0
        timers = self._timers
        while timers and timers[0][2].cancelled:
            heapq.heappop(timers)
        return max(0.0, timers[0][0] - self.now()) if timers else -1

    def _fire_due(self) -> None:
        timers = self._timers
        if not timers:
            return
        now = self.now()
        while timers and timers[0][0] <= now:
            heapq.heappop(timers)[2].fire()


def _priority(item: tuple[int, int, _Watch]) -> int:
    return item[0]


def _epoll_events(events: int) -> int:
    return (select.EPOLLIN if events & READABLE else 0) | (select.EPOLLOUT if events & WRITABLE else 0)


def _zmq_events(happened: int) -> int:
    events = 0
    if happened & select.EPOLLIN:
        events |= READABLE
    if happened & select.EPOLLOUT:
        events |= WRITABLE
    if happened & (select.EPOLLERR | select.EPOLLHUP):
        events |= BROKEN
    return events
