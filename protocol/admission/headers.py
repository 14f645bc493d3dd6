"""Where the transport header of an IPv6 packet is, past extension headers and fragmentation (RFC 8200 section 4)."""

from __future__ import annotations

from typing import Final, NamedTuple

TCP: Final = 6
UDP: Final = 17
ICMPV6: Final = 58
TRANSPORTS_WITH_PORTS: Final = frozenset({TCP, UDP, 33, 132, 136})
"""And DCCP, SCTP, UDP-Lite: all begin with source and destination port."""
IPV6_HEADER: Final = 40
PORTS: Final = 4
ICMPV6_HEADER: Final = 8
MAX_EXTENSIONS: Final = 8
"""RFC 8200 has seven kinds, most of which may come once."""

_NEXT_HEADER: Final = 6
_HOP_BY_HOP: Final = 0
_ROUTING: Final = 43
_FRAGMENT: Final = 44
_AUTHENTICATION: Final = 51
_DESTINATION: Final = 60
_MOBILITY: Final = 135
_IN_EIGHTS: Final = frozenset({_HOP_BY_HOP, _ROUTING, _DESTINATION, _MOBILITY})
"""Their second byte is their length in units of 8 bytes, the first unit not counted."""
_FRAGMENT_HEADER: Final = 8
_OFFSET_BITS: Final = 0xFFF8
_MORE: Final = 1


class Upper(NamedTuple):
    """What an IPv6 packet carries."""

    protocol: int
    """RFC 8200 section 3: of the header behind all extensions."""
    offset: int
    """Of that header in the packet, bytes."""
    identification: bytes
    """Four bytes that all fragments of one packet share; empty for a packet in one piece."""
    later: bool
    """Whether it is a fragment without the transport header."""


class HeaderError(ValueError):
    """A packet whose headers lead nowhere."""


def find_upper(packet: memoryview) -> Upper:
    """The transport header of an IPv6 packet of at least 40 bytes. Raises `HeaderError`."""
    protocol, offset, identification = packet[_NEXT_HEADER], IPV6_HEADER, b""
    length = len(packet)
    for _ in range(MAX_EXTENSIONS):
        if protocol in _IN_EIGHTS:
            size = 8 + 8 * packet[offset + 1] if offset + 2 <= length else 0
        elif protocol == _AUTHENTICATION:
            size = 8 + 4 * packet[offset + 1] if offset + 2 <= length else 0
        elif protocol == _FRAGMENT and not identification:
            size = _FRAGMENT_HEADER
            if offset + size > length:
                raise HeaderError("a fragment header past the end")
            position = int.from_bytes(packet[offset + 2 : offset + 4], "big")
            if position & _OFFSET_BITS:
                return Upper(packet[offset], offset + size, bytes(packet[offset + 4 : offset + 8]), True)
            if position & _MORE:
                identification = bytes(packet[offset + 4 : offset + 8])
        else:
            return _checked(Upper(protocol, offset, identification, False), length)
        if not size or offset + size > length:
            raise HeaderError("an extension header past the end")
        protocol, offset = packet[offset], offset + size
    raise HeaderError(f"more than {MAX_EXTENSIONS} extension headers")


def _checked(upper: Upper, length: int) -> Upper:
    need = ICMPV6_HEADER if upper.protocol == ICMPV6 else PORTS if upper.protocol in TRANSPORTS_WITH_PORTS else 0
    if upper.offset + need > length:
        raise HeaderError("a transport header past the end")
    return upper
