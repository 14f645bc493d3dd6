"""The link actor: one peer's connection.

Owns      one socket and what waits to be written to it; its arena; transit packets that wait for a route
Rights    no node key, no capability; Landlock: the runtime folder; its socket was handed in
Receives  RouteDelta, TablePart, SendControl (router); Packets (tun and other links, over lanes); Stop
Sends     LinkUp, ControlArrived, Resolve, RouteUsed (router); Packets, ReportUndelivered (over lanes);
          Traffic (peers); PacketsSeen (whoever listens)
Dies      its successor goes on in the same connection, in the middle of a packet (`protocol/ledger.py`); packets that
          were queued or half handled are lost; no peer notices

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
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from actors.link.connection import describe, tune
from actors.link.incoming import TUN, Incoming
from actors.link.outgoing import Outgoing
from actors.runtime.actor import Runtime
from actors.runtime.exchange import ArenaConfig, Exchange
from actors.runtime.loop import READABLE, WRITABLE
from actors.runtime.positions import Positions, PositionsError, positions
from actors.runtime.table import TableFollower
from protocol.frames import EndLink, LinkUp, RouteEntry, Traffic
from protocol.ledger import LEDGER_BYTES, Ledger, LedgerError, Recovery
from protocol.mycelium.resume import packet_end

REPORT_SECONDS: Final = 1.0
USED_SECONDS: Final = 5.0
EXPIRE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class OldArena:
    """Part of an arena that a predecessor used."""

    number: int
    descriptor: int


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """What a link is given at birth."""

    number: int
    """Names this link to router, peers and other links."""
    connection: int
    """Descriptor of the connected TCP socket."""
    endpoint: str
    """The peer as people write it."""
    outbound: bool
    """Whether this side dialled."""
    own_subnet: bytes
    """First 8 bytes of every address of this node."""
    ledger: int
    """Descriptor of the connection's ledger."""
    base: Positions
    """Where the kernel's counts stood when the connection was new."""
    arena: ArenaConfig
    """Of this incarnation."""
    resumed: bool
    """Whether a predecessor used this connection."""
    old_arenas: tuple[OldArena, ...]
    """Where the ledger says that bytes lie which are needed."""


def main(runtime: Runtime, config: LinkConfig) -> None:
    """Runs the link until its connection ends."""
    Link(runtime, config)
    runtime.serve()


class Link:
    """Ties the two directions to one socket, the ledger and the lanes to other processes."""

    def __init__(self, runtime: Runtime, config: LinkConfig) -> None:
        self._runtime = runtime
        self._config = config
        self._loop = runtime.loop
        self._socket = socket.socket(fileno=config.connection)
        self._closed = self._watching = False
        self._reported_in = self._reported_out = 0
        memory = memoryview(mmap.mmap(config.ledger, LEDGER_BYTES, mmap.MAP_SHARED))
        try:
            self._name, self._static_cost = describe(self._socket)
            tune(self._socket)
            ledger = Ledger(memory)
            sent, recovery = self._recover(ledger)
        except (OSError, PositionsError, LedgerError) as error:
            self._end(f"connection lost: {error}")
            # Ends the first round of `serve`.
            self._loop.defer(runtime.stop)
            return
        self._router = runtime.connect("router", answers=True)
        self._peers = runtime.connect("peers")
        self._out = Outgoing(runtime, self._socket, ledger, sent, recovery.torn, self._end, self._poll)
        self._exchange = Exchange(runtime, config.arena, on_run=self._out.on_run, on_room=self._on_room)
        self._out.give_back_to(self._exchange)
        self._in = Incoming(
            runtime,
            config.number,
            config.own_subnet,
            self._socket,
            self._exchange,
            ledger,
            self._router,
            self._end,
            self._poll,
        )
        follower = TableFollower(runtime, self._router, self._on_routes, self._introduce)
        # Before anything that the peer sends: a router has no use for packets of a link that it does not know.
        self._introduce()
        self._exchange.connect(TUN)
        self._in.begin(follower, recovery.boundary, recovery.uncut)
        if self._closed:
            # The connection broke, or what the predecessor had read is garbage. Ends the first round of `serve`.
            self._loop.defer(runtime.stop)
            return

        runtime.at_stop(self._close)
        self._loop.watch(self._socket.fileno(), self._on_socket, priority=3)
        self._watching = True
        self._poll()
        self._loop.every(REPORT_SECONDS, self._each_second)
        self._loop.every(EXPIRE_SECONDS, self._in.expire)
        self._loop.every(USED_SECONDS, self._in.report_used)

    def _recover(self, ledger: Ledger) -> tuple[int, Recovery]:
        """How much of the outgoing stream is written, and what a predecessor left unfinished."""
        if not self._config.resumed:
            return 0, Recovery(b"", 0, 0, memoryview(b""))
        now = positions(self._socket).since(self._config.base)
        arenas = {
            old.number: memoryview(mmap.mmap(old.descriptor, 0, mmap.MAP_SHARED, mmap.PROT_READ))
            for old in self._config.old_arenas
        }
        recovery = ledger.recover(now.sent, now.received, arenas, packet_end)
        self._runtime.counters["resumed.torn_bytes"] = len(recovery.torn)
        self._runtime.counters["resumed.dropped_bytes"] = recovery.dropped
        self._runtime.counters["resumed.uncut_bytes"] = len(recovery.uncut)
        return now.sent, recovery

    def _on_socket(self, events: int) -> None:
        if events & WRITABLE:
            self._out.on_writable()
        if events & ~WRITABLE and not self._closed:
            self._in.read()

    def _on_room(self) -> None:
        if self._in.no_slot:
            self._in.no_slot = False
            self._poll()

    def _poll(self) -> None:
        """Asks for what the two directions wait for: while we can't take more, the kernel keeps what arrives."""
        if not self._closed and self._watching:
            reading = 0 if self._in.paused else READABLE
            self._loop.want(self._socket.fileno(), reading | (WRITABLE if self._out.blocked else 0))

    def _on_routes(self, changes: Sequence[RouteEntry]) -> None:
        self._report_traffic()
        self._in.on_routes(changes)

    def _introduce(self) -> None:
        number, resumed = self._config.number, self._config.resumed
        self._router.send(LinkUp(number, self._name, self._static_cost, any_size=True, resumed=resumed))
        self._in.ask_again()

    def _each_second(self) -> None:
        self._in.next_second()
        self._report_traffic()

    def _report_traffic(self) -> None:
        received, sent = self._in.octets - self._reported_in, self._out.octets - self._reported_out
        if not received and not sent:
            return
        self._reported_in, self._reported_out = self._in.octets, self._out.octets
        self._peers.send(Traffic(self._config.number, received, sent, self._in.take_traffic()))
        counters = self._runtime.counters
        counters["octets.received"], counters["octets.sent"] = self._in.octets, self._out.octets
        self._out.count_drops()

    def _end(self, reason: str) -> None:
        if not self._closed:
            self._close()
            self._runtime.tell_supervisor(EndLink(self._config.number, reason))
            self._runtime.stop()

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            if self._watching:
                self._out.closed = True
            self._loop.forget(self._socket.fileno())
            self._socket.close()
