"""TCP: the packets on the stream as they are (wire spec 5.2). The one transport whose connections outlive processes."""

from __future__ import annotations

import socket
from typing import ClassVar, Final

from actors.link.transports.interface import Setup, Transport
from protocol.mycelium.endpoint import SocketAddress

COST_IPV6: Final = 10
COST_IPV4: Final = 15
NOT_SENT_BYTES: Final = 128 << 10
"""What the kernel may hold unsent: more would only delay the next Hello, and the ping behind the bulk."""


class TcpTransport(Transport):
    """A TCP connection."""

    resumable: ClassVar[bool] = True

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        tune(self._socket)

    def _describe(self, setup: Setup) -> tuple[str, int]:
        return describe("TCP", setup.connection)


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
