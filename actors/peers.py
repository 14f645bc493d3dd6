"""The peers actor: who our peers are, how to reach them, and what went over each link.

Owns      the peer table; connections that are being made or have not said anything yet; counts by address
Rights    no node key, no capability; may dial; the listening socket and marked sockets come from the supervisor
Receives  AddPeer, RemovePeer, AskPeers, AskTraffic; Traffic, LinkOpened, ConnectionIds (links);
          SocketOpened, LinkGone (supervisor)
Sends     OpenSocket, OpenDatagramSocket, SpawnLink, EndLink (supervisor); ForwardedDatagram (links);
          Answer, PeerList, TrafficList
Dies      links stay; its successor is told which there are, finds added peers in the memory file, and goes on
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import socket
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Final

import msgpack

from actors.quic_listener import BUSY, QuicListener, Stranger
from actors.runtime.actor import Runtime
from actors.runtime.answers import Answers, LongAnswer
from actors.runtime.budget import Budget
from actors.runtime.loop import READABLE, WRITABLE, Timer
from actors.runtime.memory import MemoryFile
from protocol.accounting import AddressCounts
from protocol.frames import (
    AddPeer,
    AddressTraffic,
    Answer,
    AskPeers,
    AskTraffic,
    EndLink,
    LinkGone,
    LinkOpened,
    OpenDatagramSocket,
    OpenSocket,
    Outcome,
    PeerList,
    PeerRow,
    RemovePeer,
    SocketKind,
    SocketOpened,
    SpawnLink,
    Traffic,
    TrafficList,
    in_parts,
    link_text,
)
from protocol.handshakes import Handshake, Handshakes
from protocol.linknumbers import LinkNumbers
from protocol.mycelium.endpoint import Endpoint, EndpointError, Protocol, SocketAddress, UnixAddress, VsockAddress
from protocol.mycelium.framing import PACKET_HEADER, PACKET_VERSION
from protocol.peering import AlreadyKnown, Kind, NotKnown, PeeringError, PeerTable
from protocol.transports import HANDSHAKES, Ways

DIAL_SECONDS: Final = 10.0
FIRST_WORD_SECONDS: Final = 10.0
"""A node sends its Update at once (wire spec 7.3); who connects and says nothing gets no process."""
MAX_SILENT: Final = 256
ACCEPTS_PER_TURN: Final = 32
ACCEPT_PAUSE_SECONDS: Final = 0.5
HANDSHAKES_PER_SECOND: Final = 50
"""Of strangers: each costs a process."""
LINES_PER_SECOND: Final = 5
"""About strangers who were refused."""
FIRST_WORD_PAUSE_SECONDS: Final = 0.05
_TLS_HANDSHAKE: Final = b"\x16\x03"
"""How the record begins in which a TLS client says hello (RFC 8446 section 5.1)."""
_WITHOUT_LOW_WATER: Final = frozenset({Protocol.UNIX, Protocol.VSOCK})
"""Sockets for which the kernel does not wait until there is a whole packet header to read."""
COMPACT_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class KeptLink:
    """A link that runs already when peers starts again."""

    number: int
    endpoint: str
    outbound: bool
    age: float


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket where strangers come in."""

    descriptor: int
    transport: Protocol
    """What is spoken on the connections that come in."""
    path: str = ""
    """Of a Unix socket."""


@dataclass(frozen=True, slots=True)
class PeersConfig:
    """What peers is given at birth."""

    listeners: tuple[Listener, ...]
    """One of each kind at most; those that could not be opened are not among them."""
    ways: Ways
    """How peers can be reached."""
    memory: int
    """Descriptor of the memory file: peers added and removed since the node's start."""
    endpoints: tuple[str, ...]
    """From the command line or the configuration."""
    own_subnet: bytes
    """The first 8 bytes of the own addresses."""
    kept: tuple[KeptLink, ...]
    """Links of a predecessor."""
    first_process: int
    """The number of the next process of links; never one that was used before."""
    highest: tuple[int, ...]
    """The highest link number used in each process of links that lives."""


class _Silent:
    """An accepted connection that has not said anything yet."""

    __slots__ = ("connection", "listener", "timer")

    def __init__(self, connection: socket.socket, listener: Listener, timer: Timer) -> None:
        self.connection = connection
        self.listener = listener
        self.timer = timer


def main(runtime: Runtime, config: PeersConfig) -> None:
    """Runs the actor."""
    Peers(runtime, config)
    runtime.serve()


class Peers:
    """Glue between the peer table, sockets and the supervisor."""

    def __init__(self, runtime: Runtime, config: PeersConfig) -> None:
        self._runtime = runtime
        self._loop = runtime.loop
        self._counters = runtime.counters
        self._log = runtime.log
        self._answers = Answers(runtime)
        self._own_subnet = config.own_subnet
        self._table = PeerTable()
        self._memory = MemoryFile(config.memory)
        self._configured = frozenset(config.endpoints)
        self._by_source = AddressCounts()
        self._by_destination = AddressCounts()
        self._numbers = LinkNumbers(config.first_process, config.highest, [link.number for link in config.kept])
        self._next_token = 1
        self._opening: dict[int, str] = {}
        self._dialling: dict[int, tuple[str, socket.socket, Timer]] = {}
        self._silent: dict[int, _Silent] = {}
        self._timer: Timer | None = None
        self._ways = config.ways
        self._guests = itertools.count(1)
        self._handshakes = Handshakes()
        self._new_strangers = Budget(HANDSHAKES_PER_SECOND)
        self._lines = Budget(LINES_PER_SECOND)

        runtime.gauges.queue("peers", lambda: len(self._table))
        runtime.gauges.queue("dialling", lambda: len(self._dialling) + len(self._opening))
        runtime.gauges.queue("silent_connections", lambda: len(self._silent))
        runtime.on(AddPeer, self._on_add)
        runtime.on(RemovePeer, self._on_remove)
        runtime.on(AskPeers, self._on_ask_peers)
        runtime.on(AskTraffic, self._on_ask_traffic)
        runtime.on(Traffic, self._on_traffic)
        runtime.on(LinkOpened, self._on_link_opened)
        runtime.gauges.queue("handshakes", lambda: len(self._handshakes))
        runtime.loop.every(1.0, self._next_second)
        runtime.on_channel(SocketOpened, self._on_socket_opened)
        runtime.on_channel(LinkGone, self._on_link_gone)
        self._restore(config)
        self._strangers: dict[int, Stranger] = {}
        self._quic: QuicListener | None = None
        for listener in config.listeners:
            if listener.transport is Protocol.QUIC:
                self._quic = QuicListener(
                    runtime,
                    listener.descriptor,
                    is_busy=lambda: self._handshakes.of_strangers + len(self._strangers) >= BUSY,
                    may_begin=lambda remote: self._may_shake_hands(str(Endpoint(Protocol.QUIC, remote))),
                    begin=self._open_for,
                )
            else:
                self._listen(listener)
        self._loop.call_after(0, self._dial_due)

    # --- dialling ---------------------------------------------------------------------------------------------------

    def _restore(self, config: PeersConfig) -> None:
        now = self._loop.now()
        wanted = dict.fromkeys(config.endpoints)
        for record in self._memory.replay():
            added, endpoint = msgpack.unpackb(record)
            if added:
                wanted[endpoint] = None
            else:
                wanted.pop(endpoint, None)
        for endpoint in wanted:
            self._table.add(endpoint, now, never=self._ways.why_never(Endpoint.parse(endpoint)))
        for link in config.kept:
            self._table.kept(link.endpoint, link.number, link.outbound, now, link.age)

    def _dial_due(self) -> None:
        for text in self._table.take_due(self._loop.now()):
            endpoint, token = Endpoint.parse(text), self._token()
            self._opening[token] = text
            self._counters["dials.started"] += 1
            if endpoint.protocol is Protocol.QUIC:
                self._runtime.tell_supervisor(OpenDatagramSocket(token, "", str(endpoint.address)))
            else:
                self._runtime.tell_supervisor(OpenSocket(token, _kind_of(endpoint)))
        self._plan()

    def _token(self) -> int:
        token, self._next_token = self._next_token, self._next_token + 1
        return token

    def _plan(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        deadline = self._table.next_deadline()
        self._timer = None if deadline is None else self._loop.call_at(deadline, self._dial_due)

    def _on_socket_opened(self, message: SocketOpened, descriptors: list[int]) -> None:
        if message.token in self._strangers:
            self._on_stranger_s_socket(self._strangers.pop(message.token), message, descriptors)
            return
        endpoint = self._opening.pop(message.token)
        if not descriptors:
            self._dial_failed(endpoint, message.error)
            return
        connection = socket.socket(fileno=descriptors[0])
        if connection.type == socket.SOCK_DGRAM:
            self._begin_link(endpoint, connection)
            return
        connection.setblocking(False)
        code = connection.connect_ex(Endpoint.parse(endpoint).address.sockaddr())
        if code not in (0, errno.EINPROGRESS):
            connection.close()
            self._dial_failed(endpoint, os.strerror(code))
            return
        number = connection.fileno()
        timer = self._loop.call_after(DIAL_SECONDS, lambda: self._dialled(number, "no answer"))
        self._dialling[number] = (endpoint, connection, timer)
        self._loop.watch(number, lambda _: self._dialled(number, ""), events=WRITABLE)

    def _dialled(self, number: int, failure: str) -> None:
        endpoint, connection, timer = self._dialling.pop(number)
        timer.cancel()
        self._loop.forget(number)
        code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failure or code:
            connection.close()
            self._dial_failed(endpoint, failure or os.strerror(code))
            return
        self._begin_link(endpoint, connection)

    def _begin_link(self, endpoint: str, connection: socket.socket) -> None:
        link, transport = self._new_link(), self._ways.transport(Endpoint.parse(endpoint))
        if transport in HANDSHAKES:
            self._handshakes.dialled(link, endpoint)
            self._spawn(SpawnLink(link, endpoint, True, transport, b""), connection)
        elif self._connected(link, endpoint):
            self._spawn(SpawnLink(link, endpoint, True, transport, b""), connection)
        connection.close()

    def _connected(self, link: int, endpoint: str) -> bool:
        """Whether anybody still wants what was dialled."""
        if not self._table.connected(endpoint, link, self._loop.now()):
            return False
        self._counters["dials.connected"] += 1
        self._log.info("connected", peer=endpoint, link=link_text(link))
        return True

    def _dial_failed(self, endpoint: str, reason: str) -> None:
        self._counters["dials.failed"] += 1
        failures = self._table.failed(endpoint, reason, self._loop.now(), random.random())
        if failures == 1:
            self._log.warning("cannot connect; will go on trying", peer=endpoint, reason=reason)
        elif failures:
            self._log.debug("cannot connect", peer=endpoint, reason=reason, failures=failures)
        self._plan()

    # --- accepting --------------------------------------------------------------------------------------------------

    def _listen(self, listener: Listener) -> None:
        accepting = socket.socket(fileno=listener.descriptor)
        accepting.setblocking(False)
        self._loop.watch(accepting.fileno(), lambda _: self._on_connections(listener, accepting))

    def _on_connections(self, listener: Listener, accepting: socket.socket) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                connection, _address_of_peer = accepting.accept()
            except BlockingIOError:
                return
            except OSError as error:
                # Out of descriptors, or a connection that was gone before we took it.
                self._counters["accepts.failed"] += 1
                self._log.warning("cannot accept a connection", reason=error.strerror)
                self._rest_from_accepting(accepting.fileno())
                return
            self._wait_for_first_word(connection, listener)

    def _rest_from_accepting(self, number: int) -> None:
        self._loop.want(number, 0)
        self._loop.call_after(ACCEPT_PAUSE_SECONDS, lambda: self._loop.want(number, READABLE))

    def _wait_for_first_word(self, connection: socket.socket, listener: Listener) -> None:
        if len(self._silent) >= MAX_SILENT:
            # The oldest has had the longest time to speak.
            self._drop_silent(next(iter(self._silent)), "accepts.crowded_out")
        connection.setblocking(False)
        # Readable only when a whole packet header is there.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, PACKET_HEADER)
        number = connection.fileno()
        timer = self._loop.call_after(FIRST_WORD_SECONDS, lambda: self._drop_silent(number, "accepts.silent"))
        self._silent[number] = _Silent(connection, listener, timer)
        self._loop.watch(number, lambda _: self._on_first_word(number))

    def _on_first_word(self, number: int) -> None:
        silent = self._silent[number]
        connection, transport = silent.connection, silent.listener.transport
        try:
            head = connection.recv(PACKET_HEADER, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            self._drop_silent(number, "accepts.broken")
            return
        if 0 < len(head) < PACKET_HEADER and transport in _WITHOUT_LOW_WATER:
            # Asked again in a moment: such a socket is readable with the first byte.
            self._loop.want(number, 0)
            self._loop.call_after(FIRST_WORD_PAUSE_SECONDS, lambda: self._ask_again(number, silent))
        elif len(head) < PACKET_HEADER:
            self._drop_silent(number, "accepts.broken")
        elif reason := _why_garbage(head, transport):
            self._log.warning("refused", peer=self._remote_of(silent), reason=reason)
            self._drop_silent(number, "accepts.garbage")
        else:
            self._accept(number)

    def _ask_again(self, number: int, silent: _Silent) -> None:
        if self._silent.get(number) is silent:
            self._loop.want(number, READABLE)

    def _accept(self, number: int) -> None:
        silent = self._silent.pop(number)
        silent.timer.cancel()
        self._loop.forget(number)
        connection = silent.connection
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        endpoint = self._remote_of(silent)
        if endpoint is None:
            connection.close()
            return
        transport = silent.listener.transport
        if transport not in HANDSHAKES:
            link = self._new_link()
            self._accepted(link, endpoint)
            self._spawn(SpawnLink(link, endpoint, False, transport, b""), connection)
        elif self._may_shake_hands(endpoint):
            link = self._new_link()
            self._handshakes.accepted(link, endpoint, _source_of(endpoint))
            self._spawn(SpawnLink(link, endpoint, False, transport, b""), connection)
        connection.close()

    def _accepted(self, link: int, endpoint: str) -> None:
        self._table.accepted(endpoint, link, self._loop.now())
        self._counters["accepts.connected"] += 1
        self._log.info("accepted", peer=endpoint, link=link_text(link))

    # --- QUIC ---------------------------------------------------------------------------------------------------------

    def _open_for(self, stranger: Stranger) -> None:
        """Has a socket made that gets all that the stranger sends from now on."""
        token = self._token()
        self._strangers[token] = stranger
        self._runtime.tell_supervisor(OpenDatagramSocket(token, str(stranger.local), str(stranger.remote)))

    def _on_stranger_s_socket(self, stranger: Stranger, message: SocketOpened, descriptors: list[int]) -> None:
        if self._quic is None:
            return
        opening = self._quic.opening(stranger)
        if not descriptors:
            self._counters["accepts.failed"] += 1
            self._log.warning("cannot accept a connection", reason=message.error)
            return
        link, endpoint = self._new_link(), str(Endpoint(Protocol.QUIC, stranger.remote))
        self._handshakes.accepted(link, endpoint, _source_of(endpoint))
        with socket.socket(fileno=descriptors[0]) as connection:
            self._spawn(SpawnLink(link, endpoint, False, Protocol.QUIC, opening), connection)

    # --- handshakes of transports -------------------------------------------------------------------------------------

    def _may_shake_hands(self, endpoint: str) -> bool:
        """Whether a stranger gets a process for his handshake; the one who has had the longest may lose his for it."""
        if self._handshakes.too_many_of(_source_of(endpoint)) or not self._new_strangers.take():
            self._counters["accepts.handshakes_refused"] += 1
            return False
        oldest = self._handshakes.oldest_of_too_many()
        if oldest:
            self._counters["accepts.handshakes_crowded_out"] += 1
            self._handshakes.ended(oldest)
            self._runtime.tell_supervisor(EndLink(oldest, "handshake failed: too many strangers at a time"))
        return True

    def _on_link_opened(self, _sender: bytes, message: LinkOpened) -> None:
        shaken = self._handshakes.ended(message.link)
        if shaken is None:
            # A successor of ours knows it as a link that was there.
            return
        if not shaken.outbound:
            self._accepted(message.link, shaken.endpoint)
        elif not self._connected(message.link, shaken.endpoint):
            self._runtime.tell_supervisor(EndLink(message.link, "the peer was removed"))

    def _handshake_failed(self, shaken: Handshake, reason: str) -> None:
        if shaken.outbound:
            self._dial_failed(shaken.endpoint, reason)
            return
        self._counters["accepts.refused"] += 1
        if self._lines.take():
            self._log.warning("refused", peer=shaken.endpoint, reason=reason)

    def _next_second(self) -> None:
        self._new_strangers.next_second()
        self._lines.next_second()
        if self._quic is not None:
            self._quic.next_second()

    def _remote_of(self, silent: _Silent) -> str | None:
        """Who is at the other end, as people write it; None where nobody is any more."""
        listener = silent.listener
        if listener.path:
            return str(Endpoint(listener.transport, UnixAddress(listener.path, next(self._guests))))
        try:
            sockaddr = silent.connection.getpeername()
        except OSError:
            return None
        if listener.transport is Protocol.VSOCK:
            return str(Endpoint(listener.transport, VsockAddress(*sockaddr)))
        return str(Endpoint(listener.transport, SocketAddress.of_sockaddr(sockaddr)))

    def _drop_silent(self, number: int, counter: str) -> None:
        silent = self._silent.pop(number)
        silent.timer.cancel()
        self._loop.forget(number)
        silent.connection.close()
        self._counters[counter] += 1

    # --- links ------------------------------------------------------------------------------------------------------

    def _new_link(self) -> int:
        return self._numbers.next()

    def _spawn(self, message: SpawnLink, connection: socket.socket) -> None:
        self._runtime.tell_supervisor(message, (connection.fileno(),))

    def _on_link_gone(self, message: LinkGone, _descriptors: list[int]) -> None:
        self._numbers.gone(message.link)
        if self._quic is not None:
            self._quic.link_gone(message.link)
        shaken = self._handshakes.ended(message.link)
        if shaken is not None:
            self._handshake_failed(shaken, message.reason)
            return
        peer = self._table.link_gone(message.link, message.reason, self._loop.now(), random.random())
        if peer is not None:
            self._log.info("disconnected", peer=peer.endpoint, link=link_text(message.link), reason=message.reason)
            self._dial_due()

    # --- questions and orders ---------------------------------------------------------------------------------------

    def _on_add(self, sender: bytes, message: AddPeer) -> None:
        try:
            endpoint = Endpoint.parse(message.endpoint)
            self._table.add(str(endpoint), self._loop.now(), never=self._ways.why_never(endpoint))
        except AlreadyKnown as error:
            self._answer(sender, message.token, Outcome.EXISTS, error)
            return
        except (EndpointError, PeeringError) as error:
            self._answer(sender, message.token, Outcome.REFUSED, error)
            return
        self._counters["peers.added"] += 1
        self._remember(True, str(endpoint))
        self._answer(sender, message.token, Outcome.DONE, "")
        self._dial_due()

    def _on_remove(self, sender: bytes, message: RemovePeer) -> None:
        try:
            endpoint = str(Endpoint.parse(message.endpoint))
            link = self._table.remove(endpoint)
        except NotKnown as error:
            self._answer(sender, message.token, Outcome.MISSING, error)
            return
        except EndpointError as error:
            self._answer(sender, message.token, Outcome.REFUSED, error)
            return
        self._remember(False, endpoint)
        if link:
            self._runtime.tell_supervisor(EndLink(link, "the peer was removed"))
        self._answer(sender, message.token, Outcome.DONE, "")
        self._plan()

    def _remember(self, added: bool, endpoint: str) -> None:
        self._memory.append([msgpack.packb((added, endpoint))])
        if self._memory.size > COMPACT_BYTES:
            present = {peer.endpoint for peer in self._table if peer.kind is Kind.STATIC}
            added_since = [(True, endpoint) for endpoint in present.difference(self._configured)]
            removed_since = [(False, endpoint) for endpoint in self._configured.difference(present)]
            self._memory.rewrite(msgpack.packb(change) for change in (*added_since, *removed_since))

    def _answer(self, sender: bytes, token: int, outcome: Outcome, reason: object) -> None:
        self._runtime.send(sender, Answer(token, outcome, str(reason)))

    def _on_ask_peers(self, sender: bytes, message: AskPeers) -> None:
        now = self._loop.now()
        rows = [
            PeerRow(
                endpoint=peer.endpoint,
                kind=peer.kind.value,
                state=peer.state.value,
                link=peer.link,
                sent_octets=peer.sent_octets,
                received_octets=peer.received_octets,
                discovered_age=now - peer.discovered,
                connected_age=None if peer.connected is None else now - peer.connected,
                reason=peer.reason,
            )
            for peer in self._table
        ]
        self._answers.send(
            sender, message, LongAnswer(in_parts(rows), lambda part, more: PeerList(message.token, part, more))
        )

    def _on_ask_traffic(self, sender: bytes, message: AskTraffic) -> None:
        sources = in_parts([AddressTraffic(*row) for row in self._by_source])
        destinations = in_parts([AddressTraffic(*row) for row in self._by_destination])
        parts = [*((part, (), True) for part, _ in sources), *(((), part, more) for part, more in destinations)]
        self._answers.send(sender, message, LongAnswer(parts, lambda *part: TrafficList(message.token, *part)))

    def _on_traffic(self, _sender: bytes, message: Traffic) -> None:
        self._table.moved(message.link, message.received_octets, message.sent_octets)
        for pair in message.pairs:
            own = pair.destination.startswith(self._own_subnet)
            self._counters["packets.local" if own else "packets.forwarded"] += pair.packets
            self._by_source.add(pair.source, pair.packets, pair.octets)
            self._by_destination.add(pair.destination, pair.packets, pair.octets)


def _kind_of(endpoint: Endpoint) -> SocketKind:
    """The socket that it takes to dial `endpoint`."""
    match endpoint.address:
        case UnixAddress():
            return SocketKind.UNIX
        case VsockAddress():
            return SocketKind.VSOCK
        case address:
            return SocketKind.TCP_IPV6 if address.is_ipv6 else SocketKind.TCP_IPV4


def _source_of(endpoint: str) -> str:
    """What a stranger's handshakes are counted by: his address, of IPv6 the network that he can choose from."""
    address = Endpoint.parse(endpoint).address
    if not isinstance(address, SocketAddress):
        return str(address)
    if isinstance(address.host, IPv6Address) and not address.is_mapped:
        return address.host.packed[:8].hex()
    return str(address.host)


def _why_garbage(head: bytes, transport: Protocol) -> str:
    """Why a connection that begins with `head` is none of a peer; empty where it may be."""
    if transport is Protocol.TLS:
        return "" if head.startswith(_TLS_HANDSHAKE) else "it speaks no TLS, and this is a private network"
    if head.startswith(_TLS_HANDSHAKE):
        return "it speaks TLS: it is in a private network, and this node is in none"
    if head[0] != PACKET_VERSION:
        return f"its first packet has version {head[0]}, only {PACKET_VERSION} exists"
    return ""
