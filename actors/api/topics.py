"""Who may send messages on which topic, and where they go (API spec 5, messages spec 8)."""

from __future__ import annotations

from typing import Final

from actors.api.asking import Actors
from actors.api.faults import ApiError, Fault
from actors.api.reading import encode_base64
from protocol.codec import FrameError
from protocol.frames import Answer, AskTopics, ChangeTopic, Outcome, TopicChange, TopicList, TopicRow
from protocol.mycelium.messages.topics import Source, TopicError

BOX: Final = "messagebox"
DEADLINE_S: Final = 5.0
"""A change is on disk before it is answered, and a disk may be busy."""


class Topics:
    """Calls about topic rules; topics are bytes. All raise `ApiError`."""

    def __init__(self, actors: Actors) -> None:
        self._actors = actors

    def accepts_by_default(self) -> bool:
        """Whether messages on topics without rules are accepted."""
        return self._ask(None)[0].accept

    def accept_by_default(self, accept: bool) -> None:
        """Sets it."""
        self._change(TopicChange.DEFAULT, b"", "accept" if accept else "reject")

    def all(self) -> list[str]:
        """The topics with rules, in base64."""
        return [encode_base64(row.topic) for part in self._ask(None) for row in part.topics]

    def add(self, topic: bytes) -> None:
        """Gives a topic rules: nobody may send on it, until sources are added."""
        self._change(TopicChange.ADD, topic)

    def remove(self, topic: bytes) -> None:
        """Takes a topic's rules away."""
        self._change(TopicChange.REMOVE, topic)

    def sources(self, topic: bytes) -> list[str]:
        """The subnets that may send on a topic. `TOPIC_UNKNOWN` where it has no rules."""
        row = self._rules(topic)
        if row is None:
            raise ApiError(Fault.TOPIC_UNKNOWN)
        return list(row.sources)

    def add_source(self, topic: bytes, subnet: str) -> None:
        """Lets a subnet send on a topic, which gets rules by that."""
        _check_subnet(subnet)
        self._change(TopicChange.ADD_SOURCE, topic, subnet)

    def remove_source(self, topic: bytes, subnet: str) -> None:
        """Lets it no more."""
        _check_subnet(subnet)
        self._change(TopicChange.REMOVE_SOURCE, topic, subnet)

    def forward_socket(self, topic: bytes) -> str | None:
        """Where messages on a topic are forwarded to."""
        row = self._rules(topic)
        return None if row is None else row.forward

    def set_forward_socket(self, topic: bytes, path: str) -> None:
        """Sets it; nothing happens to a topic without rules (API spec Q6)."""
        self._change(TopicChange.SET_FORWARD, topic, path)

    def remove_forward_socket(self, topic: bytes) -> None:
        """Forwards no more."""
        self._change(TopicChange.REMOVE_FORWARD, topic)

    def _rules(self, topic: bytes) -> TopicRow | None:
        found = [row for part in self._ask(topic) for row in part.topics]
        return found[0] if found else None

    def _ask(self, topic: bytes | None) -> list[TopicList]:
        return self._actors.ask(BOX, AskTopics(self._actors.token(), topic), TopicList, DEADLINE_S)

    def _change(self, change: TopicChange, topic: bytes, value: str = "") -> None:
        try:
            question = ChangeTopic(self._actors.token(), change, topic, value)
        except FrameError as error:
            raise ApiError(Fault.BAD_TOPIC, str(error)) from None
        answer = self._actors.ask(BOX, question, Answer, DEADLINE_S)[-1]
        if answer.outcome is not Outcome.DONE:
            raise ApiError(Fault.NO_ROOM, answer.reason or "the message box refused")


def _check_subnet(text: str) -> None:
    try:
        Source.parse(text)
    except TopicError as error:
        raise ApiError(Fault.BAD_SUBNET, str(error)) from None
