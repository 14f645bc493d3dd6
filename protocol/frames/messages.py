"""What programs ask of the message box, and its answers: sending, reading, the outbox, topics.

Messages travel in parts, so that one of 100 MB fits the bounds of the sockets. Whoever gets parts says how far it is,
and no more than `PART_WINDOW` bytes are sent beyond that. Every answer bears the token of its question.

    sending   PushMessage (first part) → PushTaken → PushPart → PushTaken … → MessagePushed
              with a wait for the reply, then as reading
    reading   AskMessage → MessagePart → PartTaken … → Answer; or NoMessage
    refused   MessageFailed, in place of any other answer
"""

from __future__ import annotations

import enum
from typing import Final

from protocol.codec import FrameError, Payload, frame, record
from protocol.frames.parts import ADDRESS_BYTES, KEY_BYTES

MESSAGE_ID_BYTES: Final = 8
MAX_PART_BYTES: Final = 1 << 20
"""Data in one part of a message."""
PART_WINDOW: Final = 4 << 20
"""Bytes of one message that may be on their way to a reader that has not taken them."""
MAX_IDEMPOTENCY_KEY: Final = 64
MAX_TOPIC_NAME: Final = 4096
"""Of a topic in rules, bytes; messages have at most 255, which the reference does not check here."""
MAX_WAIT_MS: Final = (1 << 63) - 1


# --- sending ----------------------------------------------------------------------------------------------------------


@frame(0x61)
class PushMessage:
    """→ messagebox: send `length` bytes, of which these are the first.

    `reply_to`: the id of the message that this answers, empty for a new one; the topic of a reply is ignored.
    `wait_ms`: how long to wait for a reply once it is sent, None not to. `key`: a repeated push with the same key sends
    nothing and is answered as the first was; empty for none.
    """

    token: int
    destination: bytes
    topic: bytes
    reply_to: bytes
    wait_ms: int | None
    key: bytes
    length: int
    data: Payload

    def __post_init__(self) -> None:
        if len(self.destination) != ADDRESS_BYTES:
            raise FrameError(f"an address has {ADDRESS_BYTES} bytes, not {len(self.destination)}")
        if self.reply_to:
            _check_id(self.reply_to)
        if self.wait_ms is not None:
            _check_wait(self.wait_ms)
        if len(self.key) > MAX_IDEMPOTENCY_KEY:
            raise FrameError(f"idempotency key of {len(self.key)} bytes, at most {MAX_IDEMPOTENCY_KEY}")
        _check_part(0, self.data, self.length)
        if self.length and not self.data:
            raise FrameError("a first part without data")


@frame(0x62)
class PushPart:
    """→ messagebox: the message of this token goes on at `offset`."""

    token: int
    offset: int
    data: Payload

    def __post_init__(self) -> None:
        _check_part(self.offset, self.data, None)
        if not self.data:
            raise FrameError("a part without data")


@frame(0x63)
class PushTaken:
    """Messagebox → asker: it has so many bytes of the message, and waits for the next part."""

    token: int
    octets: int


@frame(0x64)
class MessagePushed:
    """Messagebox → asker: the message is on disk and will be sent under this id (8 bytes)."""

    token: int
    id: bytes

    def __post_init__(self) -> None:
        _check_id(self.id)


class MessageFailure(enum.Enum):
    """Why the message box can't do what it was asked for."""

    REFUSED = "refused"
    """It never will: the question itself is wrong."""
    FULL = "full"
    """There is no room now; later there may be."""
    MISMATCH = "mismatch"
    """The idempotency key was used for another message."""


@frame(0x65)
class MessageFailed:
    """Messagebox → asker: the end of a question that can't be answered; `reason` is for people."""

    token: int
    why: MessageFailure
    reason: str


# --- reading ----------------------------------------------------------------------------------------------------------


@frame(0x66)
class AskMessage:
    """→ messagebox: the oldest message, as soon as there is one.

    `topic`: of exactly this topic, of none (empty), or any (None). With `take` it is removed, when the last part was
    taken; else it stays. `wait_ms`: how long to wait, 0 not at all.
    """

    token: int
    topic: bytes | None
    take: bool
    wait_ms: int

    def __post_init__(self) -> None:
        _check_wait(self.wait_ms)


@record
class MessageHead:
    """What is known of a message from another node."""

    id: bytes
    source: bytes
    source_key: bytes
    destination: bytes
    topic: bytes
    length: int

    def __post_init__(self) -> None:
        _check_id(self.id)
        if len(self.source) != ADDRESS_BYTES or len(self.destination) != ADDRESS_BYTES:
            raise FrameError(f"an address has {ADDRESS_BYTES} bytes")
        if len(self.source_key) != KEY_BYTES:
            raise FrameError(f"a public key has {KEY_BYTES} bytes, not {len(self.source_key)}")


@frame(0x67)
class MessagePart:
    """Messagebox → asker: a message from `offset` on; `head` is in the first part, and only there."""

    token: int
    head: MessageHead | None
    offset: int
    data: Payload
    more: bool

    def __post_init__(self) -> None:
        _check_part(self.offset, self.data, None)
        if (self.head is None) != (self.offset > 0):
            raise FrameError("the head of a message belongs into its first part, and only there")


@frame(0x68)
class PartTaken:
    """Asker → messagebox: it has the first so many bytes.

    When it has all, the message box answers with `Answer`: DONE where the message is gone for good, or was only looked
    at; MISSING where it will be delivered again, to somebody else.
    """

    token: int
    octets: int


@frame(0x69)
class NoMessage:
    """Messagebox → asker: none came in time; after a `MessagePushed`, no reply."""

    token: int


@frame(0x6A)
class StopWaiting:
    """→ messagebox: nobody wants the answer to this question any more."""

    token: int


@frame(0x49)
class StillWaiting:
    """Messagebox → an asker that waits: are you there? Nothing need be answered: a message to nobody is noticed."""

    token: int


# --- own messages -----------------------------------------------------------------------------------------------------


@frame(0x6B)
class AskOutbox:
    """→ messagebox: own messages of the last 600 s; `id` (8 bytes): only the latest with this id; empty: all."""

    token: int
    id: bytes

    def __post_init__(self) -> None:
        if self.id:
            _check_id(self.id)


class OutboxState(enum.Enum):
    """Where an own message stands, in the reference's words (messages spec 6.1)."""

    PENDING = "pending"
    SENDING = "sending"
    RECEIVED = "received"
    READ = "read"
    ABORTED = "aborted"


@record
class OutboxRow:
    """One own message. The three counts are of chunks, and mean something while it is being sent.

    Times are seconds since the Unix epoch; `length` is in bytes.
    """

    id: bytes
    destination: bytes
    topic: bytes
    reply: bool
    state: OutboxState
    unsent: int
    sent: int
    acked: int
    created: float
    deadline: float
    length: int


@frame(0x6C)
class OutboxList:
    """Messagebox → asker: own messages in the order in which they were pushed."""

    token: int
    messages: tuple[OutboxRow, ...]
    more: bool


@frame(0x4A)
class CancelMessage:
    """→ messagebox: give up the latest own message with this id.

    Answered by `Answer`: DONE, MISSING where there is none, REFUSED where it is finished already.
    """

    token: int
    id: bytes

    def __post_init__(self) -> None:
        _check_id(self.id)


# --- topics -----------------------------------------------------------------------------------------------------------


@frame(0x6D)
class AskTopics:
    """→ messagebox: the names of all topics with rules (None), or the rules of one."""

    token: int
    topic: bytes | None


@record
class TopicRow:
    """One topic. Sources and forward socket only where this one topic was asked for."""

    topic: bytes
    sources: tuple[str, ...]
    forward: str | None


@frame(0x6E)
class TopicList:
    """Messagebox → asker: what happens to messages of topics without rules, and topics with; none where unknown."""

    token: int
    accept: bool
    topics: tuple[TopicRow, ...]
    more: bool


class TopicChange(enum.Enum):
    """What is to be done to the rules; what `value` says then."""

    DEFAULT = "default"
    """`accept` or `reject`, for topics without rules."""
    ADD = "add"
    REMOVE = "remove"
    ADD_SOURCE = "add source"
    """A subnet; adds the topic where it is missing."""
    REMOVE_SOURCE = "remove source"
    """A subnet."""
    SET_FORWARD = "set forward"
    """The path of a Unix socket; nothing happens to a topic that is missing."""
    REMOVE_FORWARD = "remove forward"


@frame(0x6F)
class ChangeTopic:
    """→ messagebox; answered by `Answer`: DONE, or REFUSED with the reason, such as a subnet that is none."""

    token: int
    change: TopicChange
    topic: bytes
    value: str

    def __post_init__(self) -> None:
        if len(self.topic) > MAX_TOPIC_NAME:
            raise FrameError(f"topic of {len(self.topic)} bytes, at most {MAX_TOPIC_NAME}")


def _check_id(message_id: bytes) -> None:
    if len(message_id) != MESSAGE_ID_BYTES:
        raise FrameError(f"a message id has {MESSAGE_ID_BYTES} bytes, not {len(message_id)}")


def _check_wait(wait_ms: int) -> None:
    if not 0 <= wait_ms <= MAX_WAIT_MS:
        raise FrameError(f"a wait of {wait_ms} ms, between 0 and {MAX_WAIT_MS}")


def _check_part(offset: int, data: Payload, length: int | None) -> None:
    if offset < 0 or len(data) > MAX_PART_BYTES:
        raise FrameError(f"part of {len(data)} bytes at {offset}, at most {MAX_PART_BYTES} from 0 on")
    if length is not None and not offset + len(data) <= length:
        raise FrameError(f"part of {len(data)} bytes at {offset} in a message of {length}")
