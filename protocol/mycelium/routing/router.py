"""The router of the Mycelium overlay: which neighbour leads to which prefix, and what the neighbours are told.

This file routes calls and timers to the parts that know the rules:

    links            who the neighbours are, what they cost, whether they live       (wire spec 7.4, 7.5)
    updates          which Updates are believed and what they change                 (7.6, 7.8)
    selection        which route is used, and what follows from that                 (7.11)
    announcements    what the neighbours are told; the source table before it        (7.13, 7.7)
    resolution       routes on demand                                                (7.9)
    starvation       newer sequence numbers on demand                                (7.15)
    publication      what data actors and the journal are told
    restart          what becomes of a predecessor's table and promises
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from typing import Final, NamedTuple

from protocol.mycelium.identity import router_id_key
from protocol.mycelium.routing.announcements import Announcer, forget_source
from protocol.mycelium.routing.arithmetic import RETRACTION_HOLD
from protocol.mycelium.routing.core import Core, Own
from protocol.mycelium.routing.deadlines import Tick
from protocol.mycelium.routing.events import Event, LinkDead, RouteChanged, Saved, Send
from protocol.mycelium.routing.limits import Limits, new_counters
from protocol.mycelium.routing.links import Link, Links
from protocol.mycelium.routing.publication import Publisher
from protocol.mycelium.routing.resolution import Resolution
from protocol.mycelium.routing.restart import Restart
from protocol.mycelium.routing.routes import Destination, EntryState, RoutingTable
from protocol.mycelium.routing.selection import Cause, Selection
from protocol.mycelium.routing.sources import Sources
from protocol.mycelium.routing.starvation import Starvation
from protocol.mycelium.routing.state import (
    FeasibilityDistance,
    LinkCost,
    OwnState,
    Record,
    SavedState,
    published_record,
)
from protocol.mycelium.routing.updates import Updates
from protocol.mycelium.tlv import Hello, Ihu, RouteRequest, SeqnoRequest, Tlv, Update
from protocol.prefix import Prefix

ANNOUNCEMENT_PERIOD: Final = 300.0
"""Seconds between announcements of the own prefix to every neighbour (wire spec 7.12)."""
_STEP: Final = 1024
"""Expiries handled in one call; the rest is due again at once, after whatever else the actor has to do."""


class RouteInfo(NamedTuple):
    """One route as a person sees it; the metric is as the next hop announced it."""

    prefix: Prefix
    link: int
    metric: int
    seqno: int


class Router:
    """One overlay's router, without I/O: TLVs and link changes go in, events come out.

    `now` is monotonic seconds and never decreases. After every call the actor drains `events()` and acts on them in
    order; `handle_timer` is due at `next_deadline()`. Nothing that a neighbour sends raises an error or makes a table
    grow beyond `Limits`; `counters` says what was refused (names: `limits.COUNTERS`).
    """

    def __init__(
        self,
        router_id: bytes,
        subnet: Prefix,
        now: float,
        *,
        limits: Limits | None = None,
        restored: SavedState | None = None,
    ) -> None:
        """`router_id`: 40 bytes, fresh; `subnet`: the own /64. With `restored` the predecessor's router-id goes on.

        Raises `ValueError` if `restored` belongs to another node.
        """
        if restored is not None and router_id_key(restored.own.router_id) != router_id_key(router_id):
            raise ValueError("the saved state belongs to a node with another key; start without it")
        limits = limits if limits is not None else Limits()
        saved = restored if restored is not None else SavedState(OwnState(router_id, 0, now))
        events: deque[Event] = deque()
        own = Own(saved.own.router_id, subnet, saved.own.seqno, saved.own.seqno_changed)
        self.counters = new_counters()
        self._core = Core(
            own,
            limits,
            Links(now, saved.link_costs),
            Sources(limits.sources, saved.distances, now),
            RoutingTable(),
            events,
            self.counters,
        )
        self._publisher = Publisher(events, saved.published)
        self._announcer = Announcer(self._core)
        self._starvation = Starvation(self._core, self._announcer)
        self._resolution = Resolution(self._core, self._publisher, self._announcer, self._starvation)
        self._selection = Selection(self._core, self._publisher, self._announcer, self._starvation, self._resolution)
        self._updates = Updates(self._core, self._announcer, self._starvation, self._resolution, self._selection)
        self._announcement_tick = Tick(ANNOUNCEMENT_PERIOD, now)
        self._restart = Restart(self._core, self._publisher, self._announcer, self._resolution)
        events.append(Saved(own.record()))
        if restored is not None:
            self._restart.begin(saved.link_costs, now)

    # --- links --------------------------------------------------------------------------------------------------------

    def link_up(self, link: int, static_cost: int, any_size: bool, now: float) -> None:
        """A connection to a neighbour is there; `any_size`: it carries packets of every size.

        Raises `ValueError` if the link is up already or its static cost is no metric.
        """
        if not self._core.links:
            self._announcement_tick.passed(now)
        made = self._core.links.up(link, static_cost, any_size, now)
        self.counters["links_up"] += 1
        self._core.events.append(Saved(LinkCost(link, made.smoothed)))
        self._announcer.own_prefix((made,))
        self._core.events.append(Send(link, RouteRequest(None)))
        self._resolution.link_up(made)
        self._restart.link_up(made)

    def link_down(self, link: int, now: float) -> None:
        """The connection is gone (wire spec 7.16). A link that is not up is none of our business any more."""
        self._forget_link(link, now)

    def receive(self, link: int, tlv: Tlv, now: float) -> None:
        """A neighbour sent `tlv`."""
        source = self._core.links.get(link)
        if source is None:
            self.counters["tlvs_from_unknown_link"] += 1
            return
        match tlv:
            case Update():
                self.counters["updates"] += 1
                self._updates.receive(source, tlv, now)
                self._restart.heard(source, tlv, now)
            case Hello():
                self.counters["hellos"] += 1
                self._core.events.append(Send(link, Ihu(source.cost)))
            case Ihu():
                self.counters["ihus"] += 1
                if self._core.links.heard_ihu(source, now):
                    self._core.events.append(Saved(LinkCost(link, source.smoothed)))
            case RouteRequest():
                self.counters["route_requests"] += 1
                self._resolution.receive(source, tlv, now)
            case SeqnoRequest():
                self.counters["seqno_requests"] += 1
                self._starvation.receive(source, tlv, now)

    # --- data actors --------------------------------------------------------------------------------------------------

    def resolve(self, prefix: Prefix, now: float) -> None:
        """A data actor has packets for, or from, `prefix`, which its table doesn't have or calls unreachable.

        What becomes of it is said by a `RouteChanged`: in the end it is SELECTED, FORGOTTEN or UNREACHABLE, 15 s later
        if nobody answers, at most 21 s where a retraction has to run out first.
        """
        self._resolution.resolve(prefix, now)

    def refresh(self, prefix: Prefix, now: float) -> None:
        """A data actor is using the route to `prefix`. To be called at least once a minute for a route in use."""
        self._resolution.refresh(prefix, now)

    # --- time ---------------------------------------------------------------------------------------------------------

    def handle_timer(self, now: float) -> None:
        """Does what is due at `now`."""
        self._restart.end_if_due(now)
        for link, reason in self._core.links.dead(now):
            self.counters["links_dead"] += 1
            self._core.events.append(LinkDead(link, reason))
            self._forget_link(link, now)
        if self._core.links.hello_due(now):
            for neighbour in self._core.links:
                self._core.events.append(Send(neighbour.id, neighbour.hello(now)))
        measured, known = self._core.links.take_measures(now)
        for neighbour in measured:
            self._core.events.append(Send(neighbour.id, neighbour.hello(now)))
        for neighbour in known:
            self._choose_again(neighbour.id, now)
        if self._core.links and self._announcement_tick.passed(now):
            self._announcer.own_prefix(self._core.links)
        for prefix, destination in self._core.table.pop_due(now, _STEP):
            self._expire_routes(prefix, destination, now)
        self._resolution.handle_timer(now)
        self._announcer.continue_dumps(now)
        self._expire_sources(now)

    def next_deadline(self) -> float | None:
        """When `handle_timer` is due, `None` if nothing is waiting."""
        deadlines = (
            self._core.links.next_deadline(),
            self._announcement_tick.next if self._core.links else None,
            self._core.table.expiries.next(),
            self._resolution.next_deadline(),
            self._announcer.next_deadline(),
            self._core.sources.next_deadline(),
            self._restart.next_deadline(),
        )
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def events(self) -> Iterator[Event]:
        """Hands out what happened since the last time, in order, each once."""
        events = self._core.events
        while events:
            yield events.popleft()

    # --- looking inside -----------------------------------------------------------------------------------------------

    def neighbours(self) -> Iterator[tuple[Link, bytes, int]]:
        """Each link, the public key of its neighbour (empty before that announced itself), and the prefixes reached.

        A neighbour is who announces a prefix at no cost.
        """
        keys: dict[int, bytes] = {}
        reached: Counter[int] = Counter()
        entries = (entry for _, destination in self._core.table.items() for entry in destination.entries)
        for entry in entries:
            if entry.metric == 0:
                keys[entry.link] = router_id_key(entry.router_id)
            if entry.state is EntryState.SELECTED:
                reached[entry.link] += 1
        for link in self._core.links:
            yield link, keys.get(link.id, b""), reached[link.id]

    @property
    def router_id(self) -> bytes:
        """The 40-byte router-id in use: the given one, or the predecessor's."""
        return self._core.own.router_id

    @property
    def seqno(self) -> int:
        """The own sequence number."""
        return self._core.own.seqno

    def selected(self) -> Iterator[RouteInfo]:
        """Every route in use."""
        return self._routes(selected=True)

    def fallback(self) -> Iterator[RouteInfo]:
        """Every known route that is not in use, retracted ones included."""
        return self._routes(selected=False)

    def queried(self, now: float) -> Iterator[tuple[Prefix, float]]:
        """(prefix, seconds left) of everything that is being resolved."""
        return ((prefix, max(query.until - now, 0.0)) for prefix, query in self._resolution.queries.items())

    def link_cost(self, link: int) -> int:
        """The link's current cost, METRIC_INFINITE if it is not up."""
        return self._core.links.cost(link)

    def smoothed_rtt(self, link: int) -> int | None:
        """The link's smoothed round-trip time in ms, which starts at 1000; `None` if it is not up."""
        found = self._core.links.get(link)
        return None if found is None else found.smoothed

    def published(self) -> Iterator[RouteChanged]:
        """The whole forwarding table as data actors know it."""
        return (RouteChanged(prefix, *entry) for prefix, entry in self._publisher.items())

    def snapshot(self) -> Iterator[Record]:
        """The records that a journal needs to hold, if it is written anew now."""
        yield self._core.own.record()
        for link, smoothed in self._core.links.known_costs().items():
            yield LinkCost(link, smoothed)
        for (prefix, router_id), (metric, seqno) in self._core.sources.items():
            yield FeasibilityDistance(*prefix, router_id, metric, seqno)
        for prefix, entry in self._publisher.items():
            yield published_record(prefix, entry)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _routes(self, *, selected: bool) -> Iterator[RouteInfo]:
        for prefix, destination in self._core.table.items():
            for entry in destination.entries:
                if (entry.state is EntryState.SELECTED) is selected:
                    yield RouteInfo(prefix, entry.link, entry.metric, entry.seqno)

    def _choose_again(self, link: int, now: float) -> None:
        """What a link costs is known by now: whatever it leads to may have a better way, or a worse one."""
        for prefix, destination in self._core.table.via(link):
            before = self._selection.chosen(destination)
            if self._selection.best(prefix, destination) is not destination.selected:
                self._selection.settle(prefix, destination, before, Cause.UPDATE, now)

    def _forget_link(self, link: int, now: float) -> None:
        if self._core.links.down(link) is not None:
            self.counters["links_down"] += 1
            self._core.events.append(Saved(LinkCost(link, None)))
            self._announcer.link_down(link)
            self._starvation.link_down(link)
            for prefix, destination in self._core.table.via(link):
                self._lose_entry(prefix, destination, link, now)
        self._restart.link_down(link, now)

    def _lose_entry(self, prefix: Prefix, destination: Destination, link: int, now: float) -> None:
        before = self._selection.chosen(destination)
        entry = next(entry for entry in destination.entries if entry.link == link)
        if entry.state is EntryState.SELECTED:
            entry.lose(now + RETRACTION_HOLD)
            self._core.table.expiries.arm(prefix, entry.expires)
            self._selection.settle(prefix, destination, before, Cause.LINK_DOWN, now)
            return
        self._core.table.remove(prefix, destination, entry)
        if not destination.entries:
            self._resolution.emptied(prefix, now)

    def _expire_routes(self, prefix: Prefix, destination: Destination, now: float) -> None:
        table = self._core.table
        before = self._selection.chosen(destination)
        lost = False
        for entry in list(destination.entries):
            if entry.expires > now:
                continue
            if entry.state is EntryState.SELECTED:
                self.counters["routes_retracted_by_expiry"] += 1
                entry.lose(now + RETRACTION_HOLD)
                lost = True
            else:
                self.counters["routes_expired"] += 1
                table.remove(prefix, destination, entry)
        if not destination.entries:
            self._resolution.emptied(prefix, now)
            return
        table.expiries.arm(prefix, min(entry.expires for entry in destination.entries))
        if lost:
            self._selection.settle(prefix, destination, before, Cause.EXPIRY, now)

    def _expire_sources(self, now: float) -> None:
        for _ in range(_STEP):
            source = self._core.sources.pop_expired(now)
            if source is None:
                return
            self.counters["sources_expired"] += 1
            forget_source(self._core, source)
