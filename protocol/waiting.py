"""Packets that wait for the router to find their way."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from protocol.queues import QueueError


@dataclass(frozen=True, slots=True)
class WaitLimits:
    """How much may wait for routes."""

    prefix_packets: int = 100
    """Per prefix, as in the reference (wire spec 2.5): enough for the first flight of a few connections."""
    total_packets: int = 10_000
    """In all, as in the reference."""
    total_bytes: int = 8 << 20
    """In all: super-packets of the host wait here too, and 10 000 of them would be 600 MB."""

    def __post_init__(self) -> None:
        if min(self.prefix_packets, self.total_packets, self.total_bytes) < 1:
            raise QueueError(f"every limit of waiting packets must be above zero: {self}")


class WaitingPackets:
    """Packets that wait for the router to find a route to their prefix, each prefix's in order of arrival.

    A prefix that has its share refuses the newest. When there are too many in all, the prefix that has waited longest
    loses its oldest: it is the one least likely to be found.
    """

    def __init__(
        self, limits: WaitLimits | None = None, tally: Counter[str] | None = None, name: str = "waiting"
    ) -> None:
        """`tally` counts what happens, as `name.enqueued`, `.dequeued`, `.expired`, `.refused` and `.evicted`."""
        self._limits = limits or WaitLimits()
        # Lists, because most prefixes have one packet waiting: an empty deque takes 600 bytes.
        self._queues: dict[bytes, list[tuple[float, bytes]]] = {}
        self._packets = 0
        self._bytes = 0
        self._tally: Counter[str] = Counter() if tally is None else tally
        self._name = name

    def __len__(self) -> int:
        """How many packets wait."""
        return self._packets

    def __contains__(self, prefix: bytes) -> bool:
        """Whether anything waits for the /64 `prefix` (8 bytes)."""
        return prefix in self._queues

    @property
    def pending_bytes(self) -> int:
        """Bytes of all packets that wait."""
        return self._bytes

    def add(self, prefix: bytes, packet: bytes, now: float) -> bool:
        """Lets `packet` wait for the /64 `prefix` (8 bytes) from `now` on, monotonic seconds; False when refused."""
        waiting = self._queues.get(prefix)
        if len(packet) > self._limits.total_bytes or (waiting and len(waiting) >= self._limits.prefix_packets):
            self._tally[f"{self._name}.refused"] += 1
            return False
        while self._packets >= self._limits.total_packets or self._bytes + len(packet) > self._limits.total_bytes:
            self._pop(next(iter(self._queues)))
            self._tally[f"{self._name}.evicted"] += 1
        self._queues.setdefault(prefix, []).append((now, packet))
        self._packets += 1
        self._bytes += len(packet)
        self._tally[f"{self._name}.enqueued"] += 1
        return True

    def take(self, prefix: bytes) -> list[bytes]:
        """Removes and returns what waits for `prefix`, in order of arrival; empty when nothing does."""
        packets = [packet for _, packet in self._queues.pop(prefix, ())]
        self._packets -= len(packets)
        self._bytes -= sum(map(len, packets))
        if packets:
            self._tally[f"{self._name}.dequeued"] += len(packets)
        return packets

    def prefixes(self) -> list[bytes]:
        """The prefixes that something waits for, the one that has waited longest first."""
        return list(self._queues)

    def expire(self, now: float, max_age: float) -> list[tuple[bytes, list[bytes]]]:
        """Removes and returns what at `now` has waited more than `max_age` seconds, by prefix, in order of arrival."""
        expired = []
        for prefix in self.prefixes():
            packets = []
            while (waiting := self._queues.get(prefix)) and now - waiting[0][0] > max_age:
                packets.append(self._pop(prefix))
            if packets:
                self._tally[f"{self._name}.expired"] += len(packets)
                expired.append((prefix, packets))
        return expired

    def _pop(self, prefix: bytes) -> bytes:
        waiting = self._queues[prefix]
        _, packet = waiting.pop(0)
        if not waiting:
            del self._queues[prefix]
        self._packets -= 1
        self._bytes -= len(packet)
        return packet
