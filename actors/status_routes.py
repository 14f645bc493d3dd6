"""What the HTTP API serves: the administration of the reference (API spec 3), and what is ours.

Every answer is made of the answers of actors, asked when the request comes: this process keeps no state of the node.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import IPv6Address
from typing import Any, Final, TypeVar

from flask import Flask, Response
from werkzeug.exceptions import MethodNotAllowed

from actors.runtime.asking import Asker, NoAnswer
from actors.status_allow import add_allow_routes
from actors.status_http import (
    Refused,
    add_route,
    body_string,
    empty_answer,
    json_answer,
    make_app,
    path_text,
    text_answer,
)
from actors.status_json import (
    actor_object,
    peer_object,
    queried_object,
    route_object,
    traffic_objects,
)
from actors.status_page import page
from protocol.frames import (
    ActorList,
    AddPeer,
    Answer,
    AskActors,
    AskPeers,
    AskPublicKey,
    AskQueried,
    AskRoutes,
    AskTraffic,
    Outcome,
    PeerList,
    PublicKeyAnswer,
    QueriedList,
    RemovePeer,
    RouteKind,
    RouteList,
    TrafficList,
)
from protocol.mycelium.endpoint import Endpoint, EndpointError, ip_text, parse_ip
from protocol.mycelium.identity import address_of
from protocol.prefix import subnet_of

DEADLINE_S: Final = 1.0
VITAL: Final = ("peers", "router", "tun")
"""A node lives if these do."""
_API: Final = "/api/v1"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What does not change while a node runs: its 32-byte public key, and its start in seconds since the Unix epoch."""

    public_key: bytes
    started_at: int


def build(facts: NodeFacts, asker: Asker, counters: Counter[str], *, check_host: bool) -> Flask:
    """The whole application, to be served by any WSGI server that has threads."""
    app = make_app(counters, check_host=check_host)
    api = _Api(facts, asker)
    app.register_error_handler(NoAnswer, _no_answer)
    add_route(app, "GET", f"{_API}/admin", api.info)
    add_route(app, "GET", f"{_API}/admin/peers", api.list_peers)
    add_route(app, "POST", f"{_API}/admin/peers", api.add_peer)
    add_route(app, "DELETE", f"{_API}/admin/peers/<endpoint>", api.remove_peer)
    add_route(app, "GET", f"{_API}/admin/routes/selected", api.selected_routes)
    add_route(app, "GET", f"{_API}/admin/routes/fallback", api.fallback_routes)
    add_route(app, "GET", f"{_API}/admin/routes/queried", api.queried_subnets)
    add_route(app, "GET", f"{_API}/admin/stats/packets", api.packet_statistics)
    add_route(app, "GET", f"{_API}/pubkey/<ip>", api.public_key_of)
    add_route(app, "GET", f"{_API}/septate/actors", api.list_actors)
    add_allow_routes(app, f"{_API}/septate", asker)
    add_route(app, "GET", "/healthz", api.health)
    add_route(app, "GET", "/status", api.status_page)
    for what, method, path in _TO_COME:
        add_route(app, method, _API + path, _answer_of_a_part_to_come(what))
    _keep_topic_name_default_apart(app)
    return app


class _Api:
    """The handlers."""

    def __init__(self, facts: NodeFacts, asker: Asker) -> None:
        self._asker = asker
        address = address_of(facts.public_key)
        self._subnet = subnet_of(address)
        self._info = {
            "nodeSubnet": str(self._subnet),
            "nodeIp": ip_text(IPv6Address(address)),
            "nodePubkey": facts.public_key.hex(),
            "nodeStartTime": facts.started_at,
        }

    # --- administration as in the reference -------------------------------------------------------------------------

    def info(self) -> Response:
        return json_answer(self._info)

    def list_peers(self) -> Response:
        parts = self._ask("peers", AskPeers(self._asker.token()), PeerList)
        return json_answer([peer_object(row) for part in parts for row in part.peers])

    def add_peer(self) -> Response:
        endpoint = _endpoint(body_string("endpoint"))
        answer = self._ask("peers", AddPeer(self._asker.token(), str(endpoint)), Answer)[-1]
        if answer.outcome is Outcome.EXISTS:
            raise Refused(HTTPStatus.CONFLICT, "A peer identified by that endpoint already exists")
        return _done(answer)

    def remove_peer(self, endpoint: str) -> Response:
        wanted = _endpoint(path_text(endpoint))
        answer = self._ask("peers", RemovePeer(self._asker.token(), str(wanted)), Answer)[-1]
        if answer.outcome is Outcome.MISSING:
            raise Refused(HTTPStatus.NOT_FOUND, "A peer identified by that endpoint does not exist")
        return _done(answer)

    def selected_routes(self) -> Response:
        return self._routes(RouteKind.SELECTED)

    def fallback_routes(self) -> Response:
        return self._routes(RouteKind.FALLBACK)

    def queried_subnets(self) -> Response:
        parts = self._ask("router", AskQueried(self._asker.token()), QueriedList)
        return json_answer([queried_object(row) for part in parts for row in part.queried])

    def packet_statistics(self) -> Response:
        parts = self._ask("peers", AskTraffic(self._asker.token()), TrafficList)
        return json_answer(
            {
                "bySource": traffic_objects(row for part in parts for row in part.by_source),
                "byDestination": traffic_objects(row for part in parts for row in part.by_destination),
            }
        )

    def public_key_of(self, ip: str) -> Response:
        try:
            address = parse_ip(path_text(ip))
        except EndpointError as error:
            raise Refused(HTTPStatus.BAD_REQUEST, f"cannot parse the address in the path: {error}") from None
        # There is no route to oneself, and none to an IPv4 address, of which the reference dies (its quirk Q2).
        if not isinstance(address, IPv6Address) or self._subnet.contains(address.packed):
            raise Refused(HTTPStatus.NOT_FOUND)
        answer = self._ask("router", AskPublicKey(self._asker.token(), address.packed), PublicKeyAnswer)[-1]
        if not answer.public_key:
            raise Refused(HTTPStatus.NOT_FOUND)
        return json_answer({"publicKey": answer.public_key.hex()})

    # --- ours -------------------------------------------------------------------------------------------------------

    def list_actors(self) -> Response:
        found = self._asker.ask_any({actor: AskActors(self._asker.token()) for actor in VITAL}, DEADLINE_S)
        if found is None:
            raise NoAnswer("supervisor", f"none of {', '.join(VITAL)} passed the question on")
        return json_answer(
            [actor_object(row) for part in _checked("supervisor", found, ActorList) for row in part.actors]
        )

    def health(self) -> Response:
        answers = self._asker.ask_all({actor: AskActors(self._asker.token()) for actor in VITAL}, DEADLINE_S)
        silent = [actor for actor, answer in answers.items() if isinstance(answer, NoAnswer)]
        if silent:
            return text_answer(HTTPStatus.SERVICE_UNAVAILABLE, f"no answer from {', '.join(silent)}")
        return text_answer(HTTPStatus.OK, "ok")

    def status_page(self) -> Response:
        return page(self._info, self._asker, DEADLINE_S)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _routes(self, kind: RouteKind) -> Response:
        parts = self._ask("router", AskRoutes(self._asker.token(), kind), RouteList)
        return json_answer([route_object(row) for part in parts for row in part.routes])

    def _ask(self, actor: str, question: Any, kind: type[_T]) -> list[_T]:
        return _checked(actor, self._asker.ask(actor, question, DEADLINE_S), kind)


def _checked(actor: str, answers: list[Any], kind: type[_T]) -> list[_T]:
    for answer in answers:
        if not isinstance(answer, kind):
            raise NoAnswer(actor, f"it answered with {type(answer).__name__} where {kind.__name__} belongs")
    return answers


def _endpoint(text: str) -> Endpoint:
    try:
        return Endpoint.parse(text)
    except EndpointError as error:
        raise Refused(HTTPStatus.BAD_REQUEST, str(error)) from None


def _done(answer: Answer) -> Response:
    if answer.outcome is not Outcome.DONE:
        # The peer table is full, for example: nothing that the reference has a status for.
        raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, answer.reason or "the node refused")
    return empty_answer(HTTPStatus.NO_CONTENT)


def _no_answer(error: NoAnswer) -> Response:
    return json_answer({"error": str(error), "actor": error.actor}, HTTPStatus.SERVICE_UNAVAILABLE)


# --- what the reference has and this version has not ------------------------------------------------------------------

_MESSAGES: Final = "messages"
_PROXY: Final = "the SOCKS5 proxy"
_TOPICS: Final = "/messages/topics"

_TO_COME: Final = (
    (_PROXY, "GET", "/admin/proxy"),
    (_PROXY, "POST", "/admin/proxy"),
    (_PROXY, "DELETE", "/admin/proxy"),
    (_PROXY, "GET", "/admin/proxy/probe"),
    (_PROXY, "DELETE", "/admin/proxy/probe"),
    (_MESSAGES, "GET", "/messages"),
    (_MESSAGES, "POST", "/messages"),
    (_MESSAGES, "POST", "/messages/reply/<message>"),
    (_MESSAGES, "GET", "/messages/status/<message>"),
    (_MESSAGES, "GET", f"{_TOPICS}/default"),
    (_MESSAGES, "PUT", f"{_TOPICS}/default"),
    (_MESSAGES, "GET", _TOPICS),
    (_MESSAGES, "POST", _TOPICS),
    (_MESSAGES, "DELETE", f"{_TOPICS}/<topic>"),
    (_MESSAGES, "GET", f"{_TOPICS}/<topic>/sources"),
    (_MESSAGES, "POST", f"{_TOPICS}/<topic>/sources"),
    (_MESSAGES, "DELETE", f"{_TOPICS}/<topic>/sources/<subnet>"),
    (_MESSAGES, "GET", f"{_TOPICS}/<topic>/forward"),
    (_MESSAGES, "PUT", f"{_TOPICS}/<topic>/forward"),
    (_MESSAGES, "DELETE", f"{_TOPICS}/<topic>/forward"),
)


def _answer_of_a_part_to_come(what: str) -> Any:
    def answer(**_parts: str) -> Response:
        return text_answer(HTTPStatus.NOT_IMPLEMENTED, f"{what}: not in this version of septate")

    return answer


def _keep_topic_name_default_apart(app: Flask) -> None:
    """`default` is no topic: a DELETE of it is a wrong method, not the removal of a topic of that name."""

    def refuse() -> Response:
        raise MethodNotAllowed(valid_methods=["GET", "HEAD", "PUT"])

    for method in ("DELETE", "OPTIONS", "PATCH", "POST"):
        add_route(app, method, f"{_API}{_TOPICS}/default", refuse)
