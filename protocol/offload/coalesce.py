"""Merges packets of one flow that arrived together into super-packets, which the kernel takes in one write.

Source: Linux `tcp_gro_receive`, `udp_gro_receive`, but stricter: what is merged must come out of segmentation again as
the same bytes. Wire spec 8.4 and quirk Q16 say what the reference does instead.
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np

from protocol.offload.alike import breaks
from protocol.offload.checksum import MODULUS, network_sum
from protocol.offload.vnet import (
    GSO_TCPV6,
    GSO_UDP_L4,
    IPV6_HEADER,
    MAX_PACKET,
    MAX_UDP_SEGMENTS,
    MIN_TCP_SEGMENT,
    NEEDS_CSUM,
    PLAIN,
    TCP,
    TCP_CSUM_OFFSET,
    TCP_HEADER,
    UDP,
    UDP_CSUM_OFFSET,
    UDP_HEADER,
    VnetHeader,
)

MAX_MERGED: Final = MAX_UDP_SEGMENTS
"""Packets in one super-packet: also well below the 1024 buffers that `writev` takes."""

_PSH: Final = 0x08
_ACK: Final = 0x10
_ECE: Final = 0x40
_TCP_FLAGS: Final = IPV6_HEADER + 13

_EXTENSION_HEADERS: Final = frozenset({0, 43, 44, 51, 60, 135, 139, 140})
"""Next headers behind which a TCP or UDP flow may hide (IANA, IPv6 extension header types); ESP hides it for good."""

# Version, class and flow label; payload length; next header; hop limit; addresses and ports; then the transport's own.
_TCP_PACKET: Final = struct.Struct("!4sHBB36sI5sBHHH")
_UDP_PACKET: Final = struct.Struct("!4sHBB36sHH")

Buffer = bytes | bytearray | memoryview


class _Run:
    """Packets of one flow, each continuing the one before."""

    __slots__ = ("flow", "header_length", "length", "next_sequence", "packets", "signature", "size", "transport")

    def __init__(
        self,
        packet: memoryview,
        flow: tuple[int, bytes],
        header_length: int,
        signature: tuple[object, ...],
        next_sequence: int,
    ) -> None:
        self.packets = [packet]
        self.flow = flow
        self.transport = flow[0]
        self.header_length = header_length
        self.signature = signature
        self.next_sequence = next_sequence
        self.length = len(packet)
        self.size = len(packet) - header_length


class Coalescer:
    """Merges the packets of one round. Nothing is refused and nothing raises: what can't be merged comes out alone.

    A flow keeps its order, and nothing is changed by being merged but what segmentation restores. The packets must
    stay as they are until `take`; there are as many of them as the caller puts into one round.
    """

    merged: int
    """Packets that became part of a super-packet, since the start."""
    bad_checksums: int
    """Runs left unmerged, for the kernel to sort out, because a checksum in them was wrong."""

    def __init__(self, *, udp: bool) -> None:
        """`udp`: whether the device took TUN_F_USO6, without which it refuses super-packets of UDP."""
        self.merged = 0
        self.bad_checksums = 0
        self._udp = udp
        self._round: list[_Run | memoryview] = []
        self._open: dict[tuple[int, bytes], _Run] = {}

    def add(self, packet: memoryview) -> None:
        """The next packet in order of arrival."""
        self._add(packet)

    def _add(self, packet: memoryview) -> _Run | None:
        """`add`; returns the run that it went to, where that may grow."""
        if len(packet) >= IPV6_HEADER and packet[0] >> 4 == 6:
            next_header = packet[6]
            if next_header == TCP and len(packet) >= IPV6_HEADER + TCP_HEADER:
                return self._add_tcp(packet)
            if next_header == UDP and len(packet) >= IPV6_HEADER + UDP_HEADER:
                return self._add_udp(packet)
            if next_header in _EXTENSION_HEADERS:
                # It may belong to any of the flows: none may grow past it.
                self._open.clear()
        self._round.append(packet)
        return None

    def add_row(self, rows: memoryview, stride: int, skip: int) -> None:
        """The next packets in order of arrival: one in each `stride` bytes of `rows`, behind `skip` other bytes.

        The same as `add` for each of them, in less time.
        """
        count = len(rows) // stride
        packets = [rows[at + skip : at + stride] for at in range(0, count * stride, stride)]
        table = np.frombuffer(rows, np.uint8, count * stride).reshape(count, stride)[:, skip:]
        first = 0
        for end in (*breaks(table), count):
            while first < end:
                run = self._add(packets[first])
                first += 1
                if run is not None:
                    first += self._extend(run, packets[first:end])

    def take(self) -> list[list[Buffer]]:
        """What to write, in order, each item for one `writev`: the virtio header, then the packet in pieces."""
        writes: list[list[Buffer]] = []
        for item in self._round:
            if not isinstance(item, _Run):
                writes.append([PLAIN, item])
            elif len(item.packets) == 1:
                writes.append([PLAIN, item.packets[0]])
            elif _checksums_hold(item):
                writes.append(_super_packet(item))
                self.merged += len(item.packets)
            else:
                writes.extend([PLAIN, packet] for packet in item.packets)
                self.bad_checksums += 1
        self._round = []
        self._open = {}
        return writes

    def _add_tcp(self, packet: memoryview) -> _Run | None:
        (head, payload_length, _, hop_limit, flow, sequence, ack_and_offset, flags, window, _, urgent) = (
            _TCP_PACKET.unpack_from(packet)
        )
        header_length = IPV6_HEADER + (ack_and_offset[4] >> 4) * 4
        size = len(packet) - header_length
        if (
            flags & ~(_PSH | _ECE) != _ACK
            or header_length < IPV6_HEADER + TCP_HEADER
            or size <= 0
            or payload_length != len(packet) - IPV6_HEADER
            or urgent
        ):
            self._pass(TCP, flow, packet)
            return None
        options = bytes(packet[IPV6_HEADER + TCP_HEADER : header_length])
        signature = (head, hop_limit, ack_and_offset, flags & _ECE, window, options)
        following = (sequence + size) & 0xFFFF_FFFF
        return self._merge((TCP, flow), packet, header_length, signature, sequence, following, bool(flags & _PSH))

    def _add_udp(self, packet: memoryview) -> _Run | None:
        head, payload_length, _, hop_limit, flow, udp_length, checksum = _UDP_PACKET.unpack_from(packet)
        if (
            not self._udp
            or udp_length <= UDP_HEADER
            or udp_length != payload_length
            or payload_length != len(packet) - IPV6_HEADER
            or not checksum
        ):
            self._pass(UDP, flow, packet)
            return None
        return self._merge((UDP, flow), packet, IPV6_HEADER + UDP_HEADER, (head, hop_limit), 0, 0, ends=False)

    def _pass(self, transport: int, flow: bytes, packet: memoryview) -> None:
        self._open.pop((transport, flow), None)
        self._round.append(packet)

    def _extend(self, run: _Run, packets: list[memoryview]) -> int:
        """Adds as many as the run takes of `packets`, each of which continues the one before; returns how many."""
        size = run.size
        taken = min(len(packets), MAX_MERGED - len(run.packets), (MAX_PACKET - run.length) // size)
        run.packets += packets[:taken]
        run.length += taken * size
        if run.transport == TCP and taken:
            run.next_sequence = (run.next_sequence + taken * size) & 0xFFFF_FFFF
            if run.packets[-1][_TCP_FLAGS] & _PSH:
                del self._open[run.flow]
        return taken

    def _merge(
        self,
        flow: tuple[int, bytes],
        packet: memoryview,
        header_length: int,
        signature: tuple[object, ...],
        sequence: int,
        following: int,
        ends: bool,
    ) -> _Run | None:
        """Continues the flow's run or starts its next one; `ends` when nothing may follow this packet in its run.

        Returns the run where something may.
        """
        size = len(packet) - header_length
        run = self._open.get(flow)
        if (
            run is not None
            and sequence == run.next_sequence
            and size <= run.size
            and run.length + size <= MAX_PACKET
            and len(run.packets) < MAX_MERGED
            and signature == run.signature
        ):
            run.packets.append(packet)
            run.length += size
            run.next_sequence = following
            if ends or size < run.size:
                del self._open[flow]
                return None
            return run
        run = _Run(packet, flow, header_length, signature, following)
        self._round.append(run)
        if ends or (flow[0] == TCP and size < MIN_TCP_SEGMENT):
            self._open.pop(flow, None)
            return None
        self._open[flow] = run
        return run


def _checksums_hold(run: _Run) -> bool:
    """Whether the checksums of all packets of the run are right, by one sum over all of them.

    Of a right packet everything it covers sums to zero modulo 65 535, so all of them together do; errors that cancel
    out across packets are as unlikely as those that cancel out within one. The IPv6 header holds the pseudo-header's
    fields; what it has beyond, the run's first 4 bytes and the hop limit, is the same in every packet.
    """
    first = run.packets[0]
    separator = b"\0" if run.size & 1 else b""
    beyond = network_sum(first[:4]) + (first[6] << 8 | first[7]) - run.transport
    return (network_sum(separator.join(run.packets)) - beyond * len(run.packets)) % MODULUS == 0


def _super_packet(run: _Run) -> list[Buffer]:
    header_length = run.header_length
    header = bytearray(run.packets[0][:header_length])
    payload_length = run.length - IPV6_HEADER
    header[4:6] = payload_length.to_bytes(2, "big")
    if run.transport == TCP:
        gso_type, csum_offset = GSO_TCPV6, TCP_CSUM_OFFSET
        header[_TCP_FLAGS] |= run.packets[-1][_TCP_FLAGS] & _PSH
    else:
        gso_type, csum_offset = GSO_UDP_L4, UDP_CSUM_OFFSET
        header[44:46] = header[4:6]
    pseudo_header = (network_sum(header[8:IPV6_HEADER]) + payload_length + run.transport) % MODULUS
    at = IPV6_HEADER + csum_offset
    header[at : at + 2] = pseudo_header.to_bytes(2, "big")
    vnet = VnetHeader(NEEDS_CSUM, gso_type, header_length, run.size, IPV6_HEADER, csum_offset)
    return [vnet.pack(), header, *(packet[header_length:] for packet in run.packets)]
