"""TCP: the packets on the stream as they are (wire spec 5.2). The one transport whose connections outlive processes."""

from __future__ import annotations

import socket
import struct
from typing import ClassVar, Final

from actors.link.transports.interface import Setup, Transport
from protocol.mycelium.endpoint import SocketAddress

_LAST_HEARD: Final = struct.Struct("=52xII")
"""In TCP_INFO (Linux, struct tcp_info): milliseconds since the last data, and since the last acknowledgement."""
COST_IPV6: Final = 10
COST_IPV4: Final = 15
SILENT_SECONDS: Final = 4.0
"""A peer whose kernel was not heard for so long is gone: what is sent, and keepalive where nothing is, asks it every
second or more often (`actors/peers/network.py`). By itself the kernel forgets, with each first byte that is sent, for
how long there was nothing, so that the quieter end would notice much later."""
NOT_SENT_BYTES: Final = 128 << 10
"""What the kernel may hold unsent: more would only delay the next Hello, and the ping behind the bulk."""


class TcpTransport(Transport):
    """A TCP connection."""

    resumable: ClassVar[bool] = True

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        tune(self._socket)

    def each_second(self) -> None:
        """See `Transport`."""
        reason = why_silent(self._socket)
        if reason:
            self._owner.end(reason)

    def _describe(self, setup: Setup) -> tuple[str, int]:
        return describe("TCP", setup.connection)


def why_silent(connection: socket.socket) -> str:
    """Why a connection of which nothing is heard is over; empty while there is."""
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_HEARD.size)
    except OSError as error:
        return f"connection lost: {error.strerror}"
    data_age_ms, answer_age_ms = _LAST_HEARD.unpack(info)
    silent = min(data_age_ms, answer_age_ms) / 1000
    return f"connection lost: nothing heard for {silent:.1f} s" if silent >= SILENT_SECONDS else ""


def describe(word: str, connection: socket.socket) -> tuple[str, int]:
    """Name and static cost of a connection over TCP."""
    local = SocketAddress.of_sockaddr(connection.getsockname())
    remote = SocketAddress.of_sockaddr(connection.getpeername())
    cost = COST_IPV6 if remote.is_ipv6 and not remote.is_mapped else COST_IPV4
    return f"{word} {local} <-> {remote}", cost


def tune(connection: socket.socket) -> None:
    """Sets what every link wants of a TCP socket."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOT_SENT_BYTES)
    # Urgent data would not be counted where a successor asks how far its predecessor had read.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
