"""Prefixes: masking, containment, text; checked against the ipaddress module."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.prefix import OVERLAY, Prefix, PrefixError, address_text, parse_address, subnet_of

addresses = st.binary(min_size=16, max_size=16)
lengths = st.integers(0, 128)


@given(addresses, lengths)
def test_prefix_bits_past_the_length_are_zero(address: bytes, length: int) -> None:
    expected = ipaddress.IPv6Network((address, length), strict=False)
    prefix = Prefix.of(address, length)
    assert (prefix.network, prefix.length, str(prefix)) == (expected.network_address.packed, length, str(expected))


@given(addresses, lengths, addresses)
def test_prefix_contains_what_ipaddress_says_it_contains(address: bytes, length: int, other: bytes) -> None:
    network = ipaddress.IPv6Network((address, length), strict=False)
    assert Prefix.of(address, length).contains(other) == (ipaddress.IPv6Address(other) in network)


@given(addresses, lengths, st.integers(0, 127))
def test_prefix_contains_an_address_with_one_bit_changed_only_past_its_length(
    address: bytes, length: int, bit: int
) -> None:
    changed = (int.from_bytes(address, "big") ^ 1 << (127 - bit)).to_bytes(16, "big")
    assert Prefix.of(address, length).contains(changed) == (bit >= length)


@given(addresses, lengths, lengths)
def test_prefix_covers_itself_and_what_is_longer_inside_it(address: bytes, one: int, two: int) -> None:
    assert Prefix.of(address, one).covers(Prefix.of(address, two)) == (two >= one)


def test_prefix_does_not_cover_a_longer_prefix_elsewhere() -> None:
    assert not Prefix.parse("500::/64").covers(Prefix.parse("500:0:0:1::/80"))


@given(addresses)
def test_subnet_is_the_64_bits_around_the_address(address: bytes) -> None:
    assert subnet_of(address) == Prefix.of(address, 64)


@given(addresses)
def test_address_text_reads_back(address: bytes) -> None:
    assert parse_address(address_text(address)) == address


def test_text_is_rfc_5952() -> None:
    assert str(subnet_of(bytes.fromhex("05ea4578006f62c80000000000000001"))) == "5ea:4578:6f:62c8::/64"
    assert address_text(bytes.fromhex("05000000000000000001000000000001")) == "500::1:0:0:1"


def test_parsing_clears_host_bits() -> None:
    assert Prefix.parse("5ea:4578:6f:62c8::7/64") == Prefix.parse("5ea:4578:6f:62c8::/64")


def test_overlay_is_400_slash_7() -> None:
    assert (b"\x04" + bytes(15), 7) == OVERLAY
    assert OVERLAY.contains(b"\x05" + bytes(15))
    assert not OVERLAY.contains(b"\x06" + bytes(15))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "500::",
        "500::/",
        "500::/-1",
        "500::/129",
        "500::/ 64",
        "500::/6_4",
        "500::/٦٤",
        "10.0.0.0/8",
        "fe80::%eth0/64",
    ],
)
def test_text_that_is_no_prefix_is_refused(text: str) -> None:
    with pytest.raises(PrefixError):
        Prefix.parse(text)


def test_address_of_another_size_is_refused() -> None:
    for use in (address_text, lambda address: Prefix.of(address, 64)):
        with pytest.raises(PrefixError, match="15"):
            use(bytes(15))
