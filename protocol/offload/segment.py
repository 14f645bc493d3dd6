"""Cuts a super-packet of the kernel into packets of ordinary size, each with correct headers and checksum.

Source: Linux `tcp_gso_segment`, `__udp_gso_segment`; wire spec 8.4.

All segments are made by a handful of numpy operations on tables with one row per segment: what costs is the number of
calls, not the number of segments. Payload is copied once, to where it will be sealed.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from protocol.offload.checksum import MODULUS, word_sums
from protocol.offload.vnet import IPV6_HEADER, TCP, OffloadError, VnetHeader, check_super_packet

_FIN: Final = 0x01
_PSH: Final = 0x08
_CWR: Final = 0x80

# Positions in a segment's headers, counted in units of the named size.
_PAYLOAD_LENGTH_WORD: Final = 2
_ADDRESSES_WORD: Final = 4
_UDP_LENGTH_WORD: Final = (IPV6_HEADER + 4) // 2
_UDP_CHECKSUM_WORD: Final = (IPV6_HEADER + 6) // 2
_TCP_CHECKSUM_WORD: Final = (IPV6_HEADER + 16) // 2
_TCP_SEQUENCE_LONG: Final = (IPV6_HEADER + 4) // 4
_TCP_FLAGS_OCTET: Final = IPV6_HEADER + 13


def count_segments(packet: bytes | bytearray | memoryview, header: VnetHeader) -> int:
    """How many segments the super-packet makes. Raises `OffloadError` as `segment` does."""
    payload = len(packet) - check_super_packet(packet, header)
    return -(-payload // header.gso_size)


def segment(
    packet: bytes | bytearray | memoryview,
    header: VnetHeader,
    out: memoryview,
    room_before: int,
    room_after: int,
    first: int = 0,
) -> list[tuple[int, int]]:
    """Writes the segments from number `first` on into `out`, as many as it holds; (offset, length) of each there.

    Every segment has `room_before` bytes in front and `room_after` behind, and nothing else lies between them, so that
    headers and seal go around it in place and the result is one piece for the link. The bytes of that room are left as
    they are. When fewer than `count_segments` came back, `out` was full: call again with `first` moved on.

    Raises `OffloadError` for a header that does not describe the packet, a transport other than TCP and UDP directly
    over IPv6, an `out` that doesn't hold one segment, and a `first` past the last segment.
    """
    header_length = check_super_packet(packet, header)
    size = min(header.gso_size, len(packet) - header_length)
    stride = room_before + header_length + size + room_after
    payload = np.frombuffer(packet, np.uint8, offset=header_length)[first * size :]
    if first < 0 or not payload.size:
        raise OffloadError(f"the super-packet has no segment number {first}")
    full, rest = divmod(payload.size, size)
    complete = full * stride + (stride - size + rest if rest else 0) <= len(out)
    if not complete:
        full, rest = min(full, len(out) // stride), 0
    count = full + (rest > 0)
    if not count:
        raise OffloadError(f"no segment of {stride} bytes fits {len(out)} bytes of room")

    rows = payload[: full * size].reshape(full, size)
    tail = payload[full * size : full * size + rest]

    octets = np.empty((count, header_length), np.uint8)
    octets[:] = np.frombuffer(packet, np.uint8, header_length)
    words = octets.view("<u2")
    network_words = octets.view(">u2")
    network_words[:, _PAYLOAD_LENGTH_WORD] = header_length - IPV6_HEADER + size
    if rest:
        network_words[-1, _PAYLOAD_LENGTH_WORD] = header_length - IPV6_HEADER + rest
    if packet[6] == TCP:
        checksum_word = _TCP_CHECKSUM_WORD
        sequence = octets.view(">u4")[:, _TCP_SEQUENCE_LONG]
        sequence += np.arange(first, first + count).astype(np.uint32) * size
        flags = octets[:, _TCP_FLAGS_OCTET]
        flags[: count - complete] &= ~(_FIN | _PSH) & 0xFF
        flags[first == 0 :] &= ~_CWR & 0xFF
    else:
        checksum_word = _UDP_CHECKSUM_WORD
        words[:, _UDP_LENGTH_WORD] = words[:, _PAYLOAD_LENGTH_WORD]
    words[:, checksum_word] = 0

    # The pseudo-header: addresses, upper-layer length, next header (RFC 8200 section 8.1).
    sums = word_sums(octets[:, _ADDRESSES_WORD * 2 :])
    sums += words[:, _PAYLOAD_LENGTH_WORD]
    sums += int(packet[6]) << 8
    sums[:full] += word_sums(rows)
    if rest:
        sums[full:] += word_sums(tail.reshape(1, rest))
    # A sum is never zero, so this is neither: UDP demands 0xFFFF for zero (RFC 8200 section 8.1).
    checksums = MODULUS - sums % MODULUS
    if packet[6] == TCP:
        checksums %= MODULUS
    words[:, checksum_word] = checksums

    target = np.frombuffer(out, np.uint8)
    table = target[: full * stride].reshape(full, stride)
    payload_at = room_before + header_length
    table[:, room_before:payload_at] = octets[:full]
    table[:, payload_at : payload_at + size] = rows
    segments = [(at, header_length + size) for at in range(room_before, full * stride, stride)]
    if rest:
        at = full * stride + room_before
        target[at : at + header_length] = octets[full]
        target[at + header_length : at + header_length + rest] = tail
        segments.append((at, header_length + rest))
    return segments
