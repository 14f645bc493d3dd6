"""Message packets: opened for the message box, sealed for it, and never in the way of other packets.

- what was opened goes to the message box, all of one round in one frame; where it is away, senders repeat
- what it wants sealed waits here by link, and goes when no packet of the host does; while those wait, messages get a
  sixteenth of what they get, so that neither starves the other
- the message box is told what became of each frame, and has at most so much in our hands (its own bound)
- where no route is known one INIT of each message waits for it; the rest is dropped, and repeated when it is time
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Final

from actors.runtime.actor import Outlet, Runtime
from actors.runtime.budget import Budget
from actors.runtime.exchange import Exchange
from actors.tun.flows import Flow, Flows, Lack
from actors.tun.sealing import Sealer
from protocol.forwarding import ForwardingTable
from protocol.frames import (
    MAX_BODIES,
    MessageRoute,
    MessagesOpened,
    MessagesSealed,
    Resolve,
    RouteEntry,
    RouteState,
    SealMessages,
    opened_head,
    sealing_heads,
)
from protocol.mycelium.framing import DATA_HEADER, DESTINATION_OFFSET, SOURCE_OFFSET
from protocol.mycelium.identity import OVERLAY_FIRST_BYTES
from protocol.mycelium.messages.packets import ACK, HEADER_BYTES, ID_BYTES, INIT
from protocol.mycelium.remotes import Remotes
from protocol.mycelium.sealing import INNER_HEADER, MAX_BODY

BOX: Final = "messagebox"
MAX_SMALL_BODY: Final = 1400
"""What every node on any way takes (messages spec 1)."""
OPENED_BYTES: Final = 256 << 10
"""In one frame: as many of them as a socket holds may wait for a message box that is being restarted."""
QUEUE_BYTES: Final = 4 << 20
"""In all; the message box keeps far below it. Above that bodies are dropped."""
QUEUE_SECONDS: Final = 2.0
"""By then a sender has repeated what waits."""
ROUND_BYTES: Final = 128 << 10
SHARE: Final = 16
"""Of the bytes that the host's waiting packets get on a link, one in so many is for messages."""
MOST_SAVED_SHARE: Final = 128 << 10
WAITING_INITS: Final = 4096
WAIT_SECONDS: Final = 20.0
ASK_SECONDS: Final = 1.0
"""Between two questions for a /64 that no INIT waits for."""
MAX_REMOTES: Final = 4096
_SUBNET: Final = 8


class _Frame:
    """One frame of the message box, and how many of its bodies wait here."""

    __slots__ = ("life", "number", "waiting")

    def __init__(self, life: int, number: int) -> None:
        self.life = life
        self.number = number
        self.waiting = 0


class _Body:
    """One body that waits for its turn."""

    __slots__ = ("body", "frame", "pair", "reserved", "since")

    def __init__(self, frame: _Frame, pair: bytes, reserved: int, body: memoryview, since: float) -> None:
        self.frame = frame
        self.pair = pair
        self.reserved = reserved
        self.body = body
        self.since = since


class Messages:
    """Between the message box and the overlay."""

    def __init__(
        self,
        runtime: Runtime,
        address: bytes,
        remotes: Remotes,
        table: ForwardingTable,
        router: Outlet,
        exchange: Exchange,
        sealer: Sealer,
        resolves: Budget,
        host_bytes: Callable[[int], int | None],
    ) -> None:
        """`host_bytes(link)`: how many bytes packets of the host got that had to wait for this link, since it was last
        asked; None while none waits."""
        self._runtime = runtime
        self._loop = runtime.loop
        self._counters = runtime.counters
        self._own = address[:_SUBNET]
        self._table = table
        self._router = router
        self._exchange = exchange
        self._sealer = sealer
        self._resolves = resolves
        self._host_bytes = host_bytes
        self._box = runtime.connect(BOX, answers=True)
        self._heads: list[bytes] = []
        self._bodies: list[bytes] = []
        self._opened_bytes = 0
        self.flows = Flows(table, remotes)
        self._queues: dict[int, deque[_Body]] = {}
        self._queued_bytes = 0
        self._shares: dict[int, int] = {}
        self._frames: deque[_Frame] = deque()
        self._told: dict[bytes, bool] = {}
        self._life = 0
        self._waiting: OrderedDict[bytes, OrderedDict[bytes, tuple[bytes, int, bytes, float]]] = OrderedDict()
        """/64 → message id → its INIT: pair of addresses, reserved bytes, body, since when."""
        self._waiting_inits = 0
        self._asked: dict[bytes, float] = {}
        """/64 → when the router was asked for it."""
        self._planned = False
        runtime.on(SealMessages, self._on_seal, inbox=False)
        runtime.gauges.queue("message_bytes", lambda: self._queued_bytes)
        runtime.gauges.queue("waiting_inits", lambda: self._waiting_inits)
        # What a predecessor had in hand is lost.
        self._box.send(MessagesSealed(0, 0))

    # --- from the overlay ---------------------------------------------------------------------------------------------

    def opened(self, packet: memoryview, plain: memoryview) -> None:
        """A data packet was opened, and is a message's: `plain` is inner header and body."""
        pair = packet[SOURCE_OFFSET:DATA_HEADER]
        source = bytes(packet[SOURCE_OFFSET:DESTINATION_OFFSET])
        route = self._table.lookup(source)
        if route is None or not route.public_key:
            self._counters["dropped.message"] += 1
            return
        body = bytes(plain[INNER_HEADER:])
        if self._opened_bytes + len(body) > OPENED_BYTES or len(self._heads) == MAX_BODIES:
            self._pass_opened()
        if not self._heads:
            self._loop.defer(self._pass_opened)
        reserved = plain[2] << 8 | plain[3]
        self._heads.append(opened_head(source, bytes(pair[16:]), route.public_key, reserved, len(body)))
        self._bodies.append(body)
        self._opened_bytes += len(body)

    def _pass_opened(self) -> None:
        if self._heads:
            heads, bodies = b"".join(self._heads), b"".join(self._bodies)
            if not self._box.send(MessagesOpened(heads, bodies)):
                self._counters["dropped.message"] += len(self._heads)
            self._heads, self._bodies, self._opened_bytes = [], [], 0

    # --- into the overlay ---------------------------------------------------------------------------------------------

    def _on_seal(self, _sender: bytes, message: SealMessages) -> None:
        if message.life != self._life:
            # Another process of the message box, which has been told nothing.
            self._life = message.life
            self._told.clear()
        frame = _Frame(message.life, message.number)
        self._frames.append(frame)
        bodies, start = memoryview(message.bodies), 0
        now = self._loop.now()
        for source, destination, reserved, size in sealing_heads(message.heads):
            self._take_in(frame, source + destination, reserved, bodies[start : start + size], now)
            start += size
        self._send()
        self._report()

    def _take_in(self, frame: _Frame, pair: bytes, reserved: int, body: memoryview, now: float) -> None:
        if not pair.startswith(self._own) or len(body) > MAX_BODY:
            self._counters["frames.malformed"] += 1
            return
        flow = self.flows.get(pair) or self._flow_to(pair)
        if flow is None:
            self._wait(pair, reserved, body, now)
            return
        if self._queued_bytes + len(body) > QUEUE_BYTES:
            self._counters["dropped.message_queue_full"] += 1
            return
        self._queues.setdefault(flow.lane, deque()).append(_Body(frame, pair, reserved, body, now))
        self._queued_bytes += len(body)
        frame.waiting += 1

    def on_room(self) -> None:
        """Links gave something back, or packets of the host have had their turn."""
        if self._queues:
            self._send()
            self._report()

    def _send(self) -> None:
        for lane in list(self._queues):
            self._send_to(lane)
        if self._queues and not self._planned:
            # Copied packets wake nobody when they are gone, and what waits may become too old.
            self._planned = True
            self._loop.call_after(0.002, self._again)

    def _again(self) -> None:
        self._planned = False
        self.on_room()

    def _send_to(self, lane: int) -> None:
        queue = self._queues[lane]
        now = self._loop.now()
        while queue and now - queue[0].since > QUEUE_SECONDS:
            self._done_with(queue.popleft())
            self._counters["dropped.message_age"] += 1
        budget = self._budget(lane)
        if queue and budget > 0 and self._sealer.begin():
            while queue and budget > 0 and not self._sealer.full:
                waiting = queue.popleft()
                self._done_with(waiting)
                budget -= len(waiting.body)
                self._seal(waiting.pair, waiting.reserved, waiting.body)
            self._sealer.finish()
            if lane in self._shares:
                self._shares[lane] = min(budget, self._shares[lane])
        if not queue:
            del self._queues[lane]
            self._shares.pop(lane, None)

    def _budget(self, lane: int) -> int:
        """Bytes that may go to this link now."""
        allowance = min(self._exchange.allowance(lane), ROUND_BYTES)
        host = self._host_bytes(lane)
        if host is None:
            self._shares.pop(lane, None)
            return allowance
        share = self._shares[lane] = min(self._shares.get(lane, 0) + host // SHARE, MOST_SAVED_SHARE)
        return share

    def _seal(self, pair: bytes, reserved: int, body: memoryview) -> None:
        # Routes may have changed since: it goes where it would go now.
        flow = self.flows.get(pair) or self._flow_to(pair)
        if flow is None:
            self._counters["dropped.message_no_route"] += 1
        elif len(body) > MAX_SMALL_BODY and not flow.clean:
            self._counters["dropped.message_oversize"] += 1
        else:
            self._sealer.seal_message(flow, reserved, body)

    def _done_with(self, waiting: _Body) -> None:
        self._queued_bytes -= len(waiting.body)
        waiting.frame.waiting -= 1

    def _report(self) -> None:
        """Tells the message box which of its frames are gone."""
        gone = None
        while self._frames and not self._frames[0].waiting:
            gone = self._frames.popleft()
        if gone is not None:
            self._box.send(MessagesSealed(gone.life, gone.number))

    # --- routes -------------------------------------------------------------------------------------------------------

    def on_routes(self, changes: Sequence[RouteEntry]) -> None:
        """The table changed."""
        self.flows.clear()
        for change in changes:
            subnet = change.network[:_SUBNET]
            selected = change.state == RouteState.SELECTED
            if subnet in self._told:
                self._tell_route(subnet, selected and change.clean)
            if selected:
                self._release(subnet)
            elif change.state in (RouteState.FORGOTTEN, RouteState.UNREACHABLE):
                self._counters["dropped.message_no_route"] += self._give_up(subnet)

    def ask_again(self) -> None:
        """A new router has not heard what its predecessor was asked."""
        for subnet in self._waiting:
            self._router.send(Resolve(subnet + bytes(8), 64))

    def expire(self) -> None:
        """Gives up what waited longer than any answer takes."""
        oldest = self._loop.now() - WAIT_SECONDS
        for subnet, inits in list(self._waiting.items()):
            if next(iter(inits.values()))[3] < oldest:
                self._counters["dropped.message_no_route"] += self._give_up(subnet)

    def _flow_to(self, pair: bytes) -> Flow | None:
        flow = self.flows.find(pair)
        if isinstance(flow, Lack):
            if flow is Lack.KEY:
                self._counters["dropped.bad_key"] += 1
            return None
        self._tell_route(pair[16 : 16 + _SUBNET], flow.clean)
        return flow

    def _tell_route(self, subnet: bytes, clean: bool) -> None:
        if self._told.get(subnet, False) is not clean:
            self._box.send(MessageRoute(subnet, clean))
        if len(self._told) >= MAX_REMOTES and subnet not in self._told:
            for other in [other for other, was_clean in self._told.items() if was_clean]:
                self._box.send(MessageRoute(other, False))
            self._told.clear()
        self._told[subnet] = clean

    def _wait(self, pair: bytes, reserved: int, body: memoryview, now: float) -> None:
        destination = pair[16:]
        if destination[0] not in OVERLAY_FIRST_BYTES or destination.startswith(self._own):
            self._counters["dropped.message_no_route"] += 1
            return
        subnet = destination[:_SUBNET]
        if subnet not in self._waiting and now - self._asked.get(subnet, -ASK_SECONDS) >= ASK_SECONDS:
            if not self._resolves.take():
                self._counters["resolves.over_limit"] += 1
                return
            if len(self._asked) >= MAX_REMOTES:
                self._asked.clear()
            self._asked[subnet] = now
            self._router.send(Resolve(subnet + bytes(8), 64))
        flags = int.from_bytes(body[ID_BYTES : ID_BYTES + 2], "big")
        if len(body) < HEADER_BYTES or not flags & INIT or flags & ACK or self._waiting_inits >= WAITING_INITS:
            self._counters["dropped.message_no_route"] += 1
            return
        inits = self._waiting.setdefault(subnet, OrderedDict())
        message = bytes(body[:ID_BYTES])
        self._waiting_inits += message not in inits
        # The latest: an earlier one may have asked for what is not wanted any more. It has waited since the first.
        since = inits[message][3] if message in inits else now
        inits[message] = pair, reserved, bytes(body), since

    def _release(self, subnet: bytes) -> None:
        inits = self._waiting.pop(subnet, None)
        if inits is None:
            return
        self._waiting_inits -= len(inits)
        # They belong to frames that the message box was told of long ago.
        nobodys, now = _Frame(0, 0), self._loop.now()
        for pair, reserved, body, _ in inits.values():
            self._take_in(nobodys, pair, reserved, memoryview(body), now)
        self._send()

    def _give_up(self, subnet: bytes) -> int:
        # Quietly: the host has sent nothing that it would have to be told of (Q15).
        inits = self._waiting.pop(subnet, OrderedDict())
        self._waiting_inits -= len(inits)
        return len(inits)
