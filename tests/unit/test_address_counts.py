"""Packets and bytes by address: they add up, and addresses that fell silent make room."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.accounting import MAX_ADDRESSES, AddressCounts


def _address(number: int) -> bytes:
    return number.to_bytes(16, "big")


def test_packets_and_bytes_of_an_address_add_up() -> None:
    counts = AddressCounts()
    counts.add(_address(1), 2, 300)
    counts.add(_address(2), 1, 40)
    counts.add(_address(1), 3, 1000)
    assert sorted(counts) == [(_address(1), 5, 1300), (_address(2), 1, 40)]
    assert counts.forgotten == 0


def test_address_that_was_silent_for_longest_makes_room() -> None:
    counts = AddressCounts(limit=2)
    counts.add(_address(1), 1, 1)
    counts.add(_address(2), 1, 1)
    counts.add(_address(1), 1, 1)
    counts.add(_address(3), 1, 1)
    assert {address for address, _, _ in counts} == {_address(1), _address(3)}
    assert counts.forgotten == 1


def test_table_is_bounded_without_being_told() -> None:
    counts = AddressCounts()
    for number in range(MAX_ADDRESSES + 10):
        counts.add(_address(number), 1, 1)
    assert len(list(counts)) == MAX_ADDRESSES
    assert counts.forgotten == 10


@pytest.mark.parametrize("limit", [1, 3, 8])
@given(added=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5), st.integers(0, 99)), max_size=60))
def test_counts_equal_those_of_a_list_that_is_searched(limit: int, added: list[tuple[int, int, int]]) -> None:
    counts = AddressCounts(limit)
    obvious: list[tuple[bytes, int, int]] = []
    for number, packets, octets in added:
        counts.add(_address(number), packets, octets)
        before = [row for row in obvious if row[0] == _address(number)] or [(_address(number), 0, 0)]
        obvious = [row for row in obvious if row[0] != _address(number)]
        obvious.append((_address(number), before[0][1] + packets, before[0][2] + octets))
        obvious = obvious[-limit:]
    assert list(counts) == obvious
