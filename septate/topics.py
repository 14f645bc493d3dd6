"""Whom a node lets send messages on which topic, and where they go: the part of a client that is about topics."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from septate.answers import checked_text, from_base64, to_base64
from septate.exchange import Exchange, RefusedError, path_word

_PATH: Final = "/messages/topics"


class Topics:
    """The rules of a node's topics. A topic without a rule is accepted or refused as the default says.

    All methods raise `ApiError`.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def accepted_by_default(self) -> bool:
        """Whether messages of topics without a rule are accepted, and those without a topic."""
        return self._exchange.get(f"{_PATH}/default", lambda value: bool(value["accept"]))

    def accept_by_default(self, accept: bool) -> None:
        """Accepts or refuses them."""
        self._exchange.post_json(f"{_PATH}/default", {"accept": accept}, method="PUT")

    def all(self) -> list[bytes]:
        """The topics that have rules."""
        return self._exchange.get_list(_PATH, from_base64)

    def add(self, topic: bytes) -> None:
        """Makes a rule for `topic`. It has no sources yet, and so refuses everybody."""
        self._exchange.post_json(_PATH, list(topic))

    def remove(self, topic: bytes) -> None:
        """Drops the rule; nothing happens where there is none."""
        self._exchange.call("DELETE", _of(topic))

    def sources(self, topic: bytes) -> list[str] | None:
        """The subnets that may send messages of `topic`; None where it has no rule."""
        try:
            return self._exchange.get_list(f"{_of(topic)}/sources", checked_text)
        except RefusedError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    def add_source(self, topic: bytes, subnet: str) -> None:
        """Lets the nodes of `subnet`, such as `5a5:ddb0:8295:ef60::/64`, send; makes the rule where there is none."""
        self._exchange.post_json(f"{_of(topic)}/sources", {"subnet": subnet})

    def remove_source(self, topic: bytes, subnet: str) -> None:
        """The opposite; nothing happens where it is not listed."""
        self._exchange.call("DELETE", f"{_of(topic)}/sources/{path_word(subnet)}")

    def forward_socket(self, topic: bytes) -> str | None:
        """The Unix socket that gets the messages of `topic` instead of the inbox."""
        return self._exchange.get(f"{_of(topic)}/forward", lambda value: None if value is None else checked_text(value))

    def set_forward_socket(self, topic: bytes, path: str) -> None:
        """Hands messages of `topic` to the Unix socket at `path`; without effect where the topic has no rule."""
        self._exchange.post_json(f"{_of(topic)}/forward", {"socketPath": path}, method="PUT")

    def remove_forward_socket(self, topic: bytes) -> None:
        """Lets messages of `topic` go into the inbox again."""
        self._exchange.call("DELETE", f"{_of(topic)}/forward")


def _of(topic: bytes) -> str:
    return f"{_PATH}/{path_word(to_base64(topic))}"
