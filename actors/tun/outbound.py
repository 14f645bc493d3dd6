"""From the host to the overlay: the outward half of the tun actor (numbers: the packet path in `__init__.py`)."""

from __future__ import annotations

import os
from typing import Final

from actors.runtime.actor import Outlet, Runtime
from actors.runtime.pages import untouched
from actors.runtime.runs import Runs
from actors.tun.device import Device
from protocol.codec import pack
from protocol.forwarding import ForwardingTable
from protocol.frames import (
    Direction,
    PacketsSeen,
    PairTraffic,
    ReportUndelivered,
    Resolve,
    RouteState,
    Transmit,
    Undelivered,
    pack_lengths,
)
from protocol.icmpv6 import IcmpError, error_packet, may_answer
from protocol.mycelium.framing import DATA_HEADER, HOP_LIMIT_OFFSET, read_data_header, write_data_header
from protocol.mycelium.remotes import Remote, Remotes
from protocol.mycelium.reports import build_report
from protocol.mycelium.sealing import (
    CAP_SUPER_PACKETS,
    INNER_HEADER,
    INNER_L3,
    MARK_SUPER_PACKET,
    NONCE,
    TAG,
    seal_into,
    write_inner,
)
from protocol.offload.complete import complete_checksum
from protocol.offload.segment import count_segments, segment
from protocol.offload.trailer import append_trailer
from protocol.offload.vnet import HEADER_LENGTH, OffloadError, VnetHeader
from protocol.queues import WaitingPackets

MEMORY_BYTES: Final = 1 << 20
ROUND_BYTES: Final = 512 << 10
"""What one round takes from the host before links and router have their turn again."""
READS_PER_ROUND: Final = 64
LARGEST_READ: Final = 65_535
BEFORE: Final = DATA_HEADER + INNER_HEADER
BEHIND: Final = TAG + NONCE
MAX_PAIRS: Final = 4096
ERRORS_PER_SECOND: Final = 200
NONCES_AT_ONCE: Final = 512
WAIT_SECONDS: Final = 20.0
IPV6_HEADER: Final = 40
OVERLAY_FIRST_BYTES: Final = (0x04, 0x05)
_NO_OFFLOAD: Final = bytes(HEADER_LENGTH)


class _Flow:
    """One pair of addresses: link and remote, and how much went."""

    __slots__ = ("clean", "lane", "octets", "packets", "remote")

    def __init__(self, lane: int, remote: Remote, clean: bool) -> None:
        self.lane = lane
        self.remote = remote
        self.clean = clean
        self.packets = 0
        self.octets = 0


class Outbound:
    """Reads the host's packets, seals them and hands them to links."""

    def __init__(
        self,
        runtime: Runtime,
        device: Device,
        address: bytes,
        mtu: int,
        remotes: Remotes,
        table: ForwardingTable,
        router: Outlet,
    ) -> None:
        self._runtime = runtime
        self._counters = runtime.counters
        self._device = device
        self._address = address
        self._own = address[:8]
        self._mtu = mtu
        self._remotes = remotes
        self._table = table
        self._router = router
        self._memory = untouched(MEMORY_BYTES)
        self._scratch = untouched(LARGEST_READ)
        self._header = bytearray(HEADER_LENGTH)
        self._flows: dict[bytes, _Flow] = {}
        self._used: set[bytes] = set()
        self._waiting = WaitingPackets()
        self._nonces = b""
        self._nonce_at = 0
        self._errors_left = ERRORS_PER_SECOND
        runtime.gauges.queue("waiting_packets", lambda: len(self._waiting))

    # --- the path ---------------------------------------------------------------------------------------------------

    def on_device(self, _events: int) -> None:
        """The device has packets."""
        memory, header = self._memory, self._header
        runs = Runs()
        end = 0
        for _ in range(READS_PER_ROUND):
            length = self._device.read(header, memory[end + BEFORE : end + BEFORE + LARGEST_READ])  # 1
            if not length:
                break
            end = self._packet(runs, end, length)
            if end > ROUND_BYTES:
                break
        self._send(runs)  # 6

    def _packet(self, runs: Runs, start: int, length: int) -> int:
        """Handles the packet that lies `BEFORE` bytes behind `start`; returns where the next may begin."""
        packet = self._memory[start + BEFORE : start + BEFORE + length]
        if length < IPV6_HEADER or packet[0] >> 4 != 6:
            self._counters["dropped.not_ipv6"] += 1
            return start
        pair = bytes(packet[8:40])
        flow = self._flows.get(pair)  # 3
        if flow is None:
            flow = self._new_flow(pair, packet)
            if flow is None:
                return start
        if packet[7] < 2:
            self._answer(IcmpError.HOP_LIMIT, packet)  # 2
            return start
        try:
            return self._seal_all(runs, flow, pair, start, length)
        except OffloadError as error:
            self._counters["dropped.bad_offload"] += 1
            self._runtime.log.debug("dropped a packet with a header that lies", reason=error)
            return start

    def _seal_all(self, runs: Runs, flow: _Flow, pair: bytes, start: int, length: int) -> int:
        memory = self._memory
        body = start + BEFORE
        hop_limit = memory[body + 7]
        if self._header == _NO_OFFLOAD:
            return self._seal(runs, flow, pair, start, length, hop_limit, 0)
        header = VnetHeader.parse(self._header)
        if not header.gso_type:
            complete_checksum(memory[body : body + length], header)
            return self._seal(runs, flow, pair, start, length, hop_limit, 0)
        if flow.clean and flow.remote.takes_super_packets(self._runtime.loop.now()):  # 4
            length = append_trailer(memory[body:], length, header)
            return self._seal(runs, flow, pair, start, length, hop_limit, MARK_SUPER_PACKET)
        return self._cut(runs, flow, pair, start, length, hop_limit, header)

    def _cut(
        self, runs: Runs, flow: _Flow, pair: bytes, start: int, length: int, hop_limit: int, header: VnetHeader
    ) -> int:
        body = start + BEFORE
        self._scratch[:length] = self._memory[body : body + length]
        packet = self._scratch[:length]
        total = count_segments(packet, header)
        done = 0
        while done < total:
            pieces = segment(packet, header, self._memory[start:], BEFORE, BEHIND, done)
            base = start
            for offset, size in pieces:
                start = self._seal(runs, flow, pair, base + offset - BEFORE, size, hop_limit, 0)
            done += len(pieces)
            if done < total:
                # Many small segments: what is sealed leaves, and the rest takes its place.
                self._send(runs)
                runs.clear()
                start = 0
        return start

    def _seal(self, runs: Runs, flow: _Flow, pair: bytes, start: int, length: int, hop_limit: int, mark: int) -> int:
        memory = self._memory
        inner = start + DATA_HEADER
        write_inner(memory, inner, INNER_L3, CAP_SUPER_PACKETS, mark)
        raw_length = seal_into(flow.remote.cipher, self._nonce(), memory, inner, INNER_HEADER + length)  # 5
        write_data_header(memory, start, raw_length, hop_limit - 1, pair[:16], pair[16:])
        end = inner + raw_length
        flow.packets += 1
        flow.octets += raw_length
        runs.add(flow.lane, start, end)
        return end

    def _nonce(self) -> bytes:
        at = self._nonce_at
        if at >= len(self._nonces):
            self._nonces = os.urandom(NONCE * NONCES_AT_ONCE)
            at = 0
        self._nonce_at = at + NONCE
        return self._nonces[at : at + NONCE]

    def _send(self, runs: Runs) -> None:
        for lane, run in runs.items():
            payload = run.payload(self._memory)
            if not self._runtime.send_packed(b"link-%d" % lane, pack(Transmit(run.packed_lengths(), payload))):
                self._counters["dropped.lane_full"] += len(run.lengths)
            if self._runtime.watched(PacketsSeen):
                self._show(run.lengths, memoryview(payload))

    def _show(self, lengths: list[int], payload: memoryview) -> None:
        headers, start = [], 0
        for length in lengths:
            headers.append(bytes(payload[start : start + DATA_HEADER]))
            start += length
        self._runtime.publish(PacketsSeen(self._runtime.start.name, Direction.OUT, b"".join(headers)))

    # --- routes -----------------------------------------------------------------------------------------------------

    def forget_routes(self) -> None:
        """The table changed: the next packet of each pair looks again."""
        self._flows.clear()

    def _new_flow(self, pair: bytes, packet: memoryview) -> _Flow | None:
        """The flow of a pair that may be sent; otherwise the packet is answered, dropped or made to wait."""
        destination = pair[16:]
        if destination.startswith(self._own):
            self._answer(IcmpError.ADDRESS_UNREACHABLE, packet)  # 2
        elif pair[0] not in OVERLAY_FIRST_BYTES:
            self._answer(IcmpError.SOURCE_POLICY, packet)  # 2
        elif destination[0] not in OVERLAY_FIRST_BYTES:
            self._answer(IcmpError.NO_ROUTE, packet)
        else:
            return self._flow_to(pair, packet)
        return None

    def _flow_to(self, pair: bytes, packet: memoryview) -> _Flow | None:
        route = self._table.lookup(pair[16:])
        if route is None or route.state != RouteState.SELECTED:
            self._wait(pair[16:], packet)
            return None
        remote = self._remotes.get(route.public_key)
        if remote is None:
            self._counters["dropped.bad_key"] += 1
            self._answer(IcmpError.NO_ROUTE, packet)
            return None
        if len(self._flows) >= MAX_PAIRS:
            self._flows.clear()
        flow = self._flows[pair] = _Flow(route.link, remote, route.clean)
        return flow

    def _wait(self, destination: bytes, packet: memoryview) -> None:
        prefix = destination[:8]
        asked = prefix in self._waiting
        # With its virtio header, which it needs again when its turn comes.
        if not self._waiting.add(prefix, bytes(self._header) + packet, self._runtime.loop.now()):
            self._answer(IcmpError.NO_ROUTE, packet)
        elif not asked:
            self._router.send(Resolve(prefix + bytes(8), 64))

    def release(self, prefix: bytes) -> None:
        """A route to this /64 (8 bytes) was found: what waited for it goes."""
        waiting = self._waiting.take(prefix)
        runs, end = Runs(), 0
        for kept in waiting:
            length = len(kept) - HEADER_LENGTH
            self._header[:] = kept[:HEADER_LENGTH]
            self._memory[end + BEFORE : end + BEFORE + length] = kept[HEADER_LENGTH:]
            end = self._packet(runs, end, length)
            if end > ROUND_BYTES:
                self._send(runs)
                runs, end = Runs(), 0
        self._send(runs)

    def give_up(self, prefix: bytes) -> None:
        """No route to this /64 was found, or it was lost: the host is told."""
        for kept in self._waiting.take(prefix):
            self._answer(IcmpError.NO_ROUTE, memoryview(kept)[HEADER_LENGTH:])

    def ask_again(self) -> None:
        """Asks for every prefix that packets wait for."""
        for prefix in self._waiting.prefixes():
            self._router.send(Resolve(prefix + bytes(8), 64))

    def expire(self) -> None:
        """Gives up what waited longer than any answer takes."""
        for _, packets in self._waiting.expire(self._runtime.loop.now(), WAIT_SECONDS):
            for kept in packets:
                self._answer(IcmpError.NO_ROUTE, memoryview(kept)[HEADER_LENGTH:])

    # --- answers and reports ----------------------------------------------------------------------------------------

    def _answer(self, error: IcmpError, packet: memoryview) -> None:
        self._counters[f"answered.{error.name.lower()}"] += 1
        if may_answer(packet) and self._errors_left > 0:
            self._errors_left -= 1
            self._device.write(error_packet(error, self._address, bytes(packet[8:24]), packet))

    def on_undelivered(self, _sender: bytes, message: ReportUndelivered) -> None:
        """A link could not pass on a packet of another node: its source is told, sealed (wire spec 7.14)."""
        packet = memoryview(message.packet)
        if len(packet) < DATA_HEADER or len(packet) != DATA_HEADER + read_data_header(packet).raw_length:
            self._counters["frames.malformed"] += 1
            return
        source = read_data_header(packet).source
        route = self._table.lookup(source)
        if route is None or route.state != RouteState.SELECTED:
            self._counters["reports.no_route"] += 1
            if route is None and source[0] in OVERLAY_FIRST_BYTES and not source.startswith(self._own):
                self._router.send(Resolve(source[:8] + bytes(8), 64))
            return
        remote = self._remotes.get(route.public_key)
        if remote is None:
            self._counters["dropped.bad_key"] += 1
            return
        kind = IcmpError.HOP_LIMIT if message.why is Undelivered.HOP_LIMIT else IcmpError.NO_ROUTE
        report = bytearray(build_report(kind, self._own + bytes(8), packet, remote.cipher, self._nonce()))
        report[HOP_LIMIT_OFFSET] -= 1
        self._counters["reports.sent"] += 1
        self._runtime.send(b"link-%d" % route.link, Transmit(pack_lengths([len(report)]), bytes(report)))

    # --- figures ----------------------------------------------------------------------------------------------------

    def take_traffic(self) -> tuple[PairTraffic, ...]:
        """What each pair sent since the last call."""
        self._errors_left = ERRORS_PER_SECOND
        pairs = []
        for pair, flow in self._flows.items():
            if flow.packets:
                pairs.append(PairTraffic(pair[:16], pair[16:], flow.packets, flow.octets))
                flow.packets = flow.octets = 0
                self._used.add(pair[16:24] + bytes(8))
        return tuple(pairs)

    def take_used(self) -> tuple[bytes, ...]:
        """The networks that packets went to since the last call."""
        used = tuple(self._used)
        self._used.clear()
        return used
