"""IPv6 addresses and prefixes of an overlay as plain bytes: masking, containment and text (RFC 4291, RFC 5952)."""

from __future__ import annotations

from ipaddress import AddressValueError, IPv6Address
from typing import Final, NamedTuple

ADDRESS_BYTES: Final = 16
ADDRESS_BITS: Final = 128
SUBNET_BITS: Final = 64
"""Length of the one prefix that a node originates (wire spec 1.4)."""
_SUBNET_BYTES: Final = SUBNET_BITS // 8
_ZERO_HOST_PART: Final = bytes(ADDRESS_BYTES - _SUBNET_BYTES)


class PrefixError(ValueError):
    """An address or a prefix that isn't one; says which and why."""


class Prefix(NamedTuple):
    """A prefix: 16 bytes whose bits past `length` are zero, and the length in bits (0…128).

    Make one with `of`, `parse` or `subnet_of`, which clear those bits: a request with host bits set aborts a reference
    node (wire spec Q29), and two prefixes are equal if and only if their tuples are.
    """

    network: bytes
    length: int

    @classmethod
    def of(cls, address: bytes, length: int) -> Prefix:
        """The prefix of `length` bits around the 16-byte `address`. Raises `PrefixError` on another size or length."""
        if len(address) != ADDRESS_BYTES:
            raise PrefixError(f"an IPv6 address has {ADDRESS_BYTES} bytes, this one has {len(address)}")
        if not 0 <= length <= ADDRESS_BITS:
            raise PrefixError(f"prefix length {length} is not between 0 and {ADDRESS_BITS}")
        host_bits = ADDRESS_BITS - length
        network = int.from_bytes(address, "big") >> host_bits << host_bits
        return cls(network.to_bytes(ADDRESS_BYTES, "big"), length)

    @classmethod
    def parse(cls, text: str) -> Prefix:
        """The prefix written as `5ea:4578:6f:62c8::/64`; host bits are cleared. Raises `PrefixError`."""
        address, slash, length = text.partition("/")
        if not slash or not (length.isascii() and length.isdecimal()):
            raise PrefixError(f"{text!r} is not a prefix: write ADDRESS/LENGTH, for example 5ea:4578:6f:62c8::/64")
        return cls.of(parse_address(address), int(length[:4]))

    def contains(self, address: bytes) -> bool:
        """Whether the 16-byte `address` lies in this prefix."""
        difference = int.from_bytes(self.network, "big") ^ int.from_bytes(address, "big")
        return difference >> (ADDRESS_BITS - self.length) == 0

    def covers(self, other: Prefix) -> bool:
        """Whether `other` is this prefix or lies inside it."""
        return other.length >= self.length and self.contains(other.network)

    def __str__(self) -> str:
        return f"{address_text(self.network)}/{self.length}"


def subnet_of(address: bytes) -> Prefix:
    """The /64 around the 16-byte `address`: the subnet of the node that the address belongs to (wire spec 1.4)."""
    return Prefix(address[:_SUBNET_BYTES] + _ZERO_HOST_PART, SUBNET_BITS)


def address_text(address: bytes) -> str:
    """RFC 5952 text of the 16-byte `address`. Raises `PrefixError` on another size."""
    if len(address) != ADDRESS_BYTES:
        raise PrefixError(f"an IPv6 address has {ADDRESS_BYTES} bytes, this one has {len(address)}")
    return str(IPv6Address(address))


def parse_address(text: str) -> bytes:
    """The 16 bytes of an IPv6 address in text form, without a zone. Raises `PrefixError`."""
    if "%" in text:
        raise PrefixError(f"{text!r} names an interface; an overlay address has no zone")
    try:
        return IPv6Address(text).packed
    except AddressValueError as error:
        raise PrefixError(f"{text!r} is not an IPv6 address: {error}") from None


OVERLAY: Final = Prefix.parse("400::/7")
"""The address range of the Mycelium overlay (wire spec 1.3)."""
