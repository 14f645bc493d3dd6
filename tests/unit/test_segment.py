"""Super-packets cut into segments, against segments made one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.offload.segment import count_segments, segment
from protocol.offload.vnet import OffloadError, VnetHeader
from tests.unit.ip_packets import ACK, CWR, ECE, FIN, PSH, TIMESTAMPS, checksum_is_right, cut, tcp, udp

BEFORE, AFTER = 44, 28
"""The room a data packet of the overlay needs around its body."""


def tcp_header(size: int, *, ecn: bool = False) -> VnetHeader:
    return VnetHeader(1, 0x84 if ecn else 4, 60, size, 40, 16)


def udp_header(size: int) -> VnetHeader:
    return VnetHeader(1, 5, 48, size, 40, 6)


def segments_of(packet: bytes, header: VnetHeader, room: int = 1 << 18) -> list[bytes]:
    out = memoryview(bytearray(room))
    return [bytes(out[at : at + length]) for at, length in segment(packet, header, out, BEFORE, AFTER)]


payloads = st.binary(min_size=1, max_size=400) | st.integers(1, 9000).map(lambda length: (b"mycelium" * 1125)[:length])


@given(
    payloads,
    st.integers(8, 2000),
    st.integers(0, 2**32 - 1),
    st.sampled_from([ACK, ACK | PSH, ACK | FIN, ACK | PSH | FIN | CWR | ECE]),
    st.sampled_from([b"", TIMESTAMPS, bytes(40)]),
)
def test_tcp_segments_are_those_made_one_by_one(
    payload: bytes, size: int, sequence: int, flags: int, options: bytes
) -> None:
    packet = tcp(payload, sequence=sequence, flags=flags, options=options, partial=True)
    assert segments_of(packet, tcp_header(size), 1 << 20) == list(cut(packet, size))


@given(payloads, st.integers(1, 2000))
def test_udp_segments_are_those_made_one_by_one(payload: bytes, size: int) -> None:
    size = max(size, -(-len(payload) // 128))
    packet = udp(payload, partial=True)
    assert segments_of(packet, udp_header(size), 1 << 20) == list(cut(packet, size))


def test_largest_super_packet_is_cut_whole() -> None:
    packet = tcp(bytes(range(256)) * 255 + bytes(155), partial=True, options=TIMESTAMPS, hop_limit=9)
    segments = segments_of(packet, tcp_header(1270))
    assert b"".join(piece[72:] for piece in segments) == packet[72:]
    assert all(map(checksum_is_right, segments))
    assert [len(piece) for piece in segments] == [1342] * 51 + [72 + 65_435 - 51 * 1270]


def test_sequence_number_wraps_around() -> None:
    packet = tcp(bytes(300), sequence=2**32 - 150, partial=True)
    assert [piece[44:48].hex() for piece in segments_of(packet, tcp_header(100))] == [
        "ffffff6a",
        "ffffffce",
        "00000032",
    ]


def test_push_and_fin_stay_with_the_last_segment_and_cwr_with_the_first() -> None:
    packet = tcp(bytes(300), flags=ACK | PSH | FIN | CWR | ECE, partial=True)
    flags = [piece[53] for piece in segments_of(packet, tcp_header(100, ecn=True))]
    assert flags == [ACK | ECE | CWR, ACK | ECE, ACK | ECE | PSH | FIN]


def test_udp_checksum_of_zero_becomes_all_ones() -> None:
    cancels_the_rest = udp(bytes(4))[46:48]
    first, second = segments_of(udp(cancels_the_rest + bytes(2) + b"rest", partial=True), udp_header(4))
    assert first[46:48] == b"\xff\xff"
    assert checksum_is_right(first)
    assert second == udp(b"rest")


def test_tcp_checksum_of_zero_stays_zero() -> None:
    cancels_the_rest = tcp(bytes(8))[56:58]
    first, _ = segments_of(tcp(cancels_the_rest + bytes(6) + b"rest", partial=True), tcp_header(8))
    assert first[56:58] == b"\0\0"
    assert checksum_is_right(first)


def test_segment_larger_than_the_payload_is_one_packet() -> None:
    assert segments_of(tcp(b"all of it", partial=True), tcp_header(65_535)) == [tcp(b"all of it")]


def test_room_around_every_segment_is_left_as_it_was() -> None:
    packet = tcp(bytes(1000), partial=True)
    out = bytearray(b"\xa5" * 4000)
    places = segment(packet, tcp_header(300), memoryview(out), BEFORE, AFTER)
    assert places == [(44, 360), (476, 360), (908, 360), (1340, 160)]
    for at, length in places:
        out[at : at + length] = b"\xa5" * length
    assert out == b"\xa5" * 4000


@pytest.mark.parametrize(
    "packet", [tcp(bytes(range(250)) * 4, flags=ACK | PSH | CWR, partial=True), udp(bytes(1000), partial=True)]
)
@pytest.mark.parametrize("room", [432, 863, 864, 1200, 1296, 1440, 1526, 1527, 1528, 5000])
def test_what_does_not_fit_is_cut_in_further_rounds(packet: bytes, room: int) -> None:
    header = tcp_header(300) if packet[6] == 6 else udp_header(300)
    pieces: list[bytes] = []
    while len(pieces) < count_segments(packet, header):
        out = memoryview(bytearray(room))
        places = segment(packet, header, out, BEFORE, AFTER, first=len(pieces))
        assert all(at + length + AFTER <= room for at, length in places)
        pieces += [bytes(out[at : at + length]) for at, length in places]
    assert pieces == list(cut(packet, 300))


def test_exactly_enough_room_is_enough() -> None:
    packet = tcp(bytes(1000), partial=True)
    assert len(segments_of(packet, tcp_header(300), 3 * 432 + 44 + 60 + 100 + 28)) == 4
    assert len(segments_of(packet, tcp_header(300), 3 * 432 + 44 + 60 + 100 + 27)) == 3


def test_room_for_less_than_one_segment_is_refused() -> None:
    with pytest.raises(OffloadError, match="no segment of 432 bytes fits 431"):
        segments_of(tcp(bytes(1000), partial=True), tcp_header(300), 431)


@pytest.mark.parametrize("first", [-1, 4, 5])
def test_segment_number_out_of_range_is_refused(first: int) -> None:
    with pytest.raises(OffloadError, match=f"no segment number {first}"):
        segment(tcp(bytes(1000), partial=True), tcp_header(300), memoryview(bytearray(5000)), 0, 0, first)


@pytest.mark.parametrize(
    ("packet", "header"),
    [
        (tcp(bytes(1000), partial=True), VnetHeader(1, 1, 40, 300, 20, 16)),
        (tcp(bytes(1000), partial=True), udp_header(300)),
        (udp(bytes(1000), partial=True), tcp_header(300)),
        (tcp(bytes(1000), partial=True), VnetHeader(1, 0, 0, 0, 40, 16)),
    ],
)
def test_packet_that_is_not_what_its_header_says_is_not_cut(packet: bytes, header: VnetHeader) -> None:
    with pytest.raises(OffloadError):
        segments_of(packet, header)
    with pytest.raises(OffloadError):
        count_segments(packet, header)
