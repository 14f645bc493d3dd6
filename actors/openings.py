"""What the supervisor opens for its children, because it has the right to: listening sockets and sockets to dial with.

What can't be opened costs its part of the node and an error line, not the node: so does the reference (CLI spec 2.4).
"""

from __future__ import annotations

import errno
import resource
import socket
from typing import Final

from actors.runtime.logs import Log

BACKLOG: Final = 512
MOST_DESCRIPTORS: Final = 8192
"""The usual 1024 would end the node at a few hundred peers."""


class OpeningError(Exception):
    """A socket could not be opened; says why."""


def listen_for_peers(port: int, mark: int | None, log: Log) -> int:
    """A descriptor that listens for TCP on all addresses; -1 and a line in the log where it can't."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            _mark(listener, mark)
            listener.bind(("::", port))
            listener.listen(BACKLOG)
            return listener.detach()
    except OSError as error:
        log.error(
            f"cannot listen for peers on TCP port {port}: {error.strerror}; this node only dials. "
            "Choose another --tcp-listen-port"
        )
        return -1


def listen_for_api(host: str, port: int, log: Log) -> int:
    """A descriptor that listens for HTTP; -1 and a line in the log where it can't."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(BACKLOG)
            return listener.detach()
    except OSError as error:
        log.error(
            f"cannot serve the API on {host} port {port}: {error.strerror}; this node runs without it. "
            "Choose another --api-addr"
        )
        return -1


def socket_to_dial_with(ipv6: bool, mark: int | None) -> socket.socket:
    """A TCP socket, marked before it connects, so that its first packet is marked too. Raises `OpeningError`."""
    try:
        opened = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError as error:
        raise OpeningError(f"cannot open a socket: {error.strerror}") from error
    try:
        _mark(opened, mark)
    except OSError as error:
        opened.close()
        need = "; CAP_NET_ADMIN is needed" if error.errno == errno.EPERM else ""
        raise OpeningError(f"cannot set --firewall-mark {mark}: {error.strerror}{need}") from error
    return opened


def allow_descriptors() -> None:
    """Raises the soft limit of descriptors: every peer costs some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, MOST_DESCRIPTORS)), hard))


def _mark(target: socket.socket, mark: int | None) -> None:
    if mark is not None:
        target.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
