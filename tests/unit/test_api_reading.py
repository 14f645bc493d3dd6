"""What callers give is read as strictly as the reference reads it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.api.faults import ApiError, Fault
from actors.api.reading import (
    Member,
    address_bytes,
    base64_value,
    byte_values,
    decode_base64,
    members,
    message,
    message_id,
    optional,
    parse,
    public_key,
    string,
    whole_number,
)
from protocol.mycelium.identity import address_of

KEY = bytes(range(32))


def fault_of(read: Callable[[], object]) -> Fault:
    """Why something is refused."""
    with pytest.raises(ApiError) as caught:
        read()
    return caught.value.fault


@given(st.binary(max_size=300))
def test_base64_comes_back_as_it_was(data: bytes) -> None:
    assert decode_base64(base64.b64encode(data).decode(), Fault.BAD_TOPIC) == data


@pytest.mark.parametrize(
    "text", ["aGVsbG8", "Zm8_", "aGVsbG9=", "aGVs\nbG8=", "aGVsbG8= ", "=", "a===", "é", "aGVsbG8=="]
)
def test_text_that_is_not_exactly_base64_is_refused(text: str) -> None:
    assert fault_of(lambda: decode_base64(text, Fault.BAD_TOPIC)) is Fault.BAD_TOPIC


@given(st.text(alphabet="AZaz09+/=_- \n", max_size=12))
def test_base64_that_is_taken_is_what_its_bytes_are_written_as(text: str) -> None:
    try:
        data = decode_base64(text, Fault.BAD_TOPIC)
    except ApiError:
        return
    assert base64.b64encode(data).decode() == text


@pytest.mark.parametrize("text", ["NaN", "Infinity", "[", '"\\ud800"', "[" * 100_000, "1" * 10_000, "{} x", "\ufeff{}"])
def test_text_that_is_not_json_is_refused(text: str) -> None:
    assert fault_of(lambda: parse(text)) is Fault.NOT_JSON


def test_escaped_letters_outside_of_the_first_plane_are_text() -> None:
    assert parse('"\\ud83d\\ude00"') == "\U0001f600"


ONE = (Member(("a", "b"), string),)
TWO = (Member(("a",), string), Member(("n",), optional(whole_number), None))


@pytest.mark.parametrize(
    ("text", "wanted", "expected"),
    [
        ('{"a":"x"}', ONE, ["x"]),
        ('{"b":"x","c":1}', ONE, ["x"]),
        ('["x"]', ONE, ["x"]),
        ('{"a":"x"}', TWO, ["x", None]),
        ('{"a":"x","n":null}', TWO, ["x", None]),
        ('["x",7]', TWO, ["x", 7]),
    ],
)
def test_members_are_found(text: str, wanted: tuple[Member, ...], expected: list[Any]) -> None:
    assert members(parse(text), wanted) == expected


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{}", Fault.WRONG_SHAPE),
        ('{"a":1}', Fault.WRONG_SHAPE),
        ('{"a":null}', Fault.WRONG_SHAPE),
        ('{"a":"x","a":"x"}', Fault.WRONG_SHAPE),
        ('{"a":"x","b":"x"}', Fault.WRONG_SHAPE),
        ("[]", Fault.WRONG_SHAPE),
        ("null", Fault.WRONG_SHAPE),
        ('"x"', Fault.WRONG_SHAPE),
        ('["x","x"]', Fault.NOT_JSON),
    ],
)
def test_wrong_members_are_refused(text: str, fault: Fault) -> None:
    assert fault_of(lambda: members(parse(text), ONE)) is fault


@pytest.mark.parametrize("value", [-1, 1.0, True, "1", 2**64, None])
def test_number_is_whole_unsigned_and_of_64_bits(value: Any) -> None:
    assert fault_of(lambda: whole_number(value)) is Fault.WRONG_SHAPE


def test_topic_is_an_array_of_bytes_or_base64() -> None:
    assert byte_values(parse("[100,101]")) == b"de" == byte_values("ZGU=")
    for wrong in ("[256]", "[-1]", "[true]", "[1.0]", "{}", '{"topic":"ZGU="}', "null"):
        assert fault_of(lambda wrong=wrong: byte_values(parse(wrong))) is Fault.WRONG_SHAPE


def test_destination_is_an_address_or_a_key() -> None:
    by_key = message(parse(f'{{"dst":{{"pk":"{KEY.hex().upper()}"}},"payload":"aGk="}}'))
    assert (by_key.destination, by_key.topic, by_key.data) == (address_of(KEY), b"", b"hi")
    by_ip = message(parse('{"dst":{"ip":"192.0.2.1"},"topic":"","payload":""}'))
    assert by_ip.destination == bytes(10) + b"\xff\xff\xc0\x00\x02\x01"


@pytest.mark.parametrize(
    ("destination", "fault"),
    [
        ("null", Fault.NOT_JSON),
        ("[]", Fault.NOT_JSON),
        ("{}", Fault.NOT_JSON),
        ('{"ip":"400::1","pk":""}', Fault.NOT_JSON),
        ('"400::1"', Fault.WRONG_SHAPE),
        ('{"foo":"400::1"}', Fault.WRONG_SHAPE),
        ('{"ip":5}', Fault.WRONG_SHAPE),
        ('{"ip":"x"}', Fault.WRONG_SHAPE),
        ('{"pk":"00"}', Fault.WRONG_SHAPE),
    ],
)
def test_destination_that_is_none_is_refused(destination: str, fault: Fault) -> None:
    assert fault_of(lambda: message(parse(f'{{"dst":{destination},"payload":""}}'))) is fault


def test_error_in_a_member_names_it() -> None:
    with pytest.raises(ApiError, match=r"^payload: this is not base64"):
        message(parse('{"dst":{"ip":"400::1"},"payload":"@"}'))


def test_ids_and_keys_are_hex_digits_of_their_length() -> None:
    assert message_id("ABCDEF0123456789") == bytes.fromhex("abcdef0123456789")
    assert public_key(KEY.hex(), Fault.BAD_QUERY) == KEY
    for wrong in ("", "00", "000000000000000g", "0" * 17, "0" * 15, "٠" * 16):
        assert fault_of(lambda wrong=wrong: message_id(wrong)) is Fault.BAD_MESSAGE_ID
        assert fault_of(lambda wrong=wrong: public_key(wrong, Fault.BAD_QUERY)) is Fault.BAD_QUERY
    assert fault_of(lambda: address_bytes("400::1%1", Fault.BAD_QUERY)) is Fault.BAD_QUERY
    assert fault_of(lambda: base64_value(5)) is Fault.WRONG_SHAPE
