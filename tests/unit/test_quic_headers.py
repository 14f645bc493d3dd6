"""What a listener reads of QUIC packets and answers them, by the bytes of the RFCs and of recorded handshakes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.quic.headers import Header, read_header, retry, stateless_reset, version_negotiation

INITIAL_OF_A_REFERENCE_NODE = (
    "ca0000000114af134ab3749dba60f31fcd406ff6c4b2d08698f108aaa2d42435e8835e00448a2e5322035e82ceb3eaecfe403a07"
)
"""The beginning of its first datagram: connection ids of 20 and 8 bytes, no token."""
RETRY_OF_RFC_9001_A_4 = "ff000000010008f067a5502a4262b5746f6b656e04a265ba2eff4d829058fb3f0f2496ba"


def test_first_packet_of_a_reference_node_is_an_initial() -> None:
    assert read_header(bytes.fromhex(INITIAL_OF_A_REFERENCE_NODE)) == Header(
        destination=bytes.fromhex("af134ab3749dba60f31fcd406ff6c4b2d08698f1"),
        long=True,
        version=1,
        source=bytes.fromhex("aaa2d42435e8835e"),
        initial=True,
        token=b"",
    )


def test_token_of_an_initial_is_read() -> None:
    packet = bytes.fromhex("c000000001" + "08" + "11" * 8 + "00" + "4003" + "aabbcc" + "4100")
    header = read_header(packet)
    assert header is not None
    assert (header.initial, header.token, header.source) == (True, b"\xaa\xbb\xcc", b"")


def test_short_header_names_its_connection() -> None:
    assert read_header(b"\x41" + bytes(range(8)) + b"sealed") == Header(bytes(range(8)), long=False)


def test_handshake_packet_names_its_connection_and_is_no_initial() -> None:
    header = read_header(bytes.fromhex("e000000001" + "08" + "22" * 8 + "08" + "33" * 8 + "4100"))
    assert header == Header(b"\x22" * 8, True, 1, b"\x33" * 8)


@pytest.mark.parametrize(
    "packet",
    [
        "",
        "00" * 40,
        "41" + "00" * 7,
        "c000000001",
        "8000000001" + "08" + "11" * 8 + "00" + "00",
        "c000000001" + "15" + "11" * 21 + "00" + "00",
        "c000000001" + "08" + "11" * 7,
        "c000000001" + "08" + "11" * 8 + "00" + "05" + "aa",
        "c000000001" + "08" + "11" * 8 + "00",
    ],
    ids=[
        "empty",
        "no fixed bit",
        "short",
        "cut",
        "long, no fixed bit",
        "id too long",
        "id cut",
        "token cut",
        "no token",
    ],
)
def test_what_is_no_packet_is_none(packet: str) -> None:
    assert read_header(bytes.fromhex(packet)) is None


@given(st.binary(max_size=80))
def test_any_bytes_give_a_header_or_none(data: bytes) -> None:
    for packet in (data, b"\xc0\0\0\0\x01" + data):
        header = read_header(packet)
        assert header is None or len(header.destination) <= len(packet)


def test_retry_is_that_of_the_rfc() -> None:
    first = Header(bytes.fromhex("8394c8f03e515708"), True, 1, b"", initial=True)
    made = retry(first, bytes.fromhex("f067a5502a4262b5"), b"token", 0x0F)
    assert made.hex() == RETRY_OF_RFC_9001_A_4


def test_unknown_version_is_answered_with_ours() -> None:
    header = read_header(bytes.fromhex("c00a1a2a3a" + "02" + "1111" + "03" + "222222") + bytes(1200))
    assert header is not None
    assert version_negotiation(header, 0x2A).hex() == "aa00000000" + "03222222" + "021111" + "00000001"


def test_reset_ends_with_its_token_and_is_shorter_than_what_it_answers() -> None:
    token = bytes(range(16))
    reset = stateless_reset(token, 43, b"\xff" * 43)
    assert reset.endswith(token)
    assert len(reset) < 43
    assert reset[0] & 0xC0 == 0x40
    assert stateless_reset(token, 42, b"\xff" * 43) == b""
