"""Finding routes on demand: Route Requests sent, answered and flooded, used routes renewed (wire spec 7.9).

Where it goes further than the reference:
requests for anything but /64 to /128 inside the overlay are ignored (Q2, Q20), and so are floods beyond a neighbour's
share; a prefix of which only retracted entries are left counts as unknown, because nobody could answer a Seqno Request
for it (Q25), and is asked for once more after the retractions have run out everywhere; a neighbour's request for a
prefix of which only unfeasible routes are left makes us ask for a newer seqno, else it would stay unanswered until they
expire; a route that was used lately is renewed in its last 15 s also if no packet happens to pass just then.
"""

from __future__ import annotations

from typing import Final

from protocol.frames import RouteState
from protocol.mycelium.routing.announcements import Announcer
from protocol.mycelium.routing.core import Core
from protocol.mycelium.routing.deadlines import Deadlines
from protocol.mycelium.routing.events import Send
from protocol.mycelium.routing.links import Link
from protocol.mycelium.routing.publication import Publisher, Turn
from protocol.mycelium.routing.requests import Queries, Query, RouteRequestCache
from protocol.mycelium.routing.routes import Destination, EntryState, RouteEntry
from protocol.mycelium.routing.starvation import Starvation
from protocol.mycelium.tlv import MAX_GENERATION, RouteRequest
from protocol.prefix import OVERLAY, SUBNET_BITS, Prefix

RENEWAL_MARGIN: Final = 15.0
"""Seconds before its expiry in which a used route is asked for again (wire spec 7.9)."""
USED_LATELY: Final = 60.0
"""Seconds after its last packet in which a route counts as used."""
SECOND_ASKING: Final = 1.0
"""Seconds after the end of a retraction's hold time here until it has ended at the neighbours, who heard it later."""
_STEP: Final = 1024
"""Renewals looked at in one go."""


class Resolution:
    """Resolves prefixes. Changes the queries, the Route Request cache and when used routes are renewed."""

    def __init__(self, core: Core, publisher: Publisher, announcer: Announcer, starvation: Starvation) -> None:
        self._core = core
        self._publisher = publisher
        self._announcer = announcer
        self._starvation = starvation
        self.queries = Queries(core.limits.queries, core.limits.queries_per_link)
        self._sent = RouteRequestCache(core.limits.route_requests)
        self._renewals: Deadlines[Prefix] = Deadlines()
        self._second_askings: Deadlines[Prefix] = Deadlines()

    def resolve(self, prefix: Prefix, now: float) -> None:
        """A data actor has packets for, or from, `prefix` and no route."""
        if not self._may_be_asked_for(prefix) or self._core.own.prefix.covers(prefix):
            self._core.counters["resolves_denied"] += 1
            self._publisher.repeat(prefix)
            return
        destination = self._core.table.find(prefix)
        if destination is not None and destination.selected is not None:
            return
        query = self.queries.get(prefix)
        if query is None and not self._start_query(prefix, None, now):
            self._publisher.repeat(prefix)
            return
        if destination is None:
            if query is None:
                # A new query is never left without a request because an older one is still remembered (Q13).
                self._sent.forget(prefix)
                self._ask_neighbours(prefix, now)
            self._wait_for(prefix)
            return
        self._mark_local(prefix)
        if destination.retracted:
            self._ask_neighbours(prefix, now)
        else:
            self._ask_origin(prefix, destination, now)

    def refresh(self, prefix: Prefix, now: float) -> None:
        """A data actor has sent packets over the route to `prefix`."""
        destination = self._core.table.find(prefix)
        entry = destination.selected if destination is not None else None
        if destination is None or entry is None:
            return
        destination.used = now
        if now >= entry.expires - RENEWAL_MARGIN:
            self._ask_neighbours(prefix, now)
        else:
            self._renewals.arm(prefix, entry.expires - RENEWAL_MARGIN)

    def receive(self, link: Link, request: RouteRequest, now: float) -> None:
        """Answers or forwards a Route Request; steps as in wire spec 7.9."""
        prefix = request.prefix
        core = self._core
        if prefix is None:
            core.counters["wildcard_requests"] += 1
            self._announcer.start_dump(link, now)
            return
        if not self._may_be_asked_for(prefix):
            core.counters["route_requests_denied"] += 1
            return
        if core.own.prefix.covers(prefix):
            self._announcer.own_prefix((link,))
            return
        destination = core.table.find(prefix)
        if destination is not None and not destination.retracted:
            entry = destination.selected
            if entry is None:
                self._ask_origin(prefix, destination, now)
            elif entry.link != link.id:
                self._announcer.route(prefix, entry, (link,), now)
            return
        if self.queries.get(prefix) is not None:
            return
        generation = request.generation + 1
        if generation > MAX_GENERATION:
            core.counters["route_requests_too_far"] += 1
            return
        if not self._start_query(prefix, link.id, now):
            core.counters["route_requests_over_limit"] += 1
            return
        self._request(prefix, generation, now, asker=link.id)

    def link_up(self, link: Link) -> None:
        """A new neighbour is asked for everything that is being resolved (wire spec 7.3)."""
        for prefix in self.queries:
            self._core.events.append(Send(link.id, RouteRequest(prefix)))

    def found(self, prefix: Prefix, destination: Destination, entry: RouteEntry, now: float) -> None:
        """A route was selected: nobody waits any more; if it was in use, it will be renewed."""
        self.queries.end(prefix)
        if destination.used is not None and now < destination.used + USED_LATELY:
            self._renewals.arm(prefix, entry.expires - RENEWAL_MARGIN)

    def emptied(self, prefix: Prefix, now: float) -> None:
        """The last entry of `prefix` is gone; if packets wait for it, it is asked for once more."""
        self._renewals.disarm(prefix)
        query = self.queries.get(prefix)
        if query is None or not query.local:
            self._publisher.happened(prefix, Turn.EMPTIED)
            return
        self._publisher.happened(prefix, Turn.ASKED)
        self.queries.restart(prefix, now)
        self._second_askings.arm(prefix, now + SECOND_ASKING)

    def handle_timer(self, now: float) -> None:
        """Gives up queries, asks again, renews used routes."""
        while (expired := self.queries.pop_expired(now)) is not None:
            self._give_up(*expired)
        for prefix in self._second_askings.pop_due(now, _STEP):
            if self.queries.get(prefix) is not None:
                self._sent.forget(prefix)
                self._ask_neighbours(prefix, now)
        for prefix in self._renewals.pop_due(now, _STEP):
            self._renew(prefix, now)

    def next_deadline(self) -> float | None:
        """When something is due here, `None` if nothing is."""
        deadlines = (self.queries.next_deadline(), self._second_askings.next(), self._renewals.next())
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def _may_be_asked_for(self, prefix: Prefix) -> bool:
        return prefix.length >= SUBNET_BITS and OVERLAY.covers(prefix)

    def _start_query(self, prefix: Prefix, asker: int | None, now: float) -> bool:
        if self.queries.start(prefix, asker, now):
            return True
        self._core.counters["queries_over_limit"] += 1
        return False

    def _mark_local(self, prefix: Prefix) -> None:
        query = self.queries.get(prefix)
        if query is not None:
            query.local = True

    def _wait_for(self, prefix: Prefix) -> None:
        self._mark_local(prefix)
        if self._publisher.get(prefix).state is not RouteState.RESOLVING:
            self._publisher.happened(prefix, Turn.ASKED)

    def _give_up(self, prefix: Prefix, query: Query) -> None:
        if not query.local:
            return
        self._core.counters["queries_given_up"] += 1
        if self._core.table.find(prefix) is None:
            self._publisher.happened(prefix, Turn.GIVEN_UP)
        else:
            self._publisher.repeat(prefix)

    def _renew(self, prefix: Prefix, now: float) -> None:
        destination = self._core.table.find(prefix)
        if destination is None or destination.selected is None or destination.used is None:
            return
        if now >= destination.used + USED_LATELY:
            return
        if now >= destination.selected.expires - RENEWAL_MARGIN:
            self._ask_neighbours(prefix, now)
        else:
            self._renewals.arm(prefix, destination.selected.expires - RENEWAL_MARGIN)

    def _ask_origin(self, prefix: Prefix, destination: Destination, now: float) -> None:
        """Only unfeasible routes are left: a newer seqno would make them usable again."""
        finite = next(entry for entry in destination.entries if entry.state is not EntryState.RETRACTED)
        self._starvation.ask(prefix, finite.router_id, [entry.link for entry in destination.entries], now)

    def _ask_neighbours(self, prefix: Prefix, now: float) -> None:
        self._request(prefix, 0, now, asker=None)

    def _request(self, prefix: Prefix, generation: int, now: float, asker: int | None) -> None:
        """Sends a Route Request to every link that needs it but the asker.

        The asker is remembered as a recipient too (wire spec Q26): it is asking already.
        """
        missing = self._sent.note(prefix, generation, self._core.links.everyone, now)
        request = RouteRequest(prefix, generation)
        for link in self._core.links:
            if link.id in missing and link.id != asker:
                self._core.events.append(Send(link.id, request))
