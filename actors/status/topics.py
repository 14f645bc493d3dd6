"""Routes of the topics (API spec 5)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Final, TypedDict

from flask import Response

from actors.api.objects import Base64, DefaultAction, Subnet
from actors.api.reading import Member, boolean, byte_values, members, string
from actors.api.schema import Range
from actors.status.http import empty_answer, json_answer
from actors.status.parameters import SUBNET, TOPIC
from actors.status.route import API, Body, Call, Route, done

TOPICS: Final = f"{API}/messages/topics"


class NewSource(TypedDict):
    """A subnet that may send on a topic."""

    subnet: Subnet


class ForwardSocket(TypedDict):
    """Where the messages of a topic go."""

    socketPath: Annotated[str, "The path of a Unix socket."]


def _default(call: Call) -> Response:
    found: DefaultAction = {"accept": call.node.topics.accepts_by_default()}
    return json_answer(found)


def _set_default(call: Call) -> Response:
    call.node.topics.accept_by_default(call.body)
    return empty_answer(HTTPStatus.NO_CONTENT)


def _all(call: Call) -> Response:
    return json_answer(call.node.topics.all())


def _add(call: Call) -> Response:
    call.node.topics.add(call.body)
    return empty_answer(HTTPStatus.CREATED)


def _remove(call: Call) -> Response:
    call.node.topics.remove(call.path["topic"])
    return empty_answer(HTTPStatus.NO_CONTENT)


def _sources(call: Call) -> Response:
    return json_answer(call.node.topics.sources(call.path["topic"]))


def _add_source(call: Call) -> Response:
    call.node.topics.add_source(call.path["topic"], call.body)
    return empty_answer(HTTPStatus.CREATED)


def _remove_source(call: Call) -> Response:
    call.node.topics.remove_source(call.path["topic"], call.path["subnet"])
    return empty_answer(HTTPStatus.NO_CONTENT)


def _forward_socket(call: Call) -> Response:
    return json_answer(call.node.topics.forward_socket(call.path["topic"]))


def _set_forward_socket(call: Call) -> Response:
    call.node.topics.set_forward_socket(call.path["topic"], call.body)
    return empty_answer(HTTPStatus.NO_CONTENT)


def _remove_forward_socket(call: Call) -> Response:
    call.node.topics.remove_forward_socket(call.path["topic"])
    return empty_answer(HTTPStatus.NO_CONTENT)


_ACTION: Final = Body(DefaultAction, lambda value: members(value, (Member(("accept",), boolean),))[0])
_TOPIC_BYTES: Final = Body(list[Annotated[int, Range(0, 255)]] | Base64, byte_values, [100, 101, 109, 111])
_NEW_SOURCE: Final = Body(NewSource, lambda value: members(value, (Member(("subnet",), string),))[0])
# The second name is the one in the reference's own document.
_FORWARD: Final = Body(ForwardSocket, lambda value: members(value, (Member(("socketPath", "socket_path"), string),))[0])
_MALFORMED: Final = (HTTPStatus.BAD_REQUEST,)
_OK: Final = HTTPStatus.OK
_NO_CONTENT: Final = HTTPStatus.NO_CONTENT

ROUTES: Final = (
    Route(
        "GET",
        f"{TOPICS}/default",
        _default,
        "Whether messages on topics without rules are accepted",
        done(_OK, "What happens to them.", DefaultAction),
    ),
    Route(
        "PUT",
        f"{TOPICS}/default",
        _set_default,
        "Set whether messages on topics without rules are accepted",
        done(_NO_CONTENT, "Set."),
        body=_ACTION,
    ),
    Route("GET", TOPICS, _all, "Topics with rules", done(_OK, "The topics, in any order.", list[Base64])),
    Route(
        "POST",
        TOPICS,
        _add,
        "Give a topic rules: nobody may send on it until sources are added",
        done(HTTPStatus.CREATED, "It has rules."),
        body=_TOPIC_BYTES,
        refusals=_MALFORMED,
    ),
    Route(
        "DELETE",
        f"{TOPICS}/<topic>",
        _remove,
        "Take a topic's rules away",
        done(_NO_CONTENT, "It has none."),
        parts=(TOPIC,),
        refusals=_MALFORMED,
    ),
    Route(
        "GET",
        f"{TOPICS}/<topic>/sources",
        _sources,
        "Subnets that may send on a topic",
        done(_OK, "The subnets.", list[Subnet]),
        parts=(TOPIC,),
        refusals=(HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND),
    ),
    Route(
        "POST",
        f"{TOPICS}/<topic>/sources",
        _add_source,
        "Let a subnet send on a topic",
        done(HTTPStatus.CREATED, "It may."),
        parts=(TOPIC,),
        body=_NEW_SOURCE,
        refusals=_MALFORMED,
    ),
    Route(
        "DELETE",
        f"{TOPICS}/<topic>/sources/<subnet>",
        _remove_source,
        "Let a subnet send no more",
        done(_NO_CONTENT, "It may not."),
        parts=(TOPIC, SUBNET),
        refusals=_MALFORMED,
    ),
    Route(
        "GET",
        f"{TOPICS}/<topic>/forward",
        _forward_socket,
        "The Unix socket that messages on a topic go to",
        done(_OK, "Its path, or null.", str | None),
        parts=(TOPIC,),
        refusals=_MALFORMED,
    ),
    Route(
        "PUT",
        f"{TOPICS}/<topic>/forward",
        _set_forward_socket,
        "Forward messages on a topic to a Unix socket; nothing happens to a topic without rules",
        done(_NO_CONTENT, "Set."),
        parts=(TOPIC,),
        body=_FORWARD,
        refusals=_MALFORMED,
    ),
    Route(
        "DELETE",
        f"{TOPICS}/<topic>/forward",
        _remove_forward_socket,
        "Forward no more",
        done(_NO_CONTENT, "Done."),
        parts=(TOPIC,),
        refusals=_MALFORMED,
    ),
)
