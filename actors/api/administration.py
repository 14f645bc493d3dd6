"""The administration of a node: itself, its peers, its routes, what it carried (API spec 3).

Every answer is made of the answers of actors, asked when the call comes: nothing is kept here.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Final

from actors.api.asking import Actors
from actors.api.faults import ApiError, Fault
from actors.api.objects import (
    ActorObject,
    Info,
    PacketStatistics,
    PeerStats,
    QueriedSubnet,
    Route,
    actor_object,
    peer_object,
    queried_object,
    route_object,
    traffic_objects,
)
from actors.api.reading import ip_address
from protocol.frames import (
    AddPeer,
    Answer,
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
from protocol.mycelium.endpoint import Endpoint, EndpointError, SocketAddress, ip_text
from protocol.mycelium.identity import address_of
from protocol.prefix import subnet_of

_PROXY: Final = "the SOCKS5 proxy: not in this version of septate"


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What does not change while a node runs: its 32-byte public key, and its start in seconds since the Unix epoch."""

    public_key: bytes
    started_at: int


class Administration:
    """Calls that any operator makes. All raise `ApiError`."""

    def __init__(self, facts: NodeFacts, actors: Actors) -> None:
        self._actors = actors
        address = address_of(facts.public_key)
        self._subnet = subnet_of(address)
        self._info: Info = {
            "nodeSubnet": str(self._subnet),
            "nodeIp": ip_text(IPv6Address(address)),
            "nodePubkey": facts.public_key.hex(),
            "nodeStartTime": facts.started_at,
        }

    def info(self) -> Info:
        """The node itself."""
        return self._info

    def peers(self) -> list[PeerStats]:
        """All peers."""
        parts = self._actors.ask("peers", AskPeers(self._actors.token()), PeerList)
        return [peer_object(row) for part in parts for row in part.peers]

    def add_peer(self, endpoint: str) -> None:
        """Keeps a connection to `endpoint` from now on."""
        wanted = _endpoint(endpoint)
        answer = self._actors.ask("peers", AddPeer(self._actors.token(), str(wanted)), Answer)[-1]
        if answer.outcome is Outcome.EXISTS:
            raise ApiError(Fault.PEER_EXISTS, "A peer identified by that endpoint already exists")
        _check_done(answer)

    def remove_peer(self, endpoint: str) -> None:
        """Forgets `endpoint` and closes its connection."""
        wanted = _endpoint(endpoint)
        answer = self._actors.ask("peers", RemovePeer(self._actors.token(), str(wanted)), Answer)[-1]
        if answer.outcome is Outcome.MISSING:
            raise ApiError(Fault.PEER_UNKNOWN, "A peer identified by that endpoint does not exist")
        _check_done(answer)

    def selected_routes(self) -> list[Route]:
        """The route in use to each destination."""
        return self._routes(RouteKind.SELECTED)

    def fallback_routes(self) -> list[Route]:
        """All other routes."""
        return self._routes(RouteKind.FALLBACK)

    def queried_subnets(self) -> list[QueriedSubnet]:
        """The subnets whose routes are being searched."""
        parts = self._actors.ask("router", AskQueried(self._actors.token()), QueriedList)
        return [queried_object(row) for part in parts for row in part.queried]

    def packet_statistics(self) -> PacketStatistics:
        """Packets and bytes by address."""
        parts = self._actors.ask("peers", AskTraffic(self._actors.token()), TrafficList)
        return {
            "bySource": traffic_objects(row for part in parts for row in part.by_source),
            "byDestination": traffic_objects(row for part in parts for row in part.by_destination),
        }

    def public_key_of(self, ip: str) -> str:
        """The 64 hex digits of the key whose address `ip` is."""
        address = ip_address(ip, Fault.BAD_ADDRESS)
        # There is no route to oneself, and none to an IPv4 address, of which the reference dies (its quirk Q2).
        if not isinstance(address, IPv6Address) or self._subnet.contains(address.packed):
            raise ApiError(Fault.NO_ROUTE, f"no route to {ip_text(address)} is known")
        question = AskPublicKey(self._actors.token(), address.packed)
        answer = self._actors.ask("router", question, PublicKeyAnswer)[-1]
        if not answer.public_key:
            raise ApiError(Fault.NO_ROUTE, f"no route to {ip_text(address)} is known")
        return answer.public_key.hex()

    def processes(self) -> list[ActorObject]:
        """The processes of the node."""
        return [actor_object(row) for row in self._actors.processes()]

    def silent(self) -> list[str]:
        """The vital processes that don't answer; none in a healthy node."""
        return self._actors.silent()

    # --- what the reference has and this version has not --------------------------------------------------------------

    def proxies(self) -> list[str]:
        """The SOCKS5 proxies that were found."""
        raise ApiError(Fault.NOT_IN_THIS_VERSION, _PROXY)

    def connect_proxy(self, remote: SocketAddress | None) -> str:
        """Relays the local port 1080 to a proxy, the best one where none is named."""
        del remote
        raise ApiError(Fault.NOT_IN_THIS_VERSION, _PROXY)

    def disconnect_proxy(self) -> None:
        """Relays no more."""
        raise ApiError(Fault.NOT_IN_THIS_VERSION, _PROXY)

    def start_proxy_probe(self) -> None:
        """Looks for proxies from now on."""
        raise ApiError(Fault.NOT_IN_THIS_VERSION, _PROXY)

    def stop_proxy_probe(self) -> None:
        """Looks no more."""
        raise ApiError(Fault.NOT_IN_THIS_VERSION, _PROXY)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _routes(self, kind: RouteKind) -> list[Route]:
        parts = self._actors.ask("router", AskRoutes(self._actors.token(), kind), RouteList)
        return [route_object(row) for part in parts for row in part.routes]


def _endpoint(text: str) -> Endpoint:
    try:
        return Endpoint.parse(text)
    except EndpointError as error:
        raise ApiError(Fault.BAD_ENDPOINT, str(error)) from None


def _check_done(answer: Answer) -> None:
    if answer.outcome is not Outcome.DONE:
        # The peer table is full, for example: nothing that the reference has an answer for.
        raise ApiError(Fault.NO_ROOM, answer.reason or "the node refused")
