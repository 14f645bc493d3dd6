"""Long answers, sent as fast as their readers take them: whole and in order, or without their end.

The queue to a neighbour holds few frames and drops what finds it full. A list with a hole would pass for a whole one,
so a frame that was not taken is offered again, and behind one that never is nothing more is sent: whoever asked hears
no end, and says so or asks again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any, Final

from actors.runtime.actor import Runtime, Sent
from protocol.codec import pack

FRAMES_PER_ROUND: Final = 4
"""To one reader. Packing the rows of a full frame takes milliseconds, which everybody else has to wait."""
PAUSE_SECONDS: Final = 0.005
GIVE_UP_SECONDS: Final = 5.0
"""Without a frame taken: longer than anybody waits for an answer."""
MOST_ANSWERS: Final = 128
"""On their way at a time: a table for every process that can have one, and questions of people besides."""


class LongAnswer:
    """The frames of one answer, each packed when the first of its readers gets there."""

    __slots__ = ("__weakref__", "_make", "_packed", "_parts")

    def __init__(self, parts: Iterable[tuple[Any, ...]], make: Callable[..., object]) -> None:
        """`make(*part)` is the frame of one part; the last one says that none follows. `parts` are used up at once."""
        self._parts = list(parts)
        self._make = make
        self._packed: list[bytes] = []

    def __len__(self) -> int:
        return len(self._parts)

    def frame(self, number: int) -> bytes:
        """Frame `number`, which is at most one further than anybody has asked for before."""
        if number == len(self._packed):
            self._packed.append(pack(self._make(*self._parts[number])))
            # Its rows are not needed any more.
            self._parts[number] = ()
        return self._packed[number]


class _Delivery:
    """One answer on its way to one reader."""

    __slots__ = ("answer", "moved", "reader", "sent")

    def __init__(self, reader: bytes, answer: LongAnswer, now: float) -> None:
        self.reader = reader
        self.answer = answer
        self.sent = 0
        self.moved = now


class Answers:
    """An actor's answers that are on their way."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._loop = runtime.loop
        self._counters = runtime.counters
        self._deliveries: dict[tuple[bytes, Hashable], _Delivery] = {}
        self._planned = False
        runtime.gauges.queue("answers", lambda: len(self._deliveries))

    def send(self, reader: bytes, question: Hashable, answer: LongAnswer) -> None:
        """Begins to answer. A reader that asks the same again gets this instead of the rest of what it was getting."""
        key = (reader, question)
        self._deliveries.pop(key, None)
        if len(self._deliveries) >= MOST_ANSWERS:
            self._end(min(self._deliveries, key=lambda other: self._deliveries[other].moved), "answers.crowded_out")
        self._deliveries[key] = _Delivery(reader, answer, self._loop.now())
        self._go_on(key)
        self._plan()

    def _plan(self) -> None:
        if self._deliveries and not self._planned:
            self._planned = True
            self._loop.call_after(PAUSE_SECONDS, self._round)

    def _round(self) -> None:
        self._planned = False
        for key in list(self._deliveries):
            self._go_on(key)
        self._plan()

    def _go_on(self, key: tuple[bytes, Hashable]) -> None:
        delivery = self._deliveries[key]
        now = self._loop.now()
        for number in range(delivery.sent, min(delivery.sent + FRAMES_PER_ROUND, len(delivery.answer))):
            match self._runtime.offer(delivery.reader, delivery.answer.frame(number)):
                case Sent.TAKEN:
                    delivery.sent += 1
                    delivery.moved = now
                case Sent.UNREACHABLE:
                    self._end(key, "sends.unreachable")
                    return
                case Sent.FULL:
                    if now - delivery.moved > GIVE_UP_SECONDS:
                        self._end(key, "answers.given_up")
                    return
        if delivery.sent == len(delivery.answer):
            del self._deliveries[key]

    def _end(self, key: tuple[bytes, Hashable], counter: str) -> None:
        del self._deliveries[key]
        self._counters[counter] += 1
