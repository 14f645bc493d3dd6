"""Where packets of a pair of addresses go, and how much went: for packets of the host, and for messages."""

from __future__ import annotations

import enum
from typing import Final

from protocol.forwarding import ForwardingTable
from protocol.frames import PairTraffic, RouteState
from protocol.mycelium.remotes import Remote, Remotes

MAX_PAIRS: Final = 4096
_ADDRESS: Final = 16
_SUBNET: Final = 8


class Flow:
    """One pair of addresses: link and remote, and how much went."""

    __slots__ = ("clean", "lane", "octets", "packets", "pair", "remote")

    def __init__(self, pair: bytes, lane: int, remote: Remote, clean: bool) -> None:
        self.pair = pair
        self.lane = lane
        self.remote = remote
        self.clean = clean
        self.packets = 0
        self.octets = 0


class Lack(enum.Enum):
    """Why a pair has no flow."""

    ROUTE = "no usable route"
    KEY = "the key of the route is not that of the address"


class Flows(dict[bytes, Flow]):
    """Flows by their pair of addresses (32 bytes, source first), at most `MAX_PAIRS`; when full it is emptied.

    `clear` when the table has changed: the next packet of each pair looks again.
    """

    def __init__(self, table: ForwardingTable, remotes: Remotes) -> None:
        super().__init__()
        self._table = table
        self._remotes = remotes
        self._used: set[bytes] = set()

    def find(self, pair: bytes) -> Flow | Lack:
        """A new flow for a pair that has none, as the table is now, or why it can't have one."""
        destination = pair[_ADDRESS:]
        route = self._table.lookup(destination)
        if route is None or route.state != RouteState.SELECTED:
            return Lack.ROUTE
        remote = self._remotes.owner(route.public_key, destination)
        if remote is None:
            return Lack.KEY
        if len(self) >= MAX_PAIRS:
            self.clear()
        flow = self[pair] = Flow(pair, route.link, remote, route.clean)
        return flow

    def take_traffic(self) -> tuple[PairTraffic, ...]:
        """What each pair sent since the last call."""
        pairs = []
        for pair, flow in self.items():
            if flow.packets:
                pairs.append(PairTraffic(pair[:_ADDRESS], pair[_ADDRESS:], flow.packets, flow.octets))
                flow.packets = flow.octets = 0
                self._used.add(pair[_ADDRESS : _ADDRESS + _SUBNET] + bytes(_ADDRESS - _SUBNET))
        return tuple(pairs)

    def take_used(self) -> tuple[bytes, ...]:
        """The networks (16 bytes each) that `take_traffic` found packets for since the last call."""
        used = tuple(self._used)
        self._used.clear()
        return used
