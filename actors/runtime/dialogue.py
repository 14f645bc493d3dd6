"""A question that takes several frames each way, may wait for long, and may be given up meanwhile.

The socket is watched: when the actor at its other end is gone, whoever talks hears of it at once, not at a deadline.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import zmq
from zmq.utils.monitor import parse_monitor_message

from actors.runtime.asking import MAX_PART_BYTES, NoAnswer
from protocol.codec import FrameError, pack, unpack

_LONGEST_POLL_S: Final = 3600.0
"""`poll` counts milliseconds in 32 bits; a wait for ever is made of such pieces."""
_RECONNECT_MS: Final = 10
_LINGER_MS: Final = 100
MOST_IDLE: Final = 32
"""Connections to one actor that are kept for the next questions."""


class Gone(Exception):
    """The actor was there and is not any more: it is being restarted."""


class Abandoned(Exception):
    """Whoever wanted the answer went away."""


class Abandonment:
    """Says, from any thread, that nobody wants an answer any more.

    `is_gone` tells whether that is so: who looks after callers asks it now and then, and whoever is about to take
    something that can't be given back asks it last.
    """

    def __init__(self, is_gone: Callable[[], bool]) -> None:
        self.is_gone: Final = is_gone
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        """Readable once the answer is not wanted any more."""
        return self._descriptor

    def abandon(self) -> None:
        """Ends the wait, now or when it begins."""
        os.eventfd_write(self._descriptor, 1)

    def close(self) -> None:
        """Gives the descriptor back; nobody may call `abandon` any more."""
        os.close(self._descriptor)


class Dialogues:
    """Dialogues with one actor, a connection for each; one that ended well is kept for the next.

    May be used by many threads at once.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], run_folder: Path, actor: str) -> None:
        self._context = context
        self._run_folder = run_folder
        self._actor = actor
        self._idle: deque[Dialogue] = deque()

    @contextmanager
    def open(self, abandonment: Abandonment | None = None) -> Iterator[Dialogue]:
        """A dialogue for one question."""
        dialogue = self._take()
        dialogue.attach(abandonment)
        try:
            yield dialogue
        except BaseException:
            # What is still on its way there belongs to a question that nobody asks any more.
            dialogue.close()
            raise
        dialogue.detach()
        if len(self._idle) < MOST_IDLE:
            self._idle.append(dialogue)
        else:
            dialogue.close()

    def close(self) -> None:
        """Closes the connections that are kept."""
        while self._idle:
            self._idle.pop().close()

    def _take(self) -> Dialogue:
        with suppress(IndexError):
            while True:
                dialogue = self._idle.pop()
                if not dialogue.is_gone():
                    return dialogue
                dialogue.close()
        return Dialogue(self._context, self._run_folder, self._actor)


class Dialogue:
    """A connection to one actor; used by one thread at a time."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], run_folder: Path, actor: str) -> None:
        self.actor = actor
        self._socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_PART_BYTES)
        self._socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
        self._monitor: zmq.Socket[bytes] = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        self._abandonment: Abandonment | None = None
        self._socket.connect(f"ipc://{run_folder / actor}")

    def attach(self, abandonment: Abandonment | None) -> None:
        """From now on `abandonment` ends what it waits for."""
        self._abandonment = abandonment
        if abandonment is not None:
            self._poller.register(abandonment.fileno(), zmq.POLLIN)

    def detach(self) -> None:
        """The inverse of `attach`."""
        if self._abandonment is not None:
            self._poller.unregister(self._abandonment.fileno())
            self._abandonment = None

    def is_gone(self) -> bool:
        """Whether the actor ended since this was asked last."""
        gone = False
        while self._monitor.poll(0):
            gone |= parse_monitor_message(self._monitor.recv_multipart())["event"] == zmq.EVENT_DISCONNECTED
        return gone

    def close(self) -> None:
        """Ends the connection."""
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        # What was said last, such as that nobody waits any more, still goes out where somebody reads.
        self._socket.close(linger=_LINGER_MS)

    def say(self, message: object) -> None:
        """Sends a frame. It waits in the socket where the actor is not there yet."""
        try:
            self._socket.send(pack(message), zmq.NOBLOCK)
        except zmq.Again:
            raise NoAnswer(self.actor, "it does not read") from None

    def hear(self, tokens: Container[int], deadline: float) -> Any:
        """The next frame with one of these tokens; `deadline` is monotonic seconds.

        Raises `NoAnswer` when none has come by then, `Gone` when the actor ended, `Abandoned`.
        """
        while True:
            left = deadline - time.monotonic()
            ready = dict(self._poller.poll(math.ceil(min(max(left, 0.0), _LONGEST_POLL_S) * 1000)))
            if self._socket in ready:
                # First what it said, then that it is gone: these may have been its last words.
                if (answer := self._read(tokens)) is not None:
                    return answer
            elif self._monitor in ready:
                if self.is_gone():
                    raise Gone(self.actor)
            elif ready:
                raise Abandoned
            elif left <= 0:
                raise NoAnswer(self.actor, "silent for too long")

    def _read(self, tokens: Container[int]) -> Any:
        data = self._socket.recv()
        try:
            answer = unpack(data)
        except FrameError as error:
            raise NoAnswer(self.actor, f"it answered with something else than a frame ({error})") from None
        return answer if getattr(answer, "token", None) in tokens else None
