"""Complete messages and who reads them: order, filter, waiting readers, room (messages spec 9)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import inf
from typing import Final

from protocol.mycelium.messages.core import Core, Key, MessageBoxError, check_message
from protocol.mycelium.messages.events import Deliver, DeliverNothing, ForgetMessage, StorePlace
from protocol.mycelium.messages.packets import Read
from protocol.mycelium.routing.deadlines import Deadlines

_STEP: Final = 256
"""Readers answered in one call of the timer; the rest is due again at once."""


@dataclass(frozen=True, slots=True)
class InboxEntry:
    """What the box keeps in memory of a stored message; also how one of an earlier life is restored."""

    number: int
    id: bytes
    source: bytes
    destination: bytes
    topic: bytes
    size: int
    """Bytes of data."""

    def __post_init__(self) -> None:
        check_message(self.id, (self.source, self.destination), self.topic)

    @property
    def key(self) -> Key:
        """What names it."""
        return Key.of(self.source, self.id)


@dataclass(frozen=True, slots=True)
class _Reader:
    topic: bytes | None
    take: bool

    def wants(self, entry: InboxEntry) -> bool:
        # Equality, not the beginning of the topic as the reference's documentation says (Q14).
        return self.topic is None or self.topic == entry.topic


class Inbox:
    """Stored messages by number, which is the order of their completion. `now` is monotonic seconds."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._entries: dict[int, InboxEntry] = {}
        self._forwarding: dict[int, InboxEntry] = {}
        self._keys: Counter[Key] = Counter()
        self._bytes = 0
        """Of both."""
        self._readers: dict[int, _Reader] = {}
        """The one that waits longest first."""
        self._deadlines: Deadlines[int] = Deadlines()

    def __len__(self) -> int:
        """How many messages wait to be read."""
        return len(self._entries)

    @property
    def stored_bytes(self) -> int:
        """Data of the messages that wait to be read or are being forwarded."""
        return self._bytes

    def holds(self, key: Key) -> bool:
        """Whether a message of this key waits to be read."""
        return key in self._keys

    def has_room(self, size: int) -> bool:
        """Whether one more message of `size` bytes may come."""
        limits = self._core.limits
        held = len(self._entries) + len(self._forwarding)
        return held < limits.inbox_messages and self._bytes + size <= limits.inbox_bytes

    def restore(self, entry: InboxEntry) -> None:
        """A message of an earlier life waits to be read; they are given in the order of their numbers."""
        self._insert(entry)

    def add(self, entry: InboxEntry) -> None:
        """A message is there: all who want to look at it are answered, and the first who wants to take it."""
        self._insert(entry)
        waiting = [number for number, reader in self._readers.items() if reader.wants(entry)]
        takers = [number for number in waiting if self._readers[number].take]
        for number in [*(number for number in waiting if number not in takers), *takers[:1]]:
            self._deliver(number, self._readers[number].take, entry)
            self.stop(number)

    def forward(self, entry: InboxEntry) -> None:
        """A message is on its way to a forward socket; it takes up room, but nobody reads it."""
        self._forwarding[entry.number] = entry
        self._bytes += entry.size

    def forwarded(self, number: int) -> None:
        """The forward socket has answered. Raises `MessageBoxError` for a message that isn't being forwarded."""
        self._bytes -= self._no_longer_forwarding(number).size
        self._core.events.append(ForgetMessage(number))

    def forward_failed(self, number: int) -> None:
        """It comes into the inbox after all. Raises as `forwarded` does."""
        entry = self._no_longer_forwarding(number)
        self._bytes -= entry.size
        self._core.events.append(StorePlace(number))
        self.add(entry)

    def read(self, reader: int, topic: bytes | None, take: bool, until: float, now: float) -> None:
        """Answers `reader` with the oldest message it wants as soon as there is one, at `until` with nothing.

        `until`: inf waits for ever. `topic`: exactly this one, the empty one for messages without, None for all.
        Raises `MessageBoxError` for a reader that waits already.
        """
        if reader in self._readers:
            raise MessageBoxError(f"reader {reader} waits already; stop it first")
        wanted = _Reader(topic, take)
        entry = next((entry for entry in self._entries.values() if wanted.wants(entry)), None)
        if entry is not None:
            self._deliver(reader, take, entry)
        elif until <= now:
            self._core.events.append(DeliverNothing(reader))
        elif len(self._readers) >= self._core.limits.readers:
            self._core.counters["readers_refused"] += 1
            self._core.events.append(DeliverNothing(reader))
        else:
            self._readers[reader] = wanted
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

    def _deliver(self, reader: int, take: bool, entry: InboxEntry) -> None:
        self._core.events.append(Deliver(reader, entry.number, take))
        if take:
            del self._entries[entry.number]
            self._bytes -= entry.size
            self._keys[entry.key] -= 1
            if not self._keys[entry.key]:
                del self._keys[entry.key]
        self._core.send(entry.destination, entry.source, Read(entry.id))

    def _insert(self, entry: InboxEntry) -> None:
        self._entries[entry.number] = entry
        self._bytes += entry.size
        self._keys[entry.key] += 1

    def _no_longer_forwarding(self, number: int) -> InboxEntry:
        entry = self._forwarding.pop(number, None)
        if entry is None:
            raise MessageBoxError(f"message {number} is not being forwarded")
        return entry
