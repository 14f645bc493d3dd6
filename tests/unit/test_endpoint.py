"""Endpoints and socket addresses as people write them; the recorded texts come from the reference."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.mycelium.endpoint import (
    Endpoint,
    EndpointError,
    Protocol,
    SocketAddress,
    VsockAddress,
    ip_text,
    parse_ip,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "endpoints.json").read_text())


@pytest.mark.parametrize(("text", "reason"), VECTORS["refused"])
def test_malformed_endpoint_is_refused_with_the_words_of_the_reference(text: str, reason: str) -> None:
    with pytest.raises(EndpointError) as caught:
        Endpoint.parse(text)
    assert str(caught.value) == reason


@pytest.mark.parametrize(("text", "listed"), VECTORS["accepted"])
def test_endpoint_is_listed_as_the_reference_lists_it(text: str, listed: str) -> None:
    assert str(Endpoint.parse(text)) == listed


@pytest.mark.parametrize("text", ["tcp://192.0.2.1:9651", "quic://[2001:db8::1%7]:0", "vsock://2:4294967295"])
def test_text_of_an_endpoint_parses_to_the_same_endpoint(text: str) -> None:
    assert str(Endpoint.parse(text)) == text


def test_parts_of_a_scoped_endpoint_can_be_read() -> None:
    endpoint = Endpoint.parse("tls://[fe80::1%3]:9651")
    assert endpoint == Endpoint(Protocol.TLS, SocketAddress(IPv6Address("fe80::1"), 9651, scope=3))
    assert isinstance(endpoint.address, SocketAddress)
    assert endpoint.address.is_ipv6
    assert endpoint.address.sockaddr() == ("fe80::1", 9651, 0, 3)


def test_ipv4_address_has_a_two_part_sockaddr() -> None:
    address = SocketAddress.parse("192.0.2.1:80")
    assert not address.is_ipv6
    assert address.sockaddr() == ("192.0.2.1", 80)


@pytest.mark.parametrize(
    "text",
    [
        "192.0.2.1:065",
        "192.0.2.1:99999999999999999999999",
        "192.0.2.1%1:80",
        "[192.0.2.1]:80",
        "[::1%4294967296]:80",
        "[::1%]:80",
        "[::1]:",
        "[::1]",
        "::1:80",
        "192.0.2.1:٨٠",
        "[::g]:1",
        "[1::2::3]:1",
        "192.0.2.256:1",
        "1.2.3:4",
        "192.0.2.1:80\n",
    ],
)
def test_text_that_is_no_socket_address_is_refused(text: str) -> None:
    with pytest.raises(EndpointError, match="invalid socket address syntax"):
        SocketAddress.parse(text)


@pytest.mark.parametrize("arguments", [("192.0.2.1", 65536, 0), ("192.0.2.1", -1, 0), ("192.0.2.1", 1, 2)])
def test_socket_address_checks_itself(arguments: tuple[str, int, int]) -> None:
    host, port, scope = arguments
    with pytest.raises(EndpointError):
        SocketAddress(IPv4Address(host), port, scope)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (":1", "cannot parse integer from empty string"),
        ("1:", "cannot parse integer from empty string"),
        ("+:1", "invalid digit found in string"),
        ("-1:1", "invalid digit found in string"),
        ("9" * 5000 + ":1", "number too large to fit in target type"),
    ],
)
def test_vsock_component_that_is_no_number_is_refused(text: str, reason: str) -> None:
    with pytest.raises(EndpointError, match=reason):
        VsockAddress.parse(text)


def test_vsock_numbers_may_have_a_plus_and_leading_zeros() -> None:
    assert VsockAddress.parse("+3:0009651") == VsockAddress(3, 9651)


def test_vsock_address_checks_itself() -> None:
    with pytest.raises(EndpointError):
        VsockAddress(1 << 32, 1)


@pytest.mark.parametrize(
    ("protocol", "address"),
    [(Protocol.TCP, VsockAddress(2, 1)), (Protocol.VSOCK, SocketAddress(IPv4Address("192.0.2.1"), 1))],
)
def test_protocol_and_kind_of_address_must_agree(protocol: Protocol, address: SocketAddress | VsockAddress) -> None:
    with pytest.raises(EndpointError):
        Endpoint(protocol, address)


def test_mapped_address_is_written_dotted() -> None:
    assert ip_text(IPv6Address("::ffff:c000:201")) == "::ffff:192.0.2.1"
    assert ip_text(IPv6Address("5ea:4578::1")) == "5ea:4578::1"
    assert ip_text(IPv4Address("192.0.2.1")) == "192.0.2.1"


@pytest.mark.parametrize("text", ["foo", "400::/64", "fe80::1%1", "[400::1]", "", "192.0.2.01"])
def test_text_that_is_no_ip_address_is_refused(text: str) -> None:
    with pytest.raises(EndpointError, match="invalid IP address syntax"):
        parse_ip(text)


def test_both_kinds_of_ip_address_parse() -> None:
    assert parse_ip("192.0.2.1") == IPv4Address("192.0.2.1")
    assert parse_ip("400::1") == IPv6Address("400::1")


@given(st.text())
def test_any_text_gives_an_endpoint_that_reads_back_or_one_error(text: str) -> None:
    for candidate in (text, f"tcp://{text}", f"vsock://{text}"):
        try:
            endpoint = Endpoint.parse(candidate)
        except EndpointError:
            continue
        assert Endpoint.parse(str(endpoint)) == endpoint


@given(st.ip_addresses(), st.integers(0, 65535))
def test_every_ip_address_and_port_survive_a_round_trip(ip: IPv4Address | IPv6Address, port: int) -> None:
    address = SocketAddress(ip, port)
    assert SocketAddress.parse(str(address)) == address
