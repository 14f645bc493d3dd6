"""Routing netlink as a kernel spoke it, and what its news mean for the addresses of this machine."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.interfaces import MAX_ADDRESSES, Change, Interfaces, local_address
from protocol.netlink import AddressNews, DumpDone, LinkNews, ask_addresses, ask_links, parse

RECORDED = [
    bytes.fromhex(text)
    for text in json.loads(Path(__file__).parents[1].joinpath("vectors/netlink_recorded.json").read_text())["datagrams"]
]
ADDRESS = socket.inet_aton("192.0.2.1")
UP, LOOPBACK, POINT_TO_POINT, RUNNING, MULTICAST = 0x1, 0x8, 0x10, 0x40, 0x1000
WORKS = UP | RUNNING | MULTICAST
LINK_LOCAL = bytes.fromhex("fe80000000000000" + "0000000000000001")


def test_recorded_datagrams_say_what_the_kernel_did() -> None:
    assert [list(parse(data)) for data in RECORDED] == [
        [LinkNews(3, "veth0", "veth", 0x1002)],
        [LinkNews(3, "veth0", "veth", 0x1003)],
        [LinkNews(3, "veth0", "veth", 0x11043)],
        [AddressNews(3, ADDRESS, True)],
        [LinkNews(3, "veth0", "veth", 0x1003)],
        [AddressNews(3, ADDRESS, False)],
        [LinkNews(3, "veth0", "veth", 0)],
    ]


def test_address_is_usable_while_its_interface_has_a_carrier() -> None:
    interfaces = Interfaces()
    changes = [interfaces.apply(parse(data)) for data in RECORDED]
    nothing: Change = Change(frozenset(), frozenset())
    mine = frozenset({(ADDRESS, 0)})
    assert changes == [
        nothing,
        nothing,
        nothing,
        Change(frozenset(), mine),
        Change(mine, frozenset()),
        nothing,
        nothing,
    ]


def test_kernel_answers_the_requests() -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as asker:
        asker.settimeout(5)
        found = []
        for request in (ask_links(1), ask_addresses(2)):
            asker.send(request)
            while not found or not isinstance(found[-1], DumpDone):
                found += parse(asker.recv(1 << 16))
            found.append(LinkNews(0, "", "", 0))
    names = {news.name for news in found if isinstance(news, LinkNews)}
    assert {name for _, name in socket.if_nameindex()} <= names


def test_interface_that_is_not_known_yet_is_asked_for_before_its_addresses() -> None:
    interfaces = Interfaces()
    assert not interfaces.apply([AddressNews(9, ADDRESS, True)]).gained
    assert interfaces.apply([LinkNews(9, "eth0", "", WORKS), AddressNews(9, ADDRESS, True)]).gained


def test_address_that_moves_to_another_interface_is_not_lost() -> None:
    interfaces = Interfaces()
    both = [LinkNews(1, "eth0", "", WORKS), LinkNews(2, "eth1", "", WORKS)]
    interfaces.apply([*both, AddressNews(1, ADDRESS, True)])
    change = interfaces.apply([AddressNews(1, ADDRESS, False), AddressNews(2, ADDRESS, True)])
    assert change == Change(frozenset(), frozenset())


def test_link_local_address_belongs_to_its_interface() -> None:
    assert local_address(LINK_LOCAL, 3) == (LINK_LOCAL, 3)
    assert local_address(bytes(10) + b"\xff\xff" + ADDRESS, 3) == (ADDRESS, 0)
    interfaces = Interfaces()
    interfaces.apply(
        item
        for index in (1, 2)
        for item in (LinkNews(index, f"eth{index}", "", WORKS), AddressNews(index, LINK_LOCAL, True))
    )
    assert interfaces.apply([LinkNews(1, "eth1", "", 0)]).lost == {(LINK_LOCAL, 1)}


def test_missed_news_are_made_up_for_by_asking_again() -> None:
    interfaces = Interfaces()
    other = socket.inet_aton("192.0.2.2")
    interfaces.apply([LinkNews(1, "eth0", "", WORKS), AddressNews(1, ADDRESS, True), AddressNews(1, other, True)])
    interfaces.forget()
    change = interfaces.apply([LinkNews(1, "eth0", "", WORKS), AddressNews(1, other, True)])
    assert change == Change(frozenset({(ADDRESS, 0)}), frozenset())


@pytest.mark.parametrize(
    ("flags", "kind", "address", "fit"),
    [
        (WORKS, "", LINK_LOCAL, True),
        (UP | MULTICAST, "", LINK_LOCAL, True),
        (RUNNING | MULTICAST, "", LINK_LOCAL, False),
        (UP | RUNNING, "", LINK_LOCAL, False),
        (WORKS | LOOPBACK, "", LINK_LOCAL, False),
        (WORKS | POINT_TO_POINT, "", LINK_LOCAL, False),
        (WORKS, "tun", LINK_LOCAL, False),
        (WORKS, "", ADDRESS, False),
    ],
)
def test_neighbours_are_looked_for_where_the_reference_looks(flags: int, kind: str, address: bytes, fit: bool) -> None:
    interfaces = Interfaces()
    interfaces.apply([LinkNews(1, "eth0", kind, flags), AddressNews(1, address, True)])
    (interface,) = interfaces
    assert interface.fit_for_discovery is fit


def test_addresses_have_a_bound() -> None:
    interfaces = Interfaces()
    news = [AddressNews(1, number.to_bytes(4, "big"), True) for number in range(MAX_ADDRESSES + 5)]
    assert len(interfaces.apply([LinkNews(1, "eth0", "", WORKS), *news]).gained) == MAX_ADDRESSES


@given(st.binary(max_size=200), st.integers(0, len(RECORDED) - 1), st.integers(0, 600))
def test_any_datagram_gives_news_or_nothing(garbage: bytes, number: int, cut: int) -> None:
    data = RECORDED[number]
    for bent in (garbage, data[:cut], data[:cut] + garbage):
        Interfaces().apply(parse(bent))
