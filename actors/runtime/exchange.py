"""Packets between data actors: our arena, the lanes to the others, and leases in both directions.

Small runs of packets ride inline in their frame. Larger ones stay where they are: the frame says where in the sender's
arena, and the reader gives each piece back when it is done with it. A reader that is slow pins no more than its share;
what goes beyond it is dropped and counted, and nobody else waits.
"""

from __future__ import annotations

import mmap
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final, NamedTuple, TypeAlias

from actors.runtime.actor import Runtime
from actors.runtime.lane import Lane, LaneError, LaneHub
from actors.runtime.loop import Timer
from actors.runtime.pages import MemoryRefused, give_back_pages, look_into
from actors.runtime.runs import Run
from protocol.arena import SLOT_BYTES, Arena, ArenaError, pack_pieces, unpack_pieces
from protocol.codec import FrameError, Payload, pack, unpack
from protocol.frames import (
    SCHEMA,
    TO_TUN,
    LaneHello,
    Recovered,
    ReportUndelivered,
    Returned,
    actor_of,
    pack_lengths,
    pack_packets,
    unpack_packets,
)
from protocol.inflight import InFlightLimit
from protocol.ledger import OWN_MEMORY, place

TUN: Final = actor_of(TO_TUN)
MOST_SLICES: Final = 64
"""Packets that alternate between next steps lie in many pieces, each of which costs a lease: past that, a copy."""
INLINE_BYTES: Final = 4096
"""Runs up to this size are copied into their frame: cheaper than a lease and its way back."""
PIN_SECONDS: Final = 2.0
"""How long the leases of a dead reader wait for its successor."""
RETURN_AT_ONCE: Final = 4
RETURN_SECONDS: Final = 0.001
IDLE_SECONDS: Final = 5.0
PENDING_BYTES: Final = 256 << 10
"""What may wait for a lane that is being opened."""
MOST_COPIED_BYTES: Final = PENDING_BYTES // 2
"""In one frame: a quarter of what a frame may hold."""
LANE_IDLE_SECONDS: Final = 60.0

OnRun: TypeAlias = Callable[[int, "Packed"], None]


@dataclass(frozen=True, slots=True)
class ArenaConfig:
    """The arena of one incarnation of one process, made by the supervisor."""

    number: int
    """No other arena of this node has it."""
    writable: int
    """Descriptor for us."""
    readable: int
    """Descriptor of the same memory that can't be written through, for everybody else."""
    slots: int
    """Of `SLOT_BYTES` each."""


class Writer:
    """What is known of the process at the other end of a lane: of this incarnation, the next has another."""

    __slots__ = ("lane", "memory", "number", "returned", "used")

    def __init__(self, lane: Lane) -> None:
        self.lane: Final = lane
        self.memory: memoryview | None = None
        self.number = OWN_MEMORY
        self.returned: list[tuple[int, int]] = []
        self.used = True


class Lease(NamedTuple):
    """One piece in another process's arena that we have to give back."""

    writer: Writer
    slot: int
    link: int


class Packed(NamedTuple):
    """A run of packets one behind the other: memory, where each ends, its place for a ledger, and what to give back."""

    memory: memoryview
    ends: tuple[int, ...]
    place: int
    lease: Lease | None


class Exchange:
    """One per data actor."""

    def __init__(
        self,
        runtime: Runtime,
        config: ArenaConfig,
        *,
        on_run: OnRun,
        on_room: Callable[[], None],
        on_report: Callable[[ReportUndelivered], None] | None = None,
    ) -> None:
        """`on_run(link, run)` gets packets; `on_room` runs when something of ours was given back."""
        self._runtime = runtime
        self._loop = runtime.loop
        self._counters: Counter[str] = runtime.counters
        self._config = config
        self._on_run = on_run
        self._on_room = on_room
        self._on_report = on_report
        size = config.slots * SLOT_BYTES
        self.memory: Final = memoryview(mmap.mmap(config.writable, size, mmap.MAP_SHARED))
        """Our arena."""
        self.arena: Final = Arena(config.slots)
        self.number: Final = config.number
        self._lanes: dict[Lane, Writer] = {}
        self._readers: Counter[str] = Counter()
        self._in_flight: Counter[int] = Counter()
        self._sizes: dict[tuple[int, int], list[tuple[int, float]]] = {}
        self._limits: dict[int, InFlightLimit] = {}
        self._pending: dict[str, list[bytes]] = {}
        self._pins: dict[str, Timer] = {}
        self._kept: set[str] = set()
        self._away: set[str] = set()
        self._returning = False
        self._hub = LaneHub(
            self._loop,
            runtime.start.run,
            runtime.start.name,
            runtime.counters,
            on_frame=self._on_frame,
            on_open=self._on_open,
            on_close=self._on_close,
            attach=config.readable,
            priority=4,
        )
        self._hub.listen()
        runtime.at_stop(self._hub.close)
        runtime.gauges.queue("arena_slots", lambda: config.slots - self.arena.free)
        runtime.gauges.queue("lane_bytes", self._hub.waiting)
        self._loop.every(IDLE_SECONDS, self._give_pages_back)
        self._loop.every(LANE_IDLE_SECONDS, self._close_idle_lanes)

    # --- our packets ------------------------------------------------------------------------------------------------

    def slot(self, number: int) -> memoryview:
        """The memory of one slot of ours."""
        return self.memory[number * SLOT_BYTES : (number + 1) * SLOT_BYTES]

    def place(self, slot: int, offset: int) -> int:
        """The place of an offset in one of our slots, as ledgers write it."""
        return place(self.number, slot * SLOT_BYTES + offset)

    def allowance(self, link: int) -> int:
        """Bytes that `link` should have of us besides those that it has not given back; not below 0."""
        return max(0, self._limit(link).limit - self._in_flight[link])

    def busy(self, link: int) -> bool:
        """Whether `link` has something of us to give back."""
        return self._in_flight[link] > 0

    def ran_dry(self, link: int) -> None:
        """More waits for `link`; it may have given everything back."""
        if not self._in_flight[link]:
            self._limit(link).ran_dry()

    def pass_on(self, link: int, slot: int, run: Run) -> bool:
        """Hands a run that lies in `slot` to a link or to tun (0); False, and counted, where it can't be."""
        reader = actor_of(link)
        lane = self._lane_to(reader)
        if run.octets <= INLINE_BYTES or len(run.slices) > MOST_SLICES or lane is None:
            # Who has no open lane, and so no lease: our own process, or one that is not there yet.
            return self.pass_copy(link, run.lengths(), run.payload(self.slot(slot)))
        base, now = slot * SLOT_BYTES, self._loop.now()
        leased = 0
        for _, ends in run.slices:
            if not self.arena.lease(slot, reader):
                break
            leased += 1
            self._sizes.setdefault((link, slot), []).append((ends[-1], now))
            self._in_flight[link] += ends[-1]
        if leased == len(run.slices):
            pieces = pack_pieces([(base + start, tuple(ends)) for start, ends in run.slices])
            if lane.send(pack_packets(link, b"", b"", pieces)):
                return True
            self._counters["dropped.lane_full"] += run.packets
        else:
            self._counters["dropped.over_share"] += run.packets
        for _ in range(leased):
            self._came_back(reader, link, slot)
        return False

    def pass_copy(self, link: int, lengths: list[int], payload: Payload) -> bool:
        """Hands packets that lie anywhere to a link or to tun (0); False, and counted, where they can't be."""
        reader = actor_of(link)
        if reader == self._runtime.start.name:
            # From one link of this process to another: neither has to know about the other's slots.
            self._on_run(link, Packed(memoryview(bytes(payload)), tuple(accumulate(lengths)), OWN_MEMORY, None))
            return True
        if len(payload) > MOST_COPIED_BYTES and len(lengths) > 1:
            # Packets that waited for a route can be more than one frame holds.
            middle = len(lengths) // 2
            octets = sum(lengths[:middle])
            first = self.pass_copy(link, lengths[:middle], payload[:octets])
            return self.pass_copy(link, lengths[middle:], payload[octets:]) and first
        frame = pack_packets(link, pack_lengths(lengths), payload, b"")
        lane = self._lane_to(reader)
        if lane is not None:
            if lane.send(frame):
                return True
        elif self._wait(reader, frame):
            return True
        self._counters["dropped.lane_full"] += len(lengths)
        return False

    def tell(self, reader: str, message: object) -> bool:
        """Sends any other frame over a lane."""
        lane = self._lane_to(reader)
        return lane is not None and lane.send(pack(message))

    def connect(self, reader: str) -> None:
        """Keeps a lane to another actor open from now on."""
        self._kept.add(reader)
        self._hub.connect(reader)

    # --- packets of others ------------------------------------------------------------------------------------------

    def give_back(self, lease: Lease) -> None:
        """We are done with a piece; its writer hears of it soon.

        Not at once: to be told wakes it up, and it has other pieces to go on with. So it is told with the next packets
        that go its way, when there is much to tell, or after a moment.
        """
        writer = lease.writer
        if self._lanes.get(writer.lane) is not writer:
            # It is dead, and its arena goes when nobody looks into it any more. Its successor has lent us nothing.
            return
        writer.returned.append((lease.slot, lease.link))
        if len(writer.returned) >= RETURN_AT_ONCE:
            self._return(writer)
        elif not self._returning:
            self._returning = True
            self._loop.call_after(RETURN_SECONDS, self._return_all)

    def _return_all(self) -> None:
        self._returning = False
        for writer in list(self._lanes.values()):
            self._return(writer)

    def _return(self, writer: Writer) -> None:
        if writer.returned:
            pieces, writer.returned = writer.returned, []
            words = [word for piece in pieces for word in piece]
            if not writer.lane.send(pack(Returned(struct.pack(f"<{len(words)}Q", *words)))):
                # Nothing but this lane's end can bring them back.
                writer.lane.end()

    # --- lanes ------------------------------------------------------------------------------------------------------

    def _lane_to(self, reader: str) -> Lane | None:
        lane = self._hub.lane(reader)
        if lane is not None and lane.is_open:
            writer = self._lanes.get(lane)
            if writer is not None:
                writer.used = True
                self._return(writer)
            return lane
        return None

    def _wait(self, reader: str, frame: bytes) -> bool:
        try:
            self._hub.connect(reader)
        except LaneError:
            self._counters["lanes.too_many"] += 1
            # Whoever is needed will be dialled again.
            self._forget_lanes(self._unanswered())
            return False
        waiting = self._pending.setdefault(reader, [])
        if sum(map(len, waiting)) + len(frame) > PENDING_BYTES:
            return False
        waiting.append(frame)
        return True

    def _on_open(self, lane: Lane) -> None:
        self._lanes[lane] = Writer(lane)
        self._readers[lane.name] += 1
        if self._readers[lane.name] == 1:
            self.arena.reader_joined(lane.name)
        lane.send(pack(LaneHello(SCHEMA, self.number, self._config.slots)))
        lane.send(pack(Recovered()))
        for frame in self._pending.pop(lane.name, ()):
            lane.send(frame)

    def _on_close(self, lane: Lane) -> None:
        if self._lanes.pop(lane, None) is None:
            return
        name = lane.name
        self._readers[name] -= 1
        if self._readers[name]:
            return
        del self._readers[name]
        self.arena.reader_left(name)
        for key in [key for key in self._sizes if actor_of(key[0]) == name]:
            del self._sizes[key]
        for link in [link for link in {**self._limits, **self._in_flight} if actor_of(link) == name]:
            self._limits.pop(link, None)
            self._in_flight.pop(link, None)
        # One timer for each reader: that of an earlier death would end the time of the last.
        if name in self._pins:
            self._pins[name].cancel()
        self._pins[name] = self._loop.call_after(PIN_SECONDS, lambda: self._release(name))

    def _release(self, name: str) -> None:
        timer = self._pins.pop(name, None)
        if timer is not None:
            timer.cancel()
        self.arena.release(name)
        self._on_room()

    def _close_idle_lanes(self) -> None:
        for lane, writer in list(self._lanes.items()):
            wanted = writer.used or writer.returned or self._is_busy(lane.name) or lane.name in self._kept
            if lane.dialled and not wanted:
                lane.close()
            writer.used = False
        # Who stays away for so long is a link that is over: its number never comes back.
        away = self._unanswered()
        self._forget_lanes(away & self._away)
        self._away = away - self._away

    def _is_busy(self, name: str) -> bool:
        return any(octets and actor_of(link) == name for link, octets in self._in_flight.items())

    def _unanswered(self) -> set[str]:
        return {lane.name for lane in self._hub.unanswered()} - self._kept

    def _forget_lanes(self, names: set[str]) -> None:
        for name in names:
            self._hub.connect(name).close()
            self._pending.pop(name, None)

    def _give_pages_back(self) -> None:
        for slot in self.arena.idle():
            give_back_pages(self._config.writable, slot * SLOT_BYTES, SLOT_BYTES)

    # --- frames -----------------------------------------------------------------------------------------------------

    def _on_frame(self, lane: Lane, data: bytes) -> None:
        writer = self._lanes.get(lane)
        if writer is None:
            return
        try:
            packets = unpack_packets(data)
            if packets is None:
                self._handle(lane, writer, unpack(data))
            else:
                writer.used = True
                self._take_packets(writer, *packets)
        except (FrameError, ArenaError, MemoryRefused) as error:
            self._counters["lanes.confused"] += 1
            self._runtime.log.warning("closed a lane: it sent nonsense", lane=lane.name, reason=error)
            lane.end()

    def _handle(self, lane: Lane, writer: Writer, message: Any) -> None:
        if type(message) is Returned:
            words = struct.unpack(f"<{len(message.pieces) // 8}Q", message.pieces)
            for slot, link in zip(words[::2], words[1::2], strict=True):
                self._came_back(lane.name, link, slot)
            self._on_room()
        elif type(message) is LaneHello:
            self._meet(lane, writer, message)
        elif type(message) is Recovered:
            self._release(lane.name)
        elif type(message) is ReportUndelivered and self._on_report is not None:
            self._on_report(message)
        else:
            raise FrameError(f"a {type(message).__name__} has no business on a lane")

    def _take_packets(self, writer: Writer, link: int, ends: tuple[int, ...], payload: bytes, pieces: bytes) -> None:
        if ends:
            self._on_run(link, Packed(memoryview(payload), ends, OWN_MEMORY, None))
        if pieces:
            memory = writer.memory
            if memory is None:
                raise FrameError("pieces of an arena that nobody showed us")
            for offset, ends_in_piece in unpack_pieces(pieces, len(memory)):
                lease = Lease(writer, offset // SLOT_BYTES, link)
                view = memory[offset : offset + ends_in_piece[-1]]
                self._on_run(link, Packed(view, ends_in_piece, place(writer.number, offset), lease))

    def _meet(self, lane: Lane, writer: Writer, hello: LaneHello) -> None:
        if hello.schema != SCHEMA:
            raise FrameError(f"{lane.name} speaks schema {hello.schema}, not {SCHEMA}")
        size = hello.slots * SLOT_BYTES
        if lane.attached < 0 or writer.memory is not None:
            raise FrameError(f"{lane.name} speaks of an arena of {size} bytes that it did not show")
        writer.memory = look_into(lane.attached, size)
        writer.number = hello.arena

    def _came_back(self, reader: str, link: int, slot: int) -> None:
        sizes = self._sizes.get((link, slot))
        if sizes is None or actor_of(link) != reader:
            raise ArenaError(f"{reader} returned a piece of slot {slot} that link {link} does not have")
        self.arena.returned(slot, reader)
        size, since = sizes.pop(0)
        self._in_flight[link] -= size
        if not sizes:
            del self._sizes[link, slot]
        now = self._loop.now()
        self._limit(link).returned(now - since, now)

    def _limit(self, link: int) -> InFlightLimit:
        limit = self._limits.get(link)
        if limit is None:
            limit = self._limits[link] = InFlightLimit()
        return limit
