"""What waits: packets for a link's socket to take them, and packets for the router to find their way."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from operator import ge
from typing import Final

MAX_BUFFERS: Final = 1024
"""Linux UIO_MAXIOV: `sendmsg` refuses more."""


class QueueError(ValueError):
    """A queue used against its rules; says which rule."""


@dataclass(frozen=True, slots=True)
class SendLimits:
    """How much may wait for one link's socket."""

    control_packets: int = 4096
    """Beyond it control is refused: the peer takes nothing any more, and the link's time-out is near."""
    control_bytes: int = 1 << 20
    """Likewise."""
    data_bytes: int = 4 << 20
    """Beyond it the oldest data goes; about as much as the socket's own buffer holds."""
    max_age: float = 0.5
    """Seconds after which data is of no use to its sender any more, who has sent it again."""

    def __post_init__(self) -> None:
        if min(self.control_packets, self.control_bytes, self.data_bytes) < 1 or self.max_age <= 0:
            raise QueueError(f"every limit of a send queue must be above zero: {self}")


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


class _Run:
    """Data packets one behind the other in one piece of memory; those before number `next` are gone."""

    __slots__ = ("boundaries", "lease", "next", "payload", "since", "start")

    def __init__(self, payload: memoryview, boundaries: Sequence[int], since: float, lease: object) -> None:
        self.payload = payload
        self.boundaries = boundaries
        self.since = since
        self.lease = lease
        self.next = 0
        self.start = 0


class SendQueue:
    """What one link has to write: control before data, each bounded, never one packet inside another.

    Packets leave through `buffers`, one `sendmsg`, and `sent`, in this order and with nothing in between. A packet that
    a short write tore is finished first, whatever else waits; at its end control overtakes data.

    Data older than the limit's age goes, the oldest first, and so does the oldest when there is too much; control that
    doesn't fit is refused. Only whole packets go, never the rest of a torn one.
    """

    dropped_age: int
    """Data packets that waited too long, since the start."""
    dropped_full: int
    """Data packets that had to make room for younger ones."""
    dropped_control: int
    """Control packets refused because too many wait."""

    def __init__(self, limits: SendLimits | None = None) -> None:
        self._limits = limits or SendLimits()
        self._torn: memoryview | None = None
        self._torn_run: _Run | None = None
        self._control: deque[bytes] = deque()
        self._control_bytes = 0
        self._data: deque[_Run] = deque()
        self._data_bytes = 0
        self._offered = 0
        self._released: list[object] = []
        self.dropped_age = 0
        self.dropped_full = 0
        self.dropped_control = 0

    @property
    def pending_bytes(self) -> int:
        """Bytes that wait, the rest of a torn packet included."""
        return (len(self._torn) if self._torn else 0) + self._control_bytes + self._data_bytes

    @property
    def oldest(self) -> float | None:
        """When the oldest waiting data was queued; None when no data waits."""
        return self._data[0].since if self._data else None

    def control(self, packet: bytes) -> bool:
        """Queues one control packet; False when it had to be refused. Raises `QueueError` for one without bytes."""
        if not packet:
            raise QueueError("a control packet without bytes")
        if (
            len(self._control) >= self._limits.control_packets
            or self._control_bytes + len(packet) > self._limits.control_bytes
        ):
            self.dropped_control += 1
            return False
        self._offered = 0
        self._control.append(packet)
        self._control_bytes += len(packet)
        return True

    def data(self, payload: memoryview, boundaries: Sequence[int], now: float, lease: object = None) -> None:
        """Queues a run of packets that lie one behind the other in `payload`.

        `boundaries` are the packets' ends in `payload`, ascending. `now` is monotonic seconds and never goes back.
        `payload` and `boundaries` must stay as they are until `released` returns `lease`, which may be anything but
        None, the sign that nobody asks.

        Raises `QueueError` for boundaries that don't cut `payload` into packets.
        """
        if (
            not boundaries
            or boundaries[0] <= 0
            or boundaries[-1] != len(payload)
            or any(map(ge, boundaries, boundaries[1:]))
        ):
            raise QueueError(f"{len(boundaries)} boundaries that don't cut {len(payload)} bytes into packets")
        self._offered = 0
        self._data.append(_Run(payload, boundaries, now, lease))
        self._data_bytes += len(payload)
        while self._data_bytes > self._limits.data_bytes:
            run = self._data[0]
            surplus = self._data_bytes - self._limits.data_bytes
            last = min(bisect_left(run.boundaries, run.start + surplus), len(run.boundaries) - 1)
            self.dropped_full += last + 1 - run.next
            self._forget(run, last + 1)

    def expire(self, now: float) -> None:
        """Drops the data that is too old at `now`; due at `oldest` plus the limit's age, for its leases' sake."""
        while self._data and now - self._data[0].since > self._limits.max_age:
            run = self._data[0]
            self._offered = 0
            self.dropped_age += len(run.boundaries) - run.next
            self._forget(run, len(run.boundaries))

    def buffers(self, now: float, limit_bytes: int) -> list[memoryview | bytes]:
        """What to write at `now` in one `sendmsg`: whole packets of `limit_bytes` in all, or one larger packet.

        Drops what is too old first. Empty when nothing waits.
        """
        self.expire(now)
        offer: list[memoryview | bytes] = []
        room = limit_bytes
        if self._torn is not None:
            offer.append(self._torn)
            room -= len(self._torn)
        for packet in self._control:
            if offer and (len(packet) > room or len(offer) == MAX_BUFFERS):
                break
            offer.append(packet)
            room -= len(packet)
        else:
            room = self._offer_data(offer, room)
        self._offered = limit_bytes - room
        return offer

    def _offer_data(self, offer: list[memoryview | bytes], room: int) -> int:
        for run in self._data:
            if len(offer) == MAX_BUFFERS:
                break
            end = len(run.payload)
            if end - run.start > room:
                fitting = bisect_right(run.boundaries, run.start + room, run.next)
                if not offer:
                    fitting = max(fitting, run.next + 1)
                if fitting > run.next:
                    end = run.boundaries[fitting - 1]
                    offer.append(run.payload[run.start : end])
                    room -= end - run.start
                break
            offer.append(run.payload[run.start :] if run.start else run.payload)
            room -= end - run.start
        return room

    def sent(self, count: int) -> None:
        """Accounts for the first `count` bytes of what `buffers` returned last.

        Raises `QueueError` when that were fewer bytes, or the queue has changed since.
        """
        if not 0 <= count <= self._offered:
            raise QueueError(f"{count} bytes sent of {self._offered} offered")
        self._offered = 0
        if self._torn is not None:
            count = self._sent_torn(self._torn, count)
        while count and self._control:
            packet = self._control.popleft()
            self._control_bytes -= len(packet)
            if count < len(packet):
                self._torn = memoryview(packet)[count:]
            count = max(0, count - len(packet))
        while count:
            count = self._sent_data(self._data[0], count)

    def released(self) -> list[object]:
        """The leases of the data that was sent or dropped since the last call."""
        released, self._released = self._released, []
        return released

    def _sent_torn(self, torn: memoryview, count: int) -> int:
        if count < len(torn):
            self._torn = torn[count:]
            return 0
        run, self._torn, self._torn_run = self._torn_run, None, None
        if run is not None and run.next == len(run.boundaries):
            self._release(run)
        return count - len(torn)

    def _sent_data(self, run: _Run, count: int) -> int:
        """Takes `count` bytes from the head run, or all it has; how many are left to take from the next."""
        reached = run.start + count
        if reached >= len(run.payload):
            self._forget(run, len(run.boundaries))
            return reached - len(run.payload)
        whole = bisect_right(run.boundaries, reached, run.next)
        if reached > (run.boundaries[whole - 1] if whole else 0):
            self._torn = run.payload[reached : run.boundaries[whole]]
            self._torn_run = run
            whole += 1
        self._forget(run, whole)
        return 0

    def _forget(self, run: _Run, packets: int) -> None:
        """Takes the head run's packets up to number `packets` out of the queue."""
        end = run.boundaries[packets - 1]
        self._data_bytes -= end - run.start
        run.start = end
        run.next = packets
        if packets == len(run.boundaries):
            self._data.popleft()
            if run is not self._torn_run:
                self._release(run)

    def _release(self, run: _Run) -> None:
        if run.lease is not None:
            self._released.append(run.lease)


class WaitingPackets:
    """Packets that wait for the router to find a route to their prefix, each prefix's in order of arrival.

    A prefix that has its share refuses the newest. When there are too many in all, the prefix that has waited longest
    loses its oldest: it is the one least likely to be found.
    """

    refused: int
    """Packets not taken, since the start."""
    evicted: int
    """Packets that had to make room for younger ones."""

    def __init__(self, limits: WaitLimits | None = None) -> None:
        self._limits = limits or WaitLimits()
        self._queues: dict[bytes, deque[tuple[float, bytes]]] = {}
        self._packets = 0
        self._bytes = 0
        self.refused = 0
        self.evicted = 0

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
            self.refused += 1
            return False
        while self._packets >= self._limits.total_packets or self._bytes + len(packet) > self._limits.total_bytes:
            self._pop(next(iter(self._queues)))
            self.evicted += 1
        self._queues.setdefault(prefix, deque()).append((now, packet))
        self._packets += 1
        self._bytes += len(packet)
        return True

    def take(self, prefix: bytes) -> list[bytes]:
        """Removes and returns what waits for `prefix`, in order of arrival; empty when nothing does."""
        packets = [packet for _, packet in self._queues.pop(prefix, ())]
        self._packets -= len(packets)
        self._bytes -= sum(map(len, packets))
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
                expired.append((prefix, packets))
        return expired

    def _pop(self, prefix: bytes) -> bytes:
        waiting = self._queues[prefix]
        _, packet = waiting.popleft()
        if not waiting:
            del self._queues[prefix]
        self._packets -= 1
        self._bytes -= len(packet)
        return packet
