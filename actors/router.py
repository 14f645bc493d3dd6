"""The router actor: decides which link leads where, and publishes it.

Owns      the routing table, Hello, IHU and cost of each link; the memory file that a successor reads
Rights    no node key, no capability; Landlock: the runtime folder
Receives  LinkUp, ControlArrived (links); Resolve, RouteUsed, AskTable (data actors); LinkGone (supervisor);
          AskRoutes, AskQueried, AskLinks, AskPublicKey (whoever asks)
Sends     SendControl (links); TableEpoch, RouteDelta, TableSerial, TablePart (data actors); EndLink (supervisor);
          answers
Dies      forwarding goes on from the last table; its successor has the same router-id, seqno, feasibility distances
          and link costs, asks the neighbours for their routes, and changes the table only where they answer otherwise

Every rule of routing is in `protocol/mycelium/routing`; here is only what carries its events in and out:
what a successor must know is written to the memory file first, then the table is published, then packets leave.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import Final
from weakref import WeakValueDictionary

from actors.runtime.actor import Runtime
from actors.runtime.answers import Answers, LongAnswer
from actors.runtime.loop import Timer
from actors.runtime.memory import MemoryFile
from protocol.frames import (
    MAX_CHANGES,
    AskLinks,
    AskPublicKey,
    AskQueried,
    AskRoutes,
    AskTable,
    ControlArrived,
    EndLink,
    LinkGone,
    LinkList,
    LinkRow,
    LinkUp,
    PublicKeyAnswer,
    QueriedList,
    QueriedRow,
    Resolve,
    RouteDelta,
    RouteEntry,
    RouteKind,
    RouteList,
    RouteRow,
    RouteUsed,
    SendControl,
    TableEpoch,
    TablePart,
    TableSerial,
    actor_of,
    in_parts,
)
from protocol.mycelium.errors import WireError
from protocol.mycelium.framing import split_control
from protocol.mycelium.identity import ROUTER_ID_RANDOM_BYTES, address_of, router_id
from protocol.mycelium.routing.events import LinkDead, RouteChanged, Saved, Send
from protocol.mycelium.routing.router import Router
from protocol.mycelium.routing.state import SavedState, pack_record, unpack_record
from protocol.mycelium.tlv import Hello, Ihu, RouteRequest, SeqnoRequest, Update, decode, encode
from protocol.prefix import Prefix, subnet_of

COMPACT_BYTES: Final = 4 << 20
GONE_LINKS: Final = 1024
EARLY_LINKS: Final = 64
EARLY_PACKETS: Final = 64
RECENT_SENDS: Final = 64
REMIND_SECONDS: Final = 1.0
REMIND_FOR_SECONDS: Final = 3.0
"""For so long after a change data actors hear its number again: whoever lost the last one would not know."""
RECENT_SECONDS: Final = 2.0
"""What was sent to a link so lately may have died with its process."""
_HANDLING: Final = {
    Hello: "handling_ns.hello",
    Ihu: "handling_ns.ihu",
    Update: "handling_ns.update",
    RouteRequest: "handling_ns.route_request",
    SeqnoRequest: "handling_ns.seqno",
}
"""Where the time that a kind of TLV takes is counted."""


@dataclass(frozen=True, slots=True)
class RouterConfig:
    """What the router is given at birth."""

    public_key: bytes
    """Of this node."""
    memory: int
    """Descriptor of the memory file."""
    links: tuple[int, ...]
    """Links that run already: those of a predecessor that are not among them are gone."""


def main(runtime: Runtime, config: RouterConfig) -> None:
    """Runs the actor."""
    actor = RouterActor(runtime, config)
    runtime.serve(welcome=TableEpoch(actor.epoch))


class RouterActor:
    """Glue between the routing rules, the links and the data actors."""

    def __init__(self, runtime: Runtime, config: RouterConfig) -> None:
        self._runtime = runtime
        self._loop = runtime.loop
        self._counters = runtime.counters
        self._answers = Answers(runtime)
        self._tables: WeakValueDictionary[int, LongAnswer] = WeakValueDictionary()
        """By serial, as long as it is on its way to anybody: after a restart everybody asks for the table at once."""
        self._memory = MemoryFile(config.memory)
        self._compact_at = COMPACT_BYTES
        self.epoch = time.monotonic_ns()
        self._serial = 0
        self._changed_at = 0.0
        self._reminding = False
        self._names: dict[int, str] = {}
        self._recent: dict[int, deque[tuple[float, bytes]]] = {}
        self._early: dict[int, deque[bytes]] = {}
        self._gone: dict[int, None] = {}
        self._timer: Timer | None = None
        self._pump_due = False
        self._router = self._make_router(config)

        runtime.on(LinkUp, self._on_link_up)
        runtime.on(ControlArrived, self._on_control)
        runtime.on(Resolve, self._on_resolve)
        runtime.on(RouteUsed, self._on_used)
        runtime.on(AskTable, self._on_ask_table)
        runtime.on(AskRoutes, self._on_ask_routes)
        runtime.on(AskQueried, self._on_ask_queried)
        runtime.on(AskLinks, self._on_ask_links)
        runtime.on(AskPublicKey, self._on_ask_public_key)
        runtime.on_channel(LinkGone, self._on_link_gone)
        self._pump()

    def _make_router(self, config: RouterConfig) -> Router:
        now = self._loop.now()
        subnet = subnet_of(address_of(config.public_key))
        records = [unpack_record(record) for record in self._memory.replay()]
        if not records:
            return Router(router_id(config.public_key, os.urandom(ROUTER_ID_RANDOM_BYTES)), subnet, now)
        restored = SavedState.replay(records)
        self._runtime.log.info("goes on where its predecessor ended", routes=len(restored.published))
        router = Router(restored.own.router_id, subnet, now, restored=restored)
        for link in set(restored.link_costs).difference(config.links):
            router.link_down(link, now)
        return router

    # --- links ------------------------------------------------------------------------------------------------------

    def _on_link_up(self, _sender: bytes, message: LinkUp) -> None:
        # Its end may have overtaken its beginning: they come by different ways.
        if message.link in self._gone:
            return
        if message.link in self._names:
            if message.resumed:
                self._send_again(message.link)
            return
        self._names[message.link] = message.name
        self._router.link_up(message.link, message.static_cost, message.any_size, self._loop.now())
        for packets in self._early.pop(message.link, ()):
            self._receive(message.link, packets)
        self._pump_soon()

    def _on_link_gone(self, message: LinkGone, _descriptors: list[int]) -> None:
        self._gone[message.link] = None
        if len(self._gone) > GONE_LINKS:
            self._gone.pop(next(iter(self._gone)))
        self._names.pop(message.link, None)
        self._recent.pop(message.link, None)
        self._early.pop(message.link, None)
        self._router.link_down(message.link, self._loop.now())
        self._pump_soon()

    def _on_control(self, _sender: bytes, message: ControlArrived) -> None:
        if message.link in self._names:
            self._receive(message.link, message.packets)
        elif message.link not in self._gone:
            # Sent to a predecessor of ours: its introduction comes behind it.
            self._keep_early(message.link, message.packets)

    def _receive(self, link: int, packets: bytes) -> None:
        now = self._loop.now()
        try:
            for packet in split_control(packets):
                for tlv in decode(packet).tlvs:
                    begin = time.perf_counter_ns()
                    self._router.receive(link, tlv, now)
                    self._counters[_HANDLING[type(tlv)]] += time.perf_counter_ns() - begin
        except WireError as error:
            # The link looked at them; whoever sent this is no link of ours.
            self._counters["frames.malformed"] += 1
            self._runtime.log.warning("dropped control packets that are none", link=link, reason=error)
        self._pump_soon()

    def _keep_early(self, link: int, packets: bytes) -> None:
        early = self._early.get(link)
        if early is None:
            if len(self._early) >= EARLY_LINKS:
                self._early.pop(next(iter(self._early)))
            early = self._early[link] = deque(maxlen=EARLY_PACKETS)
        early.append(packets)
        self._counters["control.early"] += 1

    # --- data actors ------------------------------------------------------------------------------------------------

    def _on_resolve(self, _sender: bytes, message: Resolve) -> None:
        self._router.resolve(Prefix.of(message.network, message.length), self._loop.now())
        self._pump_soon()

    def _on_used(self, _sender: bytes, message: RouteUsed) -> None:
        now = self._loop.now()
        for network in message.networks:
            self._router.refresh(Prefix.of(network, 64), now)
        self._pump_soon()

    def _on_ask_table(self, sender: bytes, message: AskTable) -> None:
        self._pump()
        table = self._tables.get(self._serial)
        if table is None:
            table = self._tables[self._serial] = self._make_table()
        self._answers.send(sender, message, table)

    def _make_table(self) -> LongAnswer:
        serial = self._serial

        def make(number: int, changes: tuple[RouteChanged, ...], more: bool) -> TablePart:
            return TablePart(self.epoch, serial, number, tuple(map(_entry, changes)), more)

        parts = in_parts(list(self._router.published()))
        return LongAnswer(((number, changes, more) for number, (changes, more) in enumerate(parts)), make)

    # --- events -----------------------------------------------------------------------------------------------------

    def _pump_soon(self) -> None:
        if not self._pump_due:
            self._pump_due = True
            self._loop.defer(self._pump)

    def _pump(self) -> None:
        self._pump_due = False
        records: list[bytes] = []
        changes: list[RouteEntry] = []
        sends: defaultdict[int, list[bytes]] = defaultdict(list)
        for event in self._router.events():
            match event:
                case Saved(record):
                    records.append(pack_record(record))
                case RouteChanged():
                    changes.append(_entry(event))
                case Send(link, tlv):
                    sends[link].append(encode(tlv))
                case LinkDead(link, reason):
                    self._runtime.log.warning("link given up", link=self._names.get(link, link), reason=reason)
                    self._runtime.tell_supervisor(EndLink(link, reason))
        if records:
            self._memory.append(records)
            if self._memory.size > self._compact_at:
                self._memory.rewrite(pack_record(record) for record in self._router.snapshot())
                self._compact_at = max(COMPACT_BYTES, 2 * self._memory.size)
        for start in range(0, len(changes), MAX_CHANGES):
            self._serial += 1
            part = tuple(changes[start : start + MAX_CHANGES])
            self._runtime.publish(RouteDelta(self.epoch, self._serial, part))
        if changes:
            self._remind_later()
        for link, packets in sends.items():
            self._send_control(link, b"".join(packets))
        self._plan()

    def _remind_later(self) -> None:
        self._changed_at = self._loop.now()
        if not self._reminding:
            self._reminding = True
            self._loop.call_after(REMIND_SECONDS, self._remind)

    def _remind(self) -> None:
        self._runtime.publish(TableSerial(self.epoch, self._serial))
        self._reminding = self._loop.now() - self._changed_at < REMIND_FOR_SECONDS
        if self._reminding:
            self._loop.call_after(REMIND_SECONDS, self._remind)

    def _send_control(self, link: int, packets: bytes) -> None:
        if not self._runtime.send(actor_of(link).encode(), SendControl(link, packets)):
            self._counters["control.link_gone"] += 1
        kept = self._recent.setdefault(link, deque(maxlen=RECENT_SENDS))
        kept.append((self._loop.now(), packets))

    def _send_again(self, link: int) -> None:
        """A link's process died, not its connection: what it was about to write goes once more.

        Told twice, a neighbour believes the same; a retraction that it never heard would be believed for long.
        """
        since = self._loop.now() - RECENT_SECONDS
        for when, packets in self._recent.get(link, ()):
            if when >= since:
                self._counters["control.sent_again"] += 1
                self._runtime.send(actor_of(link).encode(), SendControl(link, packets))

    def _plan(self) -> None:
        deadline = self._router.next_deadline()
        if self._timer is not None:
            if deadline is not None and self._timer.when <= deadline and not self._timer.cancelled:
                # It wakes us in time, if early; planning anew for each packet would fill the heap.
                return
            self._timer.cancel()
        self._timer = None if deadline is None else self._loop.call_at(deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._router.handle_timer(self._loop.now())
        self._pump()
        for name, value in self._router.counters.items():
            if value:
                self._counters[f"routing.{name}"] = value

    # --- questions --------------------------------------------------------------------------------------------------

    def _on_ask_routes(self, sender: bytes, message: AskRoutes) -> None:
        routes = self._router.selected() if message.kind is RouteKind.SELECTED else self._router.fallback()
        rows = [
            RouteRow(prefix.network, prefix.length, self._names.get(link, f"link {link}"), metric, seqno)
            for prefix, link, metric, seqno in routes
        ]
        self._answers.send(
            sender, message, LongAnswer(in_parts(rows), lambda part, more: RouteList(message.token, part, more))
        )

    def _on_ask_queried(self, sender: bytes, message: AskQueried) -> None:
        now = self._loop.now()
        rows = [QueriedRow(prefix.network, prefix.length, left) for prefix, left in self._router.queried(now)]
        self._answers.send(
            sender, message, LongAnswer(in_parts(rows), lambda part, more: QueriedList(message.token, part, more))
        )

    def _on_ask_links(self, sender: bytes, message: AskLinks) -> None:
        rows = [
            LinkRow(
                link=link.id,
                name=self._names.get(link.id, f"link {link.id}"),
                public_key=key,
                static_cost=link.static_cost,
                cost=link.cost,
                round_trip_ms=link.round_trip,
                prefixes=prefixes,
            )
            for link, key, prefixes in self._router.neighbours()
        ]
        self._answers.send(
            sender, message, LongAnswer(in_parts(rows), lambda part, more: LinkList(message.token, part, more))
        )

    def _on_ask_public_key(self, sender: bytes, message: AskPublicKey) -> None:
        # A walk over the whole table: people ask this, packets don't.
        keys = {
            change.prefix.length: change.public_key
            for change in self._router.published()
            if change.public_key is not None and change.prefix.contains(message.address)
        }
        key = keys[max(keys)] if keys else b""
        self._runtime.send(sender, PublicKeyAnswer(message.token, key))


def _entry(change: RouteChanged) -> RouteEntry:
    prefix = change.prefix
    key = change.public_key or b""
    return RouteEntry(prefix.network, prefix.length, change.state, change.link or 0, key, change.clean)
