"""How many bytes of a TCP connection were written and read so far, by the kernel's own count.

Whoever holds a descriptor of the connection may ask, also after the process that used it was killed.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from dataclasses import dataclass
from typing import Final

_INFO_BYTES: Final = 136
"""Of `struct tcp_info`, up to and with `tcpi_bytes_received` (linux/tcp.h; Linux 4.1)."""
_STATE: Final = struct.Struct("B")
_COUNTS: Final = struct.Struct("QQ")
_COUNTS_OFFSET: Final = 120
"""`tcpi_bytes_acked`, `tcpi_bytes_received`."""
_QUEUED: Final = struct.Struct("i")
_ESTABLISHED: Final = 1
_CLOSE_WAIT: Final = 8
"""The peer has sent its FIN; we may still write."""
_SIOCOUTQ: Final = termios.TIOCOUTQ
_SIOCINQ: Final = termios.FIONREAD
_MAX_TRIES: Final = 10_000


class PositionsError(Exception):
    """The kernel's count can't be had: the connection is over, or this is none."""


@dataclass(frozen=True, slots=True)
class Positions:
    """Bytes of both streams; what the kernel counts from differs by the side that dialled, so subtract a base."""

    sent: int
    """Written to the socket, acknowledged by the peer or not."""
    received: int
    """Read from the socket: not what still waits in it."""

    def since(self, base: Positions) -> Positions:
        """Counted from `base`, the positions when nothing had been written or read."""
        return Positions(self.sent - base.sent, self.received - base.received)


def positions(connection: socket.socket) -> Positions:
    """The positions of a connected TCP socket that no process uses at the moment.

    Urgent data would not be counted as it is read: the socket has SO_OOBINLINE, or its peer sends none.

    Raises `PositionsError` for a socket that isn't connected (any more), or whose own side was shut down.
    """
    # Acknowledgements and data go on arriving, and the kernel tells state and queue lengths in separate calls. They are
    # of one moment when nothing has moved between the first and the last; the windows bound how long it can go on.
    before = _info(connection)
    for _ in range(_MAX_TRIES):
        unacknowledged = _queued(connection, _SIOCOUTQ)
        unread = _queued(connection, _SIOCINQ)
        after = _info(connection)
        if after == before:
            break
        before = after
    else:
        raise PositionsError("the connection never stands still; is a process still using it?")
    state, acknowledged, arrived = after
    if state == _CLOSE_WAIT:
        # The FIN has a sequence number and is counted as arrived like a byte; SIOCINQ leaves it out.
        arrived -= 1
    elif state != _ESTABLISHED:
        raise PositionsError(f"the connection is over or not yet there: TCP state {state}")
    return Positions(acknowledged + unacknowledged, arrived - unread)


def _info(connection: socket.socket) -> tuple[int, int, int]:
    """State, bytes acknowledged, bytes arrived. The former counts the SYN on the side that dialled."""
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
    except OSError as error:
        raise PositionsError(f"no TCP connection: {error.strerror}") from None
    if len(info) < _INFO_BYTES:
        raise PositionsError(f"TCP_INFO of {len(info)} bytes, {_INFO_BYTES} are needed: Linux is older than 4.1")
    return (*_STATE.unpack_from(info), *_COUNTS.unpack_from(info, _COUNTS_OFFSET))


def _queued(connection: socket.socket, request: int) -> int:
    try:
        answer = fcntl.ioctl(connection.fileno(), request, bytes(_QUEUED.size))
    except OSError as error:
        raise PositionsError(f"no TCP connection: {error.strerror}") from None
    count: int = _QUEUED.unpack(answer)[0]
    return count
