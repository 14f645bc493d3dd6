"""The walk from packet to packet, held against packets of a separate factory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.mycelium.resume import cut_packets, packet_end
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


@given(st.lists(PACKETS, min_size=1, max_size=5), st.lists(st.integers(1, 400), min_size=1, max_size=20))
def test_stream_is_cut_into_its_packets_however_it_arrives(packets: list[bytes], sizes: list[int]) -> None:
    whole = b"".join(packets)
    stream, cut, start = bytearray(), [], 0
    while start < len(whole):
        # The first 20 pieces, then all the rest.
        end = start + sizes.pop() if sizes else len(whole)
        stream += whole[start:end]
        cut += cut_packets(stream)
        start = end
    assert cut == packets
    assert not stream


@pytest.mark.parametrize("held_back", range(1, 28))
def test_header_that_arrives_in_two_parts_is_waited_for(held_back: int) -> None:
    first, second = factory.data(bytes(50)), factory.control(bytes(range(20)))
    stream = bytearray(first + second[:-held_back])
    cut = cut_packets(stream)
    stream += second[-held_back:]
    assert [*cut, *cut_packets(stream)] == [first, second]


def test_what_is_no_packet_is_given_as_it_lies_there() -> None:
    stream = bytearray(factory.hello() + b"\x02garbage that goes on and on")
    assert cut_packets(stream) == [factory.hello(), b"\x02garbage that goes on and on"]
    assert not stream
