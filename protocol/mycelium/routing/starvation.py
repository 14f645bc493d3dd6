"""Seqno Requests: asking an origin for a newer sequence number when only unfeasible routes are left (wire spec 7.15).

Where it goes further than the reference, which a node that asks once can't tell:
a neighbour that is asked directly is asked at most every 4 s (Q9). A request is suppressed as a repetition only if the
table has no answer and the next hop was sent it less than 4 s ago, for whomever (Q10): with the reference's 60 s, one
request that is lost on its way starves everyone behind each relay for a minute. A neighbour whose repetition is
suppressed still gets the answer when it comes.
"""

from __future__ import annotations

from collections.abc import Iterable

from protocol.mycelium.routing.announcements import Announcer
from protocol.mycelium.routing.arithmetic import next_seqno, seqno_newer, seqno_older
from protocol.mycelium.routing.core import Core
from protocol.mycelium.routing.events import Send
from protocol.mycelium.routing.links import Link
from protocol.mycelium.routing.requests import SEQNO_REQUEST_PAUSE, SeqnoRequestCache
from protocol.mycelium.routing.routes import EntryState, RouteEntry
from protocol.mycelium.tlv import SeqnoRequest
from protocol.prefix import OVERLAY, SUBNET_BITS, Prefix


class Starvation:
    """Sends, answers and forwards Seqno Requests. Changes the own sequence number and the Seqno Request cache."""

    def __init__(self, core: Core, announcer: Announcer) -> None:
        self._core = core
        self._announcer = announcer
        self._cache = SeqnoRequestCache(core.limits.seqno_requests)

    def ask(self, prefix: Prefix, router_id: bytes, links: Iterable[int], now: float) -> None:
        """Asks the source (prefix, router-id) for a newer seqno through these links, each at most every 4 s."""
        distance = self._core.sources.get(prefix, router_id)
        seqno = 1 if distance is None else next_seqno(distance[1])
        key = (router_id, prefix, seqno)
        for link in links:
            if link in self._core.links and self._cache.may_ask(key, link, now):
                self._cache.note(key, link, None, now)
                self._core.events.append(Send(link, SeqnoRequest(prefix, router_id, seqno)))

    def waiting_for(self, router_id: bytes, prefix: Prefix, seqno: int, now: float) -> list[Link] | None:
        """The neighbours that asked for exactly this seqno of the source, `None` if nobody at all did.

        Nobody is listed where only this node asked; the Update counts as announced nevertheless (wire spec 7.8).
        """
        request = self._cache.get((router_id, prefix, seqno), now)
        if request is None:
            return None
        links = (self._core.links.get(link) for link in request.requesters)
        return [link for link in links if link is not None]

    def receive(self, link: Link, request: SeqnoRequest, now: float) -> None:
        """Answers, bumps the own seqno, or forwards; steps as in wire spec 7.15."""
        core = self._core
        prefix = request.prefix
        if prefix.length < SUBNET_BITS or not OVERLAY.covers(prefix):
            core.counters["seqno_requests_denied"] += 1
            return
        if self._answer(link, request, now):
            return
        if request.router_id == core.own.router_id:
            self._bump(request, now)
        elif request.hop_count < 2:
            core.counters["seqno_requests_too_far"] += 1
        else:
            self._forward(link, request, now)

    def link_down(self, link: int) -> None:
        """Forgets what was asked of a link and what it asked for."""
        self._cache.link_down(link)

    def _answer(self, link: Link, request: SeqnoRequest, now: float) -> bool:
        destination = self._core.table.find(request.prefix)
        entry = destination.selected if destination is not None else None
        if entry is None:
            return False
        if entry.router_id == request.router_id and seqno_older(entry.seqno, request.seqno):
            return False
        # Also to the next hop: it asks because it has lost the route itself (wire spec 7.13).
        self._announcer.route(request.prefix, entry, (link,), now)
        self._core.counters["seqno_requests_answered"] += 1
        return True

    def _bump(self, request: SeqnoRequest, now: float) -> None:
        own = self._core.own
        if request.prefix != own.prefix or not seqno_newer(request.seqno, own.seqno):
            self._core.counters["seqno_requests_unhandled"] += 1
        elif now - own.seqno_changed < SEQNO_REQUEST_PAUSE:
            self._core.counters["seqno_requests_bump_too_soon"] += 1
        else:
            # By one, whatever was asked: a requester on the way is answered only by the exact seqno (wire spec 7.15).
            self._core.increase_seqno(now)
            self._core.counters["seqno_requests_bumped"] += 1
            self._announcer.own_prefix(self._core.links)

    def _forward(self, link: Link, request: SeqnoRequest, now: float) -> None:
        next_hop = self._towards_origin(link, request.prefix)
        if next_hop is None:
            self._core.counters["seqno_requests_unhandled"] += 1
            return
        key = (request.router_id, request.prefix, request.seqno)
        earlier = self._cache.get(key, now)
        if earlier is not None and earlier.was_sent(next_hop.link, now):
            earlier.requesters[link.id] = None
            self._core.counters["seqno_requests_repeated"] += 1
            return
        self._cache.note(key, next_hop.link, link.id, now)
        forwarded = SeqnoRequest(request.prefix, request.router_id, request.seqno, request.hop_count - 1)
        self._core.events.append(Send(next_hop.link, forwarded))
        self._core.counters["seqno_requests_forwarded"] += 1

    def _towards_origin(self, link: Link, prefix: Prefix) -> RouteEntry | None:
        """The first feasible route that does not lead back to the asking neighbour, else the first unfeasible one."""
        destination = self._core.table.find(prefix)
        if destination is None:
            return None
        usable = [e for e in destination.entries if e.state is not EntryState.RETRACTED and e.link != link.id]
        for entry in usable:
            if self._core.sources.feasible(prefix, entry.router_id, entry.seqno, entry.metric):
                return entry
        if usable:
            self._core.counters["seqno_requests_forwarded_unfeasible"] += 1
            return usable[0]
        return None
