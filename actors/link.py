"""The link actor: one peer's connection.

Owns      one socket and what waits to be written to it; transit packets that wait for a route
Rights    no node key, no capability; Landlock: the runtime folder; its socket was handed in
Receives  RouteDelta, TablePart, SendControl, Transmit, Stop
Sends     LinkUp, ControlArrived, Resolve, RouteUsed (router); Arrived, ReportUndelivered (tun); Transmit (other links);
          Traffic (peers); PacketsSeen (whoever listens)
Dies      its connection closes; peers dials again at once if this side had dialled; no other peer notices

The packet path, in:
 1. the socket is read into the decoder's memory, as much as there is
 2. the decoder cuts packets; control packets go to the router, found well-formed; until it took them nothing is read
 3. a data packet's hop limit is counted down in place
 4. its pair of addresses leads to the next step: tun, another link, or the queue of those that wait for a route
 5. packets with the same next step leave in one frame, in the order in which they came

The packet path, out:
 6. frames from tun and other links are queued as they are; control packets from the router overtake them
 7. one sendmsg writes control first and then as much data as the socket takes
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

import zmq

from actors.runtime.actor import Outlet, Runtime
from actors.runtime.loop import Timer
from actors.runtime.pages import untouched
from actors.runtime.runs import Runs
from actors.runtime.table import TableFollower
from protocol.codec import Payload
from protocol.frames import (
    Arrived,
    ControlArrived,
    Direction,
    EndLink,
    LinkUp,
    PacketsSeen,
    PairTraffic,
    ReportUndelivered,
    Resolve,
    RouteEntry,
    RouteState,
    RouteUsed,
    SendControl,
    Traffic,
    Transmit,
    Undelivered,
    lengths_of,
    pack_lengths,
)
from protocol.mycelium.endpoint import SocketAddress
from protocol.mycelium.errors import WireError
from protocol.mycelium.framing import (
    DATA_HEADER,
    DESTINATION_OFFSET,
    HOP_LIMIT_OFFSET,
    KIND_CONTROL,
    SOURCE_OFFSET,
    StreamDecoder,
)
from protocol.mycelium.sealing import OVERHEAD
from protocol.mycelium.tlv import decode
from protocol.queues import SendQueue, WaitingPackets

READ_BYTES: Final = 1 << 20
WRITE_BYTES: Final = 1 << 20
NOT_SENT_BYTES: Final = 256 << 10
"""What the kernel may hold unsent: more would only delay the next Hello."""
REPORT_SECONDS: Final = 1.0
USED_SECONDS: Final = 5.0
MAX_PAIRS: Final = 2048
MAX_LANES: Final = 64
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
EXPIRE_SECONDS: Final = 5.0

TO_TUN: Final = 0
"""The number of the lane to tun; links start at 1."""
NOWHERE: Final = -1
OVERLAY_FIRST_BYTES: Final = (0x04, 0x05)


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """What a link is given at birth."""

    number: int
    """Names this link to router, peers and other links."""
    connection: int
    """Descriptor of the connected TCP socket."""
    endpoint: str
    """The peer as people write it."""
    outbound: bool
    """Whether this side dialled."""
    own_subnet: bytes
    """First 8 bytes of every address of this node."""


class StaticCost:
    """What a connection costs besides its round-trip time (wire spec 5.9)."""

    TCP_IPV6: Final = 10
    TCP_IPV4: Final = 15


class _Flow:
    """One pair of addresses: where its packets go, and how many went."""

    __slots__ = ("clean", "lane", "octets", "packets")

    def __init__(self, lane: int, clean: bool) -> None:
        self.lane = lane
        self.clean = clean
        self.packets = 0
        self.octets = 0


def main(runtime: Runtime, config: LinkConfig) -> None:
    """Runs the link until its connection ends."""
    Link(runtime, config)
    runtime.serve()


class Link:
    """Glue between one socket, the decoder, the send queue and the lanes to other processes."""

    def __init__(self, runtime: Runtime, config: LinkConfig) -> None:
        self._runtime = runtime
        self._config = config
        self._counters = runtime.counters
        self._loop = runtime.loop
        self._socket = socket.socket(fileno=config.connection)
        self._name, self._static_cost = _describe(self._socket)
        _tune(self._socket)
        self._decoder = StreamDecoder(memory=untouched(READ_BYTES))
        self._queue = SendQueue()
        self._waiting = WaitingPackets()
        self._flows: dict[bytes, _Flow] = {}
        self._used: set[bytes] = set()
        self._lanes: dict[int, Outlet] = {TO_TUN: runtime.connect("tun", answers=True)}
        self._router = runtime.connect("router", answers=True)
        self._peers = runtime.connect("peers")
        self._received = self._sent = self._reported_received = self._reported_sent = 0
        self._reports_left = REPORTS_PER_SECOND
        self._resolves_left = RESOLVES_PER_SECOND
        self._for_router: deque[bytes] = deque()
        self._router_until = 0.0
        self._router_retry: Timer | None = None
        self._flush_due = self._blocked = self._closed = self._introduced = False

        runtime.gauges.queue("send_bytes", lambda: self._queue.pending_bytes)
        runtime.gauges.queue("waiting_packets", lambda: len(self._waiting))
        runtime.on(SendControl, self._on_send_control)
        runtime.on(Transmit, self._on_transmit)
        runtime.at_stop(self._close)
        self._follower = TableFollower(runtime, self._router, self._on_routes, self._introduce)
        self._loop.every(REPORT_SECONDS, self._each_second)
        self._loop.every(USED_SECONDS, self._report_used)
        self._loop.every(EXPIRE_SECONDS, self._expire)

    # --- in ---------------------------------------------------------------------------------------------------------

    def _on_socket(self, events: int) -> None:
        if events & zmq.POLLOUT:
            self._blocked = False
            self._flush()
        if events & (zmq.POLLIN | zmq.POLLERR):
            self._read()

    def _read(self) -> None:
        try:
            count = self._socket.recv_into(self._decoder.writable())  # 1
        except BlockingIOError:
            return
        except OSError as error:
            self._end(f"connection lost: {error.strerror}")
            return
        if count == 0:
            self._end("the peer closed the connection")
            return
        self._received += count
        self._decoder.received(count)
        try:
            while cuts := self._decoder.cut():  # 2
                self._route(cuts)
        except WireError as error:
            self._counters["wire.garbage"] += 1
            self._runtime.log.warning("closed: the peer sent garbage", peer=self._name, reason=error)
            self._end(f"it sent garbage: {error}")

    def _route(self, cuts: list[tuple[int, int, int]]) -> None:
        view, flows, own = self._decoder.view, self._flows, self._config.own_subnet
        runs = Runs()
        seen: list[bytes] | None = [] if self._runtime.watched(PacketsSeen) else None
        control = bytearray()
        for kind, start, end in cuts:
            if kind == KIND_CONTROL:
                self._on_control(control, view[start:end])
                continue
            if seen is not None:
                seen.append(bytes(view[start : start + DATA_HEADER]))
            hop_limit = view[start + HOP_LIMIT_OFFSET]
            if hop_limit < 2:
                self._undelivered(Undelivered.HOP_LIMIT, view[start:end])
                continue
            view[start + HOP_LIMIT_OFFSET] = hop_limit - 1  # 3
            pair = bytes(view[start + SOURCE_OFFSET : start + DATA_HEADER])
            flow = flows.get(pair)  # 4
            if flow is None:
                flow = self._new_flow(pair, own)
            flow.packets += 1
            flow.octets += end - start - DATA_HEADER
            lane = flow.lane
            if lane == NOWHERE:
                self._hold(pair, view[start:end])
                continue
            if lane and not flow.clean and end - start > LARGEST_REFERENCE_PACKET:
                self._counters["dropped.oversize"] += 1
                continue
            runs.add(lane, start, end)
        if control:
            self._for_router.append(bytes(control))
        if self._for_router:
            self._pass_control_on()
        for lane, run in runs.items():
            self._pass_on(lane, run.lengths, run.payload(view))  # 5
        if seen:
            self._runtime.publish(PacketsSeen(self._runtime.start.name, Direction.IN, b"".join(seen)))

    def _new_flow(self, pair: bytes, own: bytes) -> _Flow:
        if len(self._flows) >= MAX_PAIRS:
            self._report_traffic()
            self._flows.clear()
        destination = pair[DESTINATION_OFFSET - SOURCE_OFFSET :]
        flow = _Flow(NOWHERE, False)
        if destination.startswith(own):
            flow = _Flow(TO_TUN, True)
        else:
            route = self._follower.table.lookup(destination)
            if route is not None and route.state == RouteState.SELECTED:
                flow = _Flow(route.link, route.clean)
        self._flows[pair] = flow
        return flow

    def _pass_on(self, lane: int, lengths: list[int], payload: Payload) -> None:
        outlet = self._lanes.get(lane)
        if outlet is None:
            if lane == self._config.number:
                # The route leads back to where the packet came from; our table is about to change.
                self._counters["dropped.hairpin"] += len(lengths)
                return
            outlet = self._open_lane(lane)
        kind = Transmit if lane else Arrived
        if not outlet.send(kind(pack_lengths(lengths), payload)):
            self._counters["dropped.lane_full"] += len(lengths)

    def _open_lane(self, lane: int) -> Outlet:
        if len(self._lanes) >= MAX_LANES:
            oldest = next(number for number in self._lanes if number != TO_TUN)
            self._runtime.disconnect(self._lanes.pop(oldest))
        outlet = self._lanes[lane] = self._runtime.connect(f"link-{lane}")
        return outlet

    def _on_control(self, control: bytearray, packet: memoryview) -> None:
        decoded = decode(packet)
        if decoded.ignored:
            self._counters["control.ignored"] += decoded.ignored
        if decoded.tlvs:
            if len(control) + len(packet) > MAX_CONTROL_FRAME:
                self._for_router.append(bytes(control))
                control.clear()
            control += packet

    def _pass_control_on(self) -> None:
        # A neighbour with a large table tells all of it at once, and what is lost of that is never said again.
        while self._for_router and self._router.send(ControlArrived(self._config.number, self._for_router[0])):
            self._for_router.popleft()
        now = self._loop.now()
        if self._for_router and not self._router_until:
            self._router_until = now + ROUTER_PATIENCE_SECONDS
        elif self._for_router and now > self._router_until:
            # The router is gone for long; forwarding must go on without it.
            self._counters["dropped.control"] += len(self._for_router)
            self._for_router.clear()
        if self._router_retry is not None:
            self._router_retry.cancel()
            self._router_retry = None
        if self._for_router:
            self._router_retry = self._loop.call_after(ROUTER_RETRY_SECONDS, self._pass_control_on)
        else:
            self._router_until = 0.0
        self._poll()

    # --- packets that can't go on -----------------------------------------------------------------------------------

    def _hold(self, pair: bytes, packet: memoryview) -> None:
        destination = pair[DESTINATION_OFFSET - SOURCE_OFFSET :]
        if destination[0] not in OVERLAY_FIRST_BYTES:
            self._counters["dropped.outside_overlay"] += 1
            return
        route = self._follower.table.lookup(destination)
        if route is not None and route.state == RouteState.UNREACHABLE:
            self._undelivered(Undelivered.NO_ROUTE, packet)
            return
        prefix = destination[:8]
        known = prefix in self._waiting
        if not known and not self._resolves_left:
            self._counters["resolves.over_limit"] += 1
            self._undelivered(Undelivered.NO_ROUTE, packet)
            return
        if not self._waiting.add(prefix, bytes(packet), self._loop.now()):
            self._undelivered(Undelivered.NO_ROUTE, packet)
            return
        if not known:
            self._resolves_left -= 1
            self._router.send(Resolve(prefix + bytes(8), 64))

    def _expire(self) -> None:
        for _, packets in self._waiting.expire(self._loop.now(), WAIT_SECONDS):
            self._counters["dropped.unresolved"] += len(packets)

    def _undelivered(self, why: Undelivered, packet: memoryview) -> None:
        self._counters[f"dropped.{why.name.lower()}"] += 1
        if self._reports_left > 0:
            self._reports_left -= 1
            self._lanes[TO_TUN].send(ReportUndelivered(why, bytes(packet)))

    def _on_routes(self, changes: Sequence[RouteEntry]) -> None:
        # Every pair may lead elsewhere now; the next packet of each looks again.
        self._report_traffic()
        self._flows.clear()
        if not len(self._waiting):
            return
        for change in changes:
            if change.state == RouteState.SELECTED:
                self._release(change)
            elif change.state in (RouteState.FORGOTTEN, RouteState.UNREACHABLE):
                gone = self._waiting.take(change.network[:8])
                self._counters["dropped.unresolved"] += len(gone)

    def _release(self, change: RouteEntry) -> None:
        packets = self._waiting.take(change.network[:8])
        if not packets:
            return
        if not change.clean:
            small = [packet for packet in packets if len(packet) <= LARGEST_REFERENCE_PACKET]
            self._counters["dropped.oversize"] += len(packets) - len(small)
            packets = small
        if packets:
            self._pass_on(change.link, [len(packet) for packet in packets], b"".join(packets))

    # --- out --------------------------------------------------------------------------------------------------------

    def _on_send_control(self, _sender: bytes, message: SendControl) -> None:
        self._queue.control(message.packets)  # 6
        self._flush_soon()

    def _on_transmit(self, _sender: bytes, message: Transmit) -> None:
        lengths = lengths_of(message.lengths)
        payload = memoryview(message.payload)
        self._queue.data(payload, tuple(accumulate(lengths)), self._loop.now())  # 6
        if self._runtime.watched(PacketsSeen):
            starts = accumulate(lengths[:-1], initial=0)
            headers = b"".join(bytes(payload[start : start + DATA_HEADER]) for start in starts)
            self._runtime.publish(PacketsSeen(self._runtime.start.name, Direction.OUT, headers))
        self._flush_soon()

    def _flush_soon(self) -> None:
        if self._introduced and not self._flush_due and not self._blocked:
            self._flush_due = True
            self._loop.defer(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        if self._closed:
            return
        while buffers := self._queue.buffers(self._loop.now(), WRITE_BYTES):  # 7
            try:
                count = self._socket.sendmsg(buffers)
            except BlockingIOError:
                self._block(True)
                return
            except OSError as error:
                self._end(f"connection lost: {error.strerror}")
                return
            self._sent += count
            self._queue.sent(count)
        self._block(False)

    def _block(self, blocked: bool) -> None:
        self._blocked = blocked
        self._poll()

    def _poll(self) -> None:
        if not self._closed:
            reading = 0 if self._for_router else zmq.POLLIN
            self._loop.want(self._socket.fileno(), reading | (zmq.POLLOUT if self._blocked else 0))

    # --- life -------------------------------------------------------------------------------------------------------

    def _introduce(self) -> None:
        self._router.send(LinkUp(self._config.number, self._name, self._static_cost, any_size=True))
        if not self._introduced:
            self._introduced = True
            # Not before: what the peer says first would come from a link that the router has never heard of.
            self._loop.watch(self._socket.fileno(), self._on_socket, priority=3)
            self._flush_soon()

    def _each_second(self) -> None:
        self._reports_left = REPORTS_PER_SECOND
        self._resolves_left = RESOLVES_PER_SECOND
        self._report_traffic()

    def _report_traffic(self) -> None:
        received, sent = self._received - self._reported_received, self._sent - self._reported_sent
        if not received and not sent:
            return
        pairs = []
        for pair, flow in self._flows.items():
            if flow.packets:
                pairs.append(PairTraffic(pair[:16], pair[16:], flow.packets, flow.octets))
                flow.packets = flow.octets = 0
                if flow.lane > 0:
                    self._used.add(pair[16:24] + bytes(8))
        self._reported_received, self._reported_sent = self._received, self._sent
        self._peers.send(Traffic(self._config.number, received, sent, tuple(pairs)))
        self._counters["octets.received"], self._counters["octets.sent"] = self._received, self._sent
        self._counters["dropped.age"] = self._queue.dropped_age
        self._counters["dropped.full"] = self._queue.dropped_full
        self._counters["dropped.control_full"] = self._queue.dropped_control

    def _report_used(self) -> None:
        if self._used:
            self._router.send(RouteUsed(tuple(self._used)))
            self._used.clear()

    def _end(self, reason: str) -> None:
        if not self._closed:
            self._close()
            self._runtime.tell_supervisor(EndLink(self._config.number, reason))
            self._runtime.stop()

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self._loop.forget(self._socket.fileno())
            self._socket.close()


def _describe(connection: socket.socket) -> tuple[str, int]:
    """The connection as routes name it, and its static cost."""
    local = SocketAddress.of_sockaddr(connection.getsockname())
    remote = SocketAddress.of_sockaddr(connection.getpeername())
    cost = StaticCost.TCP_IPV6 if remote.is_ipv6 and not remote.is_mapped else StaticCost.TCP_IPV4
    return f"TCP {local} <-> {remote}", cost


def _tune(connection: socket.socket) -> None:
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOT_SENT_BYTES)
