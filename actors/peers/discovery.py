"""Looking for neighbours on the local network: the sockets and clocks around `protocol/mycelium/discovery.py`."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from actors.runtime.actor import Runtime
from actors.runtime.loop import Timer
from protocol.interfaces import Interface
from protocol.mycelium.discovery import BEACON_BYTES, GROUP, Neighbourhood, Verdict, pack_beacon
from protocol.mycelium.endpoint import Protocol
from protocol.mycelium.identity import ROUTER_ID_RANDOM_BYTES, router_id

DATAGRAMS_PER_TURN: Final = 64


@dataclass(frozen=True, slots=True)
class DiscoveryConfig:
    """What discovery is given at birth."""

    descriptor: int
    """Of the bound UDP socket, -1 for no discovery."""
    names: tuple[str, ...]
    """Of the interfaces to look on; empty for all that are fit."""
    tcp_port: int
    """Where neighbours reach us."""
    public_key: bytes


class Discovery:
    """Sends and hears beacons. `connected_from(address, interface)` says whether a neighbour is there already;
    `on_found(endpoint)` and `on_lost(endpoint)` say whom to dial and whom to forget."""

    def __init__(
        self,
        runtime: Runtime,
        config: DiscoveryConfig,
        private: bool,
        connected_from: Callable[[bytes, int], bool],
        on_found: Callable[[str], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._runtime = runtime
        self._config = config
        self._connected_from = connected_from
        self._on_found = on_found
        self._on_lost = on_lost
        # Only who sent a beacon looks at its last bytes, to know his own: they need not be the router's.
        identity = router_id(config.public_key, os.urandom(ROUTER_ID_RANDOM_BYTES))
        self._neighbourhood = Neighbourhood(identity, Protocol.TLS if private else Protocol.TCP)
        self._beacon = pack_beacon(config.tcp_port, identity)
        self._timer: Timer | None = None
        self._warned = False
        self._socket: socket.socket | None = None
        if config.descriptor >= 0:
            self._socket = socket.socket(fileno=config.descriptor)
            self._port = self._socket.getsockname()[1]
            runtime.loop.watch(config.descriptor, self._on_datagrams)
            runtime.gauges.queue("neighbours", lambda: len(self._neighbourhood))

    def look_on(self, interfaces: Iterable[Interface]) -> None:
        """These are the interfaces of the machine now."""
        if self._socket is None:
            return
        names = self._config.names
        fit = {
            each.index: each.name for each in interfaces if each.fit_for_discovery and (not names or each.name in names)
        }
        new, lost = self._neighbourhood.look_on(fit, self._runtime.loop.now())
        for index in new:
            self._join(self._socket, index, fit[index])
        for endpoint in lost:
            self._on_lost(endpoint)
        if names and not fit and not self._warned:
            self._runtime.log.warning("no interface to look for neighbours on", wanted=", ".join(names))
        self._warned = bool(names) and not fit
        self._serve()

    def forget(self, endpoint: str) -> None:
        """A neighbour does not answer any more."""
        self._neighbourhood.forget(endpoint)

    def _join(self, joined: socket.socket, index: int, name: str) -> None:
        group = socket.inet_pton(socket.AF_INET6, GROUP) + struct.pack("@I", index)
        try:
            joined.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
        except OSError as error:
            # It is a member still: the interface was down and did not go.
            self._runtime.log.debug("did not join the group of neighbours", interface=name, reason=error.strerror)
        self._runtime.log.info("looks for neighbours", interface=name)

    def _serve(self) -> None:
        now = self._runtime.loop.now()
        for index in self._neighbourhood.take_beacons(now):
            self._send(index)
        for endpoint in self._neighbourhood.take_dials(now):
            self._on_found(endpoint)
        if self._timer is not None:
            self._timer.cancel()
        deadline = self._neighbourhood.next_deadline()
        self._timer = None if deadline is None else self._runtime.loop.call_at(deadline, self._serve)

    def _send(self, index: int) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto(self._beacon, (GROUP, self._port, 0, index))
        except OSError as error:
            self._runtime.counters["discovery.unsent"] += 1
            self._runtime.log.debug("cannot send a beacon", interface=index, reason=error.strerror)
        else:
            self._runtime.counters["discovery.sent"] += 1

    def _on_datagrams(self, _events: int) -> None:
        if self._socket is None:
            return
        for _ in range(DATAGRAMS_PER_TURN):
            try:
                data, (host, _port, _flow, scope) = self._socket.recvfrom(BEACON_BYTES)
            except BlockingIOError:
                break
            source = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
            connected = self._connected_from(source, scope)
            verdict = self._neighbourhood.heard(data, source, scope, connected, self._runtime.loop.now())
            self._runtime.counters[f"discovery.{verdict.value}"] += 1
            if verdict is Verdict.NEW:
                self._runtime.log.info("heard a neighbour", address=host, interface=scope)
        self._serve()
