"""The forwarding table replica against a slow, obvious longest-prefix match, and its numbered deltas."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.forwarding import Change, ForwardingError, ForwardingTable, Route
from protocol.frames import RouteState
from protocol.prefix import Prefix

KEY = bytes(range(32))
NETWORK = bytes.fromhex("04aa000000000001") + bytes(8)
HOST = NETWORK[:8] + bytes(7) + b"\x01"


def change(network: bytes = NETWORK, length: int = 64, link: int = 1, state: int = RouteState.SELECTED) -> Change:
    return network, length, state, link, KEY, False


def forgotten(network: bytes = NETWORK, length: int = 64) -> Change:
    return network, length, RouteState.FORGOTTEN, 0, b"", False


def loaded(*changes: Change) -> ForwardingTable:
    table = ForwardingTable()
    table.load(10, changes)
    return table


def link_to(table: ForwardingTable, destination: bytes) -> int | None:
    route = table.lookup(destination)
    return None if route is None else route.link


def test_a_route_says_all_that_the_packet_path_needs() -> None:
    table = loaded((NETWORK, 64, RouteState.SELECTED, 3, KEY, True))

    assert table.lookup(HOST) == Route(RouteState.SELECTED, 3, KEY, True)


def test_an_unknown_destination_has_no_route() -> None:
    assert loaded().lookup(HOST) is None


def test_a_longer_prefix_wins_inside_it_and_only_there() -> None:
    table = loaded(change(link=1), change(HOST, 128, link=2), change(NETWORK, 65, link=3))

    assert link_to(table, HOST) == 2
    assert link_to(table, NETWORK[:8] + b"\x00" * 7 + b"\x02") == 3
    assert link_to(table, NETWORK[:8] + b"\xff" * 8) == 1


def test_a_longer_prefix_needs_no_shorter_one() -> None:
    table = loaded(change(HOST, 128, link=2))

    assert link_to(table, HOST) == 2
    assert link_to(table, NETWORK) is None
    assert len(table) == 1


def test_an_unreachable_longer_prefix_hides_the_shorter_one() -> None:
    table = loaded(change(), change(HOST, 128, state=RouteState.UNREACHABLE))

    route = table.lookup(HOST)
    assert route is not None
    assert route.state == RouteState.UNREACHABLE


def test_a_forgotten_prefix_is_gone() -> None:
    table = loaded(change(), change(HOST, 128, link=2))

    assert table.apply(11, [forgotten(HOST, 128), forgotten(HOST, 127), forgotten(bytes(16))])
    assert link_to(table, HOST) == 1
    assert table.apply(12, [forgotten()])

    assert table.lookup(HOST) is None
    assert len(table) == 0


def test_the_shorter_prefix_can_go_first() -> None:
    table = loaded(change(), change(HOST, 128, link=2))

    table.apply(11, [forgotten()])
    assert len(table) == 1
    table.apply(12, [forgotten(HOST, 128)])

    assert len(table) == 0
    assert table._subnets == {}


def test_the_next_delta_is_applied() -> None:
    table = loaded()

    assert table.apply(11, [change()])
    assert link_to(table, HOST) == 1
    assert table.serial == 11


def test_a_missed_delta_changes_nothing_and_asks_for_a_snapshot() -> None:
    table = loaded()

    assert not table.apply(12, [change()])
    assert table.lookup(HOST) is None


def test_a_delta_that_the_snapshot_already_held_changes_nothing() -> None:
    table = loaded(change(link=5))

    assert table.apply(10, [change(link=1)])
    assert link_to(table, HOST) == 5


def test_before_a_snapshot_no_delta_will_do() -> None:
    assert not ForwardingTable().apply(1, [change()])


def test_a_snapshot_replaces_everything() -> None:
    table = loaded(change(), change(HOST, 128))

    table.load(50, [change(bytes.fromhex("05bb") + bytes(14), link=9)])

    assert len(table) == 1
    assert table.serial == 50


@pytest.mark.parametrize(
    "bad", [change(length=63), change(length=129), change(network=b"\x04" * 8)], ids=["/63", "/129", "short"]
)
def test_what_cannot_be_in_a_forwarding_table_is_an_error(bad: Change) -> None:
    table = loaded()

    with pytest.raises(ForwardingError, match="/64 to /128 belong there"):
        table.apply(11, [bad])
    with pytest.raises(ForwardingError):
        table.load(12, [bad])
    assert table.serial is None


addresses = st.builds(
    lambda subnet, host: bytes.fromhex("0400000000000000")[:7] + bytes([subnet]) + host,
    st.integers(0, 2),
    st.sampled_from([bytes(8), b"\xff" * 8, bytes(7) + b"\x01", b"\x80" + bytes(7), b"\x80" + bytes(6) + b"\x01"]),
)
prefixes = st.builds(Prefix.of, addresses, st.sampled_from([64, 65, 66, 120, 127, 128]))
steps = st.lists(st.tuples(prefixes, st.integers(0, 3), st.integers(1, 5)), max_size=40)


@given(steps, st.lists(addresses, min_size=1, max_size=10))
def test_lookups_agree_with_a_slow_longest_match(moves: list[tuple[Prefix, int, int]], asked: list[bytes]) -> None:
    table = ForwardingTable()
    table.load(0, [])
    plain: dict[Prefix, tuple[int, int]] = {}
    for serial, (prefix, state, link) in enumerate(moves, start=1):
        assert table.apply(serial, [change(prefix.network, prefix.length, link, state)])
        plain.pop(prefix, None)
        if state != RouteState.FORGOTTEN:
            plain[prefix] = (state, link)

    assert len(table) == len(plain)
    assert sorted(table.prefixes()) == sorted((prefix.network, prefix.length) for prefix in plain)
    for destination in asked:
        matching = [prefix for prefix in plain if prefix.contains(destination)]
        longest = max(matching, key=lambda prefix: prefix.length, default=None)
        route = table.lookup(destination)
        found = None if route is None else (route.state, route.link)
        assert found == (None if longest is None else plain[longest])
