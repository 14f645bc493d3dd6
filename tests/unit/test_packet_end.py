"""The walk from packet to packet, held against packets of a separate factory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.mycelium.resume import packet_end
from tests.unit import wire_factory as factory

PACKETS = st.one_of(
    st.binary(max_size=300).map(factory.data),
    st.binary(max_size=300).map(factory.control),
    st.sampled_from([factory.hello(), factory.update(), factory.data(bytes(0xFFFF)), factory.control(bytes(0xFFFF))]),
)


@given(st.lists(PACKETS, min_size=1, max_size=5))
def test_walk_visits_every_packet(packets: list[bytes]) -> None:
    piece = memoryview(b"".join(packets))
    start = 0
    for packet in packets:
        end = packet_end(piece, start)
        assert end == start + len(packet)
        start = end
    assert packet_end(piece, start) == 0


@pytest.mark.parametrize("header", [b"\x02\0", b"\x01\x02", b"\0\0", b"\xff\xff"])
def test_no_packet_begins_with_another_version_or_type(header: bytes) -> None:
    assert packet_end(header + bytes(60), 0) == 0


def test_end_of_a_packet_that_is_not_all_there_is_told() -> None:
    packet = factory.data(bytes(100))
    assert packet_end(packet[:8], 0) == len(packet)
    assert packet_end(packet[:7], 0) == 0
