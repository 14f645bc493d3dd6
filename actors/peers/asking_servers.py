"""Looking up host names by marked questions: the system's resolver has sockets of its own, which nobody can mark.

It asks the name servers that the system asks, in the system's order, after `/etc/hosts`. Sockets come from the
supervisor.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from ipaddress import IPv6Address
from pathlib import Path
from typing import Final

from actors.peers.resolving import Answer
from actors.peers.sockets import Sockets
from actors.runtime.actor import Runtime
from actors.runtime.loop import Timer
from protocol.dns import LARGEST_REPLY, PORT, Address, DnsError, Inquiry, in_hosts_file, name_servers
from protocol.frames import OpenDatagramSocket, SocketOpened
from protocol.mycelium.endpoint import SocketAddress
from protocol.racing import MOST_ADDRESSES, in_turn
from protocol.targets import HostName

MAX_LOOKUPS: Final = 64
PATIENCE_SECONDS: Final = 1.5
"""With one server: three of them are asked twice within the time of a dial."""
ROUNDS: Final = 2
_HOSTS: Final = Path("/etc/hosts")
_SERVERS: Final = Path("/etc/resolv.conf")
_BEHIND_RESOLVED: Final = Path("/run/systemd/resolve/resolv.conf")
"""Whom systemd-resolved asks: it listens on a loopback address and passes questions on without our mark."""


_Done = Callable[[list[list[Address]], str], None]
"""Is called with what was found, by family, or with nothing and the reason."""


class MarkedResolver:
    """At most `MAX_LOOKUPS` at a time."""

    def __init__(self, runtime: Runtime, sockets: Sockets) -> None:
        self._runtime = runtime
        self._sockets = sockets
        self._running = 0
        runtime.gauges.queue("lookups", lambda: self._running)

    def look_up(self, host: HostName, answer: Answer) -> None:
        """Calls `answer` in a later round of the loop."""
        loop, counters = self._runtime.loop, self._runtime.counters
        if self._running >= MAX_LOOKUPS:
            counters["lookups.crowded_out"] += 1
            loop.defer(lambda: answer([], "too many names are being looked up"))
            return
        self._running += 1

        def done(families: list[list[Address]], reason: str) -> None:
            self._running -= 1
            found = [SocketAddress(address, host.port) for address in in_turn(*families)]
            counters["lookups.answered" if found else "lookups.failed"] += 1
            counters["lookups.addresses_over_limit"] += max(0, len(found) - MOST_ADDRESSES)
            answer(found[:MOST_ADDRESSES], reason)

        known = in_hosts_file(_content(_HOSTS), host.name)
        if known:
            loop.defer(lambda: done([known], ""))
            return
        servers = name_servers(_content(_SERVERS))
        if all(address.is_loopback for address in servers):
            servers = name_servers(_content(_BEHIND_RESOLVED)) or servers
        if not servers:
            loop.defer(lambda: done([], f"cannot look up {host.name}: {_SERVERS} names no server"))
            return
        _Lookup(self._runtime, self._sockets, host.name, servers * ROUNDS, done).ask_next()


class _Lookup:
    """One name: its servers in turn until one answers."""

    def __init__(self, runtime: Runtime, sockets: Sockets, host: str, servers: list[Address], done: _Done) -> None:
        self._counters = runtime.counters
        self._loop = runtime.loop
        self._sockets = sockets
        self._host = host
        self._servers = servers
        self._done = done
        self._socket: socket.socket | None = None
        self._inquiry: Inquiry | None = None
        self._timer: Timer | None = None
        self._failures: dict[Address, str] = {}

    def ask_next(self) -> None:
        """Turns to the next server, if there is one."""
        if not self._servers:
            reasons = ", ".join(f"{server} {failure}" for server, failure in self._failures.items())
            self._done([], f"cannot look up {self._host}: {reasons}")
            return
        server = self._servers.pop(0)
        try:
            place = _place(server)
        except OSError as error:
            self._failed(server, f"can't be asked: {error.strerror}")
            return
        self._sockets.ask(
            lambda token: OpenDatagramSocket(token, "", str(place)),
            lambda message, descriptors: self._on_socket(server, message, descriptors),
        )

    def _on_socket(self, server: Address, message: SocketOpened, descriptors: list[int]) -> None:
        if not descriptors:
            self._failed(server, f"can't be asked: {message.error}")
            return
        opened = self._socket = socket.socket(fileno=descriptors[0])
        opened.setblocking(False)
        low, high = os.urandom(2), os.urandom(2)
        inquiry = self._inquiry = Inquiry(self._host, (int.from_bytes(low, "big"), int.from_bytes(high, "big")))
        self._timer = self._loop.call_after(PATIENCE_SECONDS, lambda: self._on_time(server, inquiry))
        self._loop.watch(opened.fileno(), lambda _: self._on_reply(server, opened, inquiry))
        try:
            for question in inquiry.questions:
                opened.send(question)
        except OSError as error:
            self._failed(server, f"can't be asked: {error.strerror}")

    def _on_reply(self, server: Address, opened: socket.socket, inquiry: Inquiry) -> None:
        try:
            inquiry.receive(opened.recv(LARGEST_REPLY))
        except BlockingIOError:
            return
        except DnsError:
            self._counters["lookups.malformed"] += 1
            return
        except OSError as error:
            self._failed(server, f"can't be asked: {error.strerror}")
            return
        if inquiry.is_done:
            self._judge(server, inquiry)

    def _on_time(self, server: Address, inquiry: Inquiry) -> None:
        if inquiry.addresses:
            self._end(inquiry.addresses, "")
        else:
            self._failed(server, inquiry.failure or f"did not answer in {PATIENCE_SECONDS} s")

    def _judge(self, server: Address, inquiry: Inquiry) -> None:
        if inquiry.addresses:
            self._end(inquiry.addresses, "")
        elif inquiry.no_such_name or not inquiry.failure:
            what = inquiry.failure or "knows no address of it"
            self._end([], f"cannot look up {self._host}: {server} {what}")
        else:
            self._failed(server, inquiry.failure)

    def _failed(self, server: Address, why: str) -> None:
        self._failures[server] = why
        self._close()
        self.ask_next()

    def _end(self, families: list[list[Address]], reason: str) -> None:
        self._close()
        self._done(families, reason)

    def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._socket is not None:
            self._loop.forget(self._socket.fileno())
            self._socket.close()
            self._socket = None


def _place(server: Address) -> SocketAddress:
    """Where it listens. Raises `OSError` where its interface is not there."""
    if not isinstance(server, IPv6Address) or server.scope_id is None:
        return SocketAddress(server, PORT)
    scope = int(server.scope_id) if server.scope_id.isdecimal() else socket.if_nametoindex(server.scope_id)
    return SocketAddress(IPv6Address(server.packed), PORT, scope)


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        # It need not be there; who needs what it says will say so.
        return ""
