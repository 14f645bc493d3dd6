"""Routes that the reference has not: what runs, whether it is well, and the documents about the API itself."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Final, TypedDict

from flask import Response

from actors.api.neighbours import Neighbour
from actors.api.objects import ActorObject, AllowList
from actors.api.reading import Member, members, string
from actors.api.schema import Text
from actors.status.http import empty_answer, json_answer, text_answer
from actors.status.page import page
from actors.status.parameters import ENDPOINT, RULE
from actors.status.route import OURS, TEXT, Answer, Body, Call, Route, done


class NewRule(TypedDict):
    """Who may come in from now on."""

    rule: Annotated[str, Text(example="tcp 443 from 400::/7")]


class NewTarget(TypedDict):
    """Whom to keep a connection to."""

    endpoint: Annotated[str, Text(example="tcp://peer.example.org:9651")]


def _actors(call: Call) -> Response:
    return json_answer(call.node.administration.processes())


def _health(call: Call) -> Response:
    if silent := call.node.administration.silent():
        return text_answer(HTTPStatus.SERVICE_UNAVAILABLE, f"no answer from {', '.join(silent)}")
    return text_answer(HTTPStatus.OK, "ok")


def _rules(call: Call) -> Response:
    return json_answer(call.node.admission.rules())


def _allow(call: Call) -> Response:
    call.node.admission.allow(call.body)
    return empty_answer(HTTPStatus.NO_CONTENT)


def _allow_no_more(call: Call) -> Response:
    call.node.admission.allow_no_more(call.path["rule"])
    return empty_answer(HTTPStatus.NO_CONTENT)


def _neighbours(call: Call) -> Response:
    return json_answer(call.node.neighbours.neighbours())


def _add_peer(call: Call) -> Response:
    call.node.neighbours.add(call.body)
    return empty_answer(HTTPStatus.NO_CONTENT)


def _remove_peer(call: Call) -> Response:
    call.node.neighbours.remove(call.path["endpoint"])
    return empty_answer(HTTPStatus.NO_CONTENT)


def _page(call: Call) -> Response:
    return page(call.node)


_NEW_RULE: Final = Body(NewRule, lambda value: members(value, (Member(("rule",), string),))[0])

_NEW_TARGET: Final = Body(NewTarget, lambda value: members(value, (Member(("endpoint",), string),))[0])

ROUTES: Final = (
    Route(
        "GET",
        f"{OURS}/peers",
        _neighbours,
        "Peers and the links to them",
        done(HTTPStatus.OK, "The peers.", list[Neighbour]),
    ),
    Route(
        "POST",
        f"{OURS}/peers",
        _add_peer,
        "Keep a connection to a peer, also by name or through a proxy",
        done(HTTPStatus.NO_CONTENT, "It is dialled from now on."),
        body=_NEW_TARGET,
        refusals=(HTTPStatus.BAD_REQUEST, HTTPStatus.CONFLICT),
    ),
    Route(
        "DELETE",
        f"{OURS}/peers/<endpoint>",
        _remove_peer,
        "Forget a peer",
        done(HTTPStatus.NO_CONTENT, "It is forgotten."),
        parts=(ENDPOINT,),
        refusals=(HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND),
    ),
    Route(
        "GET",
        f"{OURS}/actors",
        _actors,
        "The processes of the node",
        done(HTTPStatus.OK, "The processes.", list[ActorObject]),
    ),
    Route(
        "GET",
        f"{OURS}/allow",
        _rules,
        "The inbound allow-list",
        done(HTTPStatus.OK, "The list.", AllowList),
    ),
    Route(
        "POST",
        f"{OURS}/allow",
        _allow,
        "Let somebody in",
        done(HTTPStatus.NO_CONTENT, "They may come."),
        body=_NEW_RULE,
        refusals=(HTTPStatus.BAD_REQUEST, HTTPStatus.CONFLICT),
    ),
    Route(
        "DELETE",
        f"{OURS}/allow/<rule>",
        _allow_no_more,
        "Let somebody in no more",
        done(HTTPStatus.NO_CONTENT, "They may not come."),
        parts=(RULE,),
        refusals=(HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND),
    ),
    Route(
        "GET",
        "/healthz",
        _health,
        "Whether the node is well",
        (
            Answer(HTTPStatus.OK, "It is.", str, TEXT),
            Answer(HTTPStatus.SERVICE_UNAVAILABLE, "Who does not answer.", str, TEXT),
        ),
    ),
    Route("GET", "/status", _page, "A page for people", (Answer(HTTPStatus.OK, "The page.", str, "text/html"),)),
)
