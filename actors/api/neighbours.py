"""Peers and the links to them, with what decides between several links to one neighbour. Ours, not the reference's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from ipaddress import IPv6Address
from typing import Annotated, Final, Literal, TypedDict

from actors.api.asking import Actors
from actors.api.faults import ApiError, Fault
from actors.api.objects import Address, Count
from protocol.frames import (
    AddPeer,
    Answer,
    AskLinks,
    AskPeers,
    LinkList,
    LinkRow,
    Outcome,
    PeerList,
    PeerRow,
    RemovePeer,
    link_text,
)
from protocol.mycelium.endpoint import EndpointError, ip_text
from protocol.mycelium.identity import address_of
from protocol.mycelium.routing.selection import SWITCHING_IMPROVEMENT
from protocol.targets import Target, TargetError

_ORIGINS: Final = {"static": "configured", "inbound": "inbound", "linkLocalDiscovery": "discovered"}


class Neighbour(TypedDict):
    """A peer, and the link to it where there is one."""

    endpoint: str
    reached: Annotated[str, "The endpoint with the address that it was reached at; empty before."]
    origin: Literal["configured", "inbound", "discovered"]
    state: Literal["alive", "connecting", "dead"]
    reason: Annotated[str, "Why it is not connected."]
    link: str | None
    name: str | None
    neighbour: Address | None
    cost: Count | None
    roundTripMs: Count | None
    prefixes: Annotated[int, "How many are reached over this link."]
    why: Annotated[str, "Why this link is used, or is not."]


class Neighbours:
    """Calls about peers in every form that `Target` has. All raise `ApiError`."""

    def __init__(self, actors: Actors) -> None:
        self._actors = actors

    def neighbours(self) -> list[Neighbour]:
        """All peers."""
        peers = self._actors.ask("peers", AskPeers(self._actors.token()), PeerList)
        links = self._actors.ask("router", AskLinks(self._actors.token()), LinkList)
        return neighbour_objects(
            [row for part in peers for row in part.peers], [row for part in links for row in part.links]
        )

    def add(self, endpoint: str) -> None:
        """Keeps a connection to `endpoint` from now on."""
        answer = self._actors.ask("peers", AddPeer(self._actors.token(), _target(endpoint).spelled()), Answer)[-1]
        if answer.outcome is not Outcome.DONE:
            raise ApiError(Fault.PEER_EXISTS if answer.outcome is Outcome.EXISTS else Fault.NO_ROOM, answer.reason)

    def remove(self, endpoint: str) -> None:
        """Forgets `endpoint` and closes its connection."""
        answer = self._actors.ask("peers", RemovePeer(self._actors.token(), str(_target(endpoint))), Answer)[-1]
        if answer.outcome is not Outcome.DONE:
            raise ApiError(Fault.PEER_UNKNOWN if answer.outcome is Outcome.MISSING else Fault.NO_ROOM, answer.reason)


def neighbour_objects(peers: Iterable[PeerRow], links: Iterable[LinkRow]) -> list[Neighbour]:
    """The rows of peers joined with those of links."""
    by_number = {row.link: row for row in links}
    same: dict[bytes, list[LinkRow]] = defaultdict(list)
    for row in by_number.values():
        same[row.public_key].append(row)
    return [_neighbour(peer, by_number.get(peer.link), same) for peer in peers]


def _neighbour(peer: PeerRow, link: LinkRow | None, same: dict[bytes, list[LinkRow]]) -> Neighbour:
    known = link is not None and link.public_key
    return {
        "endpoint": peer.endpoint,
        "reached": peer.reached,
        "origin": _ORIGINS[peer.kind],  # type: ignore[typeddict-item]
        "state": peer.state,  # type: ignore[typeddict-item]
        "reason": peer.reason,
        "link": None if link is None else link_text(link.link),
        "name": None if link is None else link.name,
        "neighbour": ip_text(IPv6Address(address_of(link.public_key))) if link is not None and known else None,
        "cost": None if link is None else link.cost,
        "roundTripMs": None if link is None else link.round_trip_ms,
        "prefixes": 0 if link is None else link.prefixes,
        "why": "" if link is None else _why(link, [row for row in same[link.public_key] if row is not link]),
    }


def _why(link: LinkRow, others: list[LinkRow]) -> str:
    if not link.public_key:
        return "the neighbour has announced nothing yet"
    if not others:
        return "the only link to this neighbour"
    best = min(others, key=lambda row: row.cost)
    other = f"link {link_text(best.link)} costs {best.cost}"
    if link.prefixes:
        reason = (
            "is cheapest"
            if link.cost <= best.cost
            else f"is kept: another has to be cheaper by more than {SWITCHING_IMPROVEMENT}"
        )
        return f"in use: {link.cost} {reason}; {other}"
    return f"waits, at {link.cost}: {other}"


def _target(text: str) -> Target:
    try:
        return Target.parse(text)
    except (EndpointError, TargetError) as error:
        raise ApiError(Fault.BAD_ENDPOINT, str(error)) from None
