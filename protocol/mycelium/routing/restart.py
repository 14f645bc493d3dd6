"""A predecessor's legacy: its table stays up until it is confirmed, and what is not confirmed is taken back.

The neighbours are asked for all their routes when their links come up, as always. A route that is learned replaces the
published one at once. What has not been learned again is taken back when the phase ends: once every link that was up
before has repeated its routes, which end with its own prefix (wire spec 7.9), or after 2 s.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from protocol.frames import RouteState
from protocol.mycelium.routing.announcements import Announcer
from protocol.mycelium.routing.core import Core
from protocol.mycelium.routing.events import Saved
from protocol.mycelium.routing.links import Link
from protocol.mycelium.routing.publication import Publisher, Turn
from protocol.mycelium.routing.resolution import Resolution
from protocol.mycelium.routing.state import LinkCost
from protocol.mycelium.tlv import METRIC_INFINITE, Update
from protocol.prefix import Prefix

RESTART_PATIENCE: Final = 2.0
"""Seconds that the old table stays without being confirmed."""


class Restart:
    """From a router's first moment until nothing of its predecessor's promises is left open."""

    def __init__(self, core: Core, publisher: Publisher, announcer: Announcer, resolution: Resolution) -> None:
        self._core = core
        self._publisher = publisher
        self._announcer = announcer
        self._resolution = resolution
        self._unheard: set[int] = set()
        self._absent: set[int] = set()
        """Links that were up before and have neither come up nor gone yet."""
        self._taken_back: dict[Prefix, None] = {}
        """Prefixes that absent neighbours still have to be told of: they believe that we lead there."""
        self._deadline: float | None = None

    def begin(self, links: Iterable[int], now: float) -> None:
        """Takes over from a predecessor that had these links."""
        self._unheard.update(links)
        self._absent.update(links)
        self._deadline = now + RESTART_PATIENCE if self._unheard else now
        for prefix, entry in list(self._publisher.items()):
            if entry.state is RouteState.RESOLVING and not self._resolution.queries.start(prefix, None, now):
                self._publisher.happened(prefix, Turn.GIVEN_UP)

    def link_up(self, link: Link) -> None:
        """A link is up: if it was before, its neighbour hears what was taken back in the meantime."""
        if link.id not in self._absent:
            return
        for prefix in self._taken_back:
            destination = self._core.table.find(prefix)
            if destination is None or destination.selected is None:
                self._announcer.retraction(prefix, (link,))
        self._no_longer_absent(link.id)

    def link_down(self, link: int, now: float) -> None:
        """A link is gone, perhaps without having come up here: what was published over it is taken back."""
        if link in self._absent:
            self._core.events.append(Saved(LinkCost(link, None)))
            self._no_longer_absent(link)
        self._take_back(self._publisher.unconfirmed_via(link))
        self._unheard.discard(link)
        self.end_if_due(now)

    def heard(self, link: Link, update: Update, now: float) -> None:
        """A neighbour sent an Update, which has been dealt with otherwise."""
        if self._deadline is None:
            return
        if update.metric == METRIC_INFINITE and self._publisher.is_unconfirmed_via(update.prefix, link.id):
            self._take_back((update.prefix,))
        if update.metric == 0:
            self._unheard.discard(link.id)
            self.end_if_due(now)

    def end_if_due(self, now: float) -> None:
        """Ends the phase, if it is time, by taking back what was not learned again."""
        if self._deadline is None or (self._unheard and now < self._deadline):
            return
        self._deadline = None
        self._take_back(self._publisher.unconfirmed())

    def next_deadline(self) -> float | None:
        """When the phase ends at the latest, `None` once it is over."""
        return self._deadline

    def _take_back(self, prefixes: Iterable[Prefix]) -> None:
        for prefix in prefixes:
            promised = self._publisher.get(prefix).state is RouteState.SELECTED
            query = self._resolution.queries.get(prefix)
            asked = query is not None and query.local
            self._publisher.release(prefix)
            self._publisher.happened(prefix, Turn.ASKED if asked else Turn.ABANDONED)
            if promised:
                self._announcer.retraction(prefix, self._core.links)
                if self._absent:
                    self._taken_back[prefix] = None

    def _no_longer_absent(self, link: int) -> None:
        self._absent.discard(link)
        if not self._absent:
            self._taken_back.clear()
