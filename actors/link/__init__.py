"""The link actor: one peer's connection; where peers are many, several in one process.

Owns      one connection over any transport (`transports/`); what waits to be written to it, or for a route; its arena
Rights    no node key; a private network's, where there is one; no capability; Landlock: the runtime folder
Receives  RouteDelta, TablePart, SendControl (router); ForwardedDatagram (peers); Packets (lanes); AdoptLink, Stop
Sends     LinkUp, ControlArrived, Resolve, RouteUsed (router); Packets, ReportUndelivered (over lanes);
          Traffic, LinkOpened, ConnectionIds (peers); PacketsSeen (whoever listens); LastWill (supervisor)
Dies      over TCP its successor goes on in the same connection, in the middle of a packet (`protocol/ledger.py`):
          packets that were queued or half handled are lost, no peer notices. Any other connection is dialled again

The packet path, in:
 1. the socket is read into a slot of the arena, as much as there is
 2. the decoder cuts packets; control packets go to the router, found well-formed; the ledger says how far we are
 3. a data packet's hop limit is counted down in place
 4. its pair of addresses leads to the next step: tun, another link, or the queue of those that wait for a route
 5. packets with the same next step leave in one frame, in the order in which they came; the bytes stay where they are

The packet path, out:
 6. frames from tun and other links are queued as they are; control packets from the router overtake them
 7. one sendmsg writes control first and then as much data as the socket takes; the ledger says before what it will be
 8. what was written or dropped is given back to the arena it lies in
"""

from __future__ import annotations

import mmap
import os
import socket
from collections.abc import Sequence
from typing import Final

import setproctitle

from actors.link.config import HostConfig, LinkConfig
from actors.link.incoming import Incoming
from actors.link.outgoing import Outgoing
from actors.link.transports import TRANSPORTS, Setup, TransportError
from actors.runtime.actor import Runtime
from actors.runtime.exchange import TUN, Exchange, Packed
from actors.runtime.positions import Positions, PositionsError, positions
from actors.runtime.table import TableFollower
from actors.runtime.udp import Address
from protocol.frames import AdoptLink, EndLink, ForwardedDatagram, LinkOpened, LinkUp, RouteEntry, SendControl, Traffic
from protocol.ledger import LEDGER_BYTES, Ledger, LedgerError, NoLedger, Recovery
from protocol.mycelium.endpoint import Endpoint, SocketAddress
from protocol.mycelium.identity import address_of
from protocol.mycelium.resume import packet_end
from protocol.prefix import subnet_of

_NOTHING: Final = Recovery(b"", 0, 0, memoryview(b""))
REPORT_SECONDS: Final = 1.0
USED_SECONDS: Final = 5.0
QUIET_OCTETS: Final = 128
"""Hello and IHU both ways: a second that brought no more is reported with others."""


def main(runtime: Runtime, config: HostConfig) -> None:
    """Runs the links until the last connection ends."""
    Host(runtime, config)
    runtime.serve()


class Host:
    """What the links of one process share: ways to other processes, arena, forwarding table."""

    def __init__(self, runtime: Runtime, config: HostConfig) -> None:
        self._runtime = runtime
        self.public_key: Final = config.public_key
        self.own_subnet: Final = subnet_of(address_of(config.public_key)).network[:8]
        """First 8 bytes of every address of this node."""
        self.network: Final = config.network
        self.router: Final = runtime.connect("router", answers=True)
        self.peers: Final = runtime.connect("peers", answers=True)
        self.exchange: Final = Exchange(runtime, config.arena, on_run=self._on_run, on_room=self._on_room)
        self._links: dict[int, Link] = {}
        self.table: Final = TableFollower(runtime, self.router, self._on_routes, self._introduce).table
        runtime.on(SendControl, self._on_send_control, inbox=False)
        runtime.on(ForwardedDatagram, self._on_forwarded, inbox=False)
        runtime.on_channel(AdoptLink, self._on_adopt)
        runtime.on_channel(EndLink, self._on_end)
        runtime.gauges.queue("links", lambda: len(self._links))
        runtime.gauges.queue("send_bytes", lambda: sum(link.outgoing.pending_bytes for link in self._links.values()))
        runtime.gauges.queue(
            "waiting_packets", lambda: sum(link.incoming.waiting_packets for link in self._links.values())
        )
        runtime.at_stop(self._close_all)
        runtime.loop.every(REPORT_SECONDS, self._each_second)
        runtime.loop.every(USED_SECONDS, self._each_five_seconds)
        for link in config.links:
            self._take(link)
        self.exchange.connect(TUN)

    def _retitle(self) -> None:
        endpoints = [link.endpoint for link in self._links.values()]
        title = f"link {endpoints[0]}" if len(endpoints) == 1 else f"{len(endpoints)} links"
        setproctitle.setproctitle(f"septate: {title}")

    def _take(self, config: LinkConfig) -> None:
        connection = socket.socket(fileno=config.connection)
        try:
            link = self._links[config.number] = Link(self._runtime, self, connection, config)
        except (OSError, PositionsError, LedgerError, TransportError) as error:
            connection.close()
            self.ended(config.number, f"connection lost: {error}")
        else:
            link.begin()
            self._retitle()

    def ended(self, number: int, reason: str) -> None:
        """A connection is over; the process is when none is left."""
        self._links.pop(number, None)
        self._runtime.tell_supervisor(EndLink(number, reason))
        if not self._links:
            # At the end of this round: in the first one there may be others to come.
            self._runtime.loop.defer(self._stop_if_idle)
        else:
            self._retitle()

    def _stop_if_idle(self) -> None:
        if not self._links:
            self._runtime.stop()

    def _on_adopt(self, message: AdoptLink, descriptors: list[int]) -> None:
        connection, ledger = descriptors if len(descriptors) > 1 else (*descriptors, -1)
        base = Positions(message.sent, message.received)
        self._take(
            LinkConfig(
                number=message.link,
                connection=connection,
                endpoint=message.endpoint,
                outbound=message.outbound,
                transport=message.transport,
                opening=message.opening,
                ledger=ledger,
                base=base,
                resumed=False,
                old_arenas=(),
            )
        )

    def _on_end(self, message: EndLink, _descriptors: list[int]) -> None:
        link = self._links.get(message.link)
        if link is not None:
            link.end(message.reason)

    def _on_run(self, number: int, run: Packed) -> None:
        link = self._links.get(number)
        if link is not None:
            link.outgoing.on_run(run)
        elif run.lease is not None:
            self.exchange.give_back(run.lease)

    def _on_room(self) -> None:
        for link in self._links.values():
            link.on_room()

    def _on_send_control(self, _sender: bytes, message: SendControl) -> None:
        link = self._links.get(message.link)
        if link is not None:
            link.outgoing.control(message.packets)

    def _on_forwarded(self, _sender: bytes, message: ForwardedDatagram) -> None:
        link = self._links.get(message.link)
        if link is not None:
            sender = SocketAddress.parse(message.sender).sockaddr()
            link.forwarded(message.datagram, sender)

    def _on_routes(self, changes: Sequence[RouteEntry]) -> None:
        for link in self._links.values():
            link.report_traffic()
            link.incoming.on_routes(changes)

    def _introduce(self) -> None:
        for link in self._links.values():
            link.introduce()

    def _each_second(self) -> None:
        for link in list(self._links.values()):
            link.each_second()
            if link.unreported > QUIET_OCTETS:
                link.report_traffic()

    def _each_five_seconds(self) -> None:
        for link in self._links.values():
            link.report_traffic()
            link.incoming.expire()
            link.incoming.report_used()

    def _close_all(self) -> None:
        for link in list(self._links.values()):
            link.close()


class Link:
    """Ties the two directions to one socket, the ledger and the lanes to other processes."""

    def __init__(self, runtime: Runtime, host: Host, connection: socket.socket, config: LinkConfig) -> None:
        """Raises `OSError`, `PositionsError` or `LedgerError` where the connection is over already."""
        self._runtime = runtime
        self._host = host
        self._config = config
        self.endpoint: Final = config.endpoint
        self._loop = runtime.loop
        self._closed = self._watching = False
        self._reported_in = self._reported_out = 0
        endpoint = Endpoint.parse(config.endpoint)
        setup = Setup(
            runtime=runtime,
            owner=self,
            connection=connection,
            endpoint=endpoint,
            outbound=config.outbound,
            number=config.number,
            opening=config.opening,
            public_key=host.public_key,
            network=host.network,
            tell_peers=host.peers.send,
        )
        self._transport = TRANSPORTS[config.transport]()(setup)
        self._has_handshake = not self._transport.opened
        ledger: Ledger | NoLedger = NoLedger()
        self._sent, self._recovery = 0, _NOTHING
        if config.ledger >= 0:
            # The mapping outlives the descriptor.
            ledger = Ledger(memoryview(mmap.mmap(config.ledger, LEDGER_BYTES, mmap.MAP_SHARED)))
            self._sent, self._recovery = self._recover(connection, ledger)
            os.close(config.ledger)
        self.outgoing: Final = Outgoing(runtime, host.exchange, self._transport.send, ledger, self.end, self.poll)
        self.incoming: Final = Incoming(
            runtime,
            config.number,
            host.own_subnet,
            self._transport.receive_into,
            host.exchange,
            ledger,
            host.router,
            host.table,
            self.end,
            self.poll,
        )

    def begin(self) -> None:
        """Starts the transport."""
        transport = self._transport
        transport.start()
        if transport.opened and not self._closed:
            self.opened()
        if not self._closed:
            self._loop.watch(transport.fileno(), transport.on_events, priority=3)
            self._watching = True
            self.poll()

    # --- what the transport says --------------------------------------------------------------------------------------

    def opened(self) -> None:
        """Goes on where a predecessor ended; its last bytes may be the end of the connection."""
        recovery, self._recovery = self._recovery, _NOTHING
        if self._has_handshake:
            self._host.peers.send(LinkOpened(self._config.number))
        self.outgoing.begin(self._sent, recovery.torn)
        if not self._closed:
            # Before anything that the peer sends: a router has no use for packets of a link that it does not know.
            self.introduce()
            self.incoming.begin(recovery.boundary, recovery.uncut)

    def arrived(self) -> None:
        """The peer sent something."""
        if not self._closed:
            self.incoming.read()

    def forwarded(self, datagram: bytes, sender: Address) -> None:
        """A listener got what is for this link."""
        self._transport.forwarded(datagram, sender)

    def each_second(self) -> None:
        """A second has passed."""
        self.incoming.next_second()
        self.outgoing.expire()
        self._transport.each_second()

    def room(self) -> None:
        """The transport takes more."""
        self.outgoing.on_writable()

    # --- the rest -----------------------------------------------------------------------------------------------------

    def _recover(self, connection: socket.socket, ledger: Ledger) -> tuple[int, Recovery]:
        """How much of the outgoing stream is written, and what a predecessor left unfinished."""
        if not self._config.resumed:
            return 0, _NOTHING
        now = positions(connection).since(self._config.base)
        arenas = {
            old.number: memoryview(mmap.mmap(old.descriptor, 0, mmap.MAP_SHARED, mmap.PROT_READ))
            for old in self._config.old_arenas
        }
        for old in self._config.old_arenas:
            os.close(old.descriptor)
        recovery = ledger.recover(now.sent, now.received, arenas, packet_end)
        self._runtime.counters["resumed.torn_bytes"] += len(recovery.torn)
        self._runtime.counters["resumed.dropped_bytes"] += recovery.dropped
        self._runtime.counters["resumed.uncut_bytes"] += len(recovery.uncut)
        return now.sent, recovery

    def on_room(self) -> None:
        """A slot of the arena may be free."""
        if self.incoming.on_room():
            self.poll()

    def poll(self) -> None:
        """Asks for what the two directions wait for: while we can't take more, the kernel keeps what arrives."""
        if not self._closed and self._watching:
            wanted = self._transport.wanted(reading=not self.incoming.paused, writing=self.outgoing.blocked)
            self._loop.want(self._transport.fileno(), wanted)

    def introduce(self) -> None:
        """Tells the router of this link, when it is one."""
        config, transport = self._config, self._transport
        if not transport.opened:
            return
        # A transport with a limit of its own sends what is larger another way, so that each carries any size.
        up = LinkUp(config.number, transport.name, transport.static_cost, any_size=True, resumed=config.resumed)
        self._host.router.send(up)
        self.incoming.ask_again()

    @property
    def unreported(self) -> int:
        """Bytes that moved since the last report."""
        return self.incoming.octets + self.outgoing.octets - self._reported_in - self._reported_out

    def report_traffic(self) -> None:
        """Tells peers what moved since the last call."""
        received, sent = self.incoming.octets - self._reported_in, self.outgoing.octets - self._reported_out
        if not received and not sent:
            return
        self._reported_in, self._reported_out = self.incoming.octets, self.outgoing.octets
        self._host.peers.send(Traffic(self._config.number, received, sent, self.incoming.take_traffic()))
        counters = self._runtime.counters
        counters["octets.received"] += received
        counters["octets.sent"] += sent
        self.outgoing.count_drops()

    def end(self, reason: str) -> None:
        """The connection is over."""
        if not self._closed:
            self.close()
            self._host.ended(self._config.number, reason)

    def close(self) -> None:
        """Lets go of the socket and of whatever is in hand."""
        if not self._closed:
            self._closed = True
            self.report_traffic()
            if self._watching:
                self._loop.forget(self._transport.fileno())
            self._transport.close()
            self.outgoing.close()
            self.incoming.close()
