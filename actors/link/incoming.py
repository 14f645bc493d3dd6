"""From the peer to other processes: the inward half of the link actor (numbers: the packet path in `__init__.py`)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from actors.link.transports.interface import ReceiveInto, TransportError
from actors.runtime.actor import Outlet, Runtime
from actors.runtime.budget import Budget
from actors.runtime.exchange import TUN, Exchange
from actors.runtime.loop import Timer
from actors.runtime.runs import Run, Runs
from protocol.forwarding import ForwardingTable
from protocol.frames import (
    TO_TUN,
    ControlArrived,
    Direction,
    PacketsSeen,
    PairTraffic,
    ReportUndelivered,
    Resolve,
    RouteEntry,
    RouteState,
    RouteUsed,
    Undelivered,
)
from protocol.ledger import Ledger, NoLedger
from protocol.mycelium.errors import WireError
from protocol.mycelium.framing import (
    DATA_HEADER,
    DESTINATION_OFFSET,
    HOP_LIMIT_OFFSET,
    KIND_CONTROL,
    MAX_PACKET,
    SOURCE_OFFSET,
    StreamDecoder,
)
from protocol.mycelium.identity import OVERLAY_FIRST_BYTES
from protocol.mycelium.sealing import OVERHEAD
from protocol.mycelium.tlv import decode
from protocol.waiting import WaitingPackets

MAX_PAIRS: Final = 2048
REPORTS_PER_SECOND: Final = 100
RESOLVES_PER_SECOND: Final = 256
"""New prefixes that a peer may have us ask for: a scan must not crowd its own Hellos out of the way to the router."""
MAX_CONTROL_FRAME: Final = 64 << 10
"""Bytes of control packets in one frame to the router."""
ROUTER_PATIENCE_SECONDS: Final = 2.0
ROUTER_RETRY_SECONDS: Final = 0.01
LARGEST_REFERENCE_PACKET: Final = DATA_HEADER + OVERHEAD + 1400
"""What a reference node originates; a larger packet goes only where every link carries any size."""
WAIT_SECONDS: Final = 20.0
"""The router answers within 15; this is for the case that it never heard the question."""

NOWHERE: Final = -1


class _Flow:
    """One pair of addresses: where its packets go, and how many went."""

    __slots__ = ("clean", "lane", "octets", "packets")

    def __init__(self, lane: int, clean: bool) -> None:
        self.lane = lane
        self.clean = clean
        self.packets = 0
        self.octets = 0


class Incoming:
    """What the peer sends, and its way to the next process."""

    def __init__(
        self,
        runtime: Runtime,
        number: int,
        own_subnet: bytes,
        receive_into: ReceiveInto,
        exchange: Exchange,
        ledger: Ledger | NoLedger,
        router: Outlet,
        table: ForwardingTable,
        ended: Callable[[str], None],
        paused: Callable[[], None],
    ) -> None:
        """`receive_into` is the transport's; `ended(reason)` runs when the connection is over, `paused` when it is time
        to look at `self.paused`."""
        self._runtime = runtime
        self._counters = runtime.counters
        self._loop = runtime.loop
        self._number = number
        self._own = own_subnet
        self._receive_into = receive_into
        self._exchange = exchange
        self._ledger = ledger
        self._router = router
        self._ended = ended
        self._table = table
        self._decoder: StreamDecoder | None = None
        self._slot = -1
        self._position = 0
        self._flows: dict[bytes, _Flow] = {}
        self._used: set[bytes] = set()
        self._waiting = WaitingPackets(tally=runtime.counters)
        self._reports = Budget(REPORTS_PER_SECOND)
        self._resolves = Budget(RESOLVES_PER_SECOND)
        self._to_router: deque[bytes] = deque()
        self._router_until = 0.0
        self._router_retry: Timer | None = None
        self._on_paused = paused
        self.no_slot = False
        """Whether every slot of the arena is in use."""
        self._tun_is_busy = False
        self.octets = 0

    @property
    def waiting_packets(self) -> int:
        """Packets that wait for a route."""
        return len(self._waiting)

    def close(self) -> None:
        """Gives up the slot that is being filled."""
        if self._slot >= 0:
            self._leave_slot()

    def begin(self, position: int, uncut: memoryview) -> None:
        """Begins at `position` of the stream, behind whose last cut a predecessor had read `uncut`."""
        self._position = position
        if len(uncut):
            decoder = self._next_slot(uncut)
            if decoder is not None:
                # There may be whole packets in it, and nothing else may come for long. Or no room behind them.
                self._cut(decoder)

    # --- the path ---------------------------------------------------------------------------------------------------

    def read(self) -> None:
        """The socket has something."""
        decoder = self._decoder
        if decoder is None or decoder.room < MAX_PACKET:
            decoder = self._next_slot(decoder.rest() if decoder is not None else memoryview(b""))
            if decoder is None:
                self.no_slot = True
                self._on_paused()
                return
        try:
            count = self._receive_into(decoder.writable())  # 1
        except BlockingIOError:
            if not decoder.buffered:
                self._leave_slot()
            return
        except OSError as error:
            self._ended(f"connection lost: {error.strerror}")
            return
        except TransportError as error:
            self._ended(str(error))
            return
        if count == 0:
            self._ended("the peer closed the connection")
            return
        self.octets += count
        decoder.received(count)
        self._cut(decoder)

    def _cut(self, decoder: StreamDecoder) -> None:
        try:
            while cuts := decoder.cut():  # 2
                self._route(decoder, cuts)
        except WireError as error:
            self._counters["wire.garbage"] += 1
            self._runtime.log.warning("closed: the peer sent garbage", reason=error)
            self._ended(f"it sent garbage: {error}")
            return
        if not decoder.buffered:
            self._leave_slot()

    def _next_slot(self, rest: memoryview) -> StreamDecoder | None:
        """A decoder over a fresh slot that begins with `rest`; None where no slot is free."""
        slot = self._exchange.arena.take()
        if slot is None:
            return None
        decoder = StreamDecoder(memory=self._exchange.slot(slot))
        decoder.resume(rest)
        self._ledger.rx_boundary(self._position, self._exchange.place(slot, 0))
        if self._slot >= 0:
            self._exchange.arena.close(self._slot)
        self._slot, self._decoder = slot, decoder
        return decoder

    def _leave_slot(self) -> None:
        # Nothing of ours lies in it any more: it goes with its last lease, and the next read takes a warm one.
        self._exchange.arena.close(self._slot)
        self._slot, self._decoder = -1, None

    def _route(self, decoder: StreamDecoder, cuts: list[tuple[int, int, int, int]]) -> None:
        view, flows = decoder.view, self._flows
        runs = Runs()
        seen: list[bytes] | None = [] if self._runtime.watched(PacketsSeen) else None
        control = bytearray()
        for kind, start, end, count in cuts:
            if kind == KIND_CONTROL:
                self._on_control(control, view[start:end])
                continue
            size = (end - start) // count
            if seen is not None:
                seen += [bytes(view[at : at + DATA_HEADER]) for at in range(start, end, size)]
            hop_limit = view[start + HOP_LIMIT_OFFSET]
            if hop_limit < 2:
                for at in range(start, end, size):
                    self._undelivered(Undelivered.HOP_LIMIT, view[at : at + size])
                continue
            if count == 1:
                view[start + HOP_LIMIT_OFFSET] = hop_limit - 1  # 3
            else:
                view[start + HOP_LIMIT_OFFSET : end : size] = bytes((hop_limit - 1,)) * count
            pair = bytes(view[start + SOURCE_OFFSET : start + DATA_HEADER])
            flow = flows.get(pair)  # 4
            if flow is None:
                flow = self._new_flow(pair)
            flow.packets += count
            flow.octets += end - start - DATA_HEADER * count
            lane = flow.lane
            if lane == NOWHERE:
                for at in range(start, end, size):
                    self._hold(pair, view[at : at + size])
            elif lane and not flow.clean and size > LARGEST_REFERENCE_PACKET:
                self._counters["dropped.oversize"] += count
            elif count == 1:
                runs.add(lane, start, end)
            else:
                runs.add_row(lane, start, list(range(size, end - start + 1, size)))
        if control:
            self._to_router.append(bytes(control))
        if self._to_router:
            self._tell_router()
        # Before any data is passed on: a successor must not pass it on again. To be told control twice does no harm.
        last = cuts[-1][2]
        self._position += last - cuts[0][1]
        self._ledger.rx_boundary(self._position, self._exchange.place(self._slot, last))
        for lane, run in runs.items():
            self._pass_on(lane, run)  # 5
        if TO_TUN in runs and not self._exchange.allowance(TO_TUN):
            # What tun can't open yet waits better in the neighbour, where flows still take turns.
            self._tun_is_busy = True
            self._on_paused()
        if seen:
            self._runtime.publish(PacketsSeen(self._runtime.start.name, Direction.IN, b"".join(seen)))

    def _new_flow(self, pair: bytes) -> _Flow:
        if len(self._flows) >= MAX_PAIRS:
            self._flows.clear()
        destination = pair[DESTINATION_OFFSET - SOURCE_OFFSET :]
        flow = _Flow(NOWHERE, False)
        if destination.startswith(self._own):
            flow = _Flow(TO_TUN, True)
        else:
            route = self._table.lookup(destination)
            if route is not None and route.state == RouteState.SELECTED:
                # A route that leads back to where the packet came from: our table is about to change.
                flow = _Flow(route.link if route.link != self._number else NOWHERE, route.clean)
        self._flows[pair] = flow
        return flow

    def _pass_on(self, lane: int, run: Run) -> None:
        self._exchange.pass_on(lane, self._slot, run)

    # --- control ----------------------------------------------------------------------------------------------------

    def _on_control(self, control: bytearray, packet: memoryview) -> None:
        decoded = decode(packet)
        if decoded.ignored:
            self._counters["control.ignored"] += decoded.ignored
        if decoded.tlvs:
            if len(control) + len(packet) > MAX_CONTROL_FRAME:
                self._to_router.append(bytes(control))
                control.clear()
            control += packet

    def _tell_router(self) -> None:
        # A neighbour with a large table tells all of it at once, and what is lost of that is never said again.
        waiting = self._to_router
        while waiting and self._router.send(ControlArrived(self._number, waiting[0])):
            waiting.popleft()
        now = self._loop.now()
        if waiting and not self._router_until:
            self._router_until = now + ROUTER_PATIENCE_SECONDS
        elif waiting and now > self._router_until:
            # The router is gone for long; forwarding must go on without it.
            self._counters["dropped.control"] += len(waiting)
            waiting.clear()
        if self._router_retry is not None:
            self._router_retry.cancel()
            self._router_retry = None
        if waiting:
            self._router_retry = self._loop.call_after(ROUTER_RETRY_SECONDS, self._tell_router)
        else:
            self._router_until = 0.0
        self._on_paused()

    @property
    def paused(self) -> bool:
        """Whether the socket has to wait: no slot of the arena is free, tun has enough to do, or the router has."""
        return self.no_slot or self._tun_is_busy or bool(self._to_router)

    def on_room(self) -> bool:
        """Something came back to our arena; whether that ends a pause."""
        before = self.no_slot or self._tun_is_busy
        self.no_slot = False
        self._tun_is_busy = self._tun_is_busy and not self._exchange.allowance(TO_TUN)
        return before and not self._tun_is_busy

    # --- packets that can't go on -----------------------------------------------------------------------------------

    def _hold(self, pair: bytes, packet: memoryview) -> None:
        destination = pair[DESTINATION_OFFSET - SOURCE_OFFSET :]
        if destination[0] not in OVERLAY_FIRST_BYTES:
            self._counters["dropped.outside_overlay"] += 1
            return
        route = self._table.lookup(destination)
        if route is not None and route.state in (RouteState.UNREACHABLE, RouteState.SELECTED):
            self._undelivered(Undelivered.NO_ROUTE, packet)
            return
        prefix = destination[:8]
        known = prefix in self._waiting
        if not known and self._resolves.empty:
            self._counters["resolves.over_limit"] += 1
            self._undelivered(Undelivered.NO_ROUTE, packet)
            return
        if not self._waiting.add(prefix, bytes(packet), self._loop.now()):
            self._undelivered(Undelivered.NO_ROUTE, packet)
            return
        if not known:
            self._resolves.take()
            self._router.send(Resolve(prefix + bytes(8), 64))

    def expire(self) -> None:
        """Gives up what waited longer than any answer takes."""
        for _, packets in self._waiting.expire(self._loop.now(), WAIT_SECONDS):
            self._counters["dropped.unresolved"] += len(packets)

    def _undelivered(self, why: Undelivered, packet: memoryview) -> None:
        self._counters[f"dropped.{why.name.lower()}"] += 1
        if self._reports.take():
            self._exchange.tell(TUN, ReportUndelivered(why, bytes(packet)))

    def on_routes(self, changes: Sequence[RouteEntry]) -> None:
        """The forwarding table changed: every pair may lead elsewhere now, and the next packet of each looks again."""
        self._flows.clear()
        if not len(self._waiting):
            return
        for change in changes:
            if change.state == RouteState.SELECTED:
                self._release(change)
            elif change.state in (RouteState.FORGOTTEN, RouteState.UNREACHABLE):
                gone = self._waiting.take(change.network[:8])
                self._counters["dropped.unresolved"] += len(gone)

    def ask_again(self) -> None:
        """Asks a new router process for every prefix that packets wait for."""
        for prefix in self._waiting.prefixes():
            self._router.send(Resolve(prefix + bytes(8), 64))

    def _release(self, change: RouteEntry) -> None:
        packets = self._waiting.take(change.network[:8])
        if not change.clean:
            small = [packet for packet in packets if len(packet) <= LARGEST_REFERENCE_PACKET]
            self._counters["dropped.oversize"] += len(packets) - len(small)
            packets = small
        if packets and change.link != self._number:
            lengths = [len(packet) for packet in packets]
            self._exchange.pass_copy(change.link, lengths, b"".join(packets))

    # --- figures ----------------------------------------------------------------------------------------------------

    def next_second(self) -> None:
        """A new second has begun."""
        self._reports.next_second()
        self._resolves.next_second()

    def take_traffic(self) -> tuple[PairTraffic, ...]:
        """What each pair brought since the last call."""
        pairs = []
        for pair, flow in self._flows.items():
            if flow.packets:
                pairs.append(PairTraffic(pair[:16], pair[16:], flow.packets, flow.octets))
                flow.packets = flow.octets = 0
                if flow.lane > TO_TUN:
                    self._used.add(pair[16:24] + bytes(8))
        return tuple(pairs)

    def report_used(self) -> None:
        """Tells the router which networks packets went to since the last call."""
        if self._used:
            self._router.send(RouteUsed(tuple(self._used)))
            self._used.clear()
