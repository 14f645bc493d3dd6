"""The message box of a living node, asked through its socket as the APIs ask it."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import zmq

from protocol.codec import pack, unpack
from protocol.frames import (
    MAX_PART_BYTES,
    Answer,
    AskMessage,
    AskOutbox,
    MessageFailed,
    MessageHead,
    MessagePart,
    MessagePushed,
    NoMessage,
    OutboxList,
    OutboxRow,
    PartTaken,
    PushMessage,
    PushPart,
    PushTaken,
    StillWaiting,
    StopWaiting,
)

DEADLINE: Final = 20.0
QUICK_DEADLINE: Final = 3.0


class PostError(Exception):
    """The message box did not answer, or refused."""


class Post:
    """One asker with a socket of its own."""

    def __init__(self, run: Path, actor: str = "messagebox") -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RECONNECT_IVL, 10)
        self.socket.connect(f"ipc://{run / actor}")
        self._tokens = itertools.count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Goes away."""
        self.socket.close(linger=0)
        self._context.term()

    def token(self) -> int:
        """A fresh one."""
        return next(self._tokens)

    def send(self, frame: object) -> None:
        """Says something."""
        self.socket.send(pack(frame))

    def hear(self, token: int, deadline: float = DEADLINE) -> Any:
        """The next frame with this token. Raises PostError where none comes in so many seconds."""
        until = time.monotonic() + deadline
        while True:
            left = until - time.monotonic()
            if left <= 0 or not self.socket.poll(max(1, int(left * 1000))):
                raise PostError(f"no answer in {deadline} s")
            frame = unpack(self.socket.recv())
            if getattr(frame, "token", None) == token and not isinstance(frame, StillWaiting):
                return frame

    # --- what the APIs do ---------------------------------------------------------------------------------------------

    def push(
        self,
        destination: bytes,
        data: bytes,
        *,
        topic: bytes = b"",
        reply_to: bytes = b"",
        key: bytes = b"",
        wait_ms: int | None = None,
        deadline: float = DEADLINE,
    ) -> tuple[int, bytes]:
        """Sends a message; returns its token and its id. Raises PostError where it is refused."""
        token = self.token()
        first = data[:MAX_PART_BYTES]
        self.send(PushMessage(token, destination, topic, reply_to, wait_ms, key, len(data), first))
        sent = len(first)
        while True:
            answer = self.hear(token, deadline)
            match answer:
                case PushTaken():
                    assert answer.octets == sent
                    part = data[sent : sent + MAX_PART_BYTES]
                    self.send(PushPart(token, sent, part))
                    sent += len(part)
                case MessagePushed():
                    return token, answer.id
                case MessageFailed():
                    raise PostError(f"{answer.why.value}: {answer.reason}")
                case other:
                    raise PostError(f"unexpected {other!r:.200}")

    def ask(self, *, topic: bytes | None = None, take: bool = True, wait_ms: int = 0) -> int:
        """Asks for a message; returns the token to `receive` with."""
        token = self.token()
        self.send(AskMessage(token, topic, take, wait_ms))
        return token

    def receive(self, token: int, deadline: float = DEADLINE) -> tuple[MessageHead, bytes] | None:
        """The message that was asked for, whole and for good; None where there was none."""
        head, data = None, bytearray()
        while True:
            answer = self.hear(token, deadline)
            match answer:
                case NoMessage():
                    return None
                case MessagePart():
                    assert answer.offset == len(data)
                    head = answer.head or head
                    data += answer.data
                    self.send(PartTaken(token, len(data)))
                case Answer():
                    assert head is not None
                    assert answer.outcome == 0, answer
                    return head, bytes(data)
                case other:
                    raise PostError(f"unexpected {other!r:.200}")

    def pop(self, **options: Any) -> tuple[MessageHead, bytes] | None:
        """A message, removed."""
        deadline = DEADLINE + options.get("wait_ms", 0) / 1000
        return self.receive(self.ask(**options), deadline)

    def stop(self, token: int) -> None:
        """Wants no answer any more."""
        self.send(StopWaiting(token))

    def outbox(self, message_id: bytes = b"") -> list[OutboxRow]:
        """Own messages. Asks again where there is no answer: what a dying process has read, nobody answers."""
        until = time.monotonic() + DEADLINE
        while True:
            try:
                return self._outbox(message_id)
            except PostError:
                if time.monotonic() > until:
                    raise

    def _outbox(self, message_id: bytes) -> list[OutboxRow]:
        token = self.token()
        rows: list[OutboxRow] = []
        self.send(AskOutbox(token, message_id))
        while True:
            answer = self.hear(token, QUICK_DEADLINE)
            assert isinstance(answer, OutboxList)
            rows += answer.messages
            if not answer.more:
                return rows

    def state(self, message_id: bytes) -> str | None:
        """Of the latest own message with this id."""
        rows = self.outbox(message_id)
        return rows[0].state.value if rows else None
