"""A network in memory: routers of the real code, wired by lists, on virtual time.

What is checked while it runs, whatever the test is about:

* no forwarding loop, ever: each time a next hop changes, the new way is followed to its end, with the tables as they
  are at that instant. A loop can only be closed by the change that is looked at, so none escapes;
* no unfeasible route is ever selected, against what the node was seen to announce.

On failure the last control packets about the prefix are printed: who sent what when.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from blake3 import blake3

from protocol.frames import RouteState
from protocol.mycelium.routing.events import LinkDead, RouteChanged, Saved, Send
from protocol.mycelium.routing.router import Router
from protocol.mycelium.routing.state import SavedState, pack_record, unpack_record
from protocol.mycelium.tlv import Tlv, Update, decode, encode
from protocol.prefix import Prefix

INFINITE = 0xFFFF
SOURCE_LIFETIME = 1800.0
HISTORY = 20_000


class LoopError(AssertionError):
    """Packets to a prefix would go round in circles."""


class UnfeasibleError(AssertionError):
    """A node selected a route that it had announced something better for."""


@dataclass(eq=False)
class Wire:
    """One connection between two nodes; packets of one direction stay in order."""

    ends: tuple[tuple[Node, int], tuple[Node, int]]
    delay: float
    open: bool = True
    carries: bool = True
    """False after a cut that nobody noticed: packets vanish."""
    last_arrival: dict[int, float] = field(default_factory=dict)

    def other(self, node: Node, link: int) -> tuple[Node, int]:
        """The node and link id at the other end."""
        return self.ends[1] if self.ends[0] == (node, link) else self.ends[0]


@dataclass(eq=False)
class Node:
    """A node: its router, its copy of the forwarding table, its journal."""

    name: str
    prefix: Prefix
    public_key: bytes
    router: Router
    generation: int = 0
    links: dict[int, tuple[Wire, int, bool]] = field(default_factory=dict)
    """link id → (wire, static cost, any size)."""
    table: dict[Prefix, RouteChanged] = field(default_factory=dict)
    journal: list[bytes] = field(default_factory=list)
    announced: dict[tuple[Prefix, bytes], tuple[int, int, float]] = field(default_factory=dict)
    """(prefix, router-id) → best (seqno, metric) seen to be announced, and when it last was."""
    running: bool = True
    wakes: float | None = None
    sent: list[tuple[float, int, Tlv]] = field(default_factory=list)
    """Everything sent, while `Network.record` is set."""

    def __repr__(self) -> str:
        return self.name

    def state(self, prefix: Prefix) -> RouteState:
        """What the node's data actors know of a prefix."""
        change = self.table.get(prefix)
        return RouteState.FORGOTTEN if change is None else change.state


class Network:
    """Nodes, wires and the clock."""

    def __init__(self, seed: int = 0, *, over_the_wire: bool = False) -> None:
        """`over_the_wire`: control packets are encoded and decoded on their way."""
        self.now = 1000.0
        self.random = random.Random(seed)
        self.nodes: list[Node] = []
        self.record = False
        self.check_loops = True
        self._over_the_wire = over_the_wire
        self._owners: dict[Prefix, Node] = {}
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._link_ids = count(1)
        self._history: deque[tuple[float, Node, Node, Tlv]] = deque(maxlen=HISTORY)
        self.packets = 0
        """Control packets delivered."""

    # --- building -----------------------------------------------------------------------------------------------------

    def add(self, name: str) -> Node:
        """A node that starts now."""
        key = hashlib.sha256(name.encode()).digest()
        digest = blake3(key).digest()[:16]
        prefix = Prefix(bytes([4 + bin(digest[0]).count("1") % 2]) + digest[1:8] + bytes(8), 64)
        node = Node(name, prefix, key, Router(_router_id(key, 0), prefix, self.now))
        self.nodes.append(node)
        self._owners[prefix] = node
        self._settle(node)
        return node

    def connect(self, a: Node, b: Node, *, delay: float = 0.01, cost: int = 15, any_size: bool = True) -> Wire:
        """Connects two nodes; both routers are told at once."""
        link_a, link_b = next(self._link_ids), next(self._link_ids)
        wire = Wire(((a, link_a), (b, link_b)), delay)
        for node, link in wire.ends:
            node.links[link] = (wire, cost, any_size)
        for node, link in wire.ends:
            if node.running:
                node.router.link_up(link, cost, any_size, self.now)
                self._settle(node)
        return wire

    def cut(self, wire: Wire, *, noticed: bool = True) -> None:
        """Cuts a connection; if nobody notices, both ends have to find out by themselves."""
        wire.carries = False
        if not noticed or not wire.open:
            return
        wire.open = False
        for node, link in wire.ends:
            self._lose_link(node, link)

    def restart(self, node: Node) -> None:
        """The node's program ends and starts again: new router-id, all connections made anew."""
        neighbours = [(wire.other(node, link)[0], wire.delay, cost) for link, (wire, cost, _) in node.links.items()]
        for wire, _, _ in list(node.links.values()):
            self.cut(wire)
        node.generation += 1
        node.router = Router(_router_id(node.public_key, node.generation), node.prefix, self.now)
        node.table.clear()
        node.journal.clear()
        node.announced.clear()
        self._settle(node)
        for neighbour, delay, cost in neighbours:
            self.connect(node, neighbour, delay=delay, cost=cost)

    def crash_router(self, node: Node, outage: float = 0.05) -> None:
        """The node's router process dies; its successor knows the journal and is told of the links that are there."""
        node.running = False
        self.at(self.now + outage, lambda: self._succeed(node))

    # --- time ---------------------------------------------------------------------------------------------------------

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Does something at a time."""
        heapq.heappush(self._agenda, (when, next(self._order), action))

    def run(self, seconds: float) -> None:
        """Lets time pass."""
        end = self.now + seconds
        while self._agenda and self._agenda[0][0] <= end:
            self.now, _, action = heapq.heappop(self._agenda)
            action()
        self.now = end

    # --- packets ------------------------------------------------------------------------------------------------------

    def way(self, source: Node, destination: Node) -> list[Node]:
        """The nodes that a packet would pass now, as far as it would get."""
        passed = [source]
        while passed[-1] is not destination:
            following = self._next(passed[-1], destination.prefix)
            if following is None or following in passed:
                break
            passed.append(following)
        return passed

    def reaches(self, source: Node, destination: Node) -> bool:
        """Whether a packet would arrive now."""
        return self.way(source, destination)[-1] is destination

    def packet(self, source: Node, destination: Node) -> bool:
        """Sends a packet as data actors would: routes are asked for where they are missing, and marked as used."""
        prefix = destination.prefix
        node: Node | None = source
        while node is not None and node is not destination:
            state = node.state(prefix)
            if state is RouteState.SELECTED:
                node.router.refresh(prefix, self.now)
            elif state is RouteState.FORGOTTEN or (state is RouteState.UNREACHABLE and node is source):
                node.router.resolve(prefix, self.now)
            here, node = node, self._next(node, prefix)
            self._settle(here)
        return node is destination

    def talk(self, pairs: list[tuple[Node, Node]], seconds: float, every: float = 1.0) -> None:
        """Lets these pairs exchange packets for a while."""
        for _ in range(round(seconds / every)):
            for source, destination in pairs:
                self.packet(source, destination)
            self.run(every)

    def component(self, node: Node) -> set[Node]:
        """Every node that is connected to this one, directly or not."""
        found = {node}
        waiting = [node]
        while waiting:
            here = waiting.pop()
            for link, (wire, _, _) in here.links.items():
                other = wire.other(here, link)[0]
                if wire.carries and other not in found:
                    found.add(other)
                    waiting.append(other)
        return found

    # --- inside -------------------------------------------------------------------------------------------------------

    def _next(self, node: Node, prefix: Prefix) -> Node | None:
        change = node.table.get(prefix)
        if change is None or change.state is not RouteState.SELECTED or change.link not in node.links:
            return None
        wire = node.links[change.link][0]
        return wire.other(node, change.link)[0] if wire.carries else None

    def _settle(self, node: Node) -> None:
        """Acts on what a router said, as the actor around it would."""
        if not node.running:
            return
        dead: list[int] = []
        for event in node.router.events():
            match event:
                case Saved(record):
                    node.journal.append(pack_record(record))
                case RouteChanged():
                    self._change(node, event)
                case Send(link, tlv):
                    self._send(node, link, tlv)
                case LinkDead(link):
                    dead.append(link)
        for link in dead:
            if link in node.links:
                self.cut(node.links[link][0])
        deadline = node.router.next_deadline()
        if deadline is not None and (node.wakes is None or deadline < node.wakes):
            node.wakes = deadline
            self.at(max(deadline, self.now), lambda: self._wake(node, deadline))

    def _wake(self, node: Node, planned: float) -> None:
        if node.wakes != planned:
            return
        node.wakes = None
        if node.running:
            node.router.handle_timer(self.now)
            self._settle(node)

    def _change(self, node: Node, change: RouteChanged) -> None:
        if change.state is RouteState.FORGOTTEN:
            node.table.pop(change.prefix, None)
        else:
            node.table[change.prefix] = change
        if change.state is RouteState.SELECTED:
            self._check_feasible(node, change.prefix)
            if self.check_loops:
                self._check_no_loop(node, change.prefix)

    def _send(self, node: Node, link: int, tlv: Tlv) -> None:
        if self.record:
            node.sent.append((self.now, link, tlv))
        if isinstance(tlv, Update) and tlv.metric != INFINITE:
            self._note_announcement(node, tlv)
        held = node.links.get(link)
        if held is None or not held[0].carries:
            return
        wire = held[0]
        other, other_link = wire.other(node, link)
        arrival = max(self.now + wire.delay, wire.last_arrival.get(other_link, 0.0))
        wire.last_arrival[other_link] = arrival
        self.at(arrival, lambda: self._deliver(wire, node, other, other_link, tlv))

    def _deliver(self, wire: Wire, source: Node, node: Node, link: int, tlv: Tlv) -> None:
        if not wire.carries or not node.running:
            return
        self.packets += 1
        self._history.append((self.now, source, node, tlv))
        if self._over_the_wire:
            (tlv,) = decode(encode(tlv)).tlvs
        node.router.receive(link, tlv, self.now)
        self._settle(node)

    def _lose_link(self, node: Node, link: int) -> None:
        if node.links.pop(link, None) is not None and node.running:
            node.router.link_down(link, self.now)
            self._settle(node)

    def _succeed(self, node: Node) -> None:
        saved = SavedState.replay(unpack_record(record) for record in node.journal)
        unused = _router_id(node.public_key, 0xFFFF)
        node.router = Router(unused, node.prefix, self.now, restored=saved)
        node.journal = [pack_record(record) for record in node.router.snapshot()]
        node.running = True
        node.wakes = None
        for link in set(saved.link_costs).difference(node.links):
            node.router.link_down(link, self.now)
        for link, (_, cost, any_size) in node.links.items():
            node.router.link_up(link, cost, any_size, self.now)
        self._settle(node)

    def _note_announcement(self, node: Node, update: Update) -> None:
        source = (update.prefix, update.router_id)
        best = node.announced.get(source)
        if best is None or (update.seqno, -update.metric) > (best[0], -best[1]):
            node.announced[source] = (update.seqno, update.metric, self.now)
        else:
            node.announced[source] = (best[0], best[1], self.now)

    def _check_feasible(self, node: Node, prefix: Prefix) -> None:
        destination = node.router._core.table.find(prefix)
        entry = None if destination is None else destination.selected
        if entry is None:
            return
        best = node.announced.get((prefix, entry.router_id))
        if best is None or best[2] + SOURCE_LIFETIME <= self.now:
            return
        if (entry.seqno, -entry.metric) <= (best[0], -best[1]):
            raise UnfeasibleError(
                f"{node} selected seqno {entry.seqno} metric {entry.metric} for {prefix} of {self._owners[prefix]}, "
                f"after announcing seqno {best[0]} metric {best[1]}\n{self.story(prefix)}"
            )

    def _check_no_loop(self, node: Node, prefix: Prefix) -> None:
        passed = [node]
        here = self._next(node, prefix)
        while here is not None and here.prefix != prefix:
            if here in passed:
                circle = " → ".join(other.name for other in [*passed, here])
                raise LoopError(f"loop for {self._owners[prefix]}: {circle}\n{self.story(prefix)}")
            passed.append(here)
            here = self._next(here, prefix)

    def story(self, prefix: Prefix, last: int = 60) -> str:
        """Who sent what about a prefix, the last packets."""
        about = [entry for entry in self._history if getattr(entry[3], "prefix", None) == prefix][-last:]
        return "\n".join(f"{at:10.3f} {source} → {node}: {_text(tlv)}" for at, source, node, tlv in about)


def _router_id(public_key: bytes, generation: int) -> bytes:
    return public_key + bytes(2) + generation.to_bytes(6, "big")


def _text(tlv: Tlv) -> str:
    if isinstance(tlv, Update):
        metric = "retracted" if tlv.metric == INFINITE else f"metric {tlv.metric}"
        return f"Update seqno {tlv.seqno} {metric} router-id …{tlv.router_id[-2:].hex()}"
    return repr(tlv)
