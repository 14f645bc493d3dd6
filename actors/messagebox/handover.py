"""Stored messages on their way to programs, in parts: as fast as they are taken up, and gone only when they are.

A message leaves the inbox when who asked for it says that he has all of it, and he hears that it is gone for good when
the database knows. One who vanishes in between leaves it where it was.
"""

from __future__ import annotations

from typing import Final

from actors.messagebox.rounds import Rounds
from actors.messagebox.sayings import Sayings
from actors.messagebox.store import Facts, Store
from actors.runtime.actor import Runtime, Sent
from protocol.codec import pack
from protocol.frames import (
    MAX_PART_BYTES,
    PART_WINDOW,
    Answer,
    MessageHead,
    MessagePart,
    Outcome,
    PartTaken,
)
from protocol.mycelium.messages.box import MessageBox
from protocol.mycelium.sealing import MAX_BODY

PAUSE_SECONDS: Final = 0.005
GIVE_UP_SECONDS: Final = 30.0
"""Without a word from the one who gets a message: he is gone, or hangs."""
LOOK_SECONDS: Final = 1.0
_READ_BYTES: Final = MAX_PART_BYTES - MAX_BODY
"""The chunks of a part, but for the last, which may go beyond."""

Asker = tuple[bytes, int]
"""Who asks: the socket's name, and the token of his question."""


class _Handover:
    """One message on its way."""

    __slots__ = ("asker", "facts", "head", "last", "length", "moved", "number", "sent", "take", "taken")

    def __init__(self, asker: Asker, number: int, take: bool, facts: Facts, now: float) -> None:
        self.asker = asker
        self.number = number
        self.take = take
        self.head: MessageHead | None = MessageHead(
            facts.id, facts.source, facts.source_key, facts.destination, facts.topic, facts.length
        )
        self.length = facts.length
        self.facts = facts
        self.last = -1
        """What was sent last, see `Store.part_of`."""
        self.sent = 0
        self.taken = 0
        self.moved = now


class Handovers:
    """All of them. Bounded by the readers of the box: each gets one message."""

    def __init__(self, runtime: Runtime, box: MessageBox, store: Store, rounds: Rounds, sayings: Sayings) -> None:
        self._runtime = runtime
        self._sayings = sayings
        self._loop = runtime.loop
        self._counters = runtime.counters
        self._box = box
        self._store = store
        self._rounds = rounds
        self._handovers: dict[Asker, _Handover] = {}
        self._planned = False
        runtime.on(PartTaken, self._on_taken)
        runtime.loop.every(LOOK_SECONDS, self._look)
        runtime.gauges.queue("handovers", lambda: len(self._handovers))

    def begin(self, asker: Asker, number: int, take: bool) -> None:
        """Gives stored message `number` to `asker`; with `take` it is in his hands."""
        if asker in self._handovers:
            # The same token again, for another question: his mistake, and nobody's message.
            self._end(asker, "answers.confused")
        facts = self._store.facts(number)
        self._handovers[asker] = _Handover(asker, number, take, facts, self._loop.now())
        self._go_on(asker)

    def stop(self, asker: Asker) -> bool:
        """He doesn't want it any more; whether there was anything."""
        if asker not in self._handovers:
            return False
        self._end(asker, "answers.stopped")
        return True

    def _on_taken(self, sender: bytes, message: PartTaken) -> None:
        asker = (sender, message.token)
        handover = self._handovers.get(asker)
        if handover is None:
            self._sayings.say(sender, Answer(message.token, Outcome.MISSING, "nobody is being given this message"))
            return
        if not handover.taken <= message.octets <= handover.sent:
            self._counters["frames.unexpected"] += 1
            return
        handover.taken = message.octets
        handover.moved = self._loop.now()
        if handover.head is not None or handover.taken < handover.length:
            self._go_on(asker)
            return
        del self._handovers[asker]
        if handover.take:
            self._box.taken(handover.number, self._loop.now())
            self._rounds.settle()
        self._rounds.after_commit(self._confirm, asker)

    def _confirm(self, asker: Asker) -> None:
        sender, token = asker
        self._sayings.say(sender, Answer(token, Outcome.DONE, ""))

    def _go_on(self, asker: Asker) -> None:
        handover = self._handovers[asker]
        while handover.head is not None or (
            handover.sent < handover.length and handover.sent - handover.taken < PART_WINDOW
        ):
            data, last = self._store.part_of(handover.facts, handover.last, _READ_BYTES)
            end = handover.sent + len(data)
            part = MessagePart(asker[1], handover.head, handover.sent, data, end < handover.length)
            sent = self._runtime.offer(asker[0], pack(part))
            if sent is Sent.UNREACHABLE:
                self._end(asker, "answers.gone")
                return
            if sent is Sent.FULL:
                self._plan()
                return
            handover.head, handover.sent, handover.last = None, end, last

    def _plan(self) -> None:
        if not self._planned:
            self._planned = True
            self._loop.call_after(PAUSE_SECONDS, self._round)

    def _round(self) -> None:
        self._planned = False
        for asker in list(self._handovers):
            self._go_on(asker)

    def _look(self) -> None:
        long_ago = self._loop.now() - GIVE_UP_SECONDS
        for asker in [asker for asker, handover in self._handovers.items() if handover.moved < long_ago]:
            self._end(asker, "answers.given_up")

    def _end(self, asker: Asker, counter: str) -> None:
        handover = self._handovers.pop(asker)
        self._counters[counter] += 1
        if handover.take:
            self._box.put_back(handover.number, self._loop.now())
            self._rounds.settle()
