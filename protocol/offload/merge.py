"""Makes one super-packet of the datagrams that an application sent one by one, in the memory in which they are sealed.

Source: Linux `udp_gro_receive`, but stricter, as `coalesce` is: segmentation gives back the same datagrams. Here it
happens before sealing, towards a node that takes super-packets: all that a packet costs on the way is paid once.
"""

from __future__ import annotations

from typing import Final

from protocol.offload.checksum import MODULUS
from protocol.offload.vnet import (
    GSO_UDP_L4,
    IPV6_HEADER,
    MAX_UDP_SEGMENTS,
    NEEDS_CSUM,
    UDP,
    UDP_CSUM_OFFSET,
    UDP_HEADER,
    VnetHeader,
)

LARGEST: Final = 65_000
"""Bytes of a super-packet, as the kernel makes them."""
UNFINISHED: Final = VnetHeader(NEEDS_CSUM, csum_start=IPV6_HEADER, csum_offset=UDP_CSUM_OFFSET).pack()
"""What the kernel says of a datagram whose checksum it left to the device."""
_HEADERS: Final = IPV6_HEADER + UDP_HEADER
_SAME: Final = _HEADERS - 2
"""Everything before the checksum: addresses, ports, lengths, hop limit, flow label."""
_CHECKSUM: Final = IPV6_HEADER + UDP_CSUM_OFFSET


class DatagramRun:
    """Datagrams of the same flow and length, one behind the other; the headers of the first serve them all."""

    __slots__ = ("_head", "_length", "_memory", "count", "end", "start")

    def __init__(self, memory: memoryview, start: int, length: int) -> None:
        """Begins with the datagram of `length` bytes at `start` of `memory`, of which `fits` was true."""
        self._memory = memory
        self._length = length
        self._head = bytes(memory[start : start + _SAME])
        self.start: Final = start
        self.count = 1
        self.end = start + length
        """Where the run ends by now."""

    @staticmethod
    def fits(packet: memoryview, header: bytes | bytearray) -> bool:
        """Whether `packet`, of which the kernel says `header`, can begin a run: a datagram that has a payload."""
        length = len(packet)
        return (
            header == UNFINISHED
            and _HEADERS < length <= LARGEST // 2
            and packet[6] == UDP
            and packet[4] << 8 | packet[5] == length - IPV6_HEADER
            and packet[IPV6_HEADER + 4 : IPV6_HEADER + 6] == packet[4:6]
        )

    def append(self, start: int, length: int, header: bytes | bytearray) -> bool:
        """Takes the packet at `start`, somewhere behind the run, where it is the next datagram of the same kind."""
        memory, end = self._memory, self.end
        payload = length - _HEADERS
        if (
            length != self._length
            or header != UNFINISHED
            or memory[start : start + _SAME] != self._head
            or self.count == MAX_UDP_SEGMENTS
            or end + payload - self.start > LARGEST
        ):
            return False
        memory[end : end + payload] = memory[start + _HEADERS : start + length]
        self.end = end + payload
        self.count += 1
        return True

    def finish(self) -> VnetHeader:
        """Writes lengths and checksum of the whole into the first headers; the virtio header that belongs to it.

        The kernel's field holds the sum of the pseudo-header, in which the length stands once.
        """
        memory, start = self._memory, self.start
        payload_length = self.end - start - IPV6_HEADER
        more = payload_length - (self._length - IPV6_HEADER)
        pseudo_header = (memory[start + _CHECKSUM] << 8 | memory[start + _CHECKSUM + 1]) + more
        memory[start + 4 : start + 6] = payload_length.to_bytes(2, "big")
        memory[start + IPV6_HEADER + 4 : start + IPV6_HEADER + 6] = payload_length.to_bytes(2, "big")
        memory[start + _CHECKSUM : start + _CHECKSUM + 2] = (pseudo_header % MODULUS).to_bytes(2, "big")
        return VnetHeader(NEEDS_CSUM, GSO_UDP_L4, _HEADERS, self._length - _HEADERS, IPV6_HEADER, UDP_CSUM_OFFSET)
