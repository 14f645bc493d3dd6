"""Incoming messages until they are complete: who may send how much, what is answered, what expires (messages spec 5).

What other nodes can do to it is bounded: a message holds no more than its INIT announced, and what INITs announce is
limited, for each remote /64 and in all. Above that an INIT gets no answer, so that an honest sender repeats it.

A message is delivered once. While its completion is remembered, its INIT is not answered again, but its DONE is: the
sender may have missed the acknowledgement, which a reference node never repeats (Q5). Replies are the exception: a
second reply has the id of the first, so the INIT of a further reply begins a new message.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from protocol.mycelium.messages.chunking import highest_index
from protocol.mycelium.messages.completions import Completion, Completions
from protocol.mycelium.messages.core import Core, Key, MessageBoxError, check_message
from protocol.mycelium.messages.events import ForgetPending, StoreChunk, StorePending
from protocol.mycelium.messages.packets import (
    ACCEPT_LARGE,
    OFFER_LARGE,
    Aborted,
    Chunk,
    Done,
    Init,
    InitAck,
)
from protocol.mycelium.messages.reassembly import MAX_MISMATCHES, Pending, Taken, Verdict
from protocol.mycelium.messages.topics import TopicRules

EXPIRY_SECONDS: Final = 600.0
"""A message whose sender sends nothing for so long is forgotten. A reference node would keep it for ever (Q13)."""
EVICTION_SECONDS: Final = 30.0
"""Where room is needed, for so long: a living sender repeats something at least once in a second."""
_STEP: Final = 256
"""Messages forgotten in one call of the timer; the rest is due again at once."""


@dataclass(frozen=True, slots=True)
class SavedPending:
    """What an earlier life knew of an incoming message."""

    number: int
    id: bytes
    source: bytes
    destination: bytes
    length: int
    topic: bytes
    reply: bool
    heard: float
    """Monotonic seconds, in the past: when it was last written, or now where nobody knows."""
    chunks: Sequence[tuple[int, bytes]]
    """(index, data)"""
    large: bool = False
    """Its sender may use large chunks."""

    def __post_init__(self) -> None:
        check_message(self.id, (self.source, self.destination), self.topic)


@dataclass(frozen=True, slots=True)
class Rules:
    """What a receiver asks of the rest of the message box."""

    topics: TopicRules
    has_sent: Callable[[Key], bool]
    """Whether a message with this id went to this node, so that a reply is one (Q2)."""
    in_inbox: Callable[[Key], bool]
    """Whether a message of this key waits to be read. Asked for replies: of others the completion is remembered."""


class Receiver:
    """All incoming messages that are not complete. `now` is monotonic seconds; events go to `core.events`."""

    def __init__(self, core: Core, rules: Rules, completions: Completions) -> None:
        self._core = core
        self._rules = rules
        self._completions = completions
        self._pending: OrderedDict[Key, Pending] = OrderedDict()
        """The one heard of longest ago first."""
        self._bytes = 0
        self._remote_messages: Counter[bytes] = Counter()
        self._remote_bytes: Counter[bytes] = Counter()
        self._last_number = 0

    def __len__(self) -> int:
        """How many messages are pending."""
        return len(self._pending)

    @property
    def announced_bytes(self) -> int:
        """The length of all of them."""
        return self._bytes

    def restore(self, saved: SavedPending) -> None:
        """Goes on with a message of an earlier life; the one heard of longest ago is given first.

        Raises `MessageBoxError` for a message that is there already, and on chunks that no receiver stored.
        """
        pending = Pending(
            saved.number,
            saved.id,
            saved.source,
            saved.destination,
            saved.length,
            saved.topic,
            saved.reply,
            saved.large,
            saved.heard,
        )
        if pending.key in self._pending:
            raise MessageBoxError(f"pending message {saved.number} is stored twice; remove one from the store")
        for index, data in saved.chunks:
            if not 0 <= index <= highest_index(saved.length) or pending.put(index, data) is Taken.REFUSED:
                raise MessageBoxError(
                    f"chunk {index} of {len(data)} bytes can't belong to pending message {saved.number} "
                    f"of {saved.length}; remove it from the store"
                )
        self._last_number = max(self._last_number, saved.number)
        self._insert(pending)

    def restore_number(self, last: int) -> None:
        """Numbers up to this one were given in an earlier life."""
        self._last_number = max(self._last_number, last)

    # --- packets ------------------------------------------------------------------------------------------------------

    def receive(self, source: bytes, destination: bytes, packet: Init | Chunk | Aborted, now: float) -> None:
        """The node of the 16-byte address `source` sends something of a message to the own address `destination`."""
        match packet:
            case Init():
                self._init(source, destination, packet, now)
            case Chunk():
                self._chunk(source, destination, packet, now)
            case Aborted():
                self._aborted(Key.of(source, packet.id))

    def done(self, source: bytes, destination: bytes, packet: Done, now: float) -> Pending | None:
        """Likewise a DONE. Returns the message if it is complete now; whoever stores it calls `conclude`."""
        key = Key.of(source, packet.id)
        pending = self._heard(key, now)
        verdict = Verdict.INCOMPLETE if pending is None else pending.judge(packet)
        if pending is None or verdict is Verdict.INCOMPLETE or not pending.length:
            # An empty message is complete as soon as it begins, so a late INIT alone would deliver it again.
            before = self._completions.find(key, now)
            if before is not None and before.matches(packet):
                self._core.counters["dones_repeated"] += 1
                self._core.send(destination, source, packet.acknowledgement())
                return None
        if pending is None:
            self._core.counters["packets_of_no_message"] += 1
            return None
        match verdict:
            case Verdict.COMPLETE:
                return pending
            case Verdict.INCOMPLETE:
                self._core.counters["dones_incomplete"] += 1
            case Verdict.MISMATCH:
                self._core.counters["dones_mismatched"] += 1
                if pending.mismatches >= MAX_MISMATCHES:
                    self._forget(pending, "pending_given_up")
        return None

    def conclude(self, pending: Pending, done: Done, now: float) -> None:
        """A complete message is stored, and needs nothing of this any more."""
        self._remove(pending)
        self._completions.remember(pending.key, Completion(done.count, done.digest), now)

    def _init(self, source: bytes, destination: bytes, packet: Init, now: float) -> None:
        counters, limits = self._core.counters, self._core.limits
        key = Key.of(source, packet.id)
        # A reply has no topic. One with a topic obeys its rules, or REPLY would be a way around them (Q2).
        answers = packet.reply and not packet.topic and self._rules.has_sent(key)
        if not answers and not self._rules.topics.accepts(packet.topic, source):
            counters["inits_refused_by_topic"] += 1
            return
        if packet.length > limits.message_bytes:
            counters["inits_too_long"] += 1
            return
        pending = self._heard(key, now)
        large = packet.echo.inner == OFFER_LARGE
        if pending is not None and _same(pending, source, packet, large):
            self._core.send(destination, source, _accept(packet))
            return
        if self._rules.in_inbox(key) if packet.reply else self._completions.find(key, now) is not None:
            counters["inits_of_known_message"] += 1
            return
        if pending is not None:
            self._forget(pending, "pending_replaced")
        if not self._has_room(key.subnet, packet.length, now):
            return
        self._last_number += 1
        fields = packet.length, packet.topic, packet.reply, large
        self._insert(Pending(self._last_number, packet.id, source, destination, *fields, now))
        self._core.events.append(StorePending(self._last_number, packet.id, source, destination, *fields))
        self._core.send(destination, source, _accept(packet))

    def _chunk(self, source: bytes, destination: bytes, packet: Chunk, now: float) -> None:
        pending = self._heard(Key.of(source, packet.id), now)
        if pending is None:
            self._core.counters["packets_of_no_message"] += 1
            return
        taken = pending.take(packet)
        if taken is Taken.REFUSED:
            self._core.counters["chunks_refused"] += 1
            return
        if taken is Taken.NEW:
            self._core.events.append(StoreChunk(pending.number, packet.index, packet.offset, packet.data))
        self._core.send(destination, source, packet.acknowledgement())

    def _aborted(self, key: Key) -> None:
        pending = self._pending.get(key)
        if pending is None:
            self._core.counters["packets_of_no_message"] += 1
        else:
            self._forget(pending, "pending_aborted")

    # --- timers -------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When `handle_timer` has something to do."""
        for pending in self._pending.values():
            return pending.heard + EXPIRY_SECONDS
        return None

    def handle_timer(self, now: float) -> None:
        """Forgets what is too old."""
        for _ in range(_STEP):
            pending = next(iter(self._pending.values()), None)
            if pending is None or pending.heard + EXPIRY_SECONDS > now:
                return
            self._forget(pending, "pending_expired")

    # --- the table ----------------------------------------------------------------------------------------------------

    def _heard(self, key: Key, now: float) -> Pending | None:
        pending = self._pending.get(key)
        if pending is not None:
            pending.heard = now
            self._pending.move_to_end(key)
        return pending

    def _has_room(self, subnet: bytes, length: int, now: float) -> bool:
        limits, counters = self._core.limits, self._core.counters
        if (
            self._remote_messages[subnet] >= limits.remote_messages
            or self._remote_bytes[subnet] + length > limits.remote_bytes
        ):
            counters["inits_over_remote_limit"] += 1
            return False
        while len(self._pending) >= limits.pending_messages or self._bytes + length > limits.pending_bytes:
            oldest = next(iter(self._pending.values()))
            if now - oldest.heard < EVICTION_SECONDS:
                counters["inits_over_limit"] += 1
                return False
            self._forget(oldest, "pending_evicted")
        return True

    def _insert(self, pending: Pending) -> None:
        subnet = pending.key.subnet
        self._pending[pending.key] = pending
        self._bytes += pending.length
        self._remote_messages[subnet] += 1
        self._remote_bytes[subnet] += pending.length

    def _forget(self, pending: Pending, counter: str) -> None:
        self._core.counters[counter] += 1
        self._remove(pending)
        self._core.events.append(ForgetPending(pending.number))

    def _remove(self, pending: Pending) -> None:
        subnet = pending.key.subnet
        del self._pending[pending.key]
        self._bytes -= pending.length
        self._remote_messages[subnet] -= 1
        self._remote_bytes[subnet] -= pending.length
        if not self._remote_messages[subnet]:
            del self._remote_messages[subnet]
            del self._remote_bytes[subnet]


def _same(pending: Pending, source: bytes, packet: Init, large: bool) -> bool:
    """Whether the INIT is that of the pending message again; its chunks are kept then (5.7, Q11).

    One that will be cut in another way is another one: pieces of both don't make a whole.
    """
    return (pending.source, pending.length, pending.topic, pending.reply, pending.large) == (
        source,
        packet.length,
        packet.topic,
        packet.reply,
        large,
    )


def _accept(packet: Init) -> InitAck:
    """The acknowledgement, which says yes to an offer of large chunks; a reference node would just echo it (E4)."""
    acknowledgement = packet.acknowledgement()
    if packet.echo.inner != OFFER_LARGE:
        return acknowledgement
    return replace(acknowledgement, echo=replace(packet.echo, inner=ACCEPT_LARGE))
