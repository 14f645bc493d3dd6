"""Several calls about messages at once: the message box is asked for all of them before the first answer is awaited.

It takes questions of one connection in order, so that these calls happen as if one were made after the other.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from actors.api.asking import unavailable, wrong_answer
from actors.api.faults import ApiError, Fault
from actors.api.messages import DEADLINE_S, FAULTS, Letter, Messages, Received, Wish
from actors.api.objects import PushedMessage
from actors.api.topics import BOX
from actors.runtime.dialogue import Dialogue, Gone, NoAnswer
from protocol.frames import (
    MAX_PART_BYTES,
    PART_WINDOW,
    Answer,
    AskMessage,
    MessageFailed,
    MessageHead,
    MessagePart,
    MessagePushed,
    NoMessage,
    Outcome,
    PartTaken,
    PushMessage,
    StillWaiting,
    StopWaiting,
)

_UNKNOWN: Final = "it ended, with the message or without; repeat such calls with an idempotency key"


class _Reading:
    """One message that is asked for."""

    __slots__ = ("data", "head", "place", "wish")

    def __init__(self, place: int, wish: Wish) -> None:
        self.place = place
        self.wish = wish
        self.head: MessageHead | None = None
        self.data = bytearray()

    @property
    def complete(self) -> bool:
        return self.head is not None and self.head.length == len(self.data)


class Batches:
    """Calls about many messages."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages

    # --- sending ------------------------------------------------------------------------------------------------------

    def push_all(self, letters: Sequence[Letter]) -> list[PushedMessage | ApiError]:
        """Sends messages in this order; what became of each. Those that are told to be sent are on disk."""
        results: list[PushedMessage | ApiError] = []
        group: list[Letter] = []
        octets = 0
        for letter in letters:
            size = len(letter.data)
            if size > MAX_PART_BYTES or self._messages.refusal(letter) is not None:
                results += [*self._push_group(group), self._push_alone(letter)]
                group, octets = [], 0
                continue
            if octets + size > PART_WINDOW:
                results += self._push_group(group)
                group, octets = [], 0
            group.append(letter)
            octets += size
        return results + self._push_group(group)

    def _push_alone(self, letter: Letter) -> PushedMessage | ApiError:
        try:
            return self._messages.push(letter)
        except ApiError as error:
            return error

    def _push_group(self, letters: Sequence[Letter]) -> list[PushedMessage | ApiError]:
        results: dict[int, PushedMessage | ApiError] = {}
        try:
            if letters:
                with self._messages.box.open() as talk:
                    self._push_in(talk, letters, results)
        except Gone:
            for place, letter in enumerate(letters):
                if place not in results:
                    # A repetition is harmless where there is a key.
                    repeat = self._push_alone(letter) if letter.key else unavailable(NoAnswer(BOX, _UNKNOWN))
                    results[place] = repeat
        except NoAnswer as error:
            results = {place: results.get(place, unavailable(error)) for place in range(len(letters))}
        return [results[place] for place in range(len(letters))]

    def _push_in(self, talk: Dialogue, letters: Sequence[Letter], results: dict[int, PushedMessage | ApiError]) -> None:
        waiting: dict[int, int] = {}
        for place, letter in enumerate(letters):
            token = self._messages.token()
            topic = b"" if letter.reply_to else letter.topic
            fields = letter.destination, topic, letter.reply_to, None, letter.key, len(letter.data), letter.data
            talk.say(PushMessage(token, *fields))
            waiting[token] = place
        while waiting:
            match talk.hear(waiting, time.monotonic() + DEADLINE_S):
                case MessagePushed() as pushed:
                    results[waiting.pop(pushed.token)] = {"id": pushed.id.hex()}
                case MessageFailed() as failed:
                    results[waiting.pop(failed.token)] = ApiError(FAULTS[failed.why], failed.reason)
                case answer:
                    results[waiting.pop(answer.token)] = wrong_answer(BOX, answer, MessagePushed)

    # --- reading ------------------------------------------------------------------------------------------------------

    def read_all(self, wishes: Sequence[Wish], most: int) -> list[Received | ApiError | None]:
        """A message for each wish, none of which waits: what `Messages.read` gives, or raises.

        Of all data together at most `most` bytes are taken; a message beyond that is an error, and stays.
        """
        results: dict[int, Received | ApiError | None] = {}
        waiting: dict[int, _Reading] = {}
        try:
            if wishes:
                with self._messages.box.open() as talk:
                    for place, wish in enumerate(wishes):
                        token = self._messages.token()
                        talk.say(AskMessage(token, wish.topic, wish.take, 0))
                        waiting[token] = _Reading(place, wish)
                    self._hear_messages(talk, waiting, results, most)
        except Gone:
            for reading in waiting.values():
                # Where it ended before it said whether the message is gone: better twice than never.
                results[reading.place] = (
                    _received(reading) if reading.complete else self._read_alone(reading.wish, most, results)
                )
        except NoAnswer as error:
            results |= {reading.place: unavailable(error) for reading in waiting.values()}
        return [
            self._read_alone(wish, most, results) if isinstance(results[place], _TakenAway) else results[place]
            for place, wish in enumerate(wishes)
        ]

    def _read_alone(
        self, wish: Wish, most: int, before: dict[int, Received | ApiError | None]
    ) -> Received | ApiError | None:
        octets = sum(len(found.data) for found in before.values() if isinstance(found, Received))
        try:
            return self._messages.read(Wish(wish.topic, wish.take, 0.0, min(wish.most, most - octets)))
        except ApiError as error:
            return error

    def _hear_messages(
        self,
        talk: Dialogue,
        waiting: dict[int, _Reading],
        results: dict[int, Received | ApiError | None],
        most: int,
    ) -> None:
        left = most
        while waiting:
            answer = talk.hear(waiting, time.monotonic() + DEADLINE_S)
            reading = waiting[answer.token]
            match answer:
                case StillWaiting():
                    continue
                case NoMessage():
                    results[reading.place] = None
                case MessagePart() as part if part.offset == len(reading.data):
                    if part.head is not None:
                        reading.head = part.head
                        if part.head.length > min(reading.wish.most, left):
                            talk.say(StopWaiting(answer.token))
                            reason = f"a message of {part.head.length} bytes, and at most {left} fit the answer"
                            results[reading.place] = ApiError(Fault.TOO_LARGE, reason)
                            del waiting[answer.token]
                            continue
                        left -= part.head.length
                    reading.data += part.data
                    talk.say(PartTaken(answer.token, len(reading.data)))
                    continue
                case Answer(outcome=Outcome.DONE) if reading.complete:
                    results[reading.place] = _received(reading)
                case Answer():
                    results[reading.place] = _TakenAway()
                case MessageFailed() as failed:
                    results[reading.place] = ApiError(FAULTS[failed.why], failed.reason)
                case _:
                    results[reading.place] = wrong_answer(BOX, answer, MessagePart)
            del waiting[answer.token]


class _TakenAway(ApiError):
    """Stands for a message that somebody else got after all, until another one is asked for."""

    def __init__(self) -> None:
        super().__init__(Fault.UNAVAILABLE, "the message went to somebody else")


def _received(reading: _Reading) -> Received:
    assert reading.head is not None
    return Received(reading.head, reading.data)
