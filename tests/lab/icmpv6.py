"""ICMPv6 as the pinger and the tracer need it: echo requests out, answers and errors in.

Source: RFC 4443. The kernel fills in and checks the checksum of a raw ICMPv6 socket (RFC 3542 section 3.1).
"""

import socket
import struct
from dataclasses import dataclass
from typing import Final

DESTINATION_UNREACHABLE: Final = 1
PACKET_TOO_BIG: Final = 2
TIME_EXCEEDED: Final = 3
PARAMETER_PROBLEM: Final = 4
ECHO_REQUEST: Final = 128
ECHO_REPLY: Final = 129

ERROR_TYPES: Final = frozenset({DESTINATION_UNREACHABLE, PACKET_TOO_BIG, TIME_EXCEEDED, PARAMETER_PROBLEM})
IPV6_HEADER_BYTES: Final = 40
RECEIVE_BUFFER_BYTES: Final = 1 << 20

_ECHO: Final = struct.Struct("!BBHHH")
_COUNTER: Final = struct.Struct("!Q")
_ICMP6_FILTER: Final = 1


@dataclass(frozen=True, slots=True)
class Answer:
    """An echo reply (`kind` 129) or an ICMPv6 error, from `source`, to the echo request number `sequence`."""

    kind: int
    code: int
    source: str
    sequence: int


def open_socket() -> socket.socket:
    """A raw ICMPv6 socket that lets echo replies and the four errors through. Needs CAP_NET_RAW."""
    made = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    blocked = (1 << 256) - 1
    for kind in (ECHO_REPLY, *ERROR_TYPES):
        blocked &= ~(1 << kind)
    made.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, _filter_words(blocked))
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    made.setblocking(False)
    return made


def _filter_words(blocked: int) -> bytes:
    words = [(blocked >> (32 * index)) & 0xFFFFFFFF for index in range(8)]
    return struct.pack("=8I", *words)


def echo_request(identifier: int, sequence: int, size: int) -> bytes:
    """An echo request of `size` payload bytes (at least 8), which begin with the full 64-bit `sequence`."""
    if size < _COUNTER.size:
        raise ValueError(f"echo payload of {size} bytes: the sequence number needs {_COUNTER.size}")
    head = _ECHO.pack(ECHO_REQUEST, 0, 0, identifier, sequence & 0xFFFF)
    return head + _COUNTER.pack(sequence) + bytes(size - _COUNTER.size)


def parse_answer(packet: bytes, source: str, identifier: int) -> Answer | None:
    """Reads what a raw socket received; None unless it answers an echo request with our `identifier`.

    An error quotes the packet it is about (RFC 4443 section 2.4): IPv6 header, then our echo request.
    """
    if len(packet) < _ECHO.size:
        return None
    kind, code = packet[0], packet[1]
    if kind == ECHO_REPLY:
        echo = packet
    elif kind in ERROR_TYPES:
        echo = packet[_ECHO.size + IPV6_HEADER_BYTES :]
        if len(echo) < _ECHO.size or echo[0] != ECHO_REQUEST:
            return None
    else:
        return None
    found, short = _ECHO.unpack_from(echo)[3:]
    if found != identifier:
        return None
    counter = echo[_ECHO.size : _ECHO.size + _COUNTER.size]
    sequence = _COUNTER.unpack(counter)[0] if len(counter) == _COUNTER.size else short
    return Answer(kind, code, source, sequence)
