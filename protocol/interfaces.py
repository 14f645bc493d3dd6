"""The interfaces of this machine and their addresses, as the kernel tells of them: what can be used, what was lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from protocol.netlink import AddressNews, LinkNews, News

MAX_INTERFACES: Final = 1024
MAX_ADDRESSES: Final = 4096
"""Of all interfaces; whoever has more misses news about the rest, and nothing else."""

_UP: Final = 0x1
_LOOPBACK: Final = 0x8
_POINT_TO_POINT: Final = 0x10
_RUNNING: Final = 0x40
_MULTICAST: Final = 0x1000
_LINK_LOCAL: Final = bytes.fromhex("fe80000000000000")

LocalAddress = tuple[bytes, int]
"""4 or 16 bytes, and the index of the interface where the address means nothing without it (fe80::/10), else 0."""


@dataclass(slots=True)
class Interface:
    """One interface."""

    index: int
    name: str
    kind: str
    flags: int
    addresses: set[bytes]

    @property
    def works(self) -> bool:
        """Whether packets can leave by it, as far as the machine can tell: it is up and has a carrier."""
        return bool(self.flags & _UP and self.flags & _RUNNING)

    @property
    def fit_for_discovery(self) -> bool:
        """Whether neighbours are looked for on it (wire spec 6.4)."""
        wrong = _LOOPBACK | _POINT_TO_POINT
        return (
            bool(self.flags & _UP and self.flags & _MULTICAST)
            and not self.flags & wrong
            and self.kind != "tun"
            and any(address.startswith(_LINK_LOCAL) for address in self.addresses)
        )


@dataclass(frozen=True, slots=True)
class Change:
    """What some news changed: local addresses that can't be used any more, and those that now can."""

    lost: frozenset[LocalAddress]
    gained: frozenset[LocalAddress]


class Interfaces:
    """All interfaces by index."""

    def __init__(self) -> None:
        self._interfaces: dict[int, Interface] = {}
        self._count = 0
        self._usable: frozenset[LocalAddress] = frozenset()

    def __iter__(self) -> Iterator[Interface]:
        return iter(self._interfaces.values())

    def apply(self, news: Iterable[News]) -> Change:
        """Takes news in, all of it before anything is compared: an address that moves is neither lost nor gained."""
        for item in news:
            if isinstance(item, LinkNews):
                self._link(item)
            elif isinstance(item, AddressNews):
                self._address(item)
        before, self._usable = self._usable, frozenset(self._find_usable())
        return Change(before - self._usable, self._usable - before)

    def forget(self) -> None:
        """Starts anew, because news were missed; what is usable stays as it was until `apply` hears all again."""
        self._interfaces.clear()
        self._count = 0

    def _link(self, news: LinkNews) -> None:
        known = self._interfaces.get(news.index)
        if not news.flags and not news.name:
            return
        if known is not None:
            known.name, known.kind, known.flags = news.name, news.kind or known.kind, news.flags
            if not news.flags:
                self._count -= len(known.addresses)
                del self._interfaces[news.index]
        elif news.flags and len(self._interfaces) < MAX_INTERFACES:
            self._interfaces[news.index] = Interface(news.index, news.name, news.kind, news.flags, set())

    def _address(self, news: AddressNews) -> None:
        interface = self._interfaces.get(news.index)
        if interface is None:
            return
        if not news.usable and news.address in interface.addresses:
            interface.addresses.remove(news.address)
            self._count -= 1
        elif news.usable and news.address not in interface.addresses and self._count < MAX_ADDRESSES:
            interface.addresses.add(news.address)
            self._count += 1

    def _find_usable(self) -> Iterator[LocalAddress]:
        for interface in self:
            if interface.works:
                for address in interface.addresses:
                    yield local_address(address, interface.index)


def local_address(address: bytes, index: int) -> LocalAddress:
    """The address (4 or 16 bytes; IPv4-mapped ones count as IPv4) of the interface with this index."""
    if len(address) == 16 and address.startswith(bytes(10) + b"\xff\xff"):
        return address[12:], 0
    link_local = len(address) == 16 and address[0] == 0xFE and address[1] & 0xC0 == 0x80
    return address, index if link_local else 0
