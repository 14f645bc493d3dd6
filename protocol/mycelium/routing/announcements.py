"""Sending Updates: the own prefix, selected routes, retractions, whole dumps (wire spec 7.13, 7.9 step 1).

Every announcement of another node's prefix goes through `route`, which writes the source table, and the journal, first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from protocol.mycelium.routing.arithmetic import add_metric
from protocol.mycelium.routing.core import Core
from protocol.mycelium.routing.events import Saved, Send
from protocol.mycelium.routing.links import Link
from protocol.mycelium.routing.routes import Destination, RouteEntry
from protocol.mycelium.routing.state import FeasibilityDistance
from protocol.mycelium.tlv import METRIC_INFINITE, UPDATE_FLAG_CLEAN, Update
from protocol.prefix import Prefix

DUMP_STEP: Final = 512
"""Prefixes looked at in one go while a wildcard request is answered."""
DUMP_PAUSE: Final = 0.005
"""Seconds between two steps: about 100 000 prefixes a second, and never the router's whole attention."""
DUMP_INTERVAL: Final = 1.0
"""Seconds from the start of one dump to the next one on the same link: a request of 13 bytes can ask for megabytes."""


class Announcer:
    """Says over links what the routing table holds. Changes the source table; it also owns the dumps under way."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._dumps: dict[int, _Dump] = {}
        self._dump_started: dict[int, float] = {}

    def own_prefix(self, links: Iterable[Link]) -> None:
        """Announces the node's own prefix. Its clean mark depends on nothing but the link it leaves by."""
        own = self._core.own
        for link in links:
            flags = UPDATE_FLAG_CLEAN if link.any_size else 0
            self._core.events.append(Send(link.id, Update(own.prefix, own.router_id, own.seqno, 0, flags=flags)))

    def route(self, prefix: Prefix, entry: RouteEntry, links: Iterable[Link], now: float) -> None:
        """Announces a selected route to exactly these links.

        The metric is at least 1: 0 would claim the prefix as our own (wire spec 7.13). The source table is written even
        where nobody is left to be told, as in the reference (wire spec 7.7).
        """
        core = self._core
        metric = max(add_metric(entry.metric, core.links.cost(entry.link)), 1)
        if core.sources.announced(prefix, entry.router_id, entry.seqno, metric, now):
            core.events.append(Saved(FeasibilityDistance(*prefix, entry.router_id, metric, entry.seqno)))
            self._forget_surplus_sources()
        plain = marked = Update(prefix, entry.router_id, entry.seqno, metric)
        if self.is_clean(entry):
            marked = Update(prefix, entry.router_id, entry.seqno, metric, flags=UPDATE_FLAG_CLEAN)
        for link in links:
            core.events.append(Send(link.id, marked if link.any_size else plain))

    def is_clean(self, entry: RouteEntry) -> bool:
        """Whether the whole way of this route carries packets of any size, the link to its next hop included."""
        link = self._core.links.get(entry.link)
        return entry.clean and link is not None and link.any_size

    def retraction(self, prefix: Prefix, links: Iterable[Link]) -> None:
        """Takes back a prefix: with the own router-id and seqno, as the reference does (wire spec Q7)."""
        own = self._core.own
        update = Update(prefix, own.router_id, own.seqno, METRIC_INFINITE)
        for link in links:
            self._core.events.append(Send(link.id, update))

    def triggered(self, prefix: Prefix, destination: Destination | None, links: Iterable[Link], now: float) -> None:
        """Announces what is now true of `prefix`: its selected route, but not to its next hop, or a retraction."""
        self._core.counters["triggered_updates"] += 1
        entry = destination.selected if destination is not None else None
        if entry is None:
            self.retraction(prefix, links)
        else:
            self.route(prefix, entry, [link for link in links if link.id != entry.link], now)

    def start_dump(self, link: Link, now: float) -> None:
        """Answers a wildcard request: every selected route whose next hop is another link, then the own prefix."""
        if link.id in self._dumps:
            self._core.counters["wildcard_requests_while_answering"] += 1
            return
        last_start = self._dump_started.get(link.id)
        begin = now if last_start is None else max(now, last_start + DUMP_INTERVAL)
        self._dumps[link.id] = _Dump(begin)
        self._dump_started[link.id] = begin
        self.continue_dumps(now)

    def continue_dumps(self, now: float) -> None:
        """Takes the next step of every dump that is due."""
        for link_id, dump in list(self._dumps.items()):
            link = self._core.links.get(link_id)
            if link is not None and dump.due <= now and self._step(dump, link, now):
                del self._dumps[link_id]

    def link_down(self, link: int) -> None:
        """Gives up the dump on a link."""
        self._dumps.pop(link, None)
        self._dump_started.pop(link, None)

    def next_deadline(self) -> float | None:
        """When a dump goes on, `None` without any."""
        return min((dump.due for dump in self._dumps.values()), default=None)

    def _step(self, dump: _Dump, link: Link, now: float) -> bool:
        if dump.prefixes is None:
            dump.prefixes = self._core.table.prefixes()
        end = dump.position + DUMP_STEP
        for prefix in dump.prefixes[dump.position : end]:
            destination = self._core.table.find(prefix)
            entry = destination.selected if destination is not None else None
            if entry is not None and entry.link != link.id:
                self.route(prefix, entry, (link,), now)
        if end < len(dump.prefixes):
            dump.position = end
            dump.due = now + DUMP_PAUSE
            return False
        self.own_prefix((link,))
        return True

    def _forget_surplus_sources(self) -> None:
        source = self._core.sources.pop_surplus()
        if source is not None:
            self._core.counters["sources_over_limit"] += 1
            forget_source(self._core, source)


class _Dump:
    """One wildcard request being answered; the prefixes are those known when it begins."""

    __slots__ = ("due", "position", "prefixes")

    def __init__(self, due: float) -> None:
        self.due = due
        self.position = 0
        self.prefixes: list[Prefix] | None = None


def forget_source(core: Core, source: tuple[Prefix, bytes]) -> None:
    """Tells the journal that the feasibility distance of `source` is gone."""
    prefix, router_id = source
    core.events.append(Saved(FeasibilityDistance(*prefix, router_id, None, 0)))
