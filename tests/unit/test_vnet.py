"""The virtio header, checksums left to be completed, and the E2 trailer: what they say and which lies are refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.offload.complete import complete_checksum
from protocol.offload.trailer import append_trailer, split_trailer
from protocol.offload.vnet import PLAIN, OffloadError, VnetHeader, check, check_super_packet
from tests.unit.ip_packets import ACK, CWR, TIMESTAMPS, checksum_is_right, folded_sum, ipv6, tcp, udp

TCP_BYTES = bytes.fromhex("01 04 4800 f604 2800 1000")
"""As Linux hands them over with a TCP super-packet: 72 bytes of headers, segments of 1270."""
TCP_HEADER = VnetHeader(1, 4, 72, 1270, 40, 16)
UDP_HEADER = VnetHeader(1, 5, 48, 1000, 40, 6)

TCP_PACKET = tcp(bytes(range(250)) * 20, options=TIMESTAMPS, partial=True)
UDP_PACKET = udp(bytes(range(250)) * 18, partial=True)


def patched(packet: bytes, at: int, value: bytes) -> bytes:
    return packet[:at] + value + packet[at + len(value) :]


def test_header_of_the_kernel_is_read_field_by_field() -> None:
    assert VnetHeader.parse(TCP_BYTES + b"more") == TCP_HEADER


def test_header_is_written_as_the_kernel_reads_it() -> None:
    assert TCP_HEADER.pack() == TCP_BYTES
    assert bytes(10) == PLAIN


def test_fewer_than_ten_bytes_are_no_header() -> None:
    with pytest.raises(OffloadError, match="9 bytes"):
        VnetHeader.parse(bytes(9))


@pytest.mark.parametrize(
    "header",
    [
        VnetHeader(),
        VnetHeader(flags=2),
        VnetHeader(1, 0, 0, 0, 40, 16),
        VnetHeader(1, 0, 1500, 0, 48, 6),
        VnetHeader(1, 0, 0, 0, 1482, 16),
        VnetHeader(1, 4, 1500, 8, 40, 16),
        VnetHeader(1, 0x84, 72, 1270, 40, 16),
        VnetHeader(1, 5, 1, 1, 40, 6),
    ],
)
def test_header_that_can_be_true_is_accepted(header: VnetHeader) -> None:
    check(header, 1500)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (VnetHeader(hdr_len=1501), "hdr_len 1501 in a packet of 1500"),
        (VnetHeader(1, 0, 0, 0, 38, 16), "no IPv6 packet"),
        (VnetHeader(1, 0, 0, 0, 41, 16), "no IPv6 packet"),
        (VnetHeader(1, 0, 0, 0, 40, 5), "no IPv6 packet"),
        (VnetHeader(1, 0, 0, 0, 1484, 16), r"checksum at 1484\+16 of a packet of 1500"),
        (VnetHeader(1, 0, 0, 0, 65_534, 65_534), "checksum at"),
        (VnetHeader(1, 1, 40, 1270, 40, 16), "neither TCP over IPv6 nor UDP"),
        (VnetHeader(1, 3, 40, 1270, 40, 16), "neither TCP over IPv6 nor UDP"),
        (VnetHeader(1, 0x80, 40, 1270, 40, 16), "neither TCP over IPv6 nor UDP"),
        (VnetHeader(1, 0x85, 48, 1270, 40, 6), "neither TCP over IPv6 nor UDP"),
        (VnetHeader(1, 4, 72, 0, 40, 16), "segments of 0 bytes, at least 8"),
        (VnetHeader(1, 4, 72, 7, 40, 16), "segments of 7 bytes, at least 8"),
        (VnetHeader(1, 5, 48, 0, 40, 6), "segments of 0 bytes, at least 1"),
        (VnetHeader(0, 4, 72, 1270, 40, 16), "must leave its checksum"),
        (VnetHeader(2, 4, 72, 1270, 40, 16), "must leave its checksum"),
        (VnetHeader(1, 4, 72, 1270, 48, 16), r"expected 40\+16"),
        (VnetHeader(1, 4, 72, 1270, 40, 6), r"expected 40\+16"),
        (VnetHeader(1, 5, 72, 1270, 40, 16), r"expected 40\+6"),
    ],
)
def test_lying_header_is_refused(header: VnetHeader, reason: str) -> None:
    with pytest.raises(OffloadError, match=reason):
        check(header, 1500)


@pytest.mark.parametrize(("packet", "header", "length"), [(TCP_PACKET, TCP_HEADER, 72), (UDP_PACKET, UDP_HEADER, 48)])
@pytest.mark.parametrize("hdr_len", [0, 60, 4000])
def test_length_of_the_headers_is_taken_from_the_packet(
    packet: bytes, header: VnetHeader, length: int, hdr_len: int
) -> None:
    assert check_super_packet(packet, header._replace(hdr_len=hdr_len)) == length


LYING_PACKETS = [
    (TCP_PACKET, VnetHeader(), "no GSO type"),
    (patched(TCP_PACKET, 0, b"\x45"), TCP_HEADER, "IP version 4"),
    (TCP_PACKET + b"\0", TCP_HEADER, "payload length 5032 in a packet of 5073"),
    (TCP_PACKET[:-1], TCP_HEADER, "payload length 5032 in a packet of 5071"),
    (patched(TCP_PACKET, 6, b"\x11"), TCP_HEADER, "next header 17, expected 6"),
    (TCP_PACKET, UDP_HEADER, "next header 6, expected 17"),
    (patched(TCP_PACKET, 6, b"\x2c"), TCP_HEADER, "next header 44, expected 6"),
    (patched(TCP_PACKET, 52, b"\x40"), TCP_HEADER, "a TCP header of 16 bytes"),
    (tcp(b"", partial=True), TCP_HEADER._replace(hdr_len=60), "no payload"),
    (patched(tcp(bytes(10), partial=True), 52, b"\xf0"), TCP_HEADER._replace(hdr_len=60), "no payload"),
    (patched(UDP_PACKET, 44, b"\0\0"), UDP_HEADER, "UDP length 0 in"),
    (udp(b"", partial=True), UDP_HEADER, "no payload"),
    (UDP_PACKET, UDP_HEADER._replace(gso_size=35), "more than 128"),
]


@pytest.mark.parametrize(("packet", "header", "reason"), LYING_PACKETS)
def test_header_that_does_not_fit_its_packet_is_refused(packet: bytes, header: VnetHeader, reason: str) -> None:
    with pytest.raises(OffloadError, match=reason):
        check_super_packet(packet, header)


def test_as_many_datagrams_as_the_kernel_makes_are_accepted() -> None:
    assert check_super_packet(UDP_PACKET, UDP_HEADER._replace(gso_size=36)) == 48


@given(st.binary(max_size=100), st.builds(VnetHeader, *[st.integers(0, 255)] * 2, *[st.integers(0, 65_535)] * 4))
def test_any_header_on_any_bytes_is_refused_or_fits(packet: bytes, header: VnetHeader) -> None:
    try:
        length = check_super_packet(packet, header)
    except OffloadError:
        return
    assert length < len(packet)


@given(st.binary(max_size=300), st.integers(0, 65_535))
def test_partial_checksum_is_completed(payload: bytes, acknowledged: int) -> None:
    packet = bytearray(tcp(payload, acknowledged=acknowledged, partial=True))
    complete_checksum(memoryview(packet), VnetHeader(1, 0, 0, 0, 40, 16))
    assert checksum_is_right(bytes(packet))
    assert packet[:56] + packet[58:] == (whole := tcp(payload, acknowledged=acknowledged))[:56] + whole[58:]


def test_partial_checksum_behind_an_extension_header_is_completed() -> None:
    plain = udp(b"behind a hop-by-hop header")
    packet = bytearray(
        ipv6(0, bytes.fromhex("1100 01040000 0000") + udp(b"behind a hop-by-hop header", partial=True)[40:])
    )
    complete_checksum(memoryview(packet), VnetHeader(1, 0, 0, 0, 48, 6))
    assert packet[48:] == plain[40:]


def test_udp_checksum_of_zero_is_written_as_all_ones() -> None:
    ends_in_zero = udp(bytes(2))
    payload = ends_in_zero[46:48]
    packet = bytearray(udp(payload, partial=True))
    complete_checksum(memoryview(packet), VnetHeader(1, 0, 0, 0, 40, 6))
    assert packet[46:48] == b"\xff\xff"


def test_complete_checksum_is_left_alone() -> None:
    packet = bytearray(udp(b"complete"))
    complete_checksum(memoryview(packet), VnetHeader(flags=2))
    assert packet == udp(b"complete")


@pytest.mark.parametrize("header", [TCP_HEADER, VnetHeader(1, 0, 0, 0, 40, 65_532)])
def test_packet_stays_as_it_is_when_its_checksum_cannot_be_completed(header: VnetHeader) -> None:
    packet = bytearray(TCP_PACKET)
    with pytest.raises(OffloadError):
        complete_checksum(memoryview(packet), header)
    assert packet == TCP_PACKET


def test_trailer_lies_behind_the_packet() -> None:
    buffer = memoryview(bytearray(TCP_PACKET + bytes(20)))
    end = append_trailer(buffer, len(TCP_PACKET), TCP_HEADER._replace(flags=3, hdr_len=4000))
    assert bytes(buffer[:end]) == TCP_PACKET + TCP_BYTES


@pytest.mark.parametrize(
    ("packet", "header"),
    [
        (TCP_PACKET, TCP_HEADER),
        (tcp(bytes(3000), flags=ACK | CWR, options=TIMESTAMPS, partial=True), TCP_HEADER._replace(gso_type=0x84)),
        (UDP_PACKET, UDP_HEADER),
    ],
)
def test_trailer_comes_back_with_its_packet(packet: bytes, header: VnetHeader) -> None:
    found, read = split_trailer(memoryview(packet + header.pack()))
    assert (bytes(found), read) == (packet, header)


def test_trailer_needs_room_behind_the_packet() -> None:
    buffer = memoryview(bytearray(TCP_PACKET + bytes(9)))
    with pytest.raises(OffloadError, match="no room for a trailer behind 5072 bytes in a buffer of 5081"):
        append_trailer(buffer, len(TCP_PACKET), TCP_HEADER)
    assert bytes(buffer[len(TCP_PACKET) :]) == bytes(9)


def test_trailer_is_for_super_packets_only() -> None:
    with pytest.raises(OffloadError, match="not a super-packet"):
        append_trailer(memoryview(bytearray(TCP_PACKET + bytes(10))), len(TCP_PACKET), VnetHeader(1, 0, 0, 0, 40, 16))


@pytest.mark.parametrize(("packet", "header", "reason"), LYING_PACKETS)
def test_lying_trailer_is_refused(packet: bytes, header: VnetHeader, reason: str) -> None:
    with pytest.raises(OffloadError, match=reason):
        split_trailer(memoryview(packet + header.pack()))


@pytest.mark.parametrize("length", [0, 9, 10, 49])
def test_body_too_short_for_a_trailer_is_refused(length: int) -> None:
    with pytest.raises(OffloadError):
        split_trailer(memoryview((TCP_BYTES * 5)[:length]))


@given(st.sampled_from([(TCP_PACKET, TCP_HEADER), (UDP_PACKET, UDP_HEADER)]), st.integers(0, 79), st.integers(1, 255))
def test_flipped_bits_of_a_trailer_never_reach_the_kernel(
    whole: tuple[bytes, VnetHeader], bit: int, flips: int
) -> None:
    packet, header = whole
    trailer = bytearray(header.pack())
    trailer[bit // 8] ^= flips
    try:
        _, read = split_trailer(memoryview(packet + bytes(trailer)))
    except OffloadError:
        return
    assert read._replace(gso_size=0, gso_type=0) == header._replace(gso_size=0, gso_type=0)
    assert read.gso_size == struct.unpack_from("<H", trailer, 4)[0] >= 8
    assert read.gso_type & 0x7F == header.gso_type


def test_checksums_of_these_tests_agree_with_the_example_of_rfc_1071() -> None:
    assert folded_sum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2
