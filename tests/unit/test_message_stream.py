"""What consumers of the message stream may say."""

from __future__ import annotations

import contextlib
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.mycelium.messages.stream import (
    DEFAULT_WINDOW,
    MAX_WINDOW,
    MAX_WORD_BYTES,
    Acknowledge,
    StreamError,
    Subscribe,
    Unsubscribe,
    pack_word,
    parse,
)


@pytest.mark.parametrize(
    ("word", "meaning"),
    [
        ({"word": "subscribe"}, Subscribe(None, DEFAULT_WINDOW)),
        ({"word": "subscribe", "topic": None, "window": MAX_WINDOW}, Subscribe(None, MAX_WINDOW)),
        ({"word": "subscribe", "topic": b"", "window": 1, "else": [1]}, Subscribe(b"", 1)),
        ({"word": "acknowledge", "uid": bytes(16)}, Acknowledge(bytes(16))),
        ({"word": "unsubscribe"}, Unsubscribe()),
    ],
)
def test_words_mean_what_the_table_says(word: dict[str, Any], meaning: object) -> None:
    assert parse(msgpack.packb(word)) == meaning


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not one msgpack value"),
        (b"\xc1", "not one msgpack value"),
        (msgpack.packb({"word": "subscribe"}) + b"\x00", "not one msgpack value"),
        (bytes(MAX_WORD_BYTES + 1), "at most"),
        (msgpack.packb(["subscribe"]), "a msgpack map"),
        (msgpack.packb({}), "no word is called None"),
        (msgpack.packb({"word": b"subscribe"}), "no word is called b'subscribe'"),
        (msgpack.packb({"word": "subscribe", "topic": "text"}), "topic is bytes"),
        (msgpack.packb({"word": "subscribe", "window": 0}), "window is a number"),
        (msgpack.packb({"word": "subscribe", "window": MAX_WINDOW + 1}), "window is a number"),
        (msgpack.packb({"word": "subscribe", "window": True}), "window is a number"),
        (msgpack.packb({"word": "acknowledge"}), "uid is the 16 bytes"),
        (msgpack.packb({"word": "acknowledge", "uid": bytes(15)}), "uid is the 16 bytes"),
    ],
)
def test_what_is_no_word_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(StreamError, match=reason):
        parse(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_word_or_the_one_error(data: bytes) -> None:
    with contextlib.suppress(StreamError):
        parse(data)


def test_words_of_the_stream_are_maps_with_names() -> None:
    assert msgpack.unpackb(pack_word("message", uid=bytes(16), data=b"hello")) == {
        "word": "message",
        "uid": bytes(16),
        "data": b"hello",
    }
