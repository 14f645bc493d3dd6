"""What waits for a link's socket: control before data, and pairs of addresses in turns."""

from __future__ import annotations

import struct
import sys
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from operator import ge
from typing import Final

from protocol.mycelium.framing import DATA_HEADER, MAX_PACKET, SOURCE_OFFSET

MAX_BUFFERS: Final = 1024
"""Linux UIO_MAXIOV: `sendmsg` refuses more."""
_ADDRESSES: Final = struct.Struct(f"{SOURCE_OFFSET}x{DATA_HEADER - SOURCE_OFFSET}s")
_NO_END: Final = sys.maxsize


class QueueError(ValueError):
    """A queue used against its rules; says which rule."""


@dataclass(frozen=True, slots=True)
class SendLimits:
    """How much may wait for one link's socket."""

    control_packets: int = 4096
    """Beyond it control is refused: the peer takes nothing any more, and the link's time-out is near."""
    control_bytes: int = 1 << 20
    """Likewise."""
    data_bytes: int = 8 << 20
    """Beyond it the pair that has most waiting loses its oldest data."""
    pair_bytes: int = 4 << 20
    """Beyond it a pair loses its own oldest data; about as much as the socket's own buffer holds."""
    max_age: float = 0.5
    """Seconds after which data is of no use to its sender any more, who has sent it again."""
    queues: int = 1024
    """Pairs of addresses are hashed into so many queues (RFC 8290 section 5.2.5)."""
    quantum: int = MAX_PACKET
    """Bytes of a pair's turn (RFC 8290 section 5.2.4): the largest packet, which one turn makes up for."""

    def __post_init__(self) -> None:
        smallest = min(
            self.control_packets, self.control_bytes, self.data_bytes, self.pair_bytes, self.queues, self.quantum
        )
        if smallest < 1 or self.max_age <= 0:
            raise QueueError(f"every limit of a send queue must be above zero: {self}")


class _SharedLease:
    """A lease that several runs hold."""

    __slots__ = ("lease", "runs")

    def __init__(self, lease: object, runs: int) -> None:
        self.lease = lease
        self.runs = runs


class _Run:
    """Data packets one behind the other in one piece of memory; those before number `next` are gone."""

    __slots__ = ("boundaries", "lease", "next", "payload", "place", "since", "start")

    def __init__(self, payload: memoryview, boundaries: Sequence[int], since: float, lease: object, place: int) -> None:
        self.payload = payload
        self.boundaries = boundaries
        self.since = since
        self.lease = lease
        self.place = place
        self.next = 0
        self.start = 0


class Offer:
    """What one `sendmsg` should write, and where it lies, as a ledger wants to know (`protocol/ledger.py`)."""

    __slots__ = ("buffers", "lead", "own", "pieces")

    def __init__(self) -> None:
        self.buffers: list[memoryview | bytes] = []
        self.pieces: list[int] = []
        """Place and length of each buffer, one after the other."""
        self.own = bytearray()
        """The bytes of all buffers that lie in memory of this process alone; their places count in it."""
        self.lead = 0
        """How much of the first buffer is the rest of a packet that was torn."""

    def add_own(self, packet: memoryview | bytes) -> None:
        """Adds a buffer that lies in memory of this process alone."""
        self.pieces += (len(self.own), len(packet))
        self.own += packet
        self.buffers.append(packet)

    def add(self, run: _Run, start: int, end: int) -> None:
        """Adds the part of `run` from `start` to `end`."""
        payload = run.payload[start:end] if end - start < len(run.payload) else run.payload
        if not run.place:
            self.add_own(payload)
            return
        self.pieces += (run.place + start, end - start)
        self.buffers.append(payload)


class _Pair:
    """What waits for one pair of addresses, or for those that hash to the same number."""

    __slots__ = ("bytes", "credit", "runs")

    def __init__(self) -> None:
        self.runs: deque[_Run] = deque()
        self.bytes = 0
        self.credit = 0
        """Bytes left of its turn; above zero while anything waits."""


class SendQueue:
    """What one link has to write: control before data, each bounded, never one packet inside another.

    Packets leave through `buffers`, one `sendmsg`, and `sent`, in this order and with nothing in between. A packet that
    a short write tore is finished first, whatever else waits; at its end control overtakes data.

    Data is queued per pair of addresses, source and destination, and pairs take turns of equal bytes (deficit round
    robin as in RFC 8290 section 4.2): whoever sends more than the link carries waits, and loses packets, alone. A pair
    that waits alone has the link to itself. The packets of a pair never overtake each other.

    Data older than the limit's age goes. Where a pair has too much, its oldest goes; where all together have, the
    oldest of the one that has most. Control that doesn't fit is refused. Only whole packets go, never the rest of a
    torn one.
    """

    dropped_age: int
    """Data packets that waited too long, since the start."""
    dropped_full: int
    """Data packets that had to make room for younger ones."""
    dropped_control: int
    """Control packets refused because too many wait."""

    def __init__(self, limits: SendLimits | None = None) -> None:
        self._limits = limits or SendLimits()
        self._queues = self._limits.queues
        self._pair_bytes = self._limits.pair_bytes
        self._most_bytes = self._limits.data_bytes
        self._quantum = self._limits.quantum
        self._max_age = self._limits.max_age
        self._torn: memoryview | None = None
        self._torn_run: _Run | None = None
        self._control: deque[bytes] = deque()
        self._control_bytes = 0
        self._pairs: dict[int, _Pair] = {}
        # The pairs that have data, the one whose turn it is first.
        self._ring: deque[_Pair] = deque()
        self._data_bytes = 0
        # No waiting data is older; exact whenever `expire` looked at all of it.
        self._none_before = inf
        self._plan: list[tuple[_Pair, int]] = []
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
        """When the oldest waiting data was queued; None when no data waits. Looks at every pair that has data."""
        return min((pair.runs[0].since for pair in self._ring), default=None)

    def resume(self, torn: bytes) -> None:
        """Begins with the rest of a packet that a predecessor tore."""
        self._torn = memoryview(torn)

    @property
    def between_packets(self) -> bool:
        """Whether what was written so far ends with a whole packet."""
        return self._torn is None

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

    def data(
        self,
        payload: memoryview,
        boundaries: Sequence[int],
        now: float,
        lease: object = None,
        pair: bytes | None = None,
        place: int = 0,
    ) -> None:
        """Queues a run of packets that lie one behind the other in `payload`.

        `boundaries` are the packets' ends in `payload`, ascending. `now` is monotonic seconds and never goes back.
        `payload` and `boundaries` must stay as they are until `released` returns `lease`, which may be anything but
        None, the sign that nobody asks.

        `pair` is given by a caller who knows that all packets have these outer addresses (32 bytes, source first);
        otherwise each packet's own are looked at, which takes longer. Packets of the same pair keep their order only
        where the pair is the right one.

        `place` is a number that says where `payload` begins, for `Offer.pieces`; 0 for memory of this process alone.

        Raises `QueueError` for boundaries that don't cut `payload` into packets.
        """
        size = len(payload)
        if (
            not boundaries
            or boundaries[0] <= 0
            or boundaries[-1] != size
            or (len(boundaries) > 1 and any(map(ge, boundaries, boundaries[1:])))
        ):
            raise QueueError(f"{len(boundaries)} boundaries that don't cut {size} bytes into packets")
        if pair is None:
            parts = _split(payload, boundaries)
            if len(parts) > 1:
                shared = None if lease is None else _SharedLease(lease, len(parts))
                for owner, start, ends in parts:
                    where = place + start if place else 0
                    self.data(payload[start : start + ends[-1]], ends, now, shared, owner, where)
                return
            pair = parts[0][0]
        self._offered = 0
        # Python's hash of bytes is keyed with a secret of the process: nobody outside can choose who shares a queue.
        number = hash(pair) % self._queues
        waiting = self._pairs.get(number)
        if waiting is None:
            waiting = self._pairs[number] = _Pair()
        if not waiting.runs:
            if not self._ring:
                self._none_before = now
            waiting.credit = self._quantum
            self._ring.append(waiting)
        waiting.runs.append(_Run(payload, boundaries, now, lease, place))
        waiting.bytes += size
        self._data_bytes += size
        if waiting.bytes > self._pair_bytes or self._data_bytes > self._most_bytes:
            self._make_room(waiting)

    def expire(self, now: float) -> None:
        """Drops the data that is too old at `now`; due at `oldest` plus the limit's age, for its leases' sake."""
        if now - self._none_before <= self._max_age:
            return
        self._none_before = inf
        for pair in self._ring:
            runs = pair.runs
            while runs and now - runs[0].since > self._max_age:
                run = runs[0]
                self._offered = 0
                self.dropped_age += len(run.boundaries) - run.next
                self._forget(pair, run, len(run.boundaries))
            if runs:
                self._none_before = min(self._none_before, runs[0].since)
        self._ring = deque(pair for pair in self._ring if pair.runs)

    def buffers(self, now: float, limit_bytes: int) -> list[memoryview | bytes]:
        """What to write at `now` in one `sendmsg`: whole packets of `limit_bytes` in all, or one larger packet.

        Where several pairs wait, each has one turn at most, so there may be more to write behind it. Drops what is too
        old first. Empty when nothing waits.
        """
        return self.offer(now, limit_bytes).buffers

    def offer(self, now: float, limit_bytes: int) -> Offer:
        """`buffers`, and where each of them lies."""
        self.expire(now)
        offer = Offer()
        buffers = offer.buffers
        room = limit_bytes
        self._plan = []
        if self._torn is not None:
            offer.add_own(self._torn)
            offer.lead = len(self._torn)
            room -= len(self._torn)
        for packet in self._control:
            if buffers and (len(packet) > room or len(buffers) == MAX_BUFFERS):
                break
            offer.add_own(packet)
            room -= len(packet)
        else:
            room = self._offer_data(offer, room)
        self._offered = limit_bytes - room
        return offer

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
        if count == self._data_bytes:
            self._sent_all_data()
        elif count:
            self._sent_data(count)

    def drop_all(self) -> None:
        """Forgets everything that waits, the rest of a torn packet too: nobody will read it."""
        self._offered = 0
        self._control.clear()
        self._control_bytes = 0
        torn, self._torn, self._torn_run = self._torn_run, None, None
        if torn is not None and torn.next == len(torn.boundaries):
            self._release(torn)
        self._sent_all_data()

    def released(self) -> list[object]:
        """The leases of the data that was sent or dropped since the last call."""
        released, self._released = self._released, []
        return released

    # --- turns ------------------------------------------------------------------------------------------------------

    def _offer_data(self, offer: Offer, room: int) -> int:
        """Plans a turn of each pair, as far as there is room; returns the room that is left."""
        plan, alone = self._plan, len(self._ring) == 1
        for pair in self._ring:
            credit = _NO_END if alone else pair.credit
            size = pair.bytes
            if size <= room and size <= credit and len(offer.buffers) + len(pair.runs) <= MAX_BUFFERS:
                for run in pair.runs:
                    offer.add(run, run.start, len(run.payload))
            else:
                size = _offer_part(pair, credit, offer, room)
            plan.append((pair, size))
            room -= size
            if size < credit and size < pair.bytes:
                break
        return room

    def _sent_data(self, count: int) -> None:
        ring = self._ring
        alone = len(ring) == 1
        plan = iter(self._plan)
        while count:
            pair, size = next(plan)
            before, taken = pair.bytes, min(count, size)
            self._take(pair, taken)
            count -= taken
            if not pair.runs:
                ring.popleft()
            elif not alone:
                pair.credit -= before - pair.bytes
                if pair.credit <= 0:
                    pair.credit = max(1, pair.credit + self._quantum)
                    ring.rotate(-1)

    def _sent_all_data(self) -> None:
        for pair in self._ring:
            for run in pair.runs:
                if run.lease is not None:
                    self._release(run)
            pair.runs.clear()
            pair.bytes = 0
        self._ring.clear()
        self._data_bytes = 0

    def _sent_torn(self, torn: memoryview, count: int) -> int:
        if count < len(torn):
            self._torn = torn[count:]
            return 0
        run, self._torn, self._torn_run = self._torn_run, None, None
        if run is not None and run.next == len(run.boundaries):
            self._release(run)
        return count - len(torn)

    def _take(self, pair: _Pair, count: int) -> None:
        """Takes the first `count` bytes out of what waits for `pair`, and the rest of a packet that ends there."""
        while count:
            run = pair.runs[0]
            reached = run.start + count
            count = max(0, reached - len(run.payload))
            whole = len(run.boundaries)
            if reached < len(run.payload):
                whole = bisect_right(run.boundaries, reached, run.next)
                if reached > (run.boundaries[whole - 1] if whole else 0):
                    self._torn = run.payload[reached : run.boundaries[whole]]
                    self._torn_run = run
                    whole += 1
            self._forget(pair, run, whole)

    def _make_room(self, pair: _Pair) -> None:
        """Drops what `pair` has too much, and then what all have."""
        if pair.bytes > self._pair_bytes:
            self._drop_oldest(pair, pair.bytes - self._pair_bytes)
        while self._data_bytes > self._most_bytes:
            fattest = max(self._ring, key=lambda waiting: waiting.bytes)
            # More than needed, for the search among all pairs is not worth it for one packet (RFC 8290 section 4.1).
            more = min(fattest.bytes // 2, self._quantum)
            self._drop_oldest(fattest, max(self._data_bytes - self._most_bytes, more))

    def _drop_oldest(self, pair: _Pair, surplus: int) -> None:
        """Drops the oldest packets of `pair`: `surplus` bytes or a little more, or all it has."""
        goal = pair.bytes - surplus
        while pair.runs and pair.bytes > goal:
            run = pair.runs[0]
            last = bisect_left(run.boundaries, run.start + pair.bytes - goal, run.next)
            packets = min(last + 1, len(run.boundaries))
            self.dropped_full += packets - run.next
            self._forget(pair, run, packets)
        if not pair.runs:
            self._ring.remove(pair)

    def _forget(self, pair: _Pair, run: _Run, packets: int) -> None:
        """Takes the packets up to number `packets` of the pair's first run out of the queue."""
        end = run.boundaries[packets - 1]
        pair.bytes -= end - run.start
        self._data_bytes -= end - run.start
        run.start = end
        run.next = packets
        if packets == len(run.boundaries):
            pair.runs.popleft()
            if run is not self._torn_run:
                self._release(run)

    def _release(self, run: _Run) -> None:
        lease = run.lease
        if isinstance(lease, _SharedLease):
            lease.runs -= 1
            if lease.runs:
                return
            lease = lease.lease
        if lease is not None:
            self._released.append(lease)


def _offer_part(pair: _Pair, credit: int, offer: Offer, room: int) -> int:
    """Adds the pair's next packets to `offer`; returns their bytes.

    They end with the packet that uses up `credit`, or before the first that doesn't fit `room`: unless nothing else is
    on offer, when it goes alone.
    """
    size = 0
    for run in pair.runs:
        if size >= credit or len(offer.buffers) == MAX_BUFFERS:
            break
        start, end = run.start, len(run.payload)
        if end - start > min(credit, room) - size:
            in_turn = bisect_left(run.boundaries, start + credit - size, run.next) + 1
            in_room = bisect_right(run.boundaries, start + room - size, run.next)
            if not offer.buffers:
                in_room = max(in_room, run.next + 1)
            packets = min(in_turn, in_room, len(run.boundaries))
            if packets == run.next:
                break
            end = run.boundaries[packets - 1]
        offer.add(run, start, end)
        size += end - start
        if end < len(run.payload):
            break
    return size


def _split(payload: memoryview, boundaries: Sequence[int]) -> list[tuple[bytes, int, list[int]]]:
    """Neighbours of the same pair in one part: addresses, where in `payload` the part begins, packets' ends in it."""
    parts: list[tuple[bytes, int, list[int]]] = []
    addresses: bytes | None = None
    ends: list[int] = []
    start = part = 0
    for end in boundaries:
        its_own: bytes = b"" if end - start < DATA_HEADER else _ADDRESSES.unpack_from(payload, start)[0]
        if its_own != addresses:
            addresses, ends, part = its_own, [], start
            parts.append((addresses, part, ends))
        ends.append(end - part)
        start = end
    return parts
