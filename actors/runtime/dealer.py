"""A DEALER for a thread that waits: one connection to an actor's inbox, over which it speaks ZMTP itself.

libzmq hands every frame to a thread of its own, and back, at both ends; here that happens at the actor's end alone. And
a Unix socket tells at once when the actor is gone, for which libzmq needs a second socket that is watched.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections import deque
from pathlib import Path
from typing import Final

from protocol.zmtp import SocketType, ZmtpConnection, ZmtpError

_MAX_PATH_BYTES: Final = 107
_READ_BYTES: Final = 256 << 10
_TIMEVAL: Final = struct.Struct("@ll")
_SHORTEST_S: Final = 0.001
"""Zero would mean for ever."""
_LONGEST_S: Final = 60.0
_JOIN_BELOW: Final = 4096
"""A copy of so few bytes costs less than a second piece in sendmsg."""


class DealerError(Exception):
    """A connection that can't be, or does not go on; `reason` is for people."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Dealer:
    """One connection; used by one thread at a time."""

    def __init__(self, path: Path, max_message: int) -> None:
        """`path` of the actor's inbox; frames of more than `max_message` bytes end the connection.

        Raises `DealerError` for a path that can't be a socket's.
        """
        if len(os.fsencode(path)) > _MAX_PATH_BYTES:
            raise DealerError(f"{path} is too long for a Unix socket; use a shorter runtime folder")
        self._path = str(path)
        self._max_message = max_message
        self._socket: socket.socket | None = None
        self._zmtp = ZmtpConnection(SocketType.DEALER, b"", max_message=max_message)
        self.received: Final[deque[bytes]] = deque()
        """Frames that came, in order, for whoever takes them out."""
        self.ended = False
        """Whether the actor was there, and is not any more."""

    def fileno(self) -> int:
        """The descriptor; -1 while there is none."""
        return -1 if self._socket is None else self._socket.fileno()

    @property
    def ready(self) -> bool:
        """Whether frames may be sent."""
        return self._zmtp.ready

    def connect(self, wait_s: float) -> bool:
        """Whether the actor was found, and is ready within so many seconds; else to be tried again.

        Raises `DealerError` where what listens there is no actor.
        """
        deadline = time.monotonic() + wait_s
        if self._socket is None and not self._dial():
            return False
        while not self.ready:
            if not self.wait(select.POLLIN, deadline - time.monotonic()):
                return False
            self.read()
            if self.ended:
                # It ended in the middle of the greetings: it has been told nothing yet.
                self.close()
                return False
        return True

    def _dial(self) -> bool:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            made.setblocking(False)
            made.connect(self._path)
        except OSError:
            # Nobody is there, or too many are just coming.
            made.close()
            return False
        made.setblocking(True)
        self._socket = made
        self.ended = False
        self._zmtp = ZmtpConnection(SocketType.DEALER, b"", max_message=self._max_message)
        self._send(self._zmtp.outgoing(), 0.0)
        return True

    def send(self, data: bytes, wait_s: float) -> None:
        """Sends a frame. Where the actor is gone it is lost, and `ended` says so.

        Raises `DealerError` where it does not read for so many seconds.
        """
        header = self._zmtp.frame_header(len(data))
        if len(data) < _JOIN_BELOW:
            self._send(header + data, wait_s)
        else:
            self._send(header, wait_s)
            self._send(data, wait_s)

    def read(self, wait_s: float = 0.0) -> None:
        """Takes in what is there, or comes within so many seconds: see `received` and `ended`.

        Raises `DealerError` for what is no frame.
        """
        assert self._socket is not None
        if wait_s > 0:
            # The kernel waits: one call, where poll and recv, with others waiting for the interpreter, cost two turns.
            seconds, part = divmod(min(max(wait_s, _SHORTEST_S), _LONGEST_S), 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(int(seconds), int(part * 1e6)))
        try:
            data = self._socket.recv(_READ_BYTES, 0 if wait_s > 0 else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self.ended = True
            return
        try:
            self.received.extend(self._zmtp.receive(data))
        except ZmtpError as error:
            raise DealerError(f"what it says is no ZeroMQ ({error.reason})") from None
        if answers := self._zmtp.outgoing():
            self._send(answers, 0.0)

    def wait(self, events: int, wait_s: float) -> bool:
        """Whether one of these `events` of poll(2) happens within so many seconds."""
        poller = select.poll()
        poller.register(self, events)
        return bool(poller.poll(max(0.0, wait_s) * 1000))

    def close(self) -> None:
        """Ends the connection; what was sent is read where somebody reads."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            self.ended = False
            self.received.clear()
            self._zmtp = ZmtpConnection(SocketType.DEALER, b"", max_message=self._max_message)

    def _send(self, data: bytes, wait_s: float) -> None:
        assert self._socket is not None
        left = memoryview(data)
        while left:
            try:
                left = left[self._socket.send(left, socket.MSG_DONTWAIT) :]
            except BlockingIOError:
                if not self.wait(select.POLLOUT, wait_s):
                    raise DealerError("it does not read") from None
            except ConnectionError:
                self.ended = True
                return
