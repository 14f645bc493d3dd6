"""Dialling: from a peer as people write it to a connected socket, for the peers actor.

1. a host name is looked up, anew at each dial
2. its addresses race: each has a head start before the next, and the first that answers wins
3. sockets come from the supervisor, marked before they connect
4. a proxy is asked for the connection behind it
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
from collections.abc import Callable
from typing import Final

from actors.peers.network import watch_over
from actors.peers.resolving import Resolver
from actors.runtime.actor import Runtime
from actors.runtime.loop import READABLE, WRITABLE, Timer
from protocol.frames import OpenDatagramSocket, OpenSocket, SocketKind, SocketOpened
from protocol.mycelium.endpoint import Endpoint, Protocol, SocketAddress, UnixAddress, VsockAddress
from protocol.racing import Race
from protocol.socks import GREETING, SocksDial, SocksError
from protocol.targets import HostName, Target

DIAL_SECONDS: Final = 10.0
"""For all of it."""
SLOW_SECONDS: Final = 1.0
"""A dial that runs for longer when an address comes starts anew: it may have gone out the wrong way."""

Numeric = SocketAddress | VsockAddress | UnixAddress
OnConnected = Callable[[str, Endpoint, socket.socket], None]
"""Is given the peer as it was dialled, what it was reached at, and the connected socket, which is the receiver's."""
OnOpened = Callable[[SocketOpened, list[int]], None]
"""Is given the supervisor's answer and the socket that came along, if any."""
OnFailed = Callable[[str, str], None]
"""Is given the peer, and why none of its addresses answered."""


class Sockets:
    """Asks the supervisor for sockets, which it marks and hands over."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._asked: dict[int, OnOpened] = {}
        self._tokens = itertools.count(1)
        runtime.on_channel(SocketOpened, self._on_opened)

    def ask(self, question: Callable[[int], object], then: OnOpened) -> None:
        """Sends the frame that `question` makes of a token, and calls `then` with the answer."""
        token = next(self._tokens)
        self._asked[token] = then
        self._runtime.tell_supervisor(question(token))

    def _on_opened(self, message: SocketOpened, descriptors: list[int]) -> None:
        self._asked.pop(message.token)(message, descriptors)


class Dialler:
    """At most one dial per peer."""

    def __init__(self, runtime: Runtime, sockets: Sockets, on_connected: OnConnected, on_failed: OnFailed) -> None:
        self._runtime = runtime
        self._sockets = sockets
        self._on_connected = on_connected
        self._on_failed = on_failed
        self._resolver = Resolver(runtime)
        self._dials: dict[str, _Dial] = {}
        runtime.gauges.queue("dialling", lambda: len(self._dials))

    def dial(self, peer: str) -> None:
        """Dials `peer`; one of the two callbacks follows, in a later round."""
        dial = self._dials[peer] = _Dial(self._runtime, self, peer)
        name = dial.target.to_resolve
        if name is not None:
            self._resolver.look_up(name, dial.on_addresses)
            return
        place = dial.target.place if dial.target.proxy is None else dial.target.proxy
        assert not isinstance(place, HostName)
        dial.race_for([place])

    def give_up(self, peer: str) -> None:
        """Nobody wants `peer` any more; no callback follows."""
        dial = self._dials.pop(peer, None)
        if dial is not None:
            dial.close()

    def restart_slow(self) -> None:
        """Dials anew what has been dialled for a while: this machine has a new address."""
        now = self._runtime.loop.now()
        for peer, dial in list(self._dials.items()):
            if now - dial.began > SLOW_SECONDS:
                self.give_up(peer)
                self.dial(peer)

    def open_socket(self, dial: _Dial, address: Numeric) -> None:
        """Asks the supervisor for a socket to dial `address` with."""
        self._sockets.ask(
            lambda token: _question(token, dial.target.protocol, address),
            lambda message, descriptors: self._on_socket_opened(dial, address, message, descriptors),
        )

    def ended(self, dial: _Dial, connection: socket.socket | None, at: Endpoint | None, reason: str) -> None:
        """One of a dial's two ends: a connection at an endpoint, or a reason."""
        if self._dials.get(dial.peer) is not dial:
            return
        del self._dials[dial.peer]
        dial.close()
        if connection is not None and at is not None:
            self._on_connected(dial.peer, at, connection)
        else:
            self._on_failed(dial.peer, reason)

    def _on_socket_opened(self, dial: _Dial, address: Numeric, message: SocketOpened, descriptors: list[int]) -> None:
        if not descriptors:
            dial.failed(address, message.error)
            return
        dial.connect(address, socket.socket(fileno=descriptors[0]))


class _Dial:
    """One dial of one peer: its race, and what is being tried."""

    def __init__(self, runtime: Runtime, dialler: Dialler, peer: str) -> None:
        self._runtime = runtime
        self._loop = runtime.loop
        self._dialler = dialler
        self.peer: Final = peer
        self.target: Final = Target.parse(peer)
        self.began: Final = self._loop.now()
        self._race: Race[Numeric] | None = None
        self._sockets: dict[int, socket.socket] = {}
        self._next: Timer | None = None
        self._closed = False
        self._deadline = self._loop.call_after(DIAL_SECONDS, lambda: self._end("no answer"))

    def on_addresses(self, found: list[SocketAddress], reason: str) -> None:
        """The resolver's answer."""
        if not found:
            self._end(reason or f"{self.target.to_resolve} has no address")
        else:
            self.race_for(list(found))

    def race_for(self, addresses: list[Numeric]) -> None:
        """Tries these."""
        if not self._closed:
            self._race = Race(addresses, self._loop.now())
            self._go_on()

    def connect(self, address: Numeric, connection: socket.socket) -> None:
        """A socket came from the supervisor."""
        if self._closed:
            connection.close()
            return
        connection.setblocking(False)
        if connection.type == socket.SOCK_DGRAM:
            # Connected as it came, for what that means: whether anybody is there, the handshake shows.
            self._sockets[connection.fileno()] = connection
            self._won(address, connection)
            return
        watch_over(connection)
        code = connection.connect_ex(address.sockaddr())
        if code not in (0, errno.EINPROGRESS):
            connection.close()
            self.failed(address, os.strerror(code))
            return
        number = connection.fileno()
        self._sockets[number] = connection
        self._loop.watch(number, lambda _: self._on_connected(address, connection), events=WRITABLE)

    def failed(self, address: Numeric, reason: str) -> None:
        """One address can't be reached."""
        if not self._closed and self._race is not None:
            self._race.failed(address, reason, self._loop.now())
            self._go_on()

    def close(self) -> None:
        """Lets go of everything."""
        self._closed = True
        self._deadline.cancel()
        if self._next is not None:
            self._next.cancel()
        for connection in list(self._sockets.values()):
            self._drop(connection)

    def _go_on(self) -> None:
        race = self._race
        if race is None:
            return
        now = self._loop.now()
        while (address := race.take_due(now)) is not None:
            self._dialler.open_socket(self, address)
        if race.lost:
            self._end("; ".join(dict.fromkeys(race.reasons)))
            return
        if self._next is not None:
            self._next.cancel()
        deadline = race.next_deadline()
        self._next = None if deadline is None else self._loop.call_at(deadline, self._go_on)

    def _on_connected(self, address: Numeric, connection: socket.socket) -> None:
        code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._drop(connection)
            self.failed(address, os.strerror(code))
        elif self.target.proxy is None:
            self._won(address, connection)
        else:
            self._ask_proxy(address, connection)

    def _won(self, address: Numeric, connection: socket.socket) -> None:
        del self._sockets[connection.fileno()]
        self._loop.forget(connection.fileno())
        self._dialler.ended(self, connection, Endpoint(self.target.protocol, address), "")

    def _ask_proxy(self, address: Numeric, connection: socket.socket) -> None:
        place = self.target.place
        assert isinstance(place, SocketAddress | HostName)
        request = SocksDial(place)
        try:
            connection.send(GREETING)
        except OSError as error:
            self._proxy_failed(address, connection, error.strerror)
            return
        number = connection.fileno()
        self._loop.watch(number, lambda _: self._on_proxy(address, connection, request), events=READABLE)

    def _on_proxy(self, address: Numeric, connection: socket.socket, request: SocksDial) -> None:
        try:
            data = connection.recv(request.need, socket.MSG_PEEK)
            if len(data) < request.need:
                waiting = connection.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == request.need
                if not data or (waiting and request.need > 1):
                    # Readable before all of it is there: nothing follows.
                    raise SocksError("it closed the connection")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, request.need)
                return
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
            answer = request.receive(connection.recv(request.need))
            if answer:
                connection.send(answer)
        except BlockingIOError:
            return
        except SocksError as error:
            self._proxy_failed(address, connection, str(error))
        except OSError as error:
            self._proxy_failed(address, connection, error.strerror)
        else:
            if not request.need:
                self._won(address, connection)

    def _proxy_failed(self, address: Numeric, connection: socket.socket, reason: str | None) -> None:
        self._runtime.counters["dials.proxy_failed"] += 1
        self._drop(connection)
        self.failed(address, f"the proxy {self.target.proxy}: {reason}")

    def _drop(self, connection: socket.socket) -> None:
        self._sockets.pop(connection.fileno(), None)
        self._loop.forget(connection.fileno())
        connection.close()

    def _end(self, reason: str) -> None:
        self._dialler.ended(self, None, None, reason)


def _question(token: int, protocol: Protocol, address: Numeric) -> OpenSocket | OpenDatagramSocket:
    if protocol is Protocol.QUIC:
        return OpenDatagramSocket(token, "", str(address))
    return OpenSocket(token, _kind_of(address))


def _kind_of(address: Numeric) -> SocketKind:
    """The socket that it takes to dial `address`."""
    match address:
        case UnixAddress():
            return SocketKind.UNIX
        case VsockAddress():
            return SocketKind.VSOCK
        case _:
            return SocketKind.TCP_IPV6 if address.is_ipv6 else SocketKind.TCP_IPV4
