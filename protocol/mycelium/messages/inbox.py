"""Complete messages and who reads them: order, filter, waiting readers, room (messages spec 9).

The messages lie in the store. Here is only how many there are, which of them are in somebody's hands, and who waits.
A message is in somebody's hands until he has it for good (`taken`) or can't have it (`put_back`); nobody else gets it
meanwhile, and a successor of this process finds it in the inbox.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import Final, Protocol

from protocol.mycelium.messages.core import SUBNET_BYTES, Core, Key, MessageBoxError, check_message
from protocol.mycelium.messages.events import (
    Deliver,
    DeliverNothing,
    DeliverReply,
    ForgetMessage,
    Forward,
    StorePlace,
)
from protocol.mycelium.messages.packets import Read
from protocol.mycelium.routing.deadlines import Deadlines

_STEP: Final = 256
"""Readers answered in one call of the timer; the rest is due again at once."""
_MOST_FLOORS: Final = 1024


@dataclass(frozen=True, slots=True)
class InboxEntry:
    """What is known of a stored message besides its data."""

    number: int
    id: bytes
    source: bytes
    destination: bytes
    topic: bytes
    size: int
    """Bytes of data."""

    def __post_init__(self) -> None:
        check_message(self.id, (self.source, self.destination), self.topic)


class Stored(Protocol):
    """What the inbox asks of the store. Everything that events said before the present call is in it."""

    def waiting(self, topic: bytes | None, above: int) -> Iterable[InboxEntry]:
        """Stored messages with a number above this one, of exactly this topic or of any (None), by number."""

    def holds(self, key: Key) -> bool:
        """Whether a message of this key is stored."""


class _Hands(enum.Enum):
    READER = enum.auto()
    REPLY = enum.auto()
    FORWARD = enum.auto()


@dataclass(frozen=True, slots=True)
class _Reader:
    topic: bytes | None
    take: bool

    def wants(self, entry: InboxEntry) -> bool:
        # Equality, not the beginning of the topic as the reference's documentation says (Q14).
        return self.topic is None or self.topic == entry.topic


class Inbox:
    """Stored messages by number, which is the order of their completion. `now` is monotonic seconds."""

    def __init__(self, core: Core, stored: Stored) -> None:
        self._core = core
        self._stored = stored
        self._count = 0
        self._bytes = 0
        self._remotes: Counter[bytes] = Counter()
        """How many of each /64."""
        self._out: dict[int, tuple[InboxEntry, _Hands]] = {}
        self._floors: dict[bytes | None, int] = {}
        """For a filter: everything up to this number is out or gone. Saves looking at what is out again and again."""
        self._readers: dict[int, _Reader] = {}
        """The one that waits longest first."""
        self._deadlines: Deadlines[int] = Deadlines()

    def __len__(self) -> int:
        """How many messages are stored."""
        return self._count

    @property
    def stored_bytes(self) -> int:
        """Data of all stored messages."""
        return self._bytes

    @property
    def in_hands(self) -> int:
        """How many of them somebody is just being given."""
        return len(self._out)

    def holds(self, key: Key) -> bool:
        """Whether a message of this key is stored."""
        return self._stored.holds(key)

    def has_room(self, source: bytes, size: int) -> bool:
        """Whether one more message of `size` bytes may come from this 16-byte address."""
        limits = self._core.limits
        return (
            self._count < limits.inbox_messages
            and self._bytes + size <= limits.inbox_bytes
            and self._remotes[source[:SUBNET_BYTES]] < limits.inbox_remote_messages
        )

    # --- messages come ------------------------------------------------------------------------------------------------

    def restore(self, subnet: bytes, count: int, octets: int) -> None:
        """So many messages of the /64 `subnet` (8 bytes), with so much data, are stored from an earlier life."""
        self._remotes[subnet] += count
        self._count += count
        self._bytes += octets

    def add(self, entry: InboxEntry) -> None:
        """A message is there: all who want to look at it are answered, and the first who wants to take it."""
        self._count_in(entry)
        self._offer(entry)

    def forward(self, entry: InboxEntry, path: str) -> None:
        """A message goes to the forward socket at `path`; nobody reads it meanwhile."""
        self._count_in(entry)
        self.forward_again(entry, path)

    def forward_again(self, entry: InboxEntry, path: str) -> None:
        """`forward` for a message that is stored; nothing happens to one in somebody's hands."""
        if entry.number not in self._out:
            self._out[entry.number] = entry, _Hands.FORWARD
            self._core.events.append(Forward(entry.number, path))

    def reply(self, entry: InboxEntry) -> None:
        """A message goes to whoever waits for this reply."""
        self._count_in(entry)
        self._out[entry.number] = entry, _Hands.REPLY
        self._core.events.append(DeliverReply(entry.id, entry.number))

    def expire(self, entry: InboxEntry) -> bool:
        """A stored message is too old; False for one in somebody's hands, which stays."""
        if entry.number in self._out:
            return False
        self._count_out(entry)
        self._core.events.append(ForgetMessage(entry.number))
        return True

    # --- messages go --------------------------------------------------------------------------------------------------

    def taken(self, number: int) -> None:
        """Who was given a message has it. Raises `MessageBoxError` for a message in nobody's hands."""
        entry, hands = self._let_go(number)
        self._count_out(entry)
        self._core.events.append(ForgetMessage(number))
        if hands is _Hands.READER:
            self._core.send(entry.destination, entry.source, Read(entry.id))

    def put_back(self, number: int) -> None:
        """He can't have it: the next one may read it. Raises as `taken` does."""
        entry, hands = self._let_go(number)
        if hands is not _Hands.READER:
            self._core.events.append(StorePlace(number))
        self._offer(entry)

    def not_forwarded(self, number: int) -> None:
        """As `put_back`, but its forward socket is tried again later, if nobody has read it before."""
        entry, _ = self._let_go(number)
        self._offer(entry)

    # --- readers ------------------------------------------------------------------------------------------------------

    def read(self, reader: int, topic: bytes | None, take: bool, until: float, now: float) -> None:
        """Answers `reader` with the oldest message it wants as soon as there is one, at `until` with nothing.

        `until`: inf waits for ever. `topic`: exactly this one, the empty one for messages without, None for all.
        Raises `MessageBoxError` for a reader that waits already.
        """
        if reader in self._readers:
            raise MessageBoxError(f"reader {reader} waits already; stop it first")
        entry = self._find(topic)
        if entry is not None:
            self._deliver(reader, take, entry)
            if take:
                self._floors[topic] = entry.number
        elif until <= now:
            self._core.events.append(DeliverNothing(reader))
        elif len(self._readers) >= self._core.limits.readers:
            self._core.counters["readers_refused"] += 1
            self._core.events.append(DeliverNothing(reader))
        else:
            self._readers[reader] = _Reader(topic, take)
            if until != inf:
                self._deadlines.arm(reader, until)

    def stop(self, reader: int) -> None:
        """Nobody waits for this answer any more."""
        self._readers.pop(reader, None)
        self._deadlines.disarm(reader)

    def next_deadline(self) -> float | None:
        """When `handle_timer` has something to do."""
        return self._deadlines.next()

    def handle_timer(self, now: float) -> None:
        """Answers those who have waited long enough."""
        for reader in self._deadlines.pop_due(now, _STEP):
            del self._readers[reader]
            self._core.events.append(DeliverNothing(reader))

    # --- inside -------------------------------------------------------------------------------------------------------

    def _offer(self, entry: InboxEntry) -> None:
        for topic, floor in self._floors.items():
            if entry.number <= floor:
                self._floors[topic] = entry.number - 1
        if not self._readers:
            return
        waiting = [(number, reader.take) for number, reader in self._readers.items() if reader.wants(entry)]
        takers = [number for number, take in waiting if take][:1]
        for number in [*(number for number, take in waiting if not take), *takers]:
            self.stop(number)
            self._deliver(number, number in takers, entry)

    def _find(self, topic: bytes | None) -> InboxEntry | None:
        for entry in self._stored.waiting(topic, self._floors.get(topic, 0)):
            if entry.number not in self._out:
                if len(self._floors) >= _MOST_FLOORS:
                    self._floors.clear()
                self._floors[topic] = entry.number - 1
                return entry
        return None

    def _deliver(self, reader: int, take: bool, entry: InboxEntry) -> None:
        self._core.events.append(Deliver(reader, entry.number, take))
        if take:
            self._out[entry.number] = entry, _Hands.READER
        else:
            self._core.send(entry.destination, entry.source, Read(entry.id))

    def _let_go(self, number: int) -> tuple[InboxEntry, _Hands]:
        out = self._out.pop(number, None)
        if out is None:
            raise MessageBoxError(f"message {number} is in nobody's hands")
        return out

    def _count_in(self, entry: InboxEntry) -> None:
        self.restore(entry.source[:SUBNET_BYTES], 1, entry.size)

    def _count_out(self, entry: InboxEntry) -> None:
        subnet = entry.source[:SUBNET_BYTES]
        self._count -= 1
        self._bytes -= entry.size
        self._remotes[subnet] -= 1
        if not self._remotes[subnet]:
            del self._remotes[subnet]
