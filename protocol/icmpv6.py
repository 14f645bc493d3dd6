"""ICMPv6 errors: whole packets that tell a host why its packet went nowhere, and when to keep silent (RFC 4443)."""

from __future__ import annotations

import enum
import struct
from typing import Final

from protocol.buffers import Buffer
from protocol.checksum import internet_checksum, pseudo_header_sum

IPV6_HEADER_BYTES: Final = 40
IPV6_VERSION: Final = 6
ICMP_HEADER_BYTES: Final = 8
NEXT_HEADER_ICMPV6: Final = 58
MIN_MTU: Final = 1280
"""RFC 8200 section 5; an error packet is never larger (RFC 4443 2.4 c)."""
MAX_QUOTED_BYTES: Final = MIN_MTU - IPV6_HEADER_BYTES - ICMP_HEADER_BYTES
DEFAULT_HOP_LIMIT: Final = 64
FIRST_INFORMATIONAL_TYPE: Final = 128
"""ICMPv6 types below are errors (RFC 4443 2.1)."""
TYPE_REDIRECT: Final = 137

IPV6_HEADER: Final = struct.Struct("!IHBB16s16s")
"""Version, traffic class and flow label in one word; payload length; next header; hop limit; source; destination."""
IPV6_FIRST_WORD: Final = IPV6_VERSION << 28
ICMP_HEADER: Final = struct.Struct("!BBHI")
"""Type, code, checksum, parameter."""

_MULTICAST_FIRST_BYTE: Final = 0xFF
_UNSPECIFIED: Final = bytes(16)
_NEXT_HEADER_FRAGMENT: Final = 44
_NEXT_HEADER_AUTHENTICATION: Final = 51
_EXTENSION_HEADERS: Final = frozenset({0, 43, _NEXT_HEADER_FRAGMENT, _NEXT_HEADER_AUTHENTICATION, 60})
"""Hop-by-hop options, routing, fragment, authentication, destination options."""
_FRAGMENT_HEADER_BYTES: Final = 8
_FRAGMENT_OFFSET_MASK: Final = 0xFFF8


class IcmpError(enum.Enum):
    """The errors that a node sends, as (type, code)."""

    NO_ROUTE = (1, 0)
    ADDRESS_UNREACHABLE = (1, 3)
    SOURCE_POLICY = (1, 5)
    PACKET_TOO_BIG = (2, 0)
    HOP_LIMIT = (3, 0)


def error_packet(
    kind: IcmpError,
    source: bytes,
    destination: bytes,
    quoted: Buffer,
    hop_limit: int = DEFAULT_HOP_LIMIT,
    parameter: int = 0,
) -> bytes:
    """The IPv6 packet that carries the error `kind` from `source` to `destination`, two 16-byte addresses.

    `quoted` is the packet that the error is about, cut where the whole would exceed 1280 bytes. `parameter` is the
    MTU of `PACKET_TOO_BIG` and 0 in all others.
    """
    icmp_type, code = kind.value
    return icmp_packet(icmp_type, code, source, destination, quoted, hop_limit, parameter)


def icmp_packet(
    icmp_type: int, code: int, source: bytes, destination: bytes, quoted: Buffer, hop_limit: int, parameter: int
) -> bytes:
    """As `error_packet`, for any ICMPv6 `icmp_type` and `code`."""
    quote = bytes(quoted[:MAX_QUOTED_BYTES])
    payload_length = ICMP_HEADER_BYTES + len(quote)
    checksum = internet_checksum(
        ICMP_HEADER.pack(icmp_type, code, 0, parameter) + quote,
        pseudo_header_sum(source, destination, payload_length, NEXT_HEADER_ICMPV6),
    )
    return b"".join(
        (
            IPV6_HEADER.pack(IPV6_FIRST_WORD, payload_length, NEXT_HEADER_ICMPV6, hop_limit, source, destination),
            ICMP_HEADER.pack(icmp_type, code, checksum, parameter),
            quote,
        )
    )


def may_answer(packet: Buffer) -> bool:
    """Whether an error about `packet`, as read from the host, may be sent (RFC 4443 2.4 e).

    No error about an ICMPv6 error or a redirect, else two nodes answer each other for ever; none to a source that isn't
    one host; none about multicast (the exception for "packet too big" is of no use here: the overlay has no multicast).
    A later fragment doesn't show what it belongs to and may be answered, as Linux does.
    """
    if len(packet) < IPV6_HEADER_BYTES or packet[0] >> 4 != IPV6_VERSION:
        return False
    source, destination = bytes(packet[8:24]), bytes(packet[24:40])
    if source == _UNSPECIFIED or _MULTICAST_FIRST_BYTE in (source[0], destination[0]):
        return False
    next_header, offset = packet[6], IPV6_HEADER_BYTES
    while next_header in _EXTENSION_HEADERS:
        if offset + _FRAGMENT_HEADER_BYTES > len(packet):
            return True
        following = packet[offset]
        if next_header == _NEXT_HEADER_FRAGMENT:
            if int.from_bytes(packet[offset + 2 : offset + 4], "big") & _FRAGMENT_OFFSET_MASK:
                return True
            offset += _FRAGMENT_HEADER_BYTES
        elif next_header == _NEXT_HEADER_AUTHENTICATION:
            offset += (packet[offset + 1] + 2) * 4
        else:
            offset += (packet[offset + 1] + 1) * 8
        next_header = following
    if next_header != NEXT_HEADER_ICMPV6:
        return True
    if offset >= len(packet):
        return False
    return packet[offset] >= FIRST_INFORMATIONAL_TYPE and packet[offset] != TYPE_REDIRECT
