"""A router on a bench: made-up neighbours and owners of prefixes, and what the router says to whom."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from blake3 import blake3

from protocol.frames import RouteState
from protocol.mycelium.routing.events import Event, LinkDead, RouteChanged, Saved, Send
from protocol.mycelium.routing.limits import Limits
from protocol.mycelium.routing.router import Router
from protocol.mycelium.routing.state import Record, SavedState
from protocol.mycelium.tlv import Hello, Ihu, RouteRequest, SeqnoRequest, Tlv, Update
from protocol.prefix import Prefix

INFINITE = 0xFFFF
STATIC_COST = 15
FRESH_COST = 1000 + STATIC_COST
"""What a TCP link over IPv4 costs before its first IHU."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Owner:
    """A node that owns a prefix somewhere in the network; made from a name, no two alike."""

    public_key: bytes
    address: bytes
    random: bytes

    @classmethod
    def named(cls, name: str) -> Owner:
        key = hashlib.sha256(name.encode()).digest()
        digest = blake3(key).digest()[:16]
        first = 4 + bin(digest[0]).count("1") % 2
        return cls(key, bytes([first]) + digest[1:], hashlib.sha256(key).digest()[:6])

    @property
    def prefix(self) -> Prefix:
        return Prefix(self.address[:8] + bytes(8), 64)

    @property
    def router_id(self) -> bytes:
        return self.public_key + b"\0\0" + self.random

    def restarted(self) -> Owner:
        """The same node after a restart: another random part."""
        return replace(self, random=hashlib.sha256(self.random).digest()[:6])

    def update(self, metric: int = 0, seqno: int = 0, **fields: Any) -> Update:
        """What the owner, or a relay of it, announces."""
        fields.setdefault("prefix", self.prefix)
        return Update(router_id=self.router_id, seqno=seqno, metric=metric, **fields)


ME = Owner.named("the node on the bench")


@dataclass
class Rig:
    """A router, a clock that only the test moves, and everything that came out."""

    router: Router
    now: float = 100.0
    log: list[tuple[float, Event]] = field(default_factory=list)
    neighbours_answer: bool = False
    """Whether, while time passes, every Hello is answered by an IHU at once."""

    @classmethod
    def make(cls, links: int = 0, *, now: float = 100.0, any_size: bool = False, limits: Limits | None = None) -> Rig:
        """A fresh router with links 1, 2, … up; what it said on that occasion is forgotten."""
        rig = cls(Router(ME.router_id, ME.prefix, now, limits=limits), now)
        for link in range(1, links + 1):
            rig.up(link, any_size=any_size)
        rig.take()
        return rig

    @classmethod
    def restored(cls, records: list[Record], now: float) -> Rig:
        """A router that goes on where the writer of these records ended."""
        other_start = ME.restarted().router_id
        return cls(Router(other_start, ME.prefix, now, restored=SavedState.replay(records)), now)

    def up(self, link: int, static_cost: int = STATIC_COST, *, any_size: bool = False) -> None:
        self.router.link_up(link, static_cost, any_size, self.now)

    def down(self, link: int) -> None:
        self.router.link_down(link, self.now)

    def hear(self, link: int, *tlvs: Tlv) -> None:
        for tlv in tlvs:
            self.router.receive(link, tlv, self.now)

    def resolve(self, prefix: Prefix) -> None:
        self.router.resolve(prefix, self.now)

    def refresh(self, prefix: Prefix) -> None:
        self.router.refresh(prefix, self.now)

    def wait(self, seconds: float) -> None:
        """Lets time pass; the router is called exactly when it asked to be, and its events carry that time."""
        end = self.now + seconds
        while True:
            self._collect()
            deadline = self.router.next_deadline()
            if deadline is None or deadline > end:
                break
            self.now = max(self.now, deadline)
            self.router.handle_timer(self.now)
            if self.neighbours_answer:
                self._answer_new_hellos()
        self.now = end

    def take(self) -> list[Event]:
        """Everything since the last time."""
        self._collect()
        taken = [event for _, event in self.log]
        self.log.clear()
        return taken

    def take_sends(self) -> list[tuple[float, int, Tlv]]:
        """(time, link, TLV) of everything that was sent since the last time."""
        self._collect()
        taken = [(at, e.link, e.tlv) for at, e in self.log if isinstance(e, Send)]
        self.log.clear()
        return taken

    def take_timed(self, kind: type[_T]) -> list[tuple[float, _T]]:
        """(time, TLV) of everything of this kind that was sent, to whomever, since the last time."""
        self._collect()
        taken = [(at, e.tlv) for at, e in self.log if isinstance(e, Send) and isinstance(e.tlv, kind)]
        self.log.clear()
        return taken

    def take_sent(self, kind: type[_T]) -> dict[int, list[_T]]:
        """link → TLVs of this kind since the last time."""
        sent: dict[int, list[_T]] = {}
        for event in self.take():
            if isinstance(event, Send) and isinstance(event.tlv, kind):
                sent.setdefault(event.link, []).append(event.tlv)
        return sent

    def take_updates(self) -> dict[int, list[Update]]:
        return self.take_sent(Update)

    def take_seqno_requests(self) -> dict[int, list[SeqnoRequest]]:
        return self.take_sent(SeqnoRequest)

    def take_route_requests(self) -> dict[int, list[RouteRequest]]:
        return self.take_sent(RouteRequest)

    def take_changes(self) -> list[RouteChanged]:
        return [event for event in self.take() if isinstance(event, RouteChanged)]

    def take_records(self) -> list[Record]:
        return [event.record for event in self.take() if isinstance(event, Saved)]

    def take_dead(self) -> list[int]:
        return [event.link for event in self.take() if isinstance(event, LinkDead)]

    def selected_link(self, prefix: Prefix) -> int | None:
        """The link that packets to `prefix` take."""
        return next((route.link for route in self.router.selected() if route.prefix == prefix), None)

    def fallback_links(self, prefix: Prefix) -> list[int]:
        return [route.link for route in self.router.fallback() if route.prefix == prefix]

    def state(self, prefix: Prefix) -> RouteState:
        """What data actors were told of `prefix`."""
        for change in self.router.published():
            if change.prefix == prefix:
                return change.state
        return RouteState.FORGOTTEN

    def answer_hellos(self, link: int, round_trip: float = 0.0) -> None:
        """The neighbour answers one Hello of the router after `round_trip` seconds."""
        self.wait(round_trip)
        self.hear(link, Ihu(0))

    def count(self, counter: str) -> int:
        return self.router.counters[counter]

    def _answer_new_hellos(self) -> None:
        seen = len(self.log)
        self._collect()
        for link, _ in hellos([event for _, event in self.log[seen:]]):
            self.hear(link, Ihu(0))

    def _collect(self) -> None:
        self.log.extend((self.now, event) for event in self.router.events())


def hellos(events: list[Event]) -> list[tuple[int, Hello]]:
    """(link, Hello) of every Hello among the events."""
    return [(e.link, e.tlv) for e in events if isinstance(e, Send) and isinstance(e.tlv, Hello)]
