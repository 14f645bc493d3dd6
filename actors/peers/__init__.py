"""The peers actor: who our peers are, how to reach them, and what went over each link.

Owns      the peer table; connections that are being made or have not said anything yet; counts by address
Rights    no node key, no capability; may dial and look up names; listening and marked sockets come from the supervisor
Receives  AddPeer, RemovePeer, AskPeers, AskTraffic; Traffic, LinkOpened, ConnectionIds (links);
          SocketOpened, LinkGone (supervisor)
Sends     OpenSocket, OpenDatagramSocket, SpawnLink, EndLink (supervisor); ForwardedDatagram (links);
          Answer, PeerList, TrafficList
Dies      links stay; its successor is told which there are, finds added peers in the memory file, and goes on
"""

from __future__ import annotations

import functools
import random
import socket
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

import msgpack

from actors.peers.accepting import Acceptor
from actors.peers.asking_servers import MarkedResolver
from actors.peers.config import PeersConfig
from actors.peers.dialling import Dialler, Then
from actors.peers.discovery import Discovery
from actors.peers.ends import Ends
from actors.peers.network import Network, address_text
from actors.peers.quic_listener import BUSY, QuicListener, Stranger
from actors.peers.resolving import Resolver
from actors.peers.sockets import Sockets
from actors.runtime.actor import Runtime
from actors.runtime.answers import Answers, LongAnswer
from actors.runtime.budget import Budget
from actors.runtime.loop import Timer
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
    Outcome,
    PeerList,
    PeerRow,
    RemovePeer,
    SocketOpened,
    SpawnLink,
    Traffic,
    TrafficList,
    in_parts,
    link_text,
)
from protocol.handshakes import Handshake, Handshakes
from protocol.interfaces import Change, LocalAddress
from protocol.linknumbers import LinkNumbers
from protocol.mycelium.endpoint import (
    Endpoint,
    EndpointError,
    Protocol,
    SocketAddress,
)
from protocol.peering import AlreadyKnown, Kind, NotKnown, PeeringError, PeerTable
from protocol.targets import Target, TargetError
from protocol.transports import HANDSHAKES

HANDSHAKES_PER_SECOND: Final = 50
"""Of strangers: each costs a process."""
MOVE_SECONDS: Final = 0.75
"""A link that can move has so long for a new address to come; then another link does better."""
LINES_PER_SECOND: Final = 5
"""About strangers who were refused."""
_ANYWHERE: Final = SocketAddress(IPv4Address(0), 0)
"""For a name that was not looked up yet."""
COMPACT_BYTES: Final = 1 << 20


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
        self._configured = frozenset(str(Target.parse(text)) for text in config.endpoints)
        self._by_source = AddressCounts()
        self._by_destination = AddressCounts()
        self._numbers = LinkNumbers(config.first_process, config.highest, [link.number for link in config.kept])
        self._timer: Timer | None = None
        self._ways = config.ways
        self._handshakes = Handshakes()
        self._new_strangers = Budget(HANDSHAKES_PER_SECOND)
        self._lines = Budget(LINES_PER_SECOND)

        runtime.gauges.queue("peers", lambda: len(self._table))
        self._sockets = Sockets(runtime)
        self._passwords = config.passwords
        if config.passwords.remark:
            runtime.log.warning("passwords at proxies", reason=config.passwords.remark)
        self._dialler = Dialler(
            runtime,
            self._sockets,
            MarkedResolver(runtime, self._sockets) if config.marked else Resolver(runtime),
            lambda at: self._ways.transport(at) in HANDSHAKES,
            Then(self._dialled, self._connected, self._dial_failed, self._give_up_link),
            config.passwords,
        )
        self._ends = Ends()
        self._reached: dict[int, str] = {}
        """Where each link that we dialled leads."""
        runtime.on(AddPeer, self._on_add)
        runtime.on(RemovePeer, self._on_remove)
        runtime.on(AskPeers, self._on_ask_peers)
        runtime.on(AskTraffic, self._on_ask_traffic)
        runtime.on(Traffic, self._on_traffic)
        runtime.on(LinkOpened, self._on_link_opened)
        runtime.gauges.queue("handshakes", lambda: len(self._handshakes))
        runtime.loop.every(1.0, self._next_second)
        runtime.on_channel(LinkGone, self._on_link_gone)
        self._restore(config)
        acceptor = Acceptor(runtime, config.callers, self._on_caller)
        self._strangers: list[Stranger] = []
        """Those who wait for a socket of their own."""
        self._quic: QuicListener | None = None
        for listener in config.listeners:
            if listener.transport is Protocol.QUIC:
                self._quic = QuicListener(
                    runtime,
                    listener.descriptor,
                    admits=lambda remote: config.callers.admit(remote.host),
                    is_busy=lambda: self._handshakes.of_strangers + len(self._strangers) >= BUSY,
                    may_begin=self._may_begin,
                    begin=self._open_for,
                )
            else:
                acceptor.listen(listener)
        self._network = Network(runtime, self._on_network)
        self._discovery = Discovery(
            runtime,
            config.discovery,
            config.ways.private,
            self._is_connected_from,
            self._on_neighbour,
            self._on_neighbour_lost,
        )
        self._loop.call_after(0, self._dial_due)

    # --- dialling ---------------------------------------------------------------------------------------------------

    def _restore(self, config: PeersConfig) -> None:
        now = self._loop.now()
        wanted = {str(target): target for target in map(Target.parse, config.endpoints)}
        for record in self._memory.replay():
            added, text = msgpack.unpackb(record)
            target = Target.parse(text)
            if added:
                wanted[str(target)] = target
            else:
                wanted.pop(str(target), None)
        for endpoint, target in wanted.items():
            self._passwords.keep(endpoint, target.login)
            self._table.add(endpoint, now, never=self._why_never(target))
        for link in config.kept:
            movable = link.outbound and Endpoint.parse(link.reached).protocol is Protocol.QUIC
            self._ends.add(link.number, link.family, link.local, link.remote, movable=movable)
            found = link.outbound and _is_link_local(link.endpoint)
            if not self._table.kept(
                link.endpoint, link.number, link.outbound, now, link.age, link.reached, discovered=found
            ):
                self._give_up_link(link.number, "it is not needed any more")

    def _dial_due(self) -> None:
        for endpoint in self._table.take_due(self._loop.now()):
            self._counters["dials.started"] += 1
            self._dialler.dial(endpoint)
        self._plan()

    def _plan(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        deadline = self._table.next_deadline()
        self._timer = None if deadline is None else self._loop.call_at(deadline, self._dial_due)

    def _dialled(self, peer: str, at: Endpoint, connection: socket.socket) -> int:
        link, transport = self._new_link(), self._ways.transport(at)
        shakes_hands = transport in HANDSHAKES
        self._reached[link] = str(at)
        if shakes_hands:
            self._handshakes.dialled(link, peer)
        else:
            self._connected(peer, link)
        self._spawn(link, peer, True, transport, connection)
        connection.close()
        return link if shakes_hands else 0

    def _connected(self, peer: str, link: int) -> None:
        """What was dialled is there. Nobody dials whom nobody wants: a peer that is removed takes its dial along."""
        self._table.connected(peer, link, self._loop.now(), self._reached[link])
        self._counters["dials.connected"] += 1
        self._log.info("connected", peer=peer, link=link_text(link))

    def _give_up_link(self, link: int, reason: str) -> None:
        self._runtime.tell_supervisor(EndLink(link, reason))

    def _dial_failed(self, endpoint: str, reason: str) -> None:
        self._counters["dials.failed"] += 1
        failures = self._table.failed(endpoint, reason, self._loop.now(), random.random())
        if endpoint not in self._table:
            self._discovery.forget(endpoint)
        if failures == 1:
            self._log.warning("cannot connect; will go on trying", peer=endpoint, reason=reason)
        elif failures:
            self._log.debug("cannot connect", peer=endpoint, reason=reason, failures=failures)
        self._plan()

    def _why_never(self, target: Target) -> str:
        return self._ways.why_never(target.endpoint or Endpoint(target.protocol, _ANYWHERE))

    # --- trouble on this machine ------------------------------------------------------------------------------------

    def _on_network(self, change: Change) -> None:
        self._discovery.look_on(self._network)
        for link, address in self._ends.lost(change.lost):
            if not self._ends.is_movable(link):
                self._end_for_address(link, address)
            else:
                # It finds out by itself when it next sends, from wherever there is a way then.
                self._counters["links.moving"] += 1
                self._loop.call_after(MOVE_SECONDS, functools.partial(self._end_if_stuck, link, address))
        if change.gained and self._table.try_all(self._loop.now()):
            self._counters["dials.hurried"] += 1
        if change.gained:
            self._dialler.restart_slow()
            self._dial_due()

    def _end_if_stuck(self, link: int, address: LocalAddress) -> None:
        if self._ends.is_stuck(link):
            self._end_for_address(link, address)

    def _end_for_address(self, link: int, address: LocalAddress) -> None:
        self._counters["links.address_lost"] += 1
        self._runtime.tell_supervisor(EndLink(link, f"this machine lost the address {address_text(address)}"))

    # --- neighbours -------------------------------------------------------------------------------------------------

    def _is_connected_from(self, address: bytes, interface: int) -> bool:
        return self._ends.is_remote(address, interface)

    def _on_neighbour(self, endpoint: str) -> None:
        if self._is_connected_from(*_place_of(endpoint)):
            # It was quicker, and one link is enough.
            self._discovery.forget(endpoint)
            return
        try:
            self._table.add(endpoint, self._loop.now(), kind=Kind.DISCOVERED)
        except PeeringError as error:
            self._counters["discovery.not_added"] += 1
            self._log.debug("a neighbour is not dialled", peer=endpoint, reason=error)
            return
        self._log.info("found a neighbour", peer=endpoint)
        self._dial_due()

    def _on_neighbour_lost(self, endpoint: str) -> None:
        """Its interface went."""
        try:
            link = self._table.remove(endpoint)
        except NotKnown:
            return
        self._counters["discovery.forgotten"] += 1
        self._dialler.give_up(endpoint)
        if link:
            self._runtime.tell_supervisor(EndLink(link, "the interface of this neighbour is gone"))

    # --- accepting --------------------------------------------------------------------------------------------------

    def _on_caller(self, endpoint: str, transport: Protocol, connection: socket.socket) -> None:
        if transport not in HANDSHAKES:
            link = self._new_link()
            self._accepted(link, endpoint)
            self._spawn(link, endpoint, False, transport, connection)
        elif self._may_shake_hands(endpoint):
            link = self._new_link()
            self._handshakes.accepted(link, endpoint, _source_of(endpoint))
            self._spawn(link, endpoint, False, transport, connection)
        connection.close()

    def _accepted(self, link: int, endpoint: str) -> None:
        self._table.accepted(endpoint, link, self._loop.now())
        self._counters["accepts.connected"] += 1
        self._log.info("accepted", peer=endpoint, link=link_text(link))

    # --- QUIC ---------------------------------------------------------------------------------------------------------

    def _may_begin(self, remote: SocketAddress) -> bool:
        return self._may_shake_hands(str(Endpoint(Protocol.QUIC, remote)))

    def _open_for(self, stranger: Stranger) -> None:
        """Has a socket made that gets all that the stranger sends from now on."""
        self._strangers.append(stranger)
        self._sockets.ask(
            lambda token: OpenDatagramSocket(token, str(stranger.local), str(stranger.remote)),
            lambda message, descriptors: self._on_stranger_s_socket(stranger, message, descriptors),
        )

    def _on_stranger_s_socket(self, stranger: Stranger, message: SocketOpened, descriptors: list[int]) -> None:
        self._strangers.remove(stranger)
        if self._quic is None:
            return
        opening = self._quic.opening(stranger)
        if not descriptors:
            self._counters["accepts.failed"] += 1
            self._log.warning("cannot accept a connection", reason=message.error)
            return
        link, endpoint = self._new_link(), str(Endpoint(Protocol.QUIC, stranger.remote))
        self._handshakes.accepted(link, endpoint, _source_of(endpoint))
        self._quic.link_made(link, stranger)
        with socket.socket(fileno=descriptors[0]) as connection:
            self._spawn(link, endpoint, False, Protocol.QUIC, connection, opening)

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
        if shaken.outbound:
            self._dialler.link_opened(message.link)
        else:
            self._accepted(message.link, shaken.endpoint)

    def _handshake_failed(self, link: int, shaken: Handshake, reason: str) -> None:
        if shaken.outbound:
            self._dialler.link_failed(link, reason)
            return
        self._counters["accepts.refused"] += 1
        if self._lines.take():
            self._log.warning("refused", peer=shaken.endpoint, reason=reason)

    def _next_second(self) -> None:
        self._new_strangers.next_second()
        self._lines.next_second()
        if self._quic is not None:
            self._quic.next_second()

    # --- links ------------------------------------------------------------------------------------------------------

    def _new_link(self) -> int:
        return self._numbers.next()

    def _spawn(
        self,
        link: int,
        peer: str,
        outbound: bool,
        transport: Protocol,
        connection: socket.socket,
        opening: bytes = b"",
    ) -> None:
        local, remote = connection.getsockname(), _peer_name(connection)
        self._ends.add(link, connection.family, local, remote, movable=outbound and transport is Protocol.QUIC)
        endpoint = self._reached.get(link, peer)
        message = SpawnLink(link, endpoint, outbound, transport, opening, peer)
        self._runtime.tell_supervisor(message, (connection.fileno(),))

    def _on_link_gone(self, message: LinkGone, _descriptors: list[int]) -> None:
        self._numbers.gone(message.link)
        if self._quic is not None:
            self._quic.link_gone(message.link)
        self._ends.forget(message.link)
        self._reached.pop(message.link, None)
        shaken = self._handshakes.ended(message.link)
        if shaken is not None:
            self._handshake_failed(message.link, shaken, message.reason)
            return
        peer = self._table.link_gone(message.link, message.reason, self._loop.now(), random.random())
        if peer is not None:
            self._log.info("disconnected", peer=peer.endpoint, link=link_text(message.link), reason=message.reason)
            self._dial_due()

    # --- questions and orders ---------------------------------------------------------------------------------------

    def _on_add(self, sender: bytes, message: AddPeer) -> None:
        try:
            target = Target.parse(message.endpoint)
            self._table.add(str(target), self._loop.now(), never=self._why_never(target))
        except AlreadyKnown as error:
            self._answer(sender, message.token, Outcome.EXISTS, error)
            return
        except (EndpointError, TargetError, PeeringError) as error:
            self._answer(sender, message.token, Outcome.REFUSED, error)
            return
        self._counters["peers.added"] += 1
        self._passwords.keep(str(target), target.login)
        self._remember(True, target.spelled())
        self._answer(sender, message.token, Outcome.DONE, "")
        self._dial_due()

    def _on_remove(self, sender: bytes, message: RemovePeer) -> None:
        try:
            endpoint = str(Target.parse(message.endpoint))
            link = self._table.remove(endpoint)
        except NotKnown as error:
            self._answer(sender, message.token, Outcome.MISSING, error)
            return
        except (EndpointError, TargetError) as error:
            self._answer(sender, message.token, Outcome.REFUSED, error)
            return
        self._remember(False, endpoint)
        self._passwords.forget(endpoint)
        self._dialler.give_up(endpoint)
        self._discovery.forget(endpoint)
        if link:
            self._runtime.tell_supervisor(EndLink(link, "the peer was removed"))
        self._answer(sender, message.token, Outcome.DONE, "")
        self._plan()

    def _remember(self, added: bool, endpoint: str) -> None:
        self._memory.append([msgpack.packb((added, endpoint))])
        if self._memory.size > COMPACT_BYTES:
            present = {peer.endpoint for peer in self._table if peer.kind is Kind.STATIC}
            added_since = [(True, self._spelled(endpoint)) for endpoint in present.difference(self._configured)]
            removed_since = [(False, endpoint) for endpoint in self._configured.difference(present)]
            self._memory.rewrite(msgpack.packb(change) for change in (*added_since, *removed_since))

    def _spelled(self, endpoint: str) -> str:
        """The peer with its password, where it was given with one."""
        target = Target.parse(endpoint)
        login = target.login
        return endpoint if login is None else replace(target, login=self._passwords.given(endpoint, login)).spelled()

    def _answer(self, sender: bytes, token: int, outcome: Outcome, reason: object) -> None:
        self._runtime.send(sender, Answer(token, outcome, str(reason)))

    def _on_ask_peers(self, sender: bytes, message: AskPeers) -> None:
        now = self._loop.now()
        rows = [
            PeerRow(
                endpoint=peer.endpoint,
                reached=peer.reached,
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


def _source_of(endpoint: str) -> str:
    """What a stranger's handshakes are counted by: his address, of IPv6 the network that he can choose from."""
    address = Endpoint.parse(endpoint).address
    if not isinstance(address, SocketAddress):
        return str(address)
    if isinstance(address.host, IPv6Address) and not address.is_mapped:
        return address.host.packed[:8].hex()
    return str(address.host)


def _place_of(endpoint: str) -> LocalAddress:
    """The address in an endpoint of discovery, and its interface."""
    address = Endpoint.parse(endpoint).address
    assert isinstance(address, SocketAddress)
    return address.host.packed, address.scope


def _is_link_local(peer: str) -> bool:
    place = Target.parse(peer).place
    return isinstance(place, SocketAddress) and place.host.is_link_local and bool(place.scope)


def _peer_name(connection: socket.socket) -> Any:
    """What `getpeername` says; None where nobody is there any more."""
    try:
        return connection.getpeername()
    except OSError:
        return None
