"""What the pinger and the tracer read from a raw socket, from bytes written down by hand."""

import pytest

from tests.lab import icmpv6
from tests.lab.icmpv6 import Answer

IDENTIFIER = 0x1234
ECHO_REPLY = bytes.fromhex("81 00 abcd 1234 0005000000000001000500000000")
QUOTED_IPV6_HEADER = bytes.fromhex("60000000 0014 3a 01") + bytes(15) + b"\x01" + bytes(15) + b"\x02"
QUOTED_REQUEST = bytes.fromhex("80 00 abcd 1234 0007000000000000000700000000")
TIME_EXCEEDED = bytes.fromhex("03 00 abcd 00000000") + QUOTED_IPV6_HEADER + QUOTED_REQUEST


def test_an_echo_request_carries_identifier_and_full_sequence() -> None:
    request = icmpv6.echo_request(IDENTIFIER, 0x1_0005, 12)
    assert request == bytes.fromhex("80 00 0000 1234 0005000000000001000500000000")


def test_a_payload_too_small_for_the_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="payload of 7 bytes"):
        icmpv6.echo_request(IDENTIFIER, 1, 7)


def test_an_echo_reply_tells_the_full_sequence() -> None:
    assert icmpv6.parse_answer(ECHO_REPLY, "fd00::2", IDENTIFIER) == Answer(129, 0, "fd00::2", 0x1_0005)


def test_an_error_is_matched_by_the_request_it_quotes() -> None:
    assert icmpv6.parse_answer(TIME_EXCEEDED, "fd00::9", IDENTIFIER) == Answer(3, 0, "fd00::9", 7)


def test_an_error_that_quotes_only_the_echo_header_tells_the_short_sequence() -> None:
    cut = TIME_EXCEEDED[:-12]
    assert icmpv6.parse_answer(cut, "fd00::9", IDENTIFIER) == Answer(3, 0, "fd00::9", 7)


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(ECHO_REPLY[:7], id="a torn reply"),
        pytest.param(TIME_EXCEEDED[:50], id="a torn error"),
        pytest.param(TIME_EXCEEDED.replace(b"\x80\x00\xab\xcd", b"\x81\x00\xab\xcd"), id="an error about no request"),
        pytest.param(QUOTED_REQUEST, id="a request"),
    ],
)
def test_what_answers_no_request_of_ours_is_left_alone(packet: bytes) -> None:
    assert icmpv6.parse_answer(packet, "fd00::9", IDENTIFIER) is None


@pytest.mark.parametrize("packet", [ECHO_REPLY, TIME_EXCEEDED])
def test_answers_to_another_program_are_left_alone(packet: bytes) -> None:
    assert icmpv6.parse_answer(packet, "fd00::9", IDENTIFIER + 1) is None
