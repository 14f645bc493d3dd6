"""What the parts of one router share: who it is, its links and tables, the events it has not handed out yet."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from protocol.mycelium.routing.arithmetic import next_seqno
from protocol.mycelium.routing.events import Event, Saved
from protocol.mycelium.routing.limits import Limits
from protocol.mycelium.routing.links import Links
from protocol.mycelium.routing.routes import RoutingTable
from protocol.mycelium.routing.sources import Sources
from protocol.mycelium.routing.state import OwnState
from protocol.prefix import Prefix


@dataclass(slots=True)
class Own:
    """The node itself."""

    router_id: bytes
    prefix: Prefix
    seqno: int
    seqno_changed: float
    """When the sequence number was last increased; at first when the program started (wire spec 7.2)."""

    def record(self) -> OwnState:
        """The journal's record of it."""
        return OwnState(self.router_id, self.seqno, self.seqno_changed)


@dataclass(slots=True)
class Core:
    """Shared by the parts of a router; each part says in its first line which of it is its to change."""

    own: Own
    limits: Limits
    links: Links
    sources: Sources
    table: RoutingTable
    events: deque[Event]
    counters: dict[str, int]

    def increase_seqno(self, now: float) -> None:
        """The next own sequence number, known to the journal before anyone else."""
        self.own.seqno = next_seqno(self.own.seqno)
        self.own.seqno_changed = now
        self.events.append(Saved(self.own.record()))
