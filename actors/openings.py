"""What the supervisor opens for its children, because it has the right to: listening sockets and sockets to dial with.

What cannot be opened costs its part of the node and an error line; or the start, by `OpeningError`: each as in the
reference (CLI spec 2.4).
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import stat
from collections.abc import Iterator
from typing import Final

from actors.runtime.logs import Log
from protocol.frames import SocketKind
from protocol.mycelium.endpoint import EndpointError, SocketAddress

BACKLOG: Final = 512
MOST_DESCRIPTORS: Final = 8192
"""The usual 1024 would end the node at a few hundred peers."""
DATAGRAM_BUFFER_BYTES: Final = 4 << 20
_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33


class OpeningError(Exception):
    """A socket could not be opened; says why."""


@contextlib.contextmanager
def _told(log: Log, trouble: str, so: str) -> Iterator[None]:
    """What the system refuses in here is told: the trouble, the system's reason, what it means and what to do."""
    try:
        yield
    except OSError as error:
        log.error(f"{trouble}: {error.strerror}; {so}")


def listen_for_peers(port: int, mark: int | None, log: Log) -> int:
    """A descriptor that listens for TCP on all addresses; -1 and a line in the log where it can't."""
    with (
        _told(
            log,
            f"cannot listen for peers on TCP port {port}",
            "this node only dials. Choose another --tcp-listen-port",
        ),
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as listener,
    ):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        _mark(listener, mark)
        listener.bind(("::", port))
        listener.listen(BACKLOG)
        return listener.detach()
    return -1


def listen_for_quic(port: int, mark: int | None) -> int:
    """A UDP socket on all addresses, which connections share the port with.

    Raises `OpeningError`: here the reference ends, too (CLI spec 2.4).
    """
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as probe:
            # One that shares its port would share it with another node of this user, too.
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            probe.bind(("::", port))
            port = probe.getsockname()[1]
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as listener:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            _mark(listener, mark)
            _enlarge(listener)
            listener.bind(("::", port))
            return listener.detach()
    except PermissionError as error:
        need = f"--firewall-mark {mark} needs CAP_NET_ADMIN" if mark is not None else "ports below 1024 need a right"
        raise OpeningError(
            f"cannot listen for peers on QUIC port {port} (UDP): {error.strerror}; {need}, or --disable-quic"
        ) from None
    except OSError as error:
        raise OpeningError(
            f"cannot listen for peers on QUIC port {port} (UDP): {error.strerror}; "
            "choose another --quic-listen-port, or --disable-quic"
        ) from None


def listen_for_neighbours(port: int, mark: int | None, log: Log) -> int:
    """A UDP descriptor for the beacons of neighbours; -1 and a line in the log where it can't."""
    with (
        _told(
            log,
            f"cannot look for neighbours on UDP port {port}",
            "this node runs without. Choose another --peer-discovery-port, or --disable-peer-discovery",
        ),
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as opened,
    ):
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
        _mark(opened, mark)
        opened.bind(("::", port))
        return opened.detach()
    return -1


def datagram_socket(local: str, remote: str, mark: int | None) -> socket.socket:
    """A UDP socket connected to `remote`, sharing the port of `local` unless that is empty. Raises `OpeningError`."""
    try:
        target = SocketAddress.parse(remote)
        opened = socket.socket(socket.AF_INET6 if target.is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
    except (EndpointError, OSError) as error:
        raise OpeningError(f"cannot open a UDP socket to {remote}: {error}") from error
    try:
        opened.setblocking(False)
        _mark(opened, mark)
        _enlarge(opened)
        if local:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            opened.bind(SocketAddress.parse(local).sockaddr())
        opened.connect(target.sockaddr())
    except (EndpointError, OSError) as error:
        opened.close()
        reason = error.strerror if isinstance(error, OSError) else str(error)
        if isinstance(error, PermissionError) and mark is not None:
            raise OpeningError(f"cannot set --firewall-mark {mark}: {reason}; CAP_NET_ADMIN is needed") from error
        raise OpeningError(f"{reason}") from error
    return opened


def _enlarge(opened: socket.socket) -> None:
    """Room for what comes while the link is busy: the kernel's default is a millisecond of a fast sender's."""
    for forced, asked in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            opened.setsockopt(socket.SOL_SOCKET, forced, DATAGRAM_BUFFER_BYTES)
        except PermissionError:
            opened.setsockopt(socket.SOL_SOCKET, asked, DATAGRAM_BUFFER_BYTES)


def listen_on_vsock(port: int, log: Log) -> int:
    """A descriptor that listens for vsock connections from any machine; -1 and a line in the log where it can't."""
    with (
        _told(
            log,
            f"cannot listen for peers on vsock port {port}",
            "this node runs without it. Is vsock in this kernel? Else leave --vsock-listen-port out",
        ),
        socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as listener,
    ):
        listener.bind((socket.VMADDR_CID_ANY, port))
        listener.listen(BACKLOG)
        return listener.detach()
    return -1


def listen_on_unix(path: str, log: Log) -> int:
    """A descriptor that listens on a Unix socket for its user and group; -1 and a line in the log where it can't.

    A socket that nobody listens on is what a node that was killed left behind, and gives way.
    """
    with (
        _told(
            log,
            f"cannot listen for peers on the Unix socket {path}",
            "this node runs without it. Choose another --unix-listen, in a folder that this user may write",
        ),
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as listener,
    ):
        _remove_left_over(path)
        before = os.umask(0o117)
        try:
            listener.bind(path)
        finally:
            os.umask(before)
        listener.listen(BACKLOG)
        return listener.detach()
    return -1


def _remove_left_over(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
            caller.connect(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        os.unlink(path)  # noqa: PTH108 - a path is text here, as in every call around it


def listen_for_api(host: str, port: int, log: Log) -> int:
    """A descriptor that listens for HTTP; -1 and a line in the log where it can't."""
    with _told(
        log,
        f"cannot serve the API on {host} port {port}",
        "this node runs without it. Choose another --api-addr",
    ):
        return _listen(host, port)
    return -1


def listen_for_metrics(host: str, port: int, log: Log) -> int:
    """Likewise, for metrics."""
    with _told(
        log,
        f"cannot serve metrics on {host} port {port}",
        "this node runs without them. Choose another --metrics-api-address",
    ):
        return _listen(host, port)
    return -1


def listen_for_rpc(host: str, port: int) -> int:
    """A descriptor that listens for JSON-RPC. Raises `OpeningError`: here the reference ends, too (API spec Q9)."""
    try:
        return _listen(host, port)
    except OSError as error:
        raise OpeningError(
            f"cannot serve JSON-RPC on {host} port {port}: {error.strerror}; choose another --jsonrpc-addr"
        ) from None


def _listen(host: str, port: int) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
        return listener.detach()


_FAMILIES: Final = {
    SocketKind.TCP_IPV4: socket.AF_INET,
    SocketKind.TCP_IPV6: socket.AF_INET6,
    SocketKind.UNIX: socket.AF_UNIX,
    SocketKind.VSOCK: socket.AF_VSOCK,
}
_UNMARKED: Final = frozenset({SocketKind.UNIX, SocketKind.VSOCK})
"""What leaves the machine over no network has nothing to be routed by."""


def socket_to_dial_with(kind: SocketKind, mark: int | None) -> socket.socket:
    """A stream socket, marked before it connects, so that its first packet is marked too. Raises `OpeningError`."""
    try:
        opened = socket.socket(_FAMILIES[kind], socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError as error:
        raise OpeningError(f"cannot open a socket ({kind.value}): {error.strerror}") from error
    try:
        _mark(opened, None if kind in _UNMARKED else mark)
    except OSError as error:
        opened.close()
        need = "; CAP_NET_ADMIN is needed" if error.errno == errno.EPERM else ""
        raise OpeningError(f"cannot set --firewall-mark {mark}: {error.strerror}{need}") from error
    return opened


def port_of(listener: int) -> int:
    """The port that a descriptor listens on, which the system may have chosen."""
    with socket.socket(fileno=os.dup(listener)) as copy:
        return int(copy.getsockname()[1])


def allow_descriptors() -> None:
    """Raises the soft limit of descriptors: every peer costs some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, MOST_DESCRIPTORS)), hard))


def _mark(target: socket.socket, mark: int | None) -> None:
    if mark is not None:
        target.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
