"""Who may connect to our listeners, by the prefix that the connection comes from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final

MAX_PREFIXES: Final = 1024


class CallersError(ValueError):
    """Text that is no prefix; names it and the form."""


class _Prefixes:
    """Prefixes as a set per length: a stranger's datagram must not cost a look at each of a thousand."""

    __slots__ = ("_by_length",)

    def __init__(self, prefixes: Iterable[IPv4Network | IPv6Network]) -> None:
        found: dict[tuple[int, int], set[int]] = defaultdict(set)
        for prefix in prefixes:
            spare = prefix.max_prefixlen - prefix.prefixlen
            found[prefix.version, spare].add(int(prefix.network_address) >> spare)
        self._by_length = tuple((version, spare, frozenset(heads)) for (version, spare), heads in found.items())

    def __contains__(self, address: IPv4Address | IPv6Address) -> bool:
        number, family = int(address), address.version
        return any(version == family and number >> spare in heads for version, spare, heads in self._by_length)


@dataclass(frozen=True, slots=True)
class Callers:
    """A caller is refused if his address lies in a denied prefix, or if some are allowed and it lies in none of them.

    An IPv4 address that comes in IPv6 clothes counts as IPv4.
    """

    allowed: tuple[IPv4Network | IPv6Network, ...] = ()
    denied: tuple[IPv4Network | IPv6Network, ...] = ()
    _allowed: _Prefixes = field(init=False, repr=False, compare=False)
    _denied: _Prefixes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_allowed", _Prefixes(self.allowed))
        object.__setattr__(self, "_denied", _Prefixes(self.denied))

    @classmethod
    def parse(cls, allowed: Iterable[str], denied: Iterable[str]) -> Callers:
        """From prefixes as people write them. Raises `CallersError`."""
        made = cls(tuple(_prefix(text) for text in allowed), tuple(_prefix(text) for text in denied))
        if max(len(made.allowed), len(made.denied)) > MAX_PREFIXES:
            raise CallersError(f"more than {MAX_PREFIXES} prefixes to allow or deny; join them")
        return made

    def admit(self, address: IPv4Address | IPv6Address) -> bool:
        """Whether somebody may connect from here."""
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return address not in self._denied and (not self.allowed or address in self._allowed)


EVERYBODY: Final = Callers()


def prefix_text(text: str) -> str:
    """The prefix or address in its standard form; host bits are cleared. Raises `CallersError`."""
    return str(_prefix(text))


def _prefix(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        raise CallersError(
            f"{text!r} is no prefix; write an address, or ADDRESS/LENGTH, such as 192.0.2.0/24"
        ) from None
