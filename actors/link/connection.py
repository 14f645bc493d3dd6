"""The TCP connection of a link: its name, what it costs, and how the kernel should treat it."""

from __future__ import annotations

import socket
from typing import Final

from protocol.mycelium.endpoint import SocketAddress

COST_TCP_IPV6: Final = 10
COST_TCP_IPV4: Final = 15
"""What a connection costs besides its round-trip time (wire spec 5.9)."""
NOT_SENT_BYTES: Final = 128 << 10
"""What the kernel may hold unsent: more would only delay the next Hello, and the ping behind the bulk."""


def describe(connection: socket.socket) -> tuple[str, int]:
    """The connection as routes name it, and its static cost."""
    local = SocketAddress.of_sockaddr(connection.getsockname())
    remote = SocketAddress.of_sockaddr(connection.getpeername())
    cost = COST_TCP_IPV6 if remote.is_ipv6 and not remote.is_mapped else COST_TCP_IPV4
    return f"TCP {local} <-> {remote}", cost


def tune(connection: socket.socket) -> None:
    """Sets what every link wants of its socket."""
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOT_SENT_BYTES)
    # Urgent data would not be counted where a successor asks how far its predecessor had read.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
