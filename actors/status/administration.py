"""Routes of the administration (API spec 3)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Final, NotRequired, TypedDict

from flask import Response

from actors.api.objects import (
    Address,
    EndpointText,
    Info,
    PacketStatistics,
    PeerStats,
    PublicKeyObject,
    QueriedSubnet,
)
from actors.api.objects import (
    Route as RouteObject,
)
from actors.api.reading import Member, members, optional, socket_address, string
from actors.api.schema import Text
from actors.status.http import empty_answer, json_answer
from actors.status.parameters import ENDPOINT, IP
from actors.status.route import API, Body, Call, Route, done

_ADMIN: Final = f"{API}/admin"
_PROXY: Final = f"{_ADMIN}/proxy"


class NewPeer(TypedDict):
    """A peer to keep a connection to."""

    endpoint: EndpointText


class ProxyChoice(TypedDict):
    """The proxy to use; the best one where none is named."""

    remote: NotRequired[Annotated[str, Text(example="192.0.2.1:1080")] | None]


def _info(call: Call) -> Response:
    return json_answer(call.node.administration.info())


def _peers(call: Call) -> Response:
    return json_answer(call.node.administration.peers())


def _add_peer(call: Call) -> Response:
    call.node.administration.add_peer(call.body)
    return empty_answer(HTTPStatus.NO_CONTENT)


def _remove_peer(call: Call) -> Response:
    call.node.administration.remove_peer(call.path["endpoint"])
    return empty_answer(HTTPStatus.NO_CONTENT)


def _selected_routes(call: Call) -> Response:
    return json_answer(call.node.administration.selected_routes())


def _fallback_routes(call: Call) -> Response:
    return json_answer(call.node.administration.fallback_routes())


def _queried_subnets(call: Call) -> Response:
    return json_answer(call.node.administration.queried_subnets())


def _packet_statistics(call: Call) -> Response:
    return json_answer(call.node.administration.packet_statistics())


def _public_key_of(call: Call) -> Response:
    found: PublicKeyObject = {"publicKey": call.node.administration.public_key_of(call.path["ip"])}
    return json_answer(found)


def _proxies(call: Call) -> Response:
    return json_answer(call.node.administration.proxies())


def _connect_proxy(call: Call) -> Response:
    return json_answer(call.node.administration.connect_proxy(call.body))


def _disconnect_proxy(call: Call) -> Response:
    call.node.administration.disconnect_proxy()
    return empty_answer(HTTPStatus.NO_CONTENT)


def _start_proxy_probe(call: Call) -> Response:
    call.node.administration.start_proxy_probe()
    return empty_answer(HTTPStatus.NO_CONTENT)


def _stop_proxy_probe(call: Call) -> Response:
    call.node.administration.stop_proxy_probe()
    return empty_answer(HTTPStatus.NO_CONTENT)


_NEW_PEER: Final = Body(NewPeer, lambda value: members(value, (Member(("endpoint",), string),))[0])
_PROXY_CHOICE: Final = Body(
    ProxyChoice, lambda value: members(value, (Member(("remote",), optional(socket_address), None),))[0]
)
_OK: Final = HTTPStatus.OK
_NO_CONTENT: Final = HTTPStatus.NO_CONTENT
_NOT_HERE: Final = (HTTPStatus.NOT_IMPLEMENTED,)

ROUTES: Final = (
    Route("GET", _ADMIN, _info, "The node itself", done(_OK, "The node.", Info)),
    Route("GET", f"{_ADMIN}/peers", _peers, "All peers", done(_OK, "The peers, in any order.", list[PeerStats])),
    Route(
        "POST",
        f"{_ADMIN}/peers",
        _add_peer,
        "Keep a connection to a peer",
        done(_NO_CONTENT, "It will be dialled."),
        body=_NEW_PEER,
        refusals=(HTTPStatus.BAD_REQUEST, HTTPStatus.CONFLICT),
    ),
    Route(
        "DELETE",
        f"{_ADMIN}/peers/<endpoint>",
        _remove_peer,
        "Forget a peer and close its connection",
        done(_NO_CONTENT, "It is gone."),
        parts=(ENDPOINT,),
        refusals=(HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND),
    ),
    Route(
        "GET",
        f"{_ADMIN}/routes/selected",
        _selected_routes,
        "The route in use to each destination",
        done(_OK, "The routes, in any order.", list[RouteObject]),
    ),
    Route(
        "GET",
        f"{_ADMIN}/routes/fallback",
        _fallback_routes,
        "All other routes",
        done(_OK, "The routes, in any order.", list[RouteObject]),
    ),
    Route(
        "GET",
        f"{_ADMIN}/routes/queried",
        _queried_subnets,
        "Subnets whose routes are being searched",
        done(_OK, "The subnets, in any order.", list[QueriedSubnet]),
    ),
    Route(
        "GET",
        f"{_ADMIN}/stats/packets",
        _packet_statistics,
        "Packets and bytes by address",
        done(_OK, "What was carried.", PacketStatistics),
    ),
    Route(
        "GET",
        f"{API}/pubkey/<ip>",
        _public_key_of,
        "The public key that an address belongs to",
        done(_OK, "Its key.", PublicKeyObject),
        parts=(IP,),
        refusals=(HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND),
    ),
    Route(
        "GET",
        _PROXY,
        _proxies,
        "SOCKS5 proxies that were found",
        done(_OK, "Their addresses.", list[Address]),
        refusals=_NOT_HERE,
    ),
    Route(
        "POST",
        _PROXY,
        _connect_proxy,
        "Relay the local port 1080 to a proxy",
        done(_OK, "The proxy's address.", str),
        body=_PROXY_CHOICE,
        refusals=(HTTPStatus.NOT_FOUND, *_NOT_HERE),
    ),
    Route("DELETE", _PROXY, _disconnect_proxy, "Relay no more", done(_NO_CONTENT, "Done."), refusals=_NOT_HERE),
    Route(
        "GET",
        f"{_PROXY}/probe",
        _start_proxy_probe,
        "Look for proxies from now on",
        done(_NO_CONTENT, "Done."),
        refusals=_NOT_HERE,
        head=False,
    ),
    Route(
        "DELETE", f"{_PROXY}/probe", _stop_proxy_probe, "Look no more", done(_NO_CONTENT, "Done."), refusals=_NOT_HERE
    ),
)
