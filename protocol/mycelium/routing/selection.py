"""Choosing the route in use, and everything that follows from a changed choice (wire spec 7.11, 7.8 steps 7 and 8).

The order matters: data actors leave the old route before neighbours hear a new metric, so that no packet is ever on a
way that the source table doesn't cover.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final, NamedTuple

from protocol.mycelium.routing.announcements import Announcer
from protocol.mycelium.routing.arithmetic import add_metric, subtract_metric
from protocol.mycelium.routing.core import Core
from protocol.mycelium.routing.publication import Publisher, Turn
from protocol.mycelium.routing.resolution import Resolution
from protocol.mycelium.routing.routes import Destination, EntryState, RouteEntry
from protocol.mycelium.routing.starvation import Starvation
from protocol.mycelium.tlv import METRIC_INFINITE
from protocol.prefix import Prefix

SWITCHING_IMPROVEMENT: Final = 10
"""A route takes over only if it is cheaper by more than this (wire spec 7.11)."""
BIG_METRIC_CHANGE: Final = 10
"""A metric that changes by more than this is worth an Update (wire spec 7.8 step 8)."""


class Cause(Enum):
    """Why a route is chosen anew."""

    UPDATE = auto()
    """A neighbour announced something: small changes are kept to ourselves, a lost route is asked for."""
    EXPIRY = auto()
    """The selected route ran out: always announced; nobody is asked, for nobody has said that it is unusable."""
    LINK_DOWN = auto()
    """The next hop is gone: always announced, and the other neighbours are asked."""


class Chosen(NamedTuple):
    """The route that was in use before a change."""

    link: int
    router_id: bytes
    metric: int
    clean: bool
    """Whether its whole way carried packets of any size."""


def takes_over(current_cost: int, winner_cost: int, winner_metric: int, *, both_direct: bool = False) -> bool:
    """Whether the cheapest route replaces the one in use; costs are totals, the metric is as received.

    A direct way replaces any other one at once, as in the reference. Where both are direct, over two links to the same
    neighbour, the reference goes to and fro with every millisecond; here the better one has to be clearly better.
    """
    return (winner_metric == 0 and not both_direct) or winner_cost < subtract_metric(
        current_cost, SWITCHING_IMPROVEMENT
    )


class Selection:
    """Picks routes. Changes which entry of a destination is selected."""

    def __init__(
        self, core: Core, publisher: Publisher, announcer: Announcer, starvation: Starvation, resolution: Resolution
    ) -> None:
        self._core = core
        self._publisher = publisher
        self._announcer = announcer
        self._starvation = starvation
        self._resolution = resolution

    def chosen(self, destination: Destination) -> Chosen | None:
        """The route in use, to be compared with after a change."""
        entry = destination.selected
        if entry is None:
            return None
        return Chosen(entry.link, entry.router_id, entry.metric, self._announcer.is_clean(entry))

    def settle(self, prefix: Prefix, destination: Destination, before: Chosen | None, cause: Cause, now: float) -> bool:
        """Chooses a route after the entries changed; publishes, asks and announces what follows.

        `before` is `chosen()` from before the change. Returns whether an Update went to all neighbours.
        """
        self._core.counters["selections"] += 1
        if cause is not Cause.UPDATE:
            self._core.counters["selections_after_loss"] += 1
        best = self.best(prefix, destination)
        destination.select(best)
        if best is not None:
            clean = self._announcer.is_clean(best)
            self._publisher.happened(prefix, Turn.CHOSEN, best.link, destination.public_key, clean)
            self._resolution.found(prefix, destination, best, now)
        elif before is not None:
            self._publisher.happened(prefix, Turn.LOST)
            if cause is not Cause.EXPIRY:
                neighbours = [entry.link for entry in destination.entries]
                self._starvation.ask(prefix, before.router_id, neighbours, now)
        if cause is Cause.UPDATE and not self._worth_an_update(before, best):
            self._announce_clean_mark(prefix, destination, before, best, now)
            return False
        self._announcer.triggered(prefix, destination, self._core.links, now)
        return True

    def best(self, prefix: Prefix, destination: Destination) -> RouteEntry | None:
        """The route that should be in use: the cheapest feasible one, unless the current one is nearly as cheap."""
        links = self._core.links
        sources = self._core.sources
        winner: RouteEntry | None = None
        winner_cost = current_cost = METRIC_INFINITE
        is_direct = False
        for entry in destination.entries:
            if entry.state is EntryState.RETRACTED:
                continue
            if not sources.feasible(prefix, entry.router_id, entry.seqno, entry.metric):
                continue
            cost = add_metric(entry.metric, links.cost(entry.link))
            if entry.state is EntryState.SELECTED:
                current_cost, is_direct = cost, entry.metric == 0
            if winner is None or cost < winner_cost:
                winner, winner_cost = entry, cost
        if winner is None or current_cost == METRIC_INFINITE or winner.state is EntryState.SELECTED:
            return winner
        both_direct = is_direct and winner.metric == 0
        switch = takes_over(current_cost, winner_cost, winner.metric, both_direct=both_direct)
        return winner if switch else destination.selected

    def _worth_an_update(self, before: Chosen | None, now_selected: RouteEntry | None) -> bool:
        if before is None or now_selected is None:
            return (before is None) != (now_selected is None)
        if now_selected.router_id != before.router_id:
            return True
        return abs(now_selected.metric - before.metric) > BIG_METRIC_CHANGE

    def _announce_clean_mark(
        self, prefix: Prefix, destination: Destination, before: Chosen | None, selected: RouteEntry | None, now: float
    ) -> None:
        """A changed mark alone is worth an Update, to the links that can carry it."""
        if before is None or selected is None or before.clean == self._announcer.is_clean(selected):
            return
        links = [link for link in self._core.links if link.any_size]
        self._announcer.triggered(prefix, destination, links, now)
