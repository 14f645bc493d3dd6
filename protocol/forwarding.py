"""The forwarding table as every data actor holds it: a replica that numbered deltas keep up to date.

Nearly every prefix is a /64, so a lookup is one dictionary access on the first 8 bytes of the address. Only under a /64
that is flagged as having longer prefixes (/65 to /128) is there a second look.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple, TypeAlias

from protocol.frames import RouteState
from protocol.prefix import ADDRESS_BITS, SUBNET_BITS

_SUBNET_BYTES: Final = SUBNET_BITS // 8

Change: TypeAlias = tuple[bytes, int, int, int, bytes, bool]
"""(network: 16 bytes, length: 64…128, state: a RouteState, link, public key: 32 bytes or none, clean)."""


class ForwardingError(ValueError):
    """A change that can't be in a forwarding table."""


class Route(NamedTuple):
    """What the packet path needs to know about a destination."""

    state: int
    """A `RouteState`, never FORGOTTEN."""
    link: int
    """Where packets go; means something only if SELECTED."""
    public_key: bytes
    """32 bytes, of the prefix's owner; empty while RESOLVING."""
    clean: bool
    """Every link of the way carries packets of any size."""


class _Flagged:
    """A /64 that has longer prefixes in it."""

    __slots__ = ("longer", "subnet")

    def __init__(self, subnet: Route | None) -> None:
        self.subnet = subnet
        self.longer: list[tuple[int, int, Route]] = []
        """(host bits, network >> host bits, route), the longest prefix first."""

    def lookup(self, destination: bytes) -> Route | None:
        address = int.from_bytes(destination, "big")
        for host_bits, network, route in self.longer:
            if address >> host_bits == network:
                return route
        return self.subnet

    def change(self, host_bits: int, network: int, route: Route | None) -> None:
        self.longer = [other for other in self.longer if other[:2] != (host_bits, network)]
        if route is not None:
            self.longer.append((host_bits, network, route))
            self.longer.sort(key=lambda other: other[0])


class ForwardingTable:
    """Destination → route, by longest match."""

    def __init__(self) -> None:
        self.serial: int | None = None
        """Number of the last change that was applied; `None` until a snapshot was loaded."""
        self._subnets: dict[bytes, Route | _Flagged] = {}

    def __len__(self) -> int:
        count = len(self._subnets)
        for found in self._subnets.values():
            if isinstance(found, _Flagged):
                count += len(found.longer) - (found.subnet is None)
        return count

    def prefixes(self) -> Iterator[tuple[bytes, int]]:
        """(network: 16 bytes, length) of every prefix in the table, in no order."""
        for key, found in self._subnets.items():
            if not isinstance(found, _Flagged) or found.subnet is not None:
                yield key + bytes(ADDRESS_BITS // 8 - _SUBNET_BYTES), SUBNET_BITS
            if isinstance(found, _Flagged):
                for host_bits, network, _ in found.longer:
                    yield (network << host_bits).to_bytes(ADDRESS_BITS // 8, "big"), ADDRESS_BITS - host_bits

    def lookup(self, destination: bytes) -> Route | None:
        """The route for a 16-byte address, `None` where nothing is known.

        1. One dictionary access on the address's /64.
        2. Nothing there, or a plain route: that is the answer, for all but a few addresses.
        3. A flagged /64: its longer prefixes, the longest first, then the /64 itself.
        """
        found = self._subnets.get(destination[:_SUBNET_BYTES])
        if isinstance(found, _Flagged):
            return found.lookup(destination)
        return found

    def apply(self, serial: int, changes: Iterable[Change]) -> bool:
        """Applies delta number `serial`; one that a snapshot already held changes nothing.

        Returns whether the table is up to date; if not, a delta was missed and a snapshot has to be asked for.
        Raises `ForwardingError` on a change that is none; the table is then to be loaded anew.
        """
        if self.serial is None or serial > self.serial + 1:
            return False
        if serial <= self.serial:
            return True
        for change in changes:
            self._change(change)
        self.serial = serial
        return True

    def load(self, serial: int, entries: Iterable[Change]) -> None:
        """Replaces the table by a snapshot as of change `serial`. Raises `ForwardingError` as `apply` does."""
        self.serial = None
        self._subnets.clear()
        for entry in entries:
            self._change(entry)
        self.serial = serial

    def _change(self, change: Change) -> None:
        network, length, state, link, public_key, clean = change
        if len(network) * 8 != ADDRESS_BITS or not SUBNET_BITS <= length <= ADDRESS_BITS:
            raise ForwardingError(f"prefix {network.hex()}/{length} in a forwarding table: /64 to /128 belong there")
        route = None if state == RouteState.FORGOTTEN else Route(state, link, public_key, clean)
        key = network[:_SUBNET_BYTES]
        found = self._subnets.get(key)
        if length == SUBNET_BITS:
            if isinstance(found, _Flagged):
                found.subnet = route
            elif route is None:
                self._subnets.pop(key, None)
            else:
                self._subnets[key] = route
            return
        flagged = found if isinstance(found, _Flagged) else _Flagged(found)
        host_bits = ADDRESS_BITS - length
        flagged.change(host_bits, int.from_bytes(network, "big") >> host_bits, route)
        if flagged.longer:
            self._subnets[key] = flagged
        elif flagged.subnet is None:
            self._subnets.pop(key, None)
        else:
            self._subnets[key] = flagged.subnet
