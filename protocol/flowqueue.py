"""FQ-CoDel (RFC 8290): the host's packets share the way out by flow, and no flow builds a standing queue."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from itertools import chain
from math import inf, sqrt
from typing import Final, Generic, TypeAlias, TypeVar

from protocol.buffers import Buffer

DROP_BATCH: Final = 64
"""Packets that may go at once when there is too much (RFC 8290 section 4.1)."""
REENTRY_INTERVALS: Final = 16
"""How long CoDel remembers how hard it had to drop (RFC 8289 section 5.5)."""

IPV6_HEADER: Final = 40
ADDRESSES_OFFSET: Final = 8
NEXT_HEADER_OFFSET: Final = 6
PORTS_END: Final = IPV6_HEADER + 4
TRANSPORTS_WITH_PORTS: Final = frozenset({6, 17, 33, 132, 136})
"""TCP, UDP, DCCP, SCTP, UDP-Lite: all begin with source and destination port."""

_Item = TypeVar("_Item")


class FlowQueueError(ValueError):
    """A flow queue used against its rules; says which rule."""


@dataclass(frozen=True, slots=True)
class FlowLimits:
    """How flows share, and how much of them may wait."""

    queues: int = 1024
    """Flows are hashed into so many queues (RFC 8290 section 5.2.5)."""
    quantum: int = 65_536
    """Bytes of a flow's turn (RFC 8290 section 5.2.4): at least the largest packet, here a super-packet, or a turn
    would be many rounds of counting."""
    packets: int = 10_240
    """In all (RFC 8290 section 5.2.3)."""
    total_bytes: int = 8 << 20
    """In all: super-packets reach this long before the other limit."""
    target: float = 0.005
    """Seconds that a queue may stand (RFC 8290 section 5.2.2)."""
    interval: float = 0.1
    """Seconds that it may stand longer before CoDel drops: a long round trip (RFC 8290 section 5.2.1)."""
    max_age: float = 0.1
    """Seconds after which a packet is dropped whatever its flow does: the way out is stuck, and what matters will be
    sent again."""

    def __post_init__(self) -> None:
        if min(self.queues, self.quantum, self.packets, self.total_bytes) < 1:
            raise FlowQueueError(f"every number and size of a flow queue must be above zero: {self}")
        if not (0 < self.target < self.interval and self.max_age > 0):
            raise FlowQueueError(f"target must be below interval, and every time above zero: {self}")


_Waiting: TypeAlias = tuple[_Item, int, float]
"""One packet: item, size in bytes, since when it waits. A tuple, because it is made and read once per packet."""


class _Queue(Generic[_Item]):
    """What hashes to one number: its packets, its place among the flows, and its CoDel state (RFC 8289 section 5.2)."""

    __slots__ = (
        "bytes",
        "deficit",
        "drop_next",
        "dropping",
        "drops",
        "drops_before",
        "largest",
        "listed",
        "packets",
        "stands_at",
    )

    def __init__(self) -> None:
        self.packets: deque[_Waiting[_Item]] = deque()
        self.bytes = 0
        self.largest = 0
        self.listed = False
        self.deficit = 0
        self.dropping = False
        self.stands_at: float | None = None
        """When the queue will have stood for an interval; None while it doesn't stand."""
        self.drop_next = 0.0
        self.drops = 0
        self.drops_before = 0


def _forget(_item: object) -> None:
    """Nobody asked what is dropped."""


class FlowQueue(Generic[_Item]):
    """Packets of many flows, which leave one flow's turn after the other, new flows before old ones.

    Source: RFC 8290 section 4 with CoDel as in RFC 8289 section 5, without marking (packets are opaque). Beyond both:
    a packet that waited `max_age` is dropped in any case. `now` is monotonic seconds and never goes back.

    A flow is *new* from its first packet until it had a turn or ran out; so a sparse flow, which never fills a turn,
    overtakes all that do.
    """

    dropped_codel: int
    """Packets that CoDel dropped because their queue stood, since the start."""
    dropped_age: int
    """Packets that waited too long."""
    dropped_full: int
    """Packets that had to make room for younger ones."""

    def __init__(self, limits: FlowLimits | None = None, on_drop: Callable[[_Item], None] = _forget) -> None:
        """`on_drop` is given each item that is dropped, for the memory that it holds; it must not call back."""
        self._limits = limits or FlowLimits()
        self._on_drop = on_drop
        self._queues: dict[int, _Queue[_Item]] = {}
        self._new: deque[_Queue[_Item]] = deque()
        self._old: deque[_Queue[_Item]] = deque()
        self._packets = 0
        self._bytes = 0
        # No waiting packet is older; exact whenever `expire` looked at all of them.
        self._none_before = inf
        self.dropped_codel = 0
        self.dropped_age = 0
        self.dropped_full = 0

    def __len__(self) -> int:
        """How many packets wait."""
        return self._packets

    @property
    def pending_bytes(self) -> int:
        """Bytes of all packets that wait."""
        return self._bytes

    @property
    def oldest(self) -> float | None:
        """Since when the oldest packet has waited; None when none waits. Looks at every flow that has packets."""
        return min((queue.packets[0][2] for queue in chain(self._new, self._old) if queue.packets), default=None)

    def add(self, flow: Hashable, item: _Item, size: int, now: float) -> None:
        """Lets `item`, a packet of `size` bytes of `flow`, wait for its turn (RFC 8290 section 4.1).

        Where that is too much, up to half of the fattest flow goes, oldest packets first. Raises `FlowQueueError` for a
        packet without bytes.
        """
        if size < 1:
            raise FlowQueueError(f"a packet of {size} bytes")
        # Python's hash of bytes is keyed with a secret of the process: nobody outside can choose who shares a queue.
        number = hash(flow) % self._limits.queues
        queue = self._queues.get(number)
        if queue is None:
            queue = self._queues[number] = _Queue()
        if not queue.listed:
            queue.listed = True
            queue.deficit = self._limits.quantum
            queue.largest = 0
            self._new.append(queue)
        if not self._packets:
            self._none_before = now
        queue.packets.append((item, size, now))
        queue.bytes += size
        if size > queue.largest:
            queue.largest = size
        self._packets += 1
        self._bytes += size
        while self._bytes > self._limits.total_bytes or self._packets > self._limits.packets:
            self._make_room()

    def take(self, now: float, budget_bytes: int) -> list[_Item]:
        """The packets whose turn it is at `now` (RFC 8290 section 4.2), until they are `budget_bytes` or none waits.

        Only the last one may go beyond the budget. What is too old is dropped first.
        """
        self.expire(now)
        taken: list[_Item] = []
        left = budget_bytes
        while left > 0:
            flows = self._new or self._old
            if not flows:
                break
            queue = flows[0]
            if queue.deficit <= 0:
                queue.deficit += self._limits.quantum
                self._old.append(flows.popleft())
                continue
            if not queue.packets:
                queue.stands_at = None
                queue.dropping = False
                flows.popleft()
                if flows is self._new:
                    # Not dropped from the lists at once: a flow that keeps coming back as a new one would starve the
                    # old ones (RFC 8290 section 4.2).
                    self._old.append(queue)
                else:
                    queue.listed = False
                continue
            packet = self._head(queue, now)
            if queue.stands_at is not None and now >= queue.stands_at:
                packet = self._control(queue, packet, now)
            item, size, _ = packet
            queue.deficit -= size
            left -= size
            taken.append(item)
        return taken

    def expire(self, now: float) -> None:
        """Drops what at `now` has waited more than `max_age`; due at `oldest` plus that, for the memory it holds."""
        if now - self._none_before <= self._limits.max_age:
            return
        self._none_before = inf
        for queue in chain(self._new, self._old):
            packets = queue.packets
            while packets and now - packets[0][2] > self._limits.max_age:
                self._on_drop(self._pop(queue)[0])
                self.dropped_age += 1
            if packets:
                self._none_before = min(self._none_before, packets[0][2])

    def _make_room(self) -> None:
        # Half a flow at once, for the search among all flows is not worth it for one packet.
        fattest = max(chain(self._new, self._old), key=lambda queue: queue.bytes)
        enough = fattest.bytes // 2
        for _ in range(min(DROP_BATCH, len(fattest.packets))):
            self._on_drop(self._pop(fattest)[0])
            self.dropped_full += 1
            if fattest.bytes <= enough:
                break

    def _pop(self, queue: _Queue[_Item]) -> _Waiting[_Item]:
        packet = queue.packets.popleft()
        size = packet[1]
        queue.bytes -= size
        self._bytes -= size
        self._packets -= 1
        return packet

    # --- CoDel (RFC 8289 section 5.5) -------------------------------------------------------------------------------

    def _head(self, queue: _Queue[_Item], now: float) -> _Waiting[_Item]:
        """Takes the head of `queue`, and sees whether the queue stands."""
        packet = self._pop(queue)
        if now - packet[2] < self._limits.target or queue.bytes <= queue.largest:
            queue.stands_at = None
            queue.dropping = False
        elif queue.stands_at is None:
            queue.stands_at = now + self._limits.interval
            queue.dropping = False
        return packet

    def _control(self, queue: _Queue[_Item], packet: _Waiting[_Item], now: float) -> _Waiting[_Item]:
        """What to send of a queue that stands, and whose head was `packet`: that, or one behind those dropped.

        There always is one behind: a queue with no more than its largest packet doesn't stand.
        """
        if not queue.dropping:
            self._drop(packet)
            packet = self._head(queue, now)
            queue.dropping = True
            # Where dropping ended not long ago, it goes on nearly as fast as it was then.
            recent = queue.drops - queue.drops_before
            lately = now - queue.drop_next < REENTRY_INTERVALS * self._limits.interval
            queue.drops = recent if recent > 1 and lately else 1
            queue.drops_before = queue.drops
            queue.drop_next = self._next_drop(queue, now)
            return packet
        while queue.dropping and now >= queue.drop_next:
            self._drop(packet)
            queue.drops += 1
            packet = self._head(queue, now)
            if queue.dropping:
                queue.drop_next = self._next_drop(queue, queue.drop_next)
        return packet

    def _next_drop(self, queue: _Queue[_Item], after: float) -> float:
        return after + self._limits.interval / sqrt(queue.drops)

    def _drop(self, packet: _Waiting[_Item]) -> None:
        self.dropped_codel += 1
        self._on_drop(packet[0])


def flow_key(packet: Buffer) -> bytes:
    """What packets of the same flow share: addresses, next header and, where they have them, ports (RFC 8290 4.1).

    `packet` is an IPv6 packet of any length. All fragments between two addresses are one flow, for only the first of a
    packet has the ports. Extension headers are not searched for ports: a host rarely sends one, and its packets just
    share one turn.
    """
    transport = bytes(packet[NEXT_HEADER_OFFSET : NEXT_HEADER_OFFSET + 1])
    if transport and transport[0] in TRANSPORTS_WITH_PORTS:
        return transport + packet[ADDRESSES_OFFSET:PORTS_END]
    return transport + packet[ADDRESSES_OFFSET:IPV6_HEADER]
