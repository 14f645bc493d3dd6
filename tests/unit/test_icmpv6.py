"""ICMPv6 errors for the host, and the checksum, against computed packets and the word-by-word sum of RFC 1071."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.checksum import internet_checksum, pseudo_header_sum
from protocol.icmpv6 import IcmpError, error_packet, may_answer
from tests.unit import wire_factory as factory

LOCAL = factory.vectors("wire.json")["local_icmp"]
KINDS = {
    "source-address-failed-policy": IcmpError.SOURCE_POLICY,
    "own-subnet-address-unreachable": IcmpError.ADDRESS_UNREACHABLE,
}


class TestChecksum:
    @given(st.binary(max_size=300))
    def test_checksum_is_the_sum_word_by_word(self, data: bytes) -> None:
        assert internet_checksum(data) == factory.slow_checksum(data)

    @pytest.mark.parametrize("data", [b"", bytes(8), b"\xff\xff", b"\xff\xff" * 4, b"\x00\x01\xff\xfe", b"\xff"])
    def test_both_zeros_of_ones_complement_come_out_as_word_by_word(self, data: bytes) -> None:
        assert internet_checksum(data) == factory.slow_checksum(data)

    @given(st.binary(max_size=100), st.binary(min_size=32, max_size=32), st.integers(0, 255))
    def test_pseudo_header_counts_as_bytes_in_front(self, data: bytes, addresses: bytes, next_header: int) -> None:
        initial = pseudo_header_sum(addresses[:16], addresses[16:], len(data), next_header)
        in_front = addresses + struct.pack("!II", len(data), next_header)
        assert internet_checksum(data, initial) == factory.slow_checksum(in_front + data)

    def test_example_of_rfc_1071(self) -> None:
        assert internet_checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF ^ 0xDDF2


class TestErrorPacket:
    @pytest.mark.parametrize("entry", LOCAL, ids=lambda entry: entry["name"])
    def test_error_about_a_host_packet_is_the_one_of_the_vector(self, entry: dict[str, str]) -> None:
        read = bytes.fromhex(entry["packet_read_from_tun"])
        made = error_packet(KINDS[entry["name"]], factory.ALICE, read[8:24], read)
        assert made.hex() == entry["packet_written_to_tun"]

    @pytest.mark.parametrize(
        ("kind", "numbers"),
        [
            (IcmpError.NO_ROUTE, (1, 0)),
            (IcmpError.ADDRESS_UNREACHABLE, (1, 3)),
            (IcmpError.SOURCE_POLICY, (1, 5)),
            (IcmpError.PACKET_TOO_BIG, (2, 0)),
            (IcmpError.HOP_LIMIT, (3, 0)),
        ],
    )
    def test_error_has_its_type_and_code(self, kind: IcmpError, numbers: tuple[int, int]) -> None:
        assert tuple(error_packet(kind, factory.ALICE, factory.BOB, b"")[40:42]) == numbers

    def test_packet_too_big_carries_the_mtu(self) -> None:
        made = error_packet(IcmpError.PACKET_TOO_BIG, factory.ALICE, factory.BOB, b"abc", parameter=1342)
        assert made[44:48] == (1342).to_bytes(4, "big")
        assert factory.icmpv6_checksum_is_right(made)

    def test_hop_limit_is_the_one_asked_for(self) -> None:
        assert error_packet(IcmpError.NO_ROUTE, factory.ALICE, factory.BOB, b"", hop_limit=3)[7] == 3

    @given(st.integers(0, 3000))
    def test_quote_is_what_exists_up_to_1280_bytes_in_all(self, size: int) -> None:
        packet = bytes(range(256)) * 12
        made = error_packet(IcmpError.HOP_LIMIT, factory.ALICE, factory.BOB, memoryview(packet)[:size])
        assert len(made) == min(48 + size, 1280)
        assert made[48:] == packet[: len(made) - 48]
        assert int.from_bytes(made[4:6], "big") == len(made) - 40
        assert factory.icmpv6_checksum_is_right(made)


def extension(following: int, size: int = 8) -> bytes:
    return bytes((following, size // 8 - 1)) + bytes(size - 2)


def fragment(following: int, offset: int) -> bytes:
    return struct.pack("!BBHI", following, 0, offset << 3 | 1, 77)


class TestMayAnswer:
    ECHO, ERROR, REDIRECT = b"\x80\0\0\0", b"\x03\0\0\0", b"\x89\0\0\0"

    @pytest.mark.parametrize("entry", LOCAL, ids=lambda entry: entry["name"])
    def test_packet_of_the_vector_is_answered_and_the_answer_is_not(self, entry: dict[str, str]) -> None:
        assert may_answer(bytes.fromhex(entry["packet_read_from_tun"]))
        assert not may_answer(bytes.fromhex(entry["packet_written_to_tun"]))

    @pytest.mark.parametrize(
        "packet",
        [
            factory.ipv6(6, bytes(20)),
            factory.ipv6(17, b""),
            factory.ipv6(59, b""),
            factory.ipv6(58, b"\x80\0\0\0"),
            factory.ipv6(0, extension(58, 24) + b"\x80\0\0\0"),
            factory.ipv6(44, fragment(58, 0) + b"\x80\0\0\0"),
            factory.ipv6(51, bytes((58, 4)) + bytes(22) + b"\x80\0\0\0"),
            factory.ipv6(44, fragment(58, 100) + b"\x03\0\0\0"),
            factory.ipv6(43, b"\x3a"),
        ],
        ids=[
            "tcp",
            "udp",
            "nothing",
            "echo",
            "echo behind options",
            "first fragment",
            "echo behind AH",
            "later fragment",
            "cut header",
        ],
    )
    def test_ordinary_packet_is_answered(self, packet: bytes) -> None:
        assert may_answer(memoryview(packet))

    @pytest.mark.parametrize(
        "packet",
        [
            factory.ipv6(58, b"\x01\0\0\0"),
            factory.ipv6(58, b"\x7f\0\0\0"),
            factory.ipv6(58, b"\x89\0\0\0"),
            factory.ipv6(58, b""),
            factory.ipv6(60, extension(43) + extension(58) + b"\x03\0\0\0"),
            factory.ipv6(44, fragment(58, 0) + b"\x03\0\0\0"),
            factory.ipv6(51, bytes((58, 4)) + bytes(22) + b"\x03\0\0\0"),
        ],
        ids=[
            "error",
            "last error type",
            "redirect",
            "no type",
            "error behind options",
            "error fragment",
            "error behind AH",
        ],
    )
    def test_icmp_error_or_redirect_is_not_answered(self, packet: bytes) -> None:
        assert not may_answer(packet)

    def test_source_that_is_not_one_host_is_not_answered(self) -> None:
        for source in (bytes(16), b"\xff\x02" + bytes(14)):
            assert not may_answer(factory.ipv6(17, bytes(8), source=source))

    def test_multicast_is_not_answered(self) -> None:
        assert not may_answer(factory.ipv6(58, b"\x85\0\0\0", destination=b"\xff\x02" + bytes(13) + b"\x02"))

    def test_what_is_no_ipv6_packet_is_not_answered(self) -> None:
        whole = factory.ipv6(17, bytes(8))
        assert not may_answer(whole[:39])
        assert not may_answer(b"\x45" + whole[1:])

    @given(st.binary(max_size=120), st.sampled_from([0, 43, 44, 51, 58, 60, 17]))
    def test_any_bytes_have_an_answer(self, payload: bytes, next_header: int) -> None:
        may_answer(factory.ipv6(next_header, payload))
        may_answer(payload)
