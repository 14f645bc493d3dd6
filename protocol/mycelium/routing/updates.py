"""Received Updates: which are believed, and what they change (wire spec 7.6, 7.8).

Where it goes further than the reference: while nothing is selected, an unfeasible route that overwrites another makes
us ask for a newer seqno (Q8); a clean mark that is taken away counts at once, even in an unfeasible Update; a node that
comes back over a new connection makes us look whether its old one still lives (7.17).
"""

from __future__ import annotations

from protocol.mycelium.identity import address_of, router_id_key
from protocol.mycelium.routing.announcements import Announcer
from protocol.mycelium.routing.arithmetic import add_metric, hold_time
from protocol.mycelium.routing.core import Core
from protocol.mycelium.routing.events import Send
from protocol.mycelium.routing.links import Link
from protocol.mycelium.routing.resolution import Resolution
from protocol.mycelium.routing.routes import Destination, EntryState, Happening, RouteEntry
from protocol.mycelium.routing.selection import Cause, Chosen, Selection
from protocol.mycelium.routing.starvation import Starvation
from protocol.mycelium.tlv import METRIC_INFINITE, UPDATE_FLAG_CLEAN, Update
from protocol.prefix import OVERLAY, SUBNET_BITS, Prefix


class Updates:
    """Takes in Updates. Changes the entries of the routing table."""

    def __init__(
        self, core: Core, announcer: Announcer, starvation: Starvation, resolution: Resolution, selection: Selection
    ) -> None:
        self._core = core
        self._announcer = announcer
        self._starvation = starvation
        self._resolution = resolution
        self._selection = selection

    def receive(self, link: Link, update: Update, now: float) -> None:
        """Takes in one Update; steps as in wire spec 7.8."""
        core = self._core
        prefix = update.prefix
        if not self._believable(update):
            core.counters["updates_denied"] += 1
            return
        if core.own.prefix.covers(prefix):
            if update.router_id == core.own.router_id and update.metric == 0:
                # Only a prefix's owner announces it at no cost, and only this process has this router-id.
                core.links.leads_to_self(link, now)
            return
        known = core.table.find(prefix)
        if known is None:
            before = None
            destination = self._discover(link, update, now)
        else:
            before = self._selection.chosen(known)
            self._probe_old_connection(link, update, known, now)
            destination = known if self._revise(link, update, known, before, now) else None
        if destination is None:
            core.counters["updates_without_selection"] += 1
            return
        prefix = destination.prefix
        waiting = self._starvation.waiting_for(update.router_id, prefix, update.seqno, now)
        announced = self._selection.settle(prefix, destination, before, Cause.UPDATE, now)
        if waiting is not None and not announced:
            self._announcer.triggered(prefix, destination, waiting, now)
        self._drop_surplus_entry(prefix, destination)
        if update.metric == 0:
            self._measure_links(destination, now)

    def _measure_links(self, destination: Destination, now: float) -> None:
        """Where several links lead to one neighbour, which of them is the best should soon be known."""
        found = (self._core.links.get(entry.link) for entry in destination.entries if entry.metric == 0)
        links = [link for link in found if link is not None]
        if len(links) > 1:
            for link in links:
                self._core.links.measure(link, now)

    def _believable(self, update: Update) -> bool:
        """The filters of wire spec 7.6: an announced prefix must contain the address that its origin's key gives."""
        prefix = update.prefix
        if prefix.length < SUBNET_BITS or not OVERLAY.covers(prefix):
            return False
        return update.metric == METRIC_INFINITE or prefix.contains(address_of(router_id_key(update.router_id)))

    def _discover(self, link: Link, update: Update, now: float) -> Destination | None:
        """Step 4, a prefix without any entry; returns what there is to select from now."""
        core = self._core
        if not core.sources.feasible(update.prefix, update.router_id, update.seqno, update.metric):
            core.counters["updates_not_interesting"] += 1
            self._starvation.ask(update.prefix, update.router_id, (link.id,), now)
            return None
        if update.metric == METRIC_INFINITE:
            core.counters["updates_not_interesting"] += 1
            return None
        if len(core.table) >= core.limits.prefixes and self._resolution.queries.get(update.prefix) is None:
            core.counters["updates_over_prefix_limit"] += 1
            return None
        return core.table.add(update.prefix, router_id_key(update.router_id), _entry(link, update, now))

    def _revise(self, link: Link, update: Update, destination: Destination, before: Chosen | None, now: float) -> bool:
        """Steps 5 and 6, a known prefix; whether a route has to be chosen anew."""
        core = self._core
        prefix = update.prefix
        feasible = core.sources.feasible(prefix, update.router_id, update.seqno, update.metric)
        entry = destination.entry_via(link.id)
        if entry is None:
            if not feasible and before is None:
                self._starvation.ask(prefix, update.router_id, (link.id,), now)
            if not feasible or update.metric == METRIC_INFINITE:
                return False
            made = _entry(link, update, now)
            made.router_id = destination.router_id_object(update.router_id)
            core.table.add(prefix, destination.public_key, made)
            return True
        if not feasible:
            return self._revise_unfeasibly(entry, update, before, now)
        if entry.state is EntryState.RETRACTED and update.metric == METRIC_INFINITE:
            return False
        _overwrite(entry, update)
        entry.happened(Happening.LOST if update.metric == METRIC_INFINITE else Happening.RENEWED)
        entry.expires = now + hold_time(update.interval_cs, update.metric)
        core.table.expiries.arm(prefix, entry.expires)
        return True

    def _revise_unfeasibly(self, entry: RouteEntry, update: Update, before: Chosen | None, now: float) -> bool:
        selected = entry.state is EntryState.SELECTED
        if selected and entry.router_id == update.router_id:
            # The neighbour still has what it announced before, or something better: that is what feasibility means. So
            # the route stays in use until a newer seqno comes, but packets of any size can no longer be counted on.
            self._starvation.ask(update.prefix, update.router_id, (entry.link,), now)
            if entry.clean and not update.flags & UPDATE_FLAG_CLEAN:
                entry.clean = False
                return True
            return False
        _overwrite(entry, update)
        entry.happened(Happening.RENEWED)
        if selected:
            entry.happened(Happening.OUTDONE)
            return True
        if before is None:
            self._starvation.ask(update.prefix, update.router_id, (entry.link,), now)
        return False

    def _drop_surplus_entry(self, prefix: Prefix, destination: Destination) -> None:
        core = self._core
        if len(destination.entries) <= core.limits.entries_per_prefix:
            return
        fallbacks = [entry for entry in destination.entries if entry.state is not EntryState.SELECTED]
        costliest = max(fallbacks, key=lambda entry: add_metric(entry.metric, core.links.cost(entry.link)))
        core.table.remove(prefix, destination, costliest)
        core.counters["updates_over_entry_limit"] += 1

    def _probe_old_connection(self, link: Link, update: Update, destination: Destination, now: float) -> None:
        """A node that is known over an older connection says under a new router-id that it is here (wire spec 7.17).

        The new connection is not simply preferred, because router-ids are not authenticated.
        """
        if update.metric != 0:
            return
        for entry in destination.entries:
            old = self._core.links.get(entry.link)
            if old is None or entry.metric != 0 or old.since >= link.since or entry.router_id == update.router_id:
                continue
            if self._core.links.may_probe(old, now):
                self._core.counters["probes"] += 1
                self._core.events.append(Send(old.id, old.hello(now)))


def _entry(link: Link, update: Update, now: float) -> RouteEntry:
    clean = bool(update.flags & UPDATE_FLAG_CLEAN)
    expires = now + hold_time(update.interval_cs, update.metric)
    return RouteEntry(link.id, update.router_id, update.seqno, update.metric, clean, expires)


def _overwrite(entry: RouteEntry, update: Update) -> None:
    if entry.router_id != update.router_id:
        entry.router_id = update.router_id
    entry.seqno = update.seqno
    entry.metric = update.metric
    entry.clean = bool(update.flags & UPDATE_FLAG_CLEAN)
