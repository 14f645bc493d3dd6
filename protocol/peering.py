"""The peer table: whom to dial, when to try again, what became of each connection (wire spec 6, without discovery).

A broken connection is dialled again at once; only a failure to connect (or a connection that broke right away) makes
the next try wait: 1, 2, 4, then 5 seconds, where the reference always waits for its next round of 5.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

PAUSES_SECONDS: Final = (1.0, 2.0, 4.0, 5.0)
JITTER: Final = 0.25
"""Of a pause, so that nodes that lost the same neighbour don't all come back in the same moment."""
SHORTEST_LIFE_SECONDS: Final = 2.0
"""A connection that ends sooner counts as a failure to connect: what broke it would break the next one too."""
MAX_PEERS: Final = 4096
DISCOVERED_FAILURES: Final = 3
"""Failures in a row after which a discovered peer is forgotten (wire spec 6.2)."""
SELF_PAUSE_SECONDS: Final = 300.0
LEADS_TO_SELF: Final = "it leads to this node itself"
"""Why a link ended whose other end is ours. Such a peer is tried again after a while: addresses move."""


class Kind(enum.Enum):
    """How a peer became known; the words are those of the reference's API."""

    STATIC = "static"
    INBOUND = "inbound"
    DISCOVERED = "linkLocalDiscovery"


class State(enum.Enum):
    """Where a peer stands; the words are those of the reference's API."""

    CONNECTING = "connecting"
    ALIVE = "alive"
    DEAD = "dead"


class Saw(enum.Enum):
    """What happens to a peer."""

    DUE = "its pause is over"
    CONNECTED = "the connection stands"
    FAILED = "it can't be reached"
    BROKE = "the connection ended"


TRANSITIONS: Final = {
    (State.DEAD, Saw.DUE): State.CONNECTING,
    (State.CONNECTING, Saw.CONNECTED): State.ALIVE,
    (State.CONNECTING, Saw.FAILED): State.DEAD,
    (State.ALIVE, Saw.BROKE): State.DEAD,
}


class PeeringError(Exception):
    """Something happened that can't happen in this state, or an endpoint that can't be added."""


class AlreadyKnown(PeeringError):
    """The endpoint is in the table."""


class NotKnown(PeeringError):
    """The endpoint is not in the table."""


@dataclass(slots=True)
class Peer:
    """One peer. Times are monotonic seconds; `due` is None where it is never dialled."""

    endpoint: str
    kind: Kind
    discovered: float
    due: float | None
    state: State = State.DEAD
    link: int = 0
    failures: int = 0
    connected: float | None = None
    sent_octets: int = 0
    received_octets: int = 0
    reached: str = ""
    """The endpoint, its host name replaced by the address that answered; empty before."""
    reason: str = field(default="")
    """Why it is not connected, for people."""


class PeerTable:
    """All peers by endpoint. `now` is monotonic seconds; `spread` is a random number from 0 to 1."""

    def __init__(self) -> None:
        self._peers: dict[str, Peer] = {}
        self._by_link: dict[int, Peer] = {}

    def __iter__(self) -> Iterator[Peer]:
        return iter(self._peers.values())

    def __contains__(self, endpoint: str) -> bool:
        return endpoint in self._peers

    def __len__(self) -> int:
        return len(self._peers)

    def add(self, endpoint: str, now: float, *, never: str = "", kind: Kind = Kind.STATIC) -> Peer:
        """A peer to keep a connection to. With `never`, the reason why it is listed but not dialled.

        Raises `AlreadyKnown`, or `PeeringError` where the table is full.
        """
        if endpoint in self._peers:
            raise AlreadyKnown(f"{endpoint} is known already")
        if len(self._peers) >= MAX_PEERS:
            raise PeeringError(f"{MAX_PEERS} peers are known; remove one first")
        peer = Peer(endpoint, kind, now, None if never else now, reason=never)
        self._peers[endpoint] = peer
        return peer

    def accepted(self, endpoint: str, link: int, now: float) -> None:
        """A connection from outside became link `link`."""
        self._let_in(Peer(endpoint, Kind.INBOUND, now, None, State.ALIVE, link, connected=now))

    def kept(
        self,
        endpoint: str,
        link: int,
        outbound: bool,
        now: float,
        age: float,
        reached: str = "",
        *,
        discovered: bool = False,
    ) -> bool:
        """Link `link` has been up for `age` seconds already: this table is new, not the connection.

        `discovered`: whether it looks like one that discovery made. Returns False where the peer has a link: several
        addresses of it were being tried.
        """
        peer = self._peers.get(endpoint) if outbound else None
        if peer is not None and peer.state is State.ALIVE:
            return False
        if peer is None:
            # A peer that was removed while nobody kept the table stays as a guest until its connection ends.
            kind = Kind.DISCOVERED if discovered else Kind.INBOUND
            self._let_in(Peer(endpoint, kind, now - age, None, State.ALIVE, link, connected=now - age))
            return True
        peer.due = None
        peer.state = State.ALIVE
        peer.link = link
        peer.connected = now - age
        peer.reached = reached
        self._by_link[link] = peer
        return True

    def remove(self, endpoint: str) -> int:
        """Forgets a peer; returns the link to close, 0 where there is none.

        Raises `NotKnown`.
        """
        peer = self._peers.pop(endpoint, None)
        if peer is None:
            raise NotKnown(f"{endpoint} is not known")
        self._by_link.pop(peer.link, None)
        return peer.link

    def take_due(self, now: float) -> list[str]:
        """The endpoints to dial now."""
        found = []
        for peer in self._peers.values():
            if peer.due is not None and peer.due <= now:
                self._move(peer, Saw.DUE)
                peer.due = None
                found.append(peer.endpoint)
        return found

    def next_deadline(self) -> float | None:
        """When `take_due` has something to say next."""
        return min((peer.due for peer in self._peers.values() if peer.due is not None), default=None)

    def connected(self, endpoint: str, link: int, now: float, reached: str = "") -> bool:
        """A dialled connection, made at `reached`, stands and became link `link`; False where nobody wants it."""
        peer = self._peers.get(endpoint)
        if peer is None or peer.state is not State.CONNECTING:
            return False
        self._move(peer, Saw.CONNECTED)
        peer.link = link
        peer.connected = now
        peer.reached = reached or endpoint
        peer.reason = ""
        self._by_link[link] = peer
        return True

    def try_all(self, now: float) -> bool:
        """Whoever waits for the next try is due at once, as if nothing had failed yet; whether there was anybody."""
        waiting = [peer for peer in self._peers.values() if peer.due is not None and peer.due > now]
        for peer in waiting:
            peer.due = now
            peer.failures = 0
        return bool(waiting)

    def failed(self, endpoint: str, reason: str, now: float, spread: float) -> int:
        """A try to dial failed; returns how many failed in a row, 0 where nobody wants it any more.

        A discovered peer is forgotten with its third failure.
        """
        peer = self._peers.get(endpoint)
        if peer is None or peer.state is not State.CONNECTING:
            return 0
        self._move(peer, Saw.FAILED)
        self._pause(peer, reason, now, spread)
        if peer.kind is Kind.DISCOVERED and peer.failures >= DISCOVERED_FAILURES:
            del self._peers[endpoint]
        return peer.failures

    def link_gone(self, link: int, reason: str, now: float, spread: float) -> Peer | None:
        """The process of a link ended; returns whose it was."""
        peer = self._by_link.pop(link, None)
        if peer is None:
            return None
        self._move(peer, Saw.BROKE)
        peer.link = 0
        if peer.kind is Kind.INBOUND:
            if self._peers.get(peer.endpoint) is peer:
                del self._peers[peer.endpoint]
        elif reason.endswith(LEADS_TO_SELF):
            peer.reason = reason
            peer.due = now + SELF_PAUSE_SECONDS
        elif peer.connected is not None and now - peer.connected < SHORTEST_LIFE_SECONDS:
            self._pause(peer, reason, now, spread)
        else:
            peer.failures = 0
            peer.reason = reason
            peer.due = now
        return peer

    def moved(self, link: int, received_octets: int, sent_octets: int) -> None:
        """So many more bytes went over a link."""
        peer = self._by_link.get(link)
        if peer is not None:
            peer.received_octets += received_octets
            peer.sent_octets += sent_octets

    def _let_in(self, guest: Peer) -> None:
        self._by_link[guest.link] = guest
        known = self._peers.get(guest.endpoint)
        if known is None or known.kind is Kind.INBOUND:
            # The same address and port again: the older connection is dead, even if its link does not know yet.
            self._peers[guest.endpoint] = guest
        # Else it comes from the port we dial. The reference forgets then that it was told to dial (wire spec 6.3, Q11);
        # here what was configured stays, and the guest is a link that is not listed.

    @staticmethod
    def _move(peer: Peer, saw: Saw) -> None:
        following = TRANSITIONS.get((peer.state, saw))
        if following is None:
            raise PeeringError(f"peer {peer.endpoint} is {peer.state.value}, and {saw.value}")
        peer.state = following

    @staticmethod
    def _pause(peer: Peer, reason: str, now: float, spread: float) -> None:
        pause = PAUSES_SECONDS[min(peer.failures, len(PAUSES_SECONDS) - 1)]
        peer.failures += 1
        peer.reason = reason
        peer.due = now + pause * (1 + JITTER * (2 * spread - 1))
