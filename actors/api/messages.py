"""Messages: sending, reading, and what became of those that were sent (API spec 4).

A message that is read leaves the node only when all of it is here and its reader still is, too: a caller who went away
while waiting, or for whom the message is too large, takes nothing.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address
from math import inf
from typing import Final, Literal, TypeVar

from actors.api.asking import Actors, unavailable, wrong_answer
from actors.api.faults import ApiError, Fault
from actors.api.objects import InboundMessage, MessageState, MessageStatus, OutboxMessage, PushedMessage
from actors.api.reading import encode_base64
from actors.api.topics import BOX
from actors.runtime.dialogue import Abandoned, Abandonment, Dialogue, Gone, NoAnswer
from protocol.buffers import Buffer
from protocol.frames import (
    MAX_PART_BYTES,
    PART_WINDOW,
    Answer,
    AskMessage,
    AskOutbox,
    CancelMessage,
    MessageFailed,
    MessageFailure,
    MessageHead,
    MessagePart,
    MessagePushed,
    NoMessage,
    OutboxList,
    OutboxRow,
    OutboxState,
    Outcome,
    PartTaken,
    PushMessage,
    PushPart,
    PushTaken,
    StillWaiting,
    StopWaiting,
)
from protocol.mycelium.endpoint import ip_text
from protocol.mycelium.identity import address_of

DEADLINE_S: Final = 5.0
"""A message is on disk before it is answered, and a disk may be busy."""
RETRY_PAUSE_S: Final = 0.05
MAX_TOPIC: Final = 255
_LONGEST_WAIT_MS: Final = 1 << 62
_OWN_KEY_BYTES: Final = 16
FAULTS: Final = {
    MessageFailure.REFUSED: Fault.REFUSED,
    MessageFailure.FULL: Fault.NO_ROOM,
    MessageFailure.MISMATCH: Fault.KEY_IN_USE,
}

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Letter:
    """A message to be sent."""

    destination: bytes
    """16 bytes; an IPv4 address is mapped."""
    topic: bytes
    data: Buffer
    reply_to: bytes = b""
    """The id of the message that this answers."""
    key: bytes = b""
    """A repetition with the same key sends nothing and is answered as the first was; empty for none."""


@dataclass(frozen=True, slots=True)
class Received:
    """A message from another node."""

    head: MessageHead
    data: bytearray

    def as_object(self, own_key: str) -> InboundMessage:
        """As JSON; `own_key` is the node's own, 64 hex digits."""
        head = self.head
        found: InboundMessage = {
            "id": head.id.hex(),
            "srcIp": ip_text(IPv6Address(head.source)),
            "srcPk": head.source_key.hex(),
            "dstIp": ip_text(IPv6Address(head.destination)),
            "dstPk": own_key,
            "payload": "",
        }
        if head.topic:
            # The reference's order: it comes before the payload.
            del found["payload"]  # type: ignore[misc]
            found["topic"] = encode_base64(head.topic)
        found["payload"] = encode_base64(self.data)
        return found


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody who reads wants."""

    topic: bytes | None = None
    """Of exactly this topic, without one (empty), or of any (None)."""
    take: bool = True
    wait_s: float = 0.0
    most: float = inf
    """Bytes that the reader can take; a larger message is an error, and stays."""


class Messages:
    """Calls about messages. All raise `ApiError`; those that may wait, `Abandoned` as well."""

    def __init__(self, public_key: bytes, actors: Actors) -> None:
        self.own_key: Final = public_key.hex()
        self.own_address: Final = address_of(public_key)
        self._actors = actors
        self.box: Final = actors.asker.dialogues(BOX)

    def token(self) -> int:
        """A fresh number to put into a question."""
        return self._actors.token()

    # --- sending ------------------------------------------------------------------------------------------------------

    def push(self, letter: Letter) -> PushedMessage:
        """Sends a message; it is on disk when this returns."""
        found, _ = self._push(letter, None, None)
        return found

    def refusal(self, letter: Letter) -> ApiError | None:
        """What is wrong with a message that can't be sent."""
        if len(letter.topic) > MAX_TOPIC and not letter.reply_to:
            reason = f"a topic of {len(letter.topic)} bytes; shorten it to {MAX_TOPIC}"
            return ApiError(Fault.TOPIC_TOO_LONG, reason)
        return None

    def push_and_wait(
        self, letter: Letter, wait_s: float, abandonment: Abandonment | None = None, most: float = inf
    ) -> tuple[PushedMessage, Received | None]:
        """Sends a message and waits for the reply, None where none came in time."""
        return self._push(letter, wait_s, abandonment, most)

    def _push(
        self, letter: Letter, wait_s: float | None, abandonment: Abandonment | None, most: float = inf
    ) -> tuple[PushedMessage, Received | None]:
        if (refusal := self.refusal(letter)) is not None:
            raise refusal
        # Who waits gets a key, by which a message box that was restarted meanwhile knows the message again. The others
        # don't: it remembers a limited number of keys, and those belong to who chose them.
        key = letter.key or (b"" if wait_s is None else os.urandom(_OWN_KEY_BYTES))
        until = None if wait_s is None else time.monotonic() + wait_s

        def attempt() -> tuple[PushedMessage, Received | None]:
            with self.box.open(abandonment) as talk:
                token = self.token()
                pushed: PushedMessage = {"id": self._say_letter(talk, token, letter, key, until).id.hex()}
                if until is None:
                    return pushed, None
                return pushed, self._hear_message(talk, token, until, abandonment, most)

        return _patiently(attempt, until, again=bool(key))

    def _say_letter(self, talk: Dialogue, token: int, letter: Letter, key: bytes, until: float | None) -> MessagePushed:
        data = memoryview(letter.data)
        first = data[:MAX_PART_BYTES]
        topic = b"" if letter.reply_to else letter.topic
        wait_ms = None if until is None else _milliseconds(until)
        talk.say(PushMessage(token, letter.destination, topic, letter.reply_to, wait_ms, key, len(data), first))
        said, taken = len(first), 0
        while True:
            while said < len(data) and said + MAX_PART_BYTES <= taken + PART_WINDOW:
                part = data[said : said + MAX_PART_BYTES]
                talk.say(PushPart(token, said, part))
                said += len(part)
            match talk.hear((token,), time.monotonic() + DEADLINE_S):
                case PushTaken(octets=octets):
                    taken = octets
                case MessagePushed() as pushed:
                    return pushed
                case MessageFailed() as failed:
                    raise ApiError(FAULTS[failed.why], failed.reason)
                case answer:
                    raise wrong_answer(BOX, answer, MessagePushed)

    # --- reading ------------------------------------------------------------------------------------------------------

    def read(self, wish: Wish, abandonment: Abandonment | None = None) -> Received | None:
        """The oldest message that fits `wish`, None where none came in time."""
        until = time.monotonic() + wish.wait_s

        def attempt() -> Received | None:
            with self.box.open(abandonment) as talk:
                token = self.token()
                talk.say(AskMessage(token, wish.topic, wish.take, _milliseconds(until)))
                return self._hear_message(talk, token, until, abandonment, wish.most)

        return _patiently(attempt, until)

    def _hear_message(
        self, talk: Dialogue, token: int, until: float, abandonment: Abandonment | None, most: float
    ) -> Received | None:
        head: MessageHead | None = None
        data = bytearray()
        deadline = until + DEADLINE_S
        try:
            while True:
                match talk.hear((token,), deadline):
                    case StillWaiting():
                        continue
                    case NoMessage():
                        return None
                    case MessageFailed() as failed:
                        raise ApiError(FAULTS[failed.why], failed.reason)
                    case MessagePart() as part if part.offset == len(data):
                        deadline = time.monotonic() + DEADLINE_S
                        head = part.head or head
                        data += part.data
                        if head is not None and head.length > most:
                            raise ApiError(
                                Fault.TOO_LARGE, f"a message of {head.length} bytes, and at most {most} fit the answer"
                            )
                        if not part.more and abandonment is not None and abandonment.is_gone():
                            raise Abandoned
                        talk.say(PartTaken(token, len(data)))
                    case Answer(outcome=Outcome.DONE) if head is not None and head.length == len(data):
                        return Received(head, data)
                    case Answer():
                        # Somebody else gets it after all.
                        raise _TakenAway
                    case answer:
                        raise wrong_answer(BOX, answer, MessagePart)
        except (Abandoned, ApiError):
            talk.say(StopWaiting(token))
            raise
        except Gone:
            if head is None or len(data) < head.length:
                raise
            # It ended before it said whether the message was gone: better twice than never.
            return Received(head, data)

    # --- own messages -------------------------------------------------------------------------------------------------

    def status(self, message_id: bytes) -> MessageStatus:
        """What became of an own message. `MESSAGE_UNKNOWN` where nobody knows (any more)."""
        rows = self._outbox(message_id)
        if not rows:
            raise ApiError(Fault.MESSAGE_UNKNOWN)
        row = rows[-1]
        return {
            "dst": _destination_text(row.destination),
            "state": _state(row),
            "created": int(row.created),
            "deadline": int(row.deadline),
            "msgLen": row.length,
        }

    def outbox(self) -> list[OutboxMessage]:
        """All own messages that are remembered, in the order in which they were pushed."""
        return [
            {
                "id": row.id.hex(),
                "dst": _destination_text(row.destination),
                "topic": encode_base64(row.topic),
                "reply": row.reply,
                "state": _state(row),
                "created": int(row.created),
                "deadline": int(row.deadline),
                "msgLen": row.length,
            }
            for row in self._outbox(b"")
        ]

    def cancel(self, message_id: bytes) -> None:
        """Gives up an own message. `MESSAGE_UNKNOWN` where there is none that is still being sent."""
        question = CancelMessage(self._actors.token(), message_id)
        if self._actors.ask(BOX, question, Answer, DEADLINE_S)[-1].outcome is not Outcome.DONE:
            raise ApiError(Fault.MESSAGE_UNKNOWN)

    def _outbox(self, message_id: bytes) -> list[OutboxRow]:
        parts = self._actors.ask(BOX, AskOutbox(self._actors.token(), message_id), OutboxList, DEADLINE_S)
        return [row for part in parts for row in part.messages]


class _TakenAway(Exception):
    """The message went to somebody else after all."""


def _patiently(attempt: Callable[[], _T], until: float | None, *, again: bool = True) -> _T:
    # A message box that ended is back within a moment, and is asked again where that is harmless: until `until`, and
    # at least for a while.
    give_up = max(until or 0.0, time.monotonic()) + DEADLINE_S
    while True:
        try:
            return attempt()
        except (Gone, _TakenAway):
            if not again:
                raise unavailable(
                    NoAnswer(BOX, "it ended, with the message or without; repeat such calls with an idempotency key")
                ) from None
            if time.monotonic() > give_up:
                raise unavailable(NoAnswer(BOX, "it ended while it was asked, again and again")) from None
            time.sleep(RETRY_PAUSE_S)
        except NoAnswer as error:
            raise unavailable(error) from None


def _milliseconds(until: float) -> int:
    return min(max(0, math.ceil((until - time.monotonic()) * 1000)), _LONGEST_WAIT_MS)


def _state(row: OutboxRow) -> MessageState:
    if row.state is OutboxState.SENDING:
        return {"sending": {"pending": row.unsent, "sent": row.sent, "acked": row.acked}}
    state: Literal["pending", "received", "read", "aborted"] = row.state.value
    return state


def _destination_text(address: bytes) -> str:
    """As the reference has it, which keeps an IPv4 destination as it was given."""
    ip = IPv6Address(address)
    return str(ip.ipv4_mapped) if ip.ipv4_mapped is not None else str(ip)
