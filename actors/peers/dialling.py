"""Dialling: from a peer as people write it to a connected socket, for the peers actor.

1. a host name is looked up, anew at each dial
2. its addresses race: each has a head start before the next, and the first that answers wins
3. sockets come from the supervisor, marked before they connect
4. a proxy is asked for the connection behind it
5. where a transport shakes hands, a process of links does it, and only who has done so has answered
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from actors.peers.network import watch_over
from actors.peers.resolving import OutOfReach, Resolves
from actors.peers.sockets import Sockets
from actors.runtime.actor import Runtime
from actors.runtime.loop import READABLE, WRITABLE, Timer
from protocol.frames import OpenDatagramSocket, OpenSocket, SocketKind, SocketOpened
from protocol.logins import Login, LoginError, Passwords
from protocol.mycelium.endpoint import Endpoint, Protocol, SocketAddress, UnixAddress, VsockAddress
from protocol.racing import Race
from protocol.socks import SocksDial, SocksError
from protocol.targets import HostName, Target

DIAL_SECONDS: Final = 10.0
"""For a connection; a handshake has as much again, of its own."""
SLOW_SECONDS: Final = 1.0
"""A dial that runs for longer when an address comes starts anew: it may have gone out the wrong way."""

_SILENT: Final = "no answer"

Numeric = SocketAddress | VsockAddress | UnixAddress
OnConnected = Callable[[str, Endpoint, socket.socket], int]
"""Is given the peer as it was dialled, what it was reached at, and the connected socket, which is the receiver's.
Returns the link that has to shake hands on it first; 0 where there is nothing more to agree on."""
OnShaken = Callable[[str, int], None]
"""Is given the peer, and the link whose handshake was the first to be done."""
GiveUpLink = Callable[[int, str], None]
"""Is given a link that nobody waits for any more, and why."""
OnFailed = Callable[[str, str], None]
"""Is given the peer, and why none of its addresses answered."""


@dataclass(frozen=True, slots=True)
class Then:
    """What a dial leads to."""

    connected: OnConnected
    shaken: OnShaken
    failed: OnFailed
    give_up_link: GiveUpLink


class Dialler:
    """At most one dial per peer."""

    def __init__(
        self,
        runtime: Runtime,
        sockets: Sockets,
        resolver: Resolves,
        shakes_hands: Callable[[Endpoint], bool],
        then: Then,
        passwords: Passwords,
    ) -> None:
        self._runtime = runtime
        self._sockets = sockets
        self._shakes_hands = shakes_hands
        self._then = then
        self._passwords = passwords
        self._resolver = resolver
        self._out_of_reach = OutOfReach()
        self._dials: dict[str, _Dial] = {}
        self._shaking: dict[int, _Dial] = {}
        """By the link whose handshake goes on."""
        runtime.gauges.queue("dialling", lambda: len(self._dials))

    def dial(self, peer: str) -> None:
        """Dials `peer`; one of the callbacks follows, in a later round."""
        dial = self._dials[peer] = _Dial(self._runtime, self, peer)
        target = dial.target
        try:
            if target.login is not None:
                dial.login = self._passwords.complete(peer, target.login, str(target.proxy))
        except LoginError as error:
            reason = str(error)
            self._runtime.loop.defer(lambda: self.ended(dial, reason))
            return
        name = target.to_resolve
        if name is not None:
            if replaced := self._out_of_reach.find():
                self._runtime.log.info("starts anew: a file about names was replaced", file=replaced)
                self._runtime.stop()
            self._resolver.look_up(name, dial.on_addresses)
            return
        place = target.place if target.proxy is None else target.proxy
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

    def connected(self, dial: _Dial, at: Endpoint, connection: socket.socket) -> int:
        """A dial has a connection. Returns the link that shakes hands on it; 0 where the dial is over."""
        if not self._shakes_hands(at):
            self._let_go(dial)
        link = self._then.connected(dial.peer, at, connection)
        if link:
            self._shaking[link] = dial
        return link

    def link_opened(self, link: int) -> None:
        """The handshake of a link that `connected` led to is done: of those that race, it won."""
        dial = self._shaking.pop(link, None)
        if dial is None:
            self._then.give_up_link(link, "the peer was removed")
            return
        dial.keep(link)
        self._let_go(dial)
        self._then.shaken(dial.peer, link)

    def link_failed(self, link: int, reason: str) -> None:
        """It is not."""
        dial = self._shaking.pop(link, None)
        if dial is not None:
            dial.link_failed(link, reason)

    def give_up_link(self, link: int) -> None:
        """A dial has no use for a link whose handshake goes on."""
        del self._shaking[link]
        self._then.give_up_link(link, "it is not needed any more")

    def ended(self, dial: _Dial, reason: str) -> None:
        """A dial came to nothing."""
        if self._dials.get(dial.peer) is dial:
            self._let_go(dial)
            self._then.failed(dial.peer, reason)

    def _let_go(self, dial: _Dial) -> None:
        del self._dials[dial.peer]
        dial.close()

    def _on_socket_opened(self, dial: _Dial, address: Numeric, message: SocketOpened, descriptors: list[int]) -> None:
        if not descriptors:
            dial.failed(address, message.error)
            return
        dial.connect(address, socket.socket(fileno=descriptors[0]))


@dataclass(slots=True)
class _Attempt:
    """A socket that is on its way to somebody."""

    address: Numeric
    socket: socket.socket
    request: SocksDial | None = None
    """What is being said to the proxy there."""


class _Dial:
    """One dial of one peer: its race, and what is being tried."""

    def __init__(self, runtime: Runtime, dialler: Dialler, peer: str) -> None:
        self._runtime = runtime
        self._loop = runtime.loop
        self._dialler = dialler
        self.peer: Final = peer
        self.target: Final = Target.parse(peer)
        self.began: Final = self._loop.now()
        self.login: Login | None = None
        """At the proxy, with its password."""
        self._race: Race[Numeric] | None = None
        self._attempts: dict[int, _Attempt] = {}
        """By the descriptor of the socket."""
        self._links: dict[int, Numeric] = {}
        """Those that shake hands, and where."""
        self._next: Timer | None = None
        self._closed = self._late = False
        self._deadline = self._loop.call_after(DIAL_SECONDS, self._on_time)

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
        number = connection.fileno()
        attempt = self._attempts[number] = _Attempt(address, connection)
        if self._late:
            self._fail(attempt, _SILENT)
            return
        if connection.type == socket.SOCK_DGRAM:
            # Connected as it came, for what that means: whether anybody is there, the handshake shows.
            self._stands(attempt)
            return
        watch_over(connection)
        code = connection.connect_ex(address.sockaddr())
        if code not in (0, errno.EINPROGRESS):
            self._fail(attempt, os.strerror(code))
            return
        self._loop.watch(number, lambda _: self._on_connected(attempt), events=WRITABLE)

    def failed(self, address: Numeric, reason: str) -> None:
        """One address can't be reached."""
        if not self._closed and self._race is not None:
            self._race.failed(address, reason, self._loop.now())
            self._go_on()

    def keep(self, link: int) -> None:
        """This link is the peer's now."""
        del self._links[link]

    def link_failed(self, link: int, reason: str) -> None:
        """The handshake of a link came to nothing."""
        self.failed(self._links.pop(link), reason)

    def close(self) -> None:
        """Lets go of everything."""
        self._closed = True
        self._deadline.cancel()
        if self._next is not None:
            self._next.cancel()
        for attempt in list(self._attempts.values()):
            self._take(attempt).close()
        for link in self._links:
            self._dialler.give_up_link(link)
        self._links.clear()

    def _on_time(self) -> None:
        """Handshakes that have begun have a time of their own; all else is over."""
        if self._race is None:
            self._end(f"no name server said in {DIAL_SECONDS:.0f} s where {self.target.to_resolve} is")
            return
        self._late = True
        self._race.start_no_more()
        for attempt in list(self._attempts.values()):
            if attempt.request is not None:
                self._proxy_failed(attempt, f"no whole answer in {DIAL_SECONDS:.0f} s")
            else:
                self._fail(attempt, _SILENT)

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

    def _on_connected(self, attempt: _Attempt) -> None:
        code = attempt.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._fail(attempt, os.strerror(code))
        elif self.target.proxy is None:
            self._stands(attempt)
        else:
            self._ask_proxy(attempt)

    def _stands(self, attempt: _Attempt) -> None:
        connection = self._take(attempt)
        link = self._dialler.connected(self, Endpoint(self.target.protocol, attempt.address), connection)
        if link:
            self._links[link] = attempt.address

    def _ask_proxy(self, attempt: _Attempt) -> None:
        place = self.target.place
        assert isinstance(place, SocketAddress | HostName)
        attempt.request = SocksDial(place, self.login)
        try:
            attempt.socket.send(attempt.request.greeting)
        except OSError as error:
            self._proxy_failed(attempt, error.strerror)
            return
        number = attempt.socket.fileno()
        request = attempt.request
        self._loop.watch(number, lambda _: self._on_proxy(attempt, request), events=READABLE)

    def _on_proxy(self, attempt: _Attempt, request: SocksDial) -> None:
        connection = attempt.socket
        try:
            data = connection.recv(request.need, socket.MSG_PEEK)
            if len(data) < request.need:
                waiting = connection.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == request.need
                if not data or (waiting and request.need > 1):
                    # Readable before all of it is there: nothing follows.
                    raise SocksError("it closed the connection in the middle of its answer")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, request.need)
                return
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
            answer = request.receive(connection.recv(request.need))
            if answer:
                connection.send(answer)
        except BlockingIOError:
            return
        except SocksError as error:
            self._proxy_failed(attempt, str(error))
        except OSError as error:
            self._proxy_failed(attempt, error.strerror)
        else:
            if not request.need:
                self._stands(attempt)

    def _proxy_failed(self, attempt: _Attempt, reason: str | None) -> None:
        self._runtime.counters["dials.proxy_failed"] += 1
        self._fail(attempt, f"the proxy {self.target.way}: {reason}")

    def _fail(self, attempt: _Attempt, reason: str) -> None:
        self._take(attempt).close()
        self.failed(attempt.address, reason)

    def _take(self, attempt: _Attempt) -> socket.socket:
        """The socket of an attempt that is over."""
        number = attempt.socket.fileno()
        del self._attempts[number]
        self._loop.forget(number)
        return attempt.socket

    def _end(self, reason: str) -> None:
        self._dialler.ended(self, reason)


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
