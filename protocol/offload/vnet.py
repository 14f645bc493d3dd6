"""The 10-byte header in front of every packet on a TUN device opened with IFF_VNET_HDR, and what it may claim.

Source: Linux `struct virtio_net_hdr` and `include/linux/virtio_net.h`; wire spec 8.4. Little-endian everywhere: on
big-endian machines TUNSETVNETLE asks the kernel for the same, and extension E2 carries these bytes between machines.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

HEADER_LENGTH: Final = 10

NEEDS_CSUM: Final = 0x01
"""The checksum field holds the pseudo-header's sum only; whoever puts the packet on a wire completes it."""
DATA_VALID: Final = 0x02
"""The checksum is complete and was verified."""

GSO_NONE: Final = 0
GSO_TCPV6: Final = 4
GSO_UDP_L4: Final = 5
GSO_ECN: Final = 0x80
"""Beside GSO_TCPV6: the super-packet carries CWR, which only its first segment may."""

IPV6_HEADER: Final = 40
TCP: Final = 6
UDP: Final = 17
TCP_HEADER: Final = 20
UDP_HEADER: Final = 8
TCP_CSUM_OFFSET: Final = 16
UDP_CSUM_OFFSET: Final = 6

MAX_PACKET: Final = 65_535
MAX_UDP_SEGMENTS: Final = 128
"""Linux UDP_MAX_SEGMENTS: no application can make more datagrams in one call."""
MIN_TCP_SEGMENT: Final = 8
"""Linux TCP_MIN_GSO_SIZE, which the smallest MSS leaves beside all options: less is a trap of 65 000 segments."""

_LAYOUT: Final = struct.Struct("<BBHHHH")
_TRANSPORTS: Final = {
    GSO_TCPV6: (TCP, TCP_CSUM_OFFSET),
    GSO_TCPV6 | GSO_ECN: (TCP, TCP_CSUM_OFFSET),
    GSO_UDP_L4: (UDP, UDP_CSUM_OFFSET),
}


class OffloadError(ValueError):
    """A virtio header that lies about its packet, or a packet that can't be treated as asked; says what is wrong."""


class VnetHeader(NamedTuple):
    """What the kernel says about a packet. Offsets count from its first byte, `csum_offset` from `csum_start`."""

    flags: int = 0
    gso_type: int = GSO_NONE
    hdr_len: int = 0
    gso_size: int = 0
    csum_start: int = 0
    csum_offset: int = 0

    @classmethod
    def parse(cls, data: bytes | bytearray | memoryview) -> VnetHeader:
        """The header in the first 10 bytes of `data`. Raises `OffloadError` where there are fewer."""
        if len(data) < HEADER_LENGTH:
            raise OffloadError(f"{len(data)} bytes where a virtio header has {HEADER_LENGTH}")
        return cls._make(_LAYOUT.unpack_from(data))

    def pack(self) -> bytes:
        """The 10 bytes."""
        return _LAYOUT.pack(*self)


PLAIN: Final = VnetHeader().pack()
"""The header of a complete packet of ordinary size; the kernel verifies its checksum itself."""


def check(header: VnetHeader, packet_length: int) -> None:
    """Refuses a header that can't be true of any IPv6 packet of `packet_length` bytes. Raises `OffloadError`.

    `hdr_len` is only held to the packet's length: the kernel reports how much of the packet lay in one piece, which
    says nothing about its headers.
    """
    if header.hdr_len > packet_length:
        raise OffloadError(f"hdr_len {header.hdr_len} in a packet of {packet_length} bytes")
    if header.flags & NEEDS_CSUM:
        if header.csum_start < IPV6_HEADER or header.csum_start % 2 or header.csum_offset % 2:
            raise OffloadError(f"no IPv6 packet has its checksum at {header.csum_start}+{header.csum_offset}")
        if header.csum_start + header.csum_offset + 2 > packet_length:
            raise OffloadError(
                f"checksum at {header.csum_start}+{header.csum_offset} of a packet of {packet_length} bytes"
            )
    if header.gso_type == GSO_NONE:
        return
    if header.gso_type not in _TRANSPORTS:
        raise OffloadError(f"GSO type {header.gso_type:#x} is neither TCP over IPv6 nor UDP")
    transport, csum_offset = _TRANSPORTS[header.gso_type]
    smallest = MIN_TCP_SEGMENT if transport == TCP else 1
    if header.gso_size < smallest:
        raise OffloadError(
            f"GSO type {header.gso_type:#x} with segments of {header.gso_size} bytes, at least {smallest}"
        )
    if not header.flags & NEEDS_CSUM:
        raise OffloadError("a GSO packet must leave its checksum to be completed")
    if header.csum_start != IPV6_HEADER or header.csum_offset != csum_offset:
        raise OffloadError(
            f"GSO type {header.gso_type:#x} with its checksum at {header.csum_start}+{header.csum_offset}, "
            f"expected {IPV6_HEADER}+{csum_offset}: extension headers are not supported"
        )


def check_super_packet(packet: bytes | bytearray | memoryview, header: VnetHeader) -> int:
    """Holds a GSO header against the packet's own headers; the length of its IPv6 and transport headers together.

    Raises `OffloadError` unless `packet` is exactly one IPv6 packet, with payload, of the transport that
    `header.gso_type` names directly behind the IPv6 header.
    """
    length = len(packet)
    check(header, length)
    if header.gso_type == GSO_NONE:
        raise OffloadError("the virtio header has no GSO type: this is not a super-packet")
    if packet[0] >> 4 != 6:
        raise OffloadError(f"IP version {packet[0] >> 4} in a super-packet, expected 6")
    payload_length = packet[4] << 8 | packet[5]
    if IPV6_HEADER + payload_length != length:
        raise OffloadError(f"IPv6 payload length {payload_length} in a packet of {length} bytes")
    transport, _ = _TRANSPORTS[header.gso_type]
    if packet[6] != transport:
        raise OffloadError(f"GSO type {header.gso_type:#x} on next header {packet[6]}, expected {transport}")
    if transport == TCP:
        header_length = IPV6_HEADER + (packet[IPV6_HEADER + 12] >> 4) * 4
        if header_length < IPV6_HEADER + TCP_HEADER:
            raise OffloadError(f"a TCP header of {header_length - IPV6_HEADER} bytes, at least {TCP_HEADER}")
    else:
        header_length = IPV6_HEADER + UDP_HEADER
        udp_length = packet[IPV6_HEADER + 4] << 8 | packet[IPV6_HEADER + 5]
        if udp_length != payload_length:
            raise OffloadError(f"UDP length {udp_length} in an IPv6 payload of {payload_length} bytes")
        if length - header_length > MAX_UDP_SEGMENTS * header.gso_size:
            raise OffloadError(
                f"{length - header_length} bytes in datagrams of {header.gso_size}: more than {MAX_UDP_SEGMENTS}"
            )
    if length <= header_length:
        raise OffloadError(f"a super-packet of {length} bytes, {header_length} of them headers, has no payload")
    return header_length
