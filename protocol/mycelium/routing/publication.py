"""The published forwarding table: what data actors were told of each prefix, and what the journal knows of that.

After a restart the predecessor's table stays published; its entries are *unconfirmed* until a route is chosen for them
or they are released (`restart.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Final

from protocol.frames import RouteState
from protocol.mycelium.routing.events import Event, RouteChanged, Saved
from protocol.mycelium.routing.routes import RoutingError
from protocol.mycelium.routing.state import NOT_PUBLISHED, Published, published_record
from protocol.prefix import Prefix


class Turn(IntEnum):
    """What can happen to a prefix, as far as packets are concerned."""

    ASKED = 0
    """A data actor waits for it, and it is being resolved."""
    CHOSEN = 1
    """A route is selected, for the first time or instead of another."""
    LOST = 2
    """No route is usable any more."""
    EMPTIED = 3
    """Its last entry is gone."""
    GIVEN_UP = 4
    """Nobody answered in time."""
    ABANDONED = 5
    """Published before a restart, and not learned again."""


PREFIX_TRANSITIONS: Final = {
    (RouteState.FORGOTTEN, Turn.ASKED): RouteState.RESOLVING,
    (RouteState.FORGOTTEN, Turn.CHOSEN): RouteState.SELECTED,
    (RouteState.RESOLVING, Turn.CHOSEN): RouteState.SELECTED,
    (RouteState.RESOLVING, Turn.GIVEN_UP): RouteState.FORGOTTEN,
    (RouteState.SELECTED, Turn.CHOSEN): RouteState.SELECTED,
    (RouteState.SELECTED, Turn.LOST): RouteState.UNREACHABLE,
    (RouteState.SELECTED, Turn.ASKED): RouteState.RESOLVING,  # published before a restart, not learned again yet
    (RouteState.SELECTED, Turn.ABANDONED): RouteState.FORGOTTEN,
    (RouteState.UNREACHABLE, Turn.CHOSEN): RouteState.SELECTED,
    (RouteState.UNREACHABLE, Turn.EMPTIED): RouteState.FORGOTTEN,
    (RouteState.UNREACHABLE, Turn.ASKED): RouteState.RESOLVING,
    (RouteState.UNREACHABLE, Turn.ABANDONED): RouteState.FORGOTTEN,
}
"""The life of a prefix in the forwarding table; what is not here can't happen."""


class Publisher:
    """Prefix → what data actors were told; tells them what changes, and the journal before them."""

    def __init__(self, events: deque[Event], restored: Mapping[Prefix, Published]) -> None:
        self._events = events
        self._published = {
            prefix: entry for prefix, entry in restored.items() if entry.state is not RouteState.RESOLVING
        }
        self._unconfirmed: dict[Prefix, None] = dict.fromkeys(self._published)
        for prefix, entry in restored.items():
            if entry.state is RouteState.RESOLVING:
                self._published[prefix] = entry

    def items(self) -> Iterator[tuple[Prefix, Published]]:
        """The published table."""
        return iter(self._published.items())

    def get(self, prefix: Prefix) -> Published:
        """What is published for exactly this prefix; FORGOTTEN where nothing is."""
        return self._published.get(prefix, NOT_PUBLISHED)

    def happened(
        self, prefix: Prefix, turn: Turn, link: int | None = None, public_key: bytes | None = None, clean: bool = False
    ) -> None:
        """Moves `prefix` along `PREFIX_TRANSITIONS`; `link`, `public_key` and `clean` are those of a CHOSEN route.

        Raises `RoutingError` for a step that is not there. Until it is released, an unconfirmed prefix moves only when
        a route is chosen for it.
        """
        if prefix in self._unconfirmed:
            if turn is not Turn.CHOSEN:
                return
            self.release(prefix)
        before = self.get(prefix)
        state = PREFIX_TRANSITIONS.get((before.state, turn))
        if state is None:
            raise RoutingError(f"{prefix} is {before.state.name} and can't be {turn.name}")
        if state is RouteState.SELECTED:
            after = Published(state, link, public_key, clean)
        elif state is RouteState.UNREACHABLE:
            after = Published(state, None, before.public_key, clean=False)
        else:
            after = NOT_PUBLISHED._replace(state=state)
        if after == before:
            return
        if state is RouteState.FORGOTTEN:
            del self._published[prefix]
        else:
            self._published[prefix] = after
        self._events.append(Saved(published_record(prefix, after)))
        self._events.append(RouteChanged(prefix, *after))

    def repeat(self, prefix: Prefix) -> None:
        """Answers a data actor whose question changed nothing: what is published stays as it is."""
        self._events.append(RouteChanged(prefix, *self.get(prefix)))

    def is_unconfirmed_via(self, prefix: Prefix, link: int) -> bool:
        """Whether packets to `prefix` go to `link` only because they did before the restart."""
        return prefix in self._unconfirmed and self._published[prefix].link == link

    def unconfirmed_via(self, link: int) -> list[Prefix]:
        """Every prefix of which `is_unconfirmed_via` is true."""
        return [prefix for prefix in self._unconfirmed if self._published[prefix].link == link]

    def unconfirmed(self) -> list[Prefix]:
        """What was published before the restart and has not been learned again."""
        return list(self._unconfirmed)

    def release(self, prefix: Prefix) -> None:
        """Lets an unconfirmed prefix move like any other."""
        del self._unconfirmed[prefix]
