"""Many datagrams in one call: generic segmentation and receive offload of UDP sockets (Linux udp(7))."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Sequence
from typing import Final, TypeAlias

Address: TypeAlias = tuple[str, int] | tuple[str, int, int, int]

MOST_SEGMENTS: Final = 64
"""In one call (Linux UDP_MAX_SEGMENTS of old kernels)."""
MOST_BYTES: Final = 65_000
"""In one call: below what one IP packet may hold, for that is what it is to the kernel until it leaves."""
READ_BYTES: Final = 65_535

_SOL_UDP: Final = 17
_UDP_SEGMENT: Final = 103
_UDP_GRO: Final = 104
_SEGMENT: Final = struct.Struct("=H")
_GRO_SPACE: Final = socket.CMSG_SPACE(4)
_IP_MTU_DISCOVER: Final = 10
_IP_MTU: Final = 14
_IPV6_MTU_DISCOVER: Final = 23
_IPV6_MTU: Final = 24
_PMTUDISC_DO: Final = 2
_IP_AND_UDP_BYTES: Final = {socket.AF_INET: 28, socket.AF_INET6: 48}
_libc: Final = ctypes.CDLL(None, use_errno=True)


def prepare(connection: socket.socket) -> None:
    """Sets what a QUIC connection wants of its socket: datagrams in bunches, none of them fragmented on the way."""
    connection.setblocking(False)
    connection.setsockopt(_SOL_UDP, _UDP_GRO, 1)
    if connection.family == socket.AF_INET6:
        connection.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DO)
    # Also of an IPv6 socket, which may speak to a mapped address.
    connection.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DO)


def largest_payload(connection: socket.socket) -> int:
    """Bytes of the largest datagram that reaches the connected peer in one piece, as far as the kernel knows."""
    mapped = connection.family == socket.AF_INET6 and str(connection.getpeername()[0]).startswith("::ffff:")
    if connection.family == socket.AF_INET6:
        mtu = connection.getsockopt(socket.IPPROTO_IPV6, _IPV6_MTU)
    else:
        mtu = connection.getsockopt(socket.IPPROTO_IP, _IP_MTU)
    return mtu - _IP_AND_UDP_BYTES[socket.AF_INET if mapped else connection.family]


def send(connection: socket.socket, datagrams: Sequence[bytes], address: Address | None) -> int:
    """Sends the first of `datagrams` that go in one call: of one size, but that the last may be shorter; how many.

    `address` is None for the connected peer. Raises `BlockingIOError` where the socket takes none, `OSError` else.
    """
    size = len(datagrams[0])
    count = octets = 0
    for datagram in datagrams:
        octets += len(datagram)
        if count == MOST_SEGMENTS or octets > MOST_BYTES or len(datagram) > size:
            break
        count += 1
        if len(datagram) < size:
            break
    if count == 1:
        if address is None:
            connection.send(datagrams[0])
        else:
            connection.sendto(datagrams[0], address)
        return 1
    segment = [(_SOL_UDP, _UDP_SEGMENT, _SEGMENT.pack(size))]
    if address is None:
        connection.sendmsg(datagrams[:count], segment)
    else:
        connection.sendmsg(datagrams[:count], segment, 0, address)
    return count


def receive(connection: socket.socket) -> tuple[bytes, int, Address]:
    """Datagrams of one sender one behind the other, the size of each but the last, and the sender.

    Raises `BlockingIOError` where there are none, `OSError` else.
    """
    data, ancillary, _, address = connection.recvmsg(READ_BYTES, _GRO_SPACE)
    for level, kind, value in ancillary:
        if level == _SOL_UDP and kind == _UDP_GRO:
            return data, int.from_bytes(value, "little"), address
    return data, max(1, len(data)), address


def connect_anew(connection: socket.socket, address: Address) -> None:
    """Connects to `address` from whichever of our addresses leads there now. Raises `OSError`."""
    nobody = struct.pack("=H14x", socket.AF_UNSPEC)
    if _libc.connect(connection.fileno(), nobody, len(nobody)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    connection.connect(address)
