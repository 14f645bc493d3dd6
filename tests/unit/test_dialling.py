"""Whom to dial and in which order: targets as people write them, addresses that race, proxies, and who may call us."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.callers import Callers, CallersError, prefix_text
from protocol.logins import Login
from protocol.mycelium.endpoint import EndpointError, Protocol, SocketAddress
from protocol.peering import PAUSES_SECONDS, PeerTable
from protocol.racing import HEAD_START_SECONDS, Race, in_turn
from protocol.socks import SocksDial, SocksError
from protocol.targets import HostName, Target, TargetError

# --- targets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ("tcp://192.0.2.1:9651", "tcp://192.0.2.1:9651"),
        ("TCP://Peer.Example.ORG:9651", "tcp://peer.example.org:9651"),
        ("quic://localhost:1", "quic://localhost:1"),
        ("tls://a_b.c-d:65535", "tls://a_b.c-d:65535"),
        ("socks://192.0.2.1:1080/[2001:db8::1]:9651", "socks://192.0.2.1:1080/[2001:db8::1]:9651"),
        ("SOCKS://Proxy:1080/Peer:9651", "socks://proxy:1080/peer:9651"),
        ("vsock://2:9651", "vsock://2:9651"),
    ],
)
def test_target_is_written_in_one_way(written: str, means: str) -> None:
    assert str(Target.parse(written)) == means
    assert Target.parse(means) == Target.parse(written)


def test_target_knows_what_has_to_be_looked_up_and_what_the_reference_would_call_it() -> None:
    plain, named = Target.parse("tcp://192.0.2.1:9651"), Target.parse("tcp://peer:9651")
    behind = Target.parse("socks://proxy:1080/192.0.2.1:9651")
    assert (plain.to_resolve, str(plain.endpoint)) == (None, "tcp://192.0.2.1:9651")
    assert (named.to_resolve, named.endpoint) == (HostName("peer", 9651), None)
    assert (behind.to_resolve, behind.endpoint, behind.protocol) == (HostName("proxy", 1080), None, Protocol.TCP)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("peer:9651", "missing leading protocol identifier"),
        ("http://peer:9651", "not supported"),
        ("vsock://peer:9651", "vsock address component"),
        ("tcp://peer", "neither ADDRESS:PORT nor NAME:PORT"),
        ("tcp://peer:70000", "neither ADDRESS:PORT nor NAME:PORT"),
        ("tcp://999.1.1.1:1", "neither an address nor a host name"),
        ("tcp://a..b:1", "neither an address nor a host name"),
        ("tcp://" + "a" * 64 + ":1", "neither an address nor a host name"),
        ("tcp://" + "a." * 126 + "aa:1", "neither an address nor a host name"),
        ("socks://192.0.2.1:1080", "names no peer behind the proxy"),
        ("socks://192.0.2.1/peer:1", "neither ADDRESS:PORT nor NAME:PORT"),
    ],
)
def test_text_that_names_nobody_is_refused_with_the_form(text: str, reason: str) -> None:
    with pytest.raises((EndpointError, TargetError), match=reason):
        Target.parse(text)


@given(st.text(max_size=40) | st.text(max_size=30).map("tcp://".__add__) | st.text(max_size=30).map("socks://".__add__))
def test_any_text_is_a_target_or_one_of_two_errors(text: str) -> None:
    try:
        target = Target.parse(text)
    except (EndpointError, TargetError):
        return
    assert Target.parse(str(target)) == target


# --- races ------------------------------------------------------------------------------------------------------------


def test_each_address_has_its_head_start() -> None:
    race = Race("abc", 10.0)
    assert (race.take_due(10.0), race.take_due(10.0)) == ("a", None)
    assert race.next_deadline() == 10.0 + HEAD_START_SECONDS
    assert (race.take_due(10.25), race.take_due(10.26), race.take_due(10.5)) == ("b", None, "c")
    assert race.next_deadline() is None


def test_address_that_fails_lets_the_next_one_start_at_once() -> None:
    race = Race("ab", 0.0)
    assert race.take_due(0.0) == "a"
    race.failed("a", "refused", 0.01)
    assert not race.lost
    assert race.take_due(0.01) == "b"
    race.failed("b", "no route", 0.02)
    assert race.lost
    assert race.reasons == ["refused", "no route"]


def test_nobody_starts_in_a_race_that_is_over_but_those_who_run_may_win() -> None:
    race = Race("abc", 0.0)
    assert race.take_due(0.0) == "a"
    race.start_no_more()
    assert (race.take_due(5.0), race.next_deadline(), race.lost) == (None, None, False)
    race.failed("a", "refused", 5.0)
    assert race.lost


def test_families_take_turns() -> None:
    assert list(in_turn(["6a", "6b", "6c"], ["4a"])) == ["6a", "4a", "6b", "6c"]
    assert list(in_turn(["4a"], ["6a", "6b"])) == ["4a", "6a", "6b"]
    assert list(in_turn("ab")) == ["a", "b"]
    assert list(in_turn()) == []


# --- proxies ----------------------------------------------------------------------------------------------------------


def _talk(dial: SocksDial, answer: bytes) -> list[bytes]:
    sent = []
    while dial.need:
        head, answer = answer[: dial.need], answer[dial.need :]
        sent.append(dial.receive(head))
    assert answer == b""
    return [data for data in sent if data]


@pytest.mark.parametrize(
    ("place", "request_of_it"),
    [
        (SocketAddress.parse("192.0.2.1:9651"), "05010001c000020125b3"),
        (SocketAddress.parse("[2001:db8::1]:9651"), "0501000420010db8000000000000000000000001" + "25b3"),
        (HostName("peer", 9651), "050100030470656572" + "25b3"),
    ],
)
def test_proxy_is_asked_as_the_rfc_says(place: SocketAddress | HostName, request_of_it: str) -> None:
    assert SocksDial(place).greeting.hex() == "050100"
    answer = bytes.fromhex("0500" + "05000001" + "0a00000104d2")
    assert [data.hex() for data in _talk(SocksDial(place), answer)] == [request_of_it]


@pytest.mark.parametrize("address", ["01" + "00" * 4, "04" + "00" * 16, "03" + "02" + "6162", "03" + "00"])
def test_answer_of_a_proxy_is_read_to_its_last_byte_and_no_further(address: str) -> None:
    kind, rest = address[:2], address[2:]
    _talk(SocksDial(HostName("peer", 1)), bytes.fromhex("0500" + "050000" + kind + rest + "0000"))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("0400", "no SOCKS5"),
        ("4854", "no SOCKS5"),
        ("05ff", "wants a password"),
        ("0502", "chose method 2, which was not offered"),
        ("0500" + "05050001", "connection refused"),
        ("0500" + "05630001", "error 99"),
        ("0500" + "05000009", "address of kind 9"),
        ("0500" + "04000001", "no SOCKS5"),
    ],
)
def test_proxy_that_refuses_or_lies_is_an_error_that_says_so(answer: str, reason: str) -> None:
    with pytest.raises(SocksError, match=reason):
        _talk(SocksDial(HostName("peer", 1)), bytes.fromhex(answer))


@pytest.mark.parametrize("version", ["01", "05"])
def test_proxy_that_wants_a_password_is_told_it_and_one_that_does_not_is_not(version: str) -> None:
    login = Login("anna", "geheim")
    asked = SocksDial(HostName("peer", 1), login)
    assert asked.greeting.hex() == "05020002"
    answer = bytes.fromhex("0502" + version + "00" + "05000001" + "0a00000104d2")
    assert _talk(asked, answer) == [b"\x01\x04anna\x06geheim", bytes.fromhex("0501000304") + b"peer\x00\x01"]
    free = SocksDial(HostName("peer", 1), login)
    assert b"geheim" not in b"".join(_talk(free, bytes.fromhex("0500" + "05000001" + "0a00000104d2")))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("05ff", "takes no password"),
        ("0503", "chose method 3"),
        ("0502" + "0101", "refused user or password"),
        ("0502" + "01ff", "refused user or password"),
        ("0502" + "4854", "answered a password with version 72"),
    ],
)
def test_proxy_that_refuses_a_password_or_lies_about_it_is_an_error_that_says_so(answer: str, reason: str) -> None:
    with pytest.raises(SocksError, match=reason) as caught:
        _talk(SocksDial(HostName("peer", 1), Login("anna", "geheim")), bytes.fromhex(answer))
    assert "geheim" not in str(caught.value)


@given(st.binary(max_size=600), st.sampled_from([None, Login("anna", "geheim")]))
def test_any_bytes_of_a_proxy_are_an_answer_or_the_one_error(data: bytes, login: Login | None) -> None:
    dial = SocksDial(HostName("peer", 1), login)
    try:
        while dial.need and len(data) >= dial.need:
            head, data = data[: dial.need], data[dial.need :]
            dial.receive(head)
    except SocksError:
        return
    assert dial.need <= 257


# --- callers ----------------------------------------------------------------------------------------------------------


def _networks(address: IPv4Address | IPv6Address) -> st.SearchStrategy[IPv4Network | IPv6Network]:
    """Prefixes that the address lies in."""
    return st.integers(0, address.max_prefixlen).map(lambda length: ip_network((address, length), strict=False))


@pytest.mark.parametrize(
    ("allowed", "denied", "caller", "may"),
    [
        ((), (), "192.0.2.1", True),
        (("192.0.2.0/24",), (), "192.0.2.1", True),
        (("192.0.2.0/24",), (), "::ffff:192.0.2.1", True),
        (("192.0.2.0/24",), (), "198.51.100.1", False),
        (("192.0.2.0/24",), (), "2001:db8::1", False),
        ((), ("2001:db8::/32",), "2001:db8::1", False),
        (("192.0.2.0/24",), ("192.0.2.7",), "192.0.2.7", False),
        (("192.0.2.7/24",), (), "192.0.2.9", True),
        (("fe80::/10",), (), "fe80::1", True),
    ],
)
def test_caller_is_judged_by_his_prefix(
    allowed: tuple[str, ...], denied: tuple[str, ...], caller: str, may: bool
) -> None:
    assert Callers.parse(allowed, denied).admit(ip_address(caller)) is may


@given(
    st.lists(st.ip_addresses().flatmap(_networks), max_size=8),
    st.lists(st.ip_addresses().flatmap(_networks), max_size=8),
    st.ip_addresses(),
)
def test_any_caller_is_judged_as_by_looking_at_each_prefix(
    allowed: list[Any], denied: list[Any], caller: IPv4Address | IPv6Address
) -> None:
    plain = getattr(caller, "ipv4_mapped", None) or caller
    for near in (plain, *(network.network_address for network in (*allowed, *denied))):
        may = not any(near in prefix for prefix in denied) and (
            not allowed or any(near in prefix for prefix in allowed)
        )
        if getattr(near, "ipv4_mapped", None) is None:
            assert Callers(tuple(allowed), tuple(denied)).admit(near) is may


def test_prefix_that_is_none_is_refused_with_the_form() -> None:
    assert prefix_text("192.0.2.9/24") == "192.0.2.0/24"
    with pytest.raises(CallersError, match="write an address, or ADDRESS/LENGTH"):
        prefix_text("peer.example.org")
    with pytest.raises(CallersError, match="more than"):
        Callers.parse([f"10.{number >> 8}.{number & 255}.0/24" for number in range(2000)], [])


# --- the table --------------------------------------------------------------------------------------------------------


def test_whoever_waits_is_due_at_once_when_the_machine_has_a_new_address() -> None:
    table = PeerTable()
    table.add("tcp://192.0.2.1:1", 0.0)
    for _ in range(4):
        table.try_all(0.0)
        table.take_due(0.0)
        table.failed("tcp://192.0.2.1:1", "no route", 0.0, 0.5)
    assert table.take_due(0.5) == []
    assert table.try_all(0.5)
    assert table.take_due(0.5) == ["tcp://192.0.2.1:1"]
    assert not table.try_all(0.5), "it is being dialled"
    table.failed("tcp://192.0.2.1:1", "no route", 0.5, 0.5)
    assert table.next_deadline() == 0.5 + PAUSES_SECONDS[0]


def test_peer_by_name_says_where_it_was_reached() -> None:
    table = PeerTable()
    (peer,) = [table.add("tcp://peer:9651", 0.0)]
    table.take_due(0.0)
    table.connected("tcp://peer:9651", 1, 0.0, "tcp://192.0.2.1:9651")
    assert (peer.endpoint, peer.reached) == ("tcp://peer:9651", "tcp://192.0.2.1:9651")
