"""1-RTT packets by the bytes of RFC 9001, key updates, and the last will of a connection."""

from __future__ import annotations

import pytest

from protocol.quic.last_will import AHEAD, RENEWED, LastWill
from protocol.quic.sealing import PacketKeys, SealingError, Suite, whole_number

SECRET_OF_RFC_9001_A_5 = bytes.fromhex("9ac312a7f877468ebe69422748ad00a15443f18203a07d6060f688f30f21632b")
PACKET_OF_RFC_9001_A_5 = bytes.fromhex("4cfe4189655e5cd55c41f69080575d7999c25a5bfb")
NUMBER_OF_RFC_9001_A_5 = 654_360_564
UPDATED_SECRET_OF_RFC_9001_A_5 = bytes.fromhex("1223504755036d556342ee9361d253421a826c9ecdf3c7148684b36b714881f9")
DESTINATION = bytes(range(8))


@pytest.fixture(params=Suite)
def keys(request: pytest.FixtureRequest) -> PacketKeys:
    suite: Suite = request.param
    return PacketKeys(suite, bytes(range(suite.hash.digest_size)))


def test_packet_of_the_rfc_is_opened() -> None:
    keys = PacketKeys(Suite.CHACHA20_POLY1305_SHA256, SECRET_OF_RFC_9001_A_5)
    opened = keys.open(PACKET_OF_RFC_9001_A_5, 0, NUMBER_OF_RFC_9001_A_5 - 5)
    assert (opened.number, opened.phase, opened.payload) == (NUMBER_OF_RFC_9001_A_5, 0, b"\x01")


def test_key_update_derives_what_the_rfc_derives() -> None:
    keys = PacketKeys(Suite.CHACHA20_POLY1305_SHA256, SECRET_OF_RFC_9001_A_5)
    header_key = keys._header_key
    expected = PacketKeys(
        Suite.CHACHA20_POLY1305_SHA256, UPDATED_SECRET_OF_RFC_9001_A_5, generation=1, header_key=header_key
    )
    assert keys.next().seal(DESTINATION, 7, b"\x01") == expected.seal(DESTINATION, 7, b"\x01")


def test_packet_is_opened_as_it_was_sealed(keys: PacketKeys) -> None:
    for made in (keys, keys.next(), keys.next().next()):
        opened = made.open(made.seal(DESTINATION, 1 << 33 | 5, b"\x01" + bytes(40)), 8, (1 << 33) - 100)
        assert opened.payload == b"\x01" + bytes(40)
        assert (opened.number, opened.phase, opened.destination) == (1 << 33 | 5, made.phase, DESTINATION)


def test_packet_of_other_keys_is_refused(keys: PacketKeys) -> None:
    with pytest.raises(SealingError, match="generation 0"):
        keys.open(keys.next().seal(DESTINATION, 1, bytes(20)), 8, 1)


@pytest.mark.parametrize("size", [0, 1, 8, 9, 28])
def test_packet_that_is_cut_short_is_refused(keys: PacketKeys, size: int) -> None:
    with pytest.raises(SealingError):
        keys.open(keys.seal(DESTINATION, 1, bytes(3))[:size], 8, 1)


@pytest.mark.parametrize(
    ("written", "bits", "expected", "whole"),
    [
        # The example of RFC 9000 appendix A.3.
        (0x9B32, 16, 0xA82F30EB, 0xA82F9B32),
        (0, 16, 0xFFFF, 0x10000),
        (0xFFFF, 16, 0x10001, 0xFFFF),
        (5, 8, 3, 5),
    ],
)
def test_packet_number_is_found_close_to_what_is_expected(written: int, bits: int, expected: int, whole: int) -> None:
    assert whole_number(written, bits, expected) == whole


def test_will_ends_a_connection_from_far_ahead(keys: PacketKeys) -> None:
    will = LastWill().renewed(keys, DESTINATION, 100)
    assert will is not None
    opened = keys.open(will, 8, 101)
    assert opened.number == 100 + AHEAD
    # CONNECTION_CLOSE of an application, error 0, no words (RFC 9000 section 19.19).
    assert opened.payload == bytes.fromhex("1d0000")


def test_will_is_renewed_for_new_keys_a_new_id_and_after_many_packets_only(keys: PacketKeys) -> None:
    will = LastWill()
    assert will.renewed(keys, DESTINATION, 100) is not None
    assert will.renewed(keys, DESTINATION, 99 + RENEWED) is None
    assert will.renewed(keys, DESTINATION, 100 + RENEWED) is not None
    assert will.renewed(keys.next(), DESTINATION, 100 + RENEWED) is not None
    assert will.renewed(keys.next(), bytes(8), 100 + RENEWED) is not None
    assert will.renewed(keys.next(), bytes(8), 100 + RENEWED) is None
