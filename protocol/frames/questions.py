"""Questions about a living node, and their answers: peers, routes, queries, keys, traffic."""

from __future__ import annotations

import enum

from protocol.codec import frame, record


@frame(0x50)
class AskPeers:
    """→ peers."""

    token: int


@record
class PeerRow:
    """One peer. Ages in seconds; `connected_age` is None where it never was connected.

    `reached` is the endpoint with the address that it was reached at last, empty where it never was.
    """

    endpoint: str
    reached: str
    kind: str
    state: str
    link: int
    sent_octets: int
    received_octets: int
    discovered_age: float
    connected_age: float | None
    reason: str


@frame(0x51)
class PeerList:
    """Peers → asker."""

    token: int
    peers: tuple[PeerRow, ...]
    more: bool


@frame(0x52)
class AddPeer:
    """→ peers: dial this endpoint for ever."""

    token: int
    endpoint: str


@frame(0x53)
class RemovePeer:
    """→ peers: forget this endpoint and close its connection."""

    token: int
    endpoint: str


class Outcome(enum.IntEnum):
    """How a request ended."""

    DONE = 0
    EXISTS = 1
    MISSING = 2
    REFUSED = 3


@frame(0x54)
class Answer:
    """The end of an `AddPeer` or `RemovePeer`; `reason` is for people."""

    token: int
    outcome: Outcome
    reason: str


class RouteKind(enum.Enum):
    """Which routes are asked for."""

    SELECTED = "selected"
    FALLBACK = "fallback"


@frame(0x55)
class AskRoutes:
    """→ router."""

    token: int
    kind: RouteKind


@record
class RouteRow:
    """One route: metric as the next hop announced it."""

    network: bytes
    length: int
    next_hop: str
    metric: int
    seqno: int


@frame(0x56)
class RouteList:
    """Router → asker."""

    token: int
    routes: tuple[RouteRow, ...]
    more: bool


@frame(0x57)
class AskQueried:
    """→ router: what is being resolved?"""

    token: int


@record
class QueriedRow:
    """One prefix that is being resolved, for so many seconds more."""

    network: bytes
    length: int
    seconds_left: float


@frame(0x58)
class QueriedList:
    """Router → asker."""

    token: int
    queried: tuple[QueriedRow, ...]
    more: bool


@frame(0x59)
class AskPublicKey:
    """→ router: whose address is this?"""

    token: int
    address: bytes


@frame(0x5A)
class PublicKeyAnswer:
    """Router → asker; empty where no route is known."""

    token: int
    public_key: bytes


@frame(0x5B)
class AskTraffic:
    """→ peers: packets and bytes by address."""

    token: int


@record
class AddressTraffic:
    """Packets and bytes of ciphertext with this source or destination."""

    address: bytes
    packets: int
    octets: int


@frame(0x5C)
class TrafficList:
    """Peers → asker. Sources in full, then destinations in full; `more` where another part follows."""

    token: int
    by_source: tuple[AddressTraffic, ...]
    by_destination: tuple[AddressTraffic, ...]
    more: bool
