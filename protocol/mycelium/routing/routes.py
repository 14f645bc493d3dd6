"""The routing table: what each neighbour announced for each prefix, and which of it is in use (wire spec 7.2, 7.12)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from protocol.mycelium.routing.deadlines import Deadlines
from protocol.mycelium.tlv import METRIC_INFINITE
from protocol.prefix import Prefix


class RoutingError(Exception):
    """A step that no state machine of the router allows: a fault of the router itself, never of its input."""


class EntryState(IntEnum):
    """What an entry is used for."""

    FALLBACK = 0
    """Finite, not in use."""
    SELECTED = 1
    """Finite, in use; at most one per prefix."""
    RETRACTED = 2
    """Infinite: retracted, expired while selected, or its link is gone. Stays for its hold time."""


class Happening(IntEnum):
    """What can happen to an entry."""

    CHOSEN = 0
    OUTDONE = 1
    """Another route, or none, is selected instead."""
    RENEWED = 2
    """Its neighbour announced it with a finite metric."""
    LOST = 3
    """Its metric became infinite."""


ENTRY_TRANSITIONS: Final = {
    (EntryState.FALLBACK, Happening.CHOSEN): EntryState.SELECTED,
    (EntryState.FALLBACK, Happening.RENEWED): EntryState.FALLBACK,
    (EntryState.FALLBACK, Happening.LOST): EntryState.RETRACTED,
    (EntryState.SELECTED, Happening.CHOSEN): EntryState.SELECTED,
    (EntryState.SELECTED, Happening.OUTDONE): EntryState.FALLBACK,
    (EntryState.SELECTED, Happening.RENEWED): EntryState.SELECTED,
    (EntryState.SELECTED, Happening.LOST): EntryState.RETRACTED,
    (EntryState.RETRACTED, Happening.RENEWED): EntryState.FALLBACK,
}
"""The life of a route entry; what is not here can't happen."""


@dataclass(slots=True)
class RouteEntry:
    """One neighbour's route to a prefix."""

    link: int
    router_id: bytes
    seqno: int
    metric: int
    """As received; METRIC_INFINITE if and only if RETRACTED."""
    clean: bool
    """The clean mark as received."""
    expires: float
    state: EntryState = EntryState.FALLBACK

    def happened(self, happening: Happening) -> None:
        """Moves the entry along `ENTRY_TRANSITIONS`. Raises `RoutingError` for a step that is not there."""
        state = ENTRY_TRANSITIONS.get((self.state, happening))
        if state is None:
            raise RoutingError(f"a {self.state.name} route can't be {happening.name}")
        self.state = state

    def lose(self, expires: float) -> None:
        """The route is gone; the entry stays until `expires`."""
        self.happened(Happening.LOST)
        self.metric = METRIC_INFINITE
        self.expires = expires


@dataclass(slots=True)
class Destination:
    """Everything known about one prefix."""

    prefix: Prefix
    """The one object that stands for the prefix in every table: each Update brings an equal one of its own."""
    public_key: bytes
    """Of whoever announced the prefix first; stays while the prefix is known (wire spec 7.8)."""
    entries: list[RouteEntry] = field(default_factory=list)
    """The selected one first; an entry that becomes selected swaps places with the first (wire spec 7.2)."""
    used: float | None = None
    """When a packet last took the selected route, as far as a data actor has said."""

    @property
    def selected(self) -> RouteEntry | None:
        """The route in use, if any."""
        first = self.entries[0]
        return first if first.state is EntryState.SELECTED else None

    def entry_via(self, link: int) -> RouteEntry | None:
        """The entry that the neighbour on `link` announced, if any."""
        for entry in self.entries:
            if entry.link == link:
                return entry
        return None

    def router_id_object(self, router_id: bytes) -> bytes:
        """An equal router-id that is stored already, if there is one: each Update brings 40 bytes of its own."""
        for entry in self.entries:
            if entry.router_id == router_id:
                return entry.router_id
        return router_id

    @property
    def retracted(self) -> bool:
        """Whether every neighbour that knew the prefix has lost it."""
        return all(entry.state is EntryState.RETRACTED for entry in self.entries)

    def select(self, chosen: RouteEntry | None) -> None:
        """Makes `chosen` the route in use, or none."""
        current = self.selected
        if current is not None and current is not chosen:
            current.happened(Happening.OUTDONE)
        if chosen is not None:
            chosen.happened(Happening.CHOSEN)
            place = next(place for place, entry in enumerate(self.entries) if entry is chosen)
            self.entries[0], self.entries[place] = chosen, self.entries[0]


class RoutingTable:
    """Prefix → destination, indexed by link, with the time at which each destination has to be looked at."""

    def __init__(self) -> None:
        self._destinations: dict[Prefix, Destination] = {}
        self._prefixes_via: dict[int, dict[Prefix, None]] = {}
        self.expiries: Deadlines[Prefix] = Deadlines()

    def __len__(self) -> int:
        return len(self._destinations)

    def find(self, prefix: Prefix) -> Destination | None:
        """What is known about exactly this prefix."""
        return self._destinations.get(prefix)

    def items(self) -> Iterator[tuple[Prefix, Destination]]:
        """Every prefix with a route, selected or not."""
        return iter(self._destinations.items())

    def prefixes(self) -> list[Prefix]:
        """Every prefix with a route, selected or not."""
        return list(self._destinations)

    def via(self, link: int) -> list[tuple[Prefix, Destination]]:
        """Every destination for which the neighbour on `link` has an entry."""
        return [(prefix, self._destinations[prefix]) for prefix in self._prefixes_via.get(link, ())]

    def pop_due(self, now: float, limit: int) -> list[tuple[Prefix, Destination]]:
        """At most `limit` destinations that have to be looked at now, and armed again."""
        return [(prefix, self._destinations[prefix]) for prefix in self.expiries.pop_due(now, limit)]

    def add(self, prefix: Prefix, public_key: bytes, entry: RouteEntry) -> Destination:
        """Adds an entry; makes the destination, with `public_key`, where the prefix is new."""
        destination = self._destinations.get(prefix)
        if destination is None:
            destination = self._destinations[prefix] = Destination(prefix, public_key)
        destination.entries.append(entry)
        self._prefixes_via.setdefault(entry.link, {})[destination.prefix] = None
        self.expiries.arm(prefix, entry.expires)
        return destination

    def remove(self, prefix: Prefix, destination: Destination, entry: RouteEntry) -> None:
        """Takes an entry out; the last one takes its place (wire spec 7.2), and the prefix goes with its last entry."""
        entries = destination.entries
        last = entries.pop()
        if last is not entry:
            place = next(place for place, other in enumerate(entries) if other is entry)
            entries[place] = last
        via = self._prefixes_via[entry.link]
        del via[prefix]
        if not via:
            del self._prefixes_via[entry.link]
        if not entries:
            del self._destinations[prefix]
            self.expiries.disarm(prefix)
