"""What is told of own messages: to those who ask, and to the next life of the node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from protocol.mycelium.messages.chunking import CHUNK_BYTES, ChunkPlan
from protocol.mycelium.messages.core import MessageRefused, check_message
from protocol.mycelium.messages.events import State
from protocol.mycelium.messages.outgoing import Outgoing


class Status(NamedTuple):
    """What the API says of an own message. Times are monotonic seconds."""

    id: bytes
    destination: bytes
    state: State
    pending: int
    """Chunks never sent; the three counts mean something in SENDING only."""
    sent: int
    acked: int
    created: float
    deadline: float
    length: int
    topic: bytes
    reply: bool


class Progress(NamedTuple):
    """How far an own message is that is being sent: what a successor need not send again."""

    number: int
    largest: int
    """Bytes of its largest chunk: how it is cut."""
    acked: bytes
    """One byte for each chunk: 1 where it was acknowledged."""


@dataclass(frozen=True, slots=True)
class SavedOutgoing:
    """What is known of an own message of an earlier life."""

    number: int
    id: bytes
    destination: bytes
    topic: bytes
    reply: bool
    data: bytes
    """May be empty when the state is a final one."""
    created: float
    """Monotonic seconds; in the past."""
    state: State
    done_sent: bool
    acked: Sequence[int] = ()
    """Indices of chunks that were acknowledged. Optional: without them the message begins again."""
    length: int = 0
    """Bytes; counts only when the state is a final one, and its data gone."""
    largest: int = CHUNK_BYTES
    """Bytes of its largest chunk, where some were acknowledged."""

    def __post_init__(self) -> None:
        check_message(self.id, (self.destination,), self.topic)
        count = ChunkPlan(len(self.data), self.largest).count
        for index in self.acked:
            if not 0 <= index < count:
                raise MessageRefused(f"chunk {index} of a message of {count} chunks can't have been acknowledged")


def status_of(message: Outgoing) -> Status:
    """What the API says of it."""
    never, sent, acked = message.counts
    return Status(
        message.id,
        message.destination,
        message.state,
        never,
        sent,
        acked,
        message.created,
        message.abort_at,
        message.length,
        message.topic,
        message.reply,
    )
