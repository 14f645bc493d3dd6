"""From the host to the overlay: the outward half of the tun actor (numbers: the packet path in `__init__.py`)."""

from __future__ import annotations

from typing import Final, NamedTuple

from actors.runtime.actor import Outlet, Runtime
from actors.runtime.budget import Budget
from actors.runtime.exchange import Exchange
from actors.runtime.loop import READABLE
from actors.tun.answers import Answers
from actors.tun.device import Device
from actors.tun.flows import Flow, Flows, Lack
from actors.tun.sealing import Sealer
from protocol.admission.gate import Gate
from protocol.flowqueue import FlowQueue, flow_key
from protocol.forwarding import ForwardingTable
from protocol.frames import Resolve
from protocol.icmpv6 import IcmpError
from protocol.mycelium.identity import OVERLAY_FIRST_BYTES
from protocol.mycelium.remotes import Remotes
from protocol.offload.vnet import HEADER_LENGTH, OffloadError
from protocol.waiting import WaitingPackets

RESOLVES_PER_SECOND: Final = 1000
WAIT_SECONDS: Final = 20.0
IPV6_HEADER: Final = 40
CROWDED_PACKETS: Final = 256
"""When so many wait for a link, the device is left alone for a moment: what a flood sends beyond what the link takes
is dropped by the kernel for nothing, here it costs as much as a packet that arrives. Super-packets never get so far:
their queue is full of bytes long before."""
CROWD: Final = 32
"""So many of them end a round."""
PAUSE_SECONDS: Final = 0.005
"""At most, because other links may have all the room."""


class _Host(NamedTuple):
    """A packet of the host that waits for its turn."""

    flow: Flow
    header: bytes
    packet: bytes


class Outbound:
    """Reads the host's packets, seals them and hands them to links."""

    def __init__(
        self,
        runtime: Runtime,
        device: Device,
        address: bytes,
        remotes: Remotes,
        table: ForwardingTable,
        router: Outlet,
        exchange: Exchange,
        sealer: Sealer,
        answers: Answers,
    ) -> None:
        self._counters = runtime.counters
        self._loop = runtime.loop
        self._device = device
        self._own = address[:8]
        self._router = router
        self._exchange = exchange
        self._sealer = sealer
        self._answers = answers
        self.gate: Gate | None = None
        """Who may come in, where not everybody may: it has to see what the host sends."""
        self._header = bytearray(HEADER_LENGTH)
        self.flows = Flows(table, remotes)
        self._waiting = WaitingPackets(tally=runtime.counters)
        self.resolves = Budget(RESOLVES_PER_SECOND)
        """New prefixes that the host may have us ask for; the whole network hears of each."""
        self._queues: dict[int, FlowQueue[_Host]] = {}
        self._turns: dict[int, int] = {}
        """By link: bytes that waiting packets got since `take_turns`."""
        self._paused = False
        self._crowded = 0
        """Packets of this round that found many before them."""
        runtime.gauges.queue("waiting_packets", lambda: len(self._waiting))
        runtime.gauges.queue("queued_packets", lambda: sum(map(len, self._queues.values())))

    # --- the path ---------------------------------------------------------------------------------------------------

    def on_device(self, _events: int) -> None:
        """The device has packets."""
        sealer, header = self._sealer, self._header
        if not sealer.begin():
            # Every slot is in somebody's hands: the kernel keeps what follows until one comes back.
            self._rest()
            return
        now = self._loop.now()
        while not sealer.full and self._crowded < CROWD:
            room = sealer.room
            length = self._device.read(header, room)  # 1
            if not length:
                break
            self._packet(room[:length], length, now)
        sealer.finish()
        if self._crowded:
            self._crowded = 0
            self._rest()

    def on_room(self) -> None:
        """Links gave something back."""
        for lane, queue in self._queues.items():
            if len(queue):
                self._send_queued(lane, queue)
        if self._paused and not any(len(queue) > CROWDED_PACKETS for queue in self._queues.values()):
            self._resume()

    def _packet(self, packet: memoryview, length: int, now: float) -> None:
        if length < IPV6_HEADER or packet[0] >> 4 != 6:
            self._counters["dropped.not_ipv6"] += 1
            return
        pair = bytes(packet[8:40])
        flow = self.flows.get(pair)  # 3
        if flow is None:
            flow = self._new_flow(pair, packet)
            if flow is None:
                return
        if packet[7] < 2:
            self._answers.tell_host(IcmpError.HOP_LIMIT, packet)  # 2
            return
        if self.gate is not None:
            self.gate.sent(packet, now)
        lane = flow.lane
        queue = self._queues.get(lane)
        if (queue is not None and len(queue)) or not self._exchange.allowance(lane):
            if queue is None:
                queue = self._queues[lane] = FlowQueue()
            queue.add(flow_key(packet), _Host(flow, bytes(self._header), bytes(packet)), length, now)
            self._crowded += len(queue) > CROWDED_PACKETS
            return
        self._seal(flow, length, now)

    def _seal(self, flow: Flow, length: int, now: float) -> None:
        try:
            self._sealer.seal(flow, self._header, length, now)
        except OffloadError:
            self._counters["dropped.bad_offload"] += 1

    def _send_queued(self, lane: int, queue: FlowQueue[_Host]) -> None:
        self._exchange.ran_dry(lane)
        allowance = self._exchange.allowance(lane)
        if not allowance or not self._sealer.begin():
            return
        now = self._loop.now()
        sealer = self._sealer
        self._turns[lane] = self._turns.get(lane, 0) + allowance
        for host in queue.take(now, allowance):
            if sealer.full:
                sealer.finish()
                if not sealer.begin():
                    self._counters["dropped.no_slot"] += 1
                    return
            self._seal_queued(host, now)
        sealer.finish()
        self._count_drops(queue)
        if len(queue) and not self._exchange.busy(lane):
            # Small packets are not leased, so nothing will come back to wake us.
            self._loop.call_after(0, self.on_room)

    def _count_drops(self, queue: FlowQueue[_Host]) -> None:
        """Moves what a queue has dropped to the process's counters, which outlive it."""
        counters = self._counters
        counters["dropped.queue_age"] += queue.dropped_age
        counters["dropped.queue_codel"] += queue.dropped_codel
        counters["dropped.queue_full"] += queue.dropped_full
        queue.dropped_age = queue.dropped_codel = queue.dropped_full = 0

    def _seal_queued(self, host: _Host, now: float) -> None:
        # Routes may have changed since: it goes where it would go now.
        flow = self.flows.get(host.flow.pair)
        if flow is None:
            self._header[:] = host.header
            flow = self._flow_to(host.flow.pair, memoryview(host.packet))
            if flow is None:
                return
        try:
            self._sealer.seal_copy(flow, host.header, host.packet, now)
        except OffloadError:
            self._counters["dropped.bad_offload"] += 1

    def _rest(self) -> None:
        self._pause(True)
        self._loop.call_after(PAUSE_SECONDS, self._resume)

    def _resume(self) -> None:
        if self._paused:
            self._pause(False)

    def _pause(self, paused: bool) -> None:
        self._paused = paused
        self._loop.want(self._device.descriptor, 0 if paused else READABLE)

    def take_turns(self, lane: int) -> int | None:
        """Bytes that waiting packets got to this link since the last call; None while none waits."""
        queue = self._queues.get(lane)
        turns = self._turns.pop(lane, 0)
        return turns if queue is not None and len(queue) else None

    # --- routes -----------------------------------------------------------------------------------------------------

    def forget_routes(self) -> None:
        """The table changed: the next packet of each pair looks again."""
        self.flows.clear()

    def _new_flow(self, pair: bytes, packet: memoryview) -> Flow | None:
        """The flow of a pair that may be sent; otherwise the packet is answered, dropped or made to wait."""
        destination = pair[16:]
        if destination.startswith(self._own):
            self._answers.tell_host(IcmpError.ADDRESS_UNREACHABLE, packet)  # 2
        elif pair[0] not in OVERLAY_FIRST_BYTES:
            self._answers.tell_host(IcmpError.SOURCE_POLICY, packet)  # 2
        elif destination[0] not in OVERLAY_FIRST_BYTES:
            self._answers.tell_host(IcmpError.NO_ROUTE, packet)
        else:
            return self._flow_to(pair, packet)
        return None

    def _flow_to(self, pair: bytes, packet: memoryview) -> Flow | None:
        flow = self.flows.find(pair)
        if flow is Lack.ROUTE:
            self._wait(pair[16:], packet)
            return None
        if flow is Lack.KEY:
            self._counters["dropped.bad_key"] += 1
            self._answers.tell_host(IcmpError.NO_ROUTE, packet)
            return None
        return flow

    def _wait(self, destination: bytes, packet: memoryview) -> None:
        prefix = destination[:8]
        asked = prefix in self._waiting
        if not asked and not self.resolves.take():
            self._counters["resolves.over_limit"] += 1
            self._answers.tell_host(IcmpError.NO_ROUTE, packet)
            return
        # With its virtio header, which it needs again when its turn comes.
        if not self._waiting.add(prefix, bytes(self._header) + packet, self._loop.now()):
            self._answers.tell_host(IcmpError.NO_ROUTE, packet)
        elif not asked:
            self._router.send(Resolve(prefix + bytes(8), 64))

    def release(self, prefix: bytes) -> None:
        """A route to this /64 (8 bytes) was found: what waited for it goes."""
        waiting = self._waiting.take(prefix)
        if not waiting or not self._sealer.begin():
            self._counters["dropped.no_slot"] += len(waiting)
            return
        now = self._loop.now()
        for kept in waiting:
            if self._sealer.full:
                self._sealer.finish()
                if not self._sealer.begin():
                    self._counters["dropped.no_slot"] += 1
                    return
            length = len(kept) - HEADER_LENGTH
            self._header[:] = kept[:HEADER_LENGTH]
            room = self._sealer.room
            room[:length] = kept[HEADER_LENGTH:]
            self._packet(room[:length], length, now)
        self._sealer.finish()

    def give_up(self, prefix: bytes) -> None:
        """No route to this /64 was found, or it was lost: the host is told."""
        for kept in self._waiting.take(prefix):
            self._answers.tell_host(IcmpError.NO_ROUTE, memoryview(kept)[HEADER_LENGTH:])

    def ask_again(self) -> None:
        """Asks for every prefix that packets wait for."""
        for prefix in self._waiting.prefixes():
            self._router.send(Resolve(prefix + bytes(8), 64))

    def expire(self) -> None:
        """Gives up what waited longer than any answer takes."""
        now = self._loop.now()
        for _, packets in self._waiting.expire(now, WAIT_SECONDS):
            for kept in packets:
                self._answers.tell_host(IcmpError.NO_ROUTE, memoryview(kept)[HEADER_LENGTH:])
        for lane, queue in list(self._queues.items()):
            queue.expire(now)
            self._count_drops(queue)
            if not len(queue):
                del self._queues[lane]
                self._turns.pop(lane, None)
