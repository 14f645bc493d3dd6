"""Accepting: from a listening socket to a connection that has said what a peer says, for the peers actor.

1. a caller whose prefix may not connect is closed at once
2. the others have 10 s for their first word, the header of a packet or a TLS hello; 256 at a time
3. who says something else is closed, with a line
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from actors.peers.network import watch_over
from actors.runtime.actor import Runtime
from actors.runtime.loop import READABLE, Timer
from protocol.callers import Callers
from protocol.mycelium.endpoint import Endpoint, Protocol, SocketAddress, UnixAddress, VsockAddress, parse_ip
from protocol.mycelium.framing import PACKET_HEADER, PACKET_VERSION

FIRST_WORD_SECONDS: Final = 10.0
"""A node sends its Update at once (wire spec 7.3); who connects and says nothing gets no process."""
MAX_SILENT: Final = 256
ACCEPTS_PER_TURN: Final = 32
ACCEPT_PAUSE_SECONDS: Final = 0.5
FIRST_WORD_PAUSE_SECONDS: Final = 0.05
_TLS_HANDSHAKE: Final = b"\x16\x03"
"""How the record begins in which a TLS client says hello (RFC 8446 section 5.1)."""
_WITHOUT_LOW_WATER: Final = frozenset({Protocol.UNIX, Protocol.VSOCK})
"""Sockets for which the kernel does not wait until there is a whole packet header to read."""

OnCaller = Callable[[str, Protocol, socket.socket], None]
"""Is given who called, what is spoken, and the connection, which is the receiver's."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket where strangers come in."""

    descriptor: int
    transport: Protocol
    """What is spoken on the connections that come in."""
    path: str = ""
    """Of a Unix socket."""


class _Silent:
    """An accepted connection that has not said anything yet."""

    __slots__ = ("connection", "listener", "timer")

    def __init__(self, connection: socket.socket, listener: Listener, timer: Timer) -> None:
        self.connection = connection
        self.listener = listener
        self.timer = timer


class Acceptor:
    """All listening sockets, and connections that have not said anything yet."""

    def __init__(self, runtime: Runtime, callers: Callers, on_caller: OnCaller) -> None:
        self._loop = runtime.loop
        self._counters = runtime.counters
        self._log = runtime.log
        self._callers = callers
        self._on_caller = on_caller
        self._silent: dict[int, _Silent] = {}
        self._guests = itertools.count(1)
        runtime.gauges.queue("silent_connections", lambda: len(self._silent))

    def listen(self, listener: Listener) -> None:
        """Takes connections from now on."""
        accepting = socket.socket(fileno=listener.descriptor)
        accepting.setblocking(False)
        self._loop.watch(accepting.fileno(), lambda _: self._on_connections(listener, accepting))

    def _on_connections(self, listener: Listener, accepting: socket.socket) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                connection, caller = accepting.accept()
            except BlockingIOError:
                return
            except OSError as error:
                # Out of descriptors, or a connection that was gone before we took it.
                self._counters["accepts.failed"] += 1
                self._log.warning("cannot accept a connection", reason=error.strerror)
                self._rest_from_accepting(accepting.fileno())
                return
            if connection.family == socket.AF_INET6 and not self._callers.admit(parse_ip(caller[0].partition("%")[0])):
                self._counters["accepts.not_allowed"] += 1
                connection.close()
                continue
            self._wait_for_first_word(connection, listener)

    def _rest_from_accepting(self, number: int) -> None:
        self._loop.want(number, 0)
        self._loop.call_after(ACCEPT_PAUSE_SECONDS, lambda: self._loop.want(number, READABLE))

    def _wait_for_first_word(self, connection: socket.socket, listener: Listener) -> None:
        if len(self._silent) >= MAX_SILENT:
            # The oldest has had the longest time to speak.
            self._drop_silent(next(iter(self._silent)), "accepts.crowded_out")
        connection.setblocking(False)
        watch_over(connection)
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
        self._on_caller(endpoint, silent.listener.transport, connection)

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


def _why_garbage(head: bytes, transport: Protocol) -> str:
    """Why a connection that begins with `head` is none of a peer; empty where it may be."""
    if transport is Protocol.TLS:
        return "" if head.startswith(_TLS_HANDSHAKE) else "it speaks no TLS, and this is a private network"
    if head.startswith(_TLS_HANDSHAKE):
        return "it speaks TLS: it is in a private network, and this node is in none"
    if head[0] != PACKET_VERSION:
        return f"its first packet has version {head[0]}, only {PACKET_VERSION} exists"
    return ""
