"""What a message box tells the actor around it, in the order in which it has to happen.

Durability is this order. What the `Store…`, `Forget…` and `Deliver…` events ask of the database has to be committed
before any event behind them is acted on: then no crash loses a message that was acknowledged, and none delivers one
twice. An actor that drains many events may first do all its database work in one transaction and then the rest, in
order; it must not do the rest first.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeAlias

from protocol.mycelium.messages.packets import Packet


class State(enum.Enum):
    """Where an own message stands (messages spec 6.1). The value is the reference's word, where that is a word."""

    PENDING = "pending"
    SENDING = "sending"
    """The API reports counts instead: see `Status`."""
    RECEIVED = "received"
    READ = "read"
    ABORTED = "aborted"


class Place(enum.Enum):
    """Where a complete message is (messages spec 5.6)."""

    INBOX = "inbox"
    WAITER = "waiter"
    """Somebody waits for this reply: a `DeliverReply` follows."""
    FORWARD = "forward"
    """Its topic has a forward socket: a `Forward` follows.

    In every place a stored message belongs to the inbox as soon as it is in nobody's hands, so after a restart, too.
    """


@dataclass(frozen=True, slots=True)
class Message:
    """A complete message from another node. Addresses have 16 bytes."""

    number: int
    """Unique among the messages that are stored; grows in the order of completion."""
    id: bytes
    source: bytes
    source_key: bytes
    """32 bytes, the sender's public key."""
    destination: bytes
    """The address that the sender used, of the own /64."""
    topic: bytes
    reply: bool
    length: int
    chunks: tuple[bytes, ...]
    """Its data, in pieces."""

    @property
    def data(self) -> bytes:
        """All of it in one piece."""
        return b"".join(self.chunks)


@dataclass(frozen=True, slots=True)
class Send:
    """Seal `packet.encode()` as inner type 1, with `packet.echo.inner` as bytes 2 and 3 of the inner header.

    Hop limit 64. Where the route is still being searched, one INIT per message is enough to wait for it.
    """

    source: bytes
    destination: bytes
    packet: Packet


@dataclass(frozen=True, slots=True)
class StoreOutgoing:
    """A new own message, number `number` in the outbox."""

    number: int
    id: bytes
    destination: bytes
    topic: bytes
    reply: bool
    data: bytes


@dataclass(frozen=True, slots=True)
class StoreDoneSent:
    """DONE is sent next. From here on the message may have been delivered: a successor must not begin it again."""

    number: int


@dataclass(frozen=True, slots=True)
class StateChanged:
    """An own message's state, to be stored; in RECEIVED, READ and ABORTED its data is not needed any more."""

    number: int
    id: bytes
    state: State


@dataclass(frozen=True, slots=True)
class ForgetOutgoing:
    """600 s are over: nobody can ask for this own message any more."""

    number: int
    id: bytes


@dataclass(frozen=True, slots=True)
class StorePending:
    """An incoming message begins, pending number `number`."""

    number: int
    id: bytes
    source: bytes
    destination: bytes
    length: int
    topic: bytes
    reply: bool
    large: bool
    """Its sender was told that it may use large chunks (our extension E4)."""


@dataclass(frozen=True, slots=True)
class StoreChunk:
    """A piece of pending message `number`; replaces what was stored at this index before."""

    number: int
    index: int
    offset: int
    """Where its sender saw it in the message; the order of the indices alone says where it belongs (5.2)."""
    data: bytes


@dataclass(frozen=True, slots=True)
class ForgetPending:
    """Pending message `number` and its pieces will never be complete."""

    number: int


@dataclass(frozen=True, slots=True)
class StoreMessage:
    """Pending message `pending` is complete: it goes and `message` comes, in one transaction; its pieces are the data.

    Store also who sent it (the /64 and the id), `count` and `digest`, and keep that as long as the message, and at
    least for `REMEMBER_SECONDS`: it is what the box asks for through `Known`.
    """

    pending: int
    message: Message
    place: Place
    count: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class StorePlace:
    """Stored message `number` is in the inbox now, and nowhere else."""

    number: int


@dataclass(frozen=True, slots=True)
class ForgetMessage:
    """Stored message `number` is not needed any more."""

    number: int


@dataclass(frozen=True, slots=True)
class Deliver:
    """Answer reader `reader` with stored message `number`.

    With `take` it is in the reader's hands: call `taken` when he has it, or `put_back` when he can't have it.
    """

    reader: int
    number: int
    take: bool


@dataclass(frozen=True, slots=True)
class DeliverNothing:
    """No message came in time for reader `reader`."""

    reader: int


@dataclass(frozen=True, slots=True)
class DeliverReply:
    """Give stored message `number` to whoever waits for a reply to `id`: `taken` or `put_back`, as for `Deliver`."""

    id: bytes
    number: int


@dataclass(frozen=True, slots=True)
class Forward:
    """Hand stored message `number` to the socket at `path` (messages spec 8.4).

    Connect, write the data, shut down the write side, read to the end with a time-out (Q10). An answer of at least one
    byte is pushed as a reply, and `taken` called. Where the message could not be handed over, `not_forwarded` puts it
    into the inbox until `forward` is called again; where there was no answer, `put_back` does so for good.
    """

    number: int
    path: str


Event: TypeAlias = (
    Send
    | StoreOutgoing
    | StoreDoneSent
    | StateChanged
    | ForgetOutgoing
    | StorePending
    | StoreChunk
    | ForgetPending
    | StoreMessage
    | StorePlace
    | ForgetMessage
    | Deliver
    | DeliverNothing
    | DeliverReply
    | Forward
)
