"""ICMPv6 errors of this node: to its host, and sealed to others whose packets could not go on here."""

from __future__ import annotations

from typing import Final

from actors.runtime.actor import Outlet, Runtime
from actors.runtime.budget import Budget
from actors.runtime.exchange import Exchange
from actors.tun.device import Device
from actors.tun.sealing import Sealer
from protocol.forwarding import ForwardingTable
from protocol.frames import ReportUndelivered, Resolve, RouteState, Undelivered
from protocol.icmpv6 import IcmpError, error_packet, may_answer
from protocol.mycelium.framing import DATA_HEADER, HOP_LIMIT_OFFSET, read_data_header
from protocol.mycelium.identity import OVERLAY_FIRST_BYTES
from protocol.mycelium.remotes import Remotes
from protocol.mycelium.reports import build_report

ERRORS_PER_SECOND: Final = 200


class Answers:
    """Makes errors, at most so many a second."""

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
    ) -> None:
        self._counters = runtime.counters
        self._device = device
        self._address = address
        self._remotes = remotes
        self._table = table
        self._router = router
        self._exchange = exchange
        self._sealer = sealer
        self.errors = Budget(ERRORS_PER_SECOND)
        """What we may tell our host."""

    def tell_host(self, error: IcmpError, packet: memoryview) -> None:
        """Tells our host why `packet` of its did not go."""
        self._counters[f"answered.{error.name.lower()}"] += 1
        if may_answer(packet) and self.errors.take():
            self._device.write(error_packet(error, self._address, bytes(packet[8:24]), packet))

    def on_undelivered(self, message: ReportUndelivered) -> None:
        """A link could not pass on a packet of another node: its source is told, sealed (wire spec 7.14)."""
        packet = memoryview(message.packet)
        if len(packet) < DATA_HEADER or len(packet) != DATA_HEADER + read_data_header(packet).raw_length:
            self._counters["frames.malformed"] += 1
            return
        source = read_data_header(packet).source
        route = self._table.lookup(source)
        if route is None or route.state != RouteState.SELECTED:
            self._counters["reports.no_route"] += 1
            if route is None and source[0] in OVERLAY_FIRST_BYTES and not source.startswith(self._address[:8]):
                self._router.send(Resolve(source[:8] + bytes(8), 64))
            return
        remote = self._remotes.owner(route.public_key, source)
        if remote is None:
            self._counters["dropped.bad_key"] += 1
            return
        kind = IcmpError.HOP_LIMIT if message.why is Undelivered.HOP_LIMIT else IcmpError.NO_ROUTE
        subnet_address = self._address[:8] + bytes(8)
        report = bytearray(build_report(kind, subnet_address, packet, remote.cipher, self._sealer.nonce()))
        report[HOP_LIMIT_OFFSET] -= 1
        self._counters["reports.sent"] += 1
        self._exchange.pass_copy(route.link, [len(report)], bytes(report))
