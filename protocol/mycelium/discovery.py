"""Link-local discovery: beacons that neighbours send each other, and whom to dial for them (wire spec 6.4).

Nothing in a beacon is proven: it says where a node may listen, and the dial shows the rest.
"""

from __future__ import annotations

import enum
import struct
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Final

from protocol.mycelium.endpoint import Endpoint, Protocol, SocketAddress
from protocol.mycelium.identity import KEY_BYTES, ROUTER_ID_BYTES

GROUP: Final = "ff02::cafe"
BEACON_BYTES: Final = 50
BEACON_SECONDS: Final = 60.0
ANSWER_SECONDS: Final = 1.0
"""Between two beacons on one interface, where unknown ones are heard: who starts later is found at once."""
PATIENCE_SECONDS: Final = 7.0
"""Of two that hear each other the one with the smaller key dials, and the other one waits so long for it. The
reference dials in any case, in its next round of 5 s."""
MOST_PER_INTERFACE: Final = 16
_BEACON: Final = struct.Struct(f"!8sH{ROUTER_ID_BYTES}s")
_MAGIC: Final = b"mycelium"
_LINK_LOCAL: Final = bytes.fromhex("fe80000000000000")


class Verdict(enum.Enum):
    """What became of a datagram; the value names its counter."""

    NEW = "new"
    KNOWN = "known"
    OWN = "own"
    MALFORMED = "malformed"
    NOT_LOCAL = "not_local"
    ELSEWHERE = "elsewhere"
    """From an interface on which nobody is looked for."""
    TOO_MANY = "too_many"


def pack_beacon(tcp_port: int, router_id: bytes) -> bytes:
    """The datagram of a node of this router-id that listens on this port."""
    return _BEACON.pack(_MAGIC, tcp_port, router_id)


def parse_beacon(data: bytes) -> tuple[int, bytes] | None:
    """TCP port and router-id of a beacon; None where it is none. What lies behind 50 bytes is not looked at."""
    if len(data) < BEACON_BYTES:
        return None
    magic, port, router_id = _BEACON.unpack_from(data)
    return (port, router_id) if magic == _MAGIC and port else None


@dataclass(slots=True)
class _Neighbour:
    endpoint: str
    interface: int
    dial_at: float | None
    """None once it was handed out."""


class Neighbourhood:
    """Who was heard on which interface, and when to send beacons. `now` is monotonic seconds."""

    def __init__(self, router_id: bytes, protocol: Protocol) -> None:
        """`protocol` is what neighbours are dialled over: TCP, in a private network TLS."""
        self._key = router_id[:KEY_BYTES]
        self._protocol = protocol
        self._beacons: dict[int, float] = {}
        """By interface, when the next is due."""
        self._sent: dict[int, float] = {}
        self._neighbours: dict[bytes, _Neighbour] = {}
        """By public key: one link to a neighbour is enough, however many interfaces it is heard on."""
        self._by_interface: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._neighbours)

    @property
    def interfaces(self) -> frozenset[int]:
        """Where neighbours are looked for."""
        return frozenset(self._beacons)

    def look_on(self, interfaces: Iterable[int], now: float) -> tuple[list[int], list[str]]:
        """Neighbours are looked for on these interfaces and no others; a beacon is due at once on those that are new.

        Returns those that are new, and the endpoints that are forgotten with those that are gone.
        """
        wanted = set(interfaces)
        new = sorted(wanted.difference(self._beacons))
        for index in set(self._beacons).difference(wanted):
            del self._beacons[index]
            self._sent.pop(index, None)
        for index in new:
            self._beacons[index] = now
        gone = [neighbour.endpoint for neighbour in self._neighbours.values() if neighbour.interface not in wanted]
        for endpoint in gone:
            self.forget(endpoint)
        return new, gone

    def heard(self, data: bytes, source: bytes, interface: int, connected: bool, now: float) -> Verdict:
        """A datagram from the 16-byte address `source` came in by this interface.

        `connected`: whether a connection from there is up already.
        """
        if not source.startswith(_LINK_LOCAL):
            return Verdict.NOT_LOCAL
        beacon = parse_beacon(data)
        if beacon is None:
            return Verdict.MALFORMED
        port, router_id = beacon
        key = router_id[:KEY_BYTES]
        if key == self._key:
            return Verdict.OWN
        if interface not in self._beacons:
            return Verdict.ELSEWHERE
        if connected or key in self._neighbours:
            return Verdict.KNOWN
        if self._by_interface[interface] >= MOST_PER_INTERFACE:
            return Verdict.TOO_MANY
        endpoint = Endpoint(self._protocol, SocketAddress(IPv6Address(source), port, interface))
        dial_at = now if self._key < key else now + PATIENCE_SECONDS
        self._neighbours[key] = _Neighbour(str(endpoint), interface, dial_at)
        self._by_interface[interface] += 1
        # Who sent it may have come later than our last one.
        self._beacons[interface] = min(
            self._beacons[interface], max(now, self._sent.get(interface, now - ANSWER_SECONDS) + ANSWER_SECONDS)
        )
        return Verdict.NEW

    def take_dials(self, now: float) -> list[str]:
        """The endpoints to dial now, each once."""
        found = []
        for neighbour in self._neighbours.values():
            if neighbour.dial_at is not None and neighbour.dial_at <= now:
                neighbour.dial_at = None
                found.append(neighbour.endpoint)
        return found

    def take_beacons(self, now: float) -> list[int]:
        """The interfaces on which a beacon is due."""
        due = [index for index, when in self._beacons.items() if when <= now]
        for index in due:
            self._beacons[index] = now + BEACON_SECONDS
            self._sent[index] = now
        return due

    def next_deadline(self) -> float | None:
        """When one of the two has something to say next."""
        dials = [neighbour.dial_at for neighbour in self._neighbours.values() if neighbour.dial_at is not None]
        return min((*self._beacons.values(), *dials), default=None)

    def forget(self, endpoint: str) -> None:
        """It vanished, or another connection made it superfluous; its next beacon counts as new."""
        for key, neighbour in self._neighbours.items():
            if neighbour.endpoint == endpoint:
                del self._neighbours[key]
                self._by_interface[neighbour.interface] -= 1
                return
