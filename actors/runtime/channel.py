"""The Unix seqpacket pair between the supervisor and one child: frames, and descriptors that ZeroMQ can't pass."""

from __future__ import annotations

import array
import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from typing import Any, Final

from protocol.codec import FrameError, pack, unpack

MAX_FRAME: Final = 128 * 1024
MAX_DESCRIPTORS: Final = 4
_ANCILLARY: Final = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)


class ChannelClosed(Exception):
    """The process at the other end is gone."""


class ChannelFull(Exception):
    """The process at the other end does not read: it hangs."""


class Channel:
    """One end of the pair. Owns the socket; never blocks."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Both ends: the supervisor's and the child's."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MAX_FRAME)
        return cls(ours), cls(theirs)

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._socket.fileno()

    def close(self) -> None:
        """Closes this end."""
        self._socket.close()

    def send(self, message: object, descriptors: Sequence[int] = ()) -> None:
        """Sends one frame and duplicates of `descriptors`.

        Raises `ChannelClosed` or `ChannelFull`.
        """
        data = pack(message)
        if len(data) > MAX_FRAME:
            raise FrameError(f"{type(message).__name__} of {len(data)} bytes on a channel, at most {MAX_FRAME}")
        try:
            if descriptors:
                socket.send_fds(self._socket, [data], list(descriptors))
            else:
                self._socket.send(data)
        except BlockingIOError:
            raise ChannelFull from None
        except (BrokenPipeError, ConnectionResetError, ConnectionRefusedError):
            raise ChannelClosed from None

    def receive(self) -> Iterator[tuple[Any, list[int]]]:
        """Every frame that waits, with the descriptors that came along; those belong to the caller.

        Raises `ChannelClosed` at the end, `FrameError` for what is no frame (its descriptors are closed).
        """
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(MAX_FRAME, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            except ConnectionResetError:
                raise ChannelClosed from None
            descriptors = _descriptors(ancillary)
            if not data:
                close_all(descriptors)
                raise ChannelClosed
            try:
                message = unpack(data)
            except FrameError:
                close_all(descriptors)
                raise
            yield message, descriptors


def close_all(descriptors: Sequence[int]) -> None:
    """Closes descriptors that nobody wants."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def _descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)
