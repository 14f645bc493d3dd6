"""How frames become bytes: what the declaration promises, what is refused on the way in, and with which words."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.codec import MAX_FIELDS, FrameError, Payload, frame, pack, record, topic, unpack, warm_up


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@record
class Point:
    x: int
    y: int

    def __post_init__(self) -> None:
        if self.x < 0:
            raise FrameError("x is negative")


@frame(0x70)
class Everything:
    whole: int
    real: float
    yes: bool
    text: str
    data: bytes
    payload: Payload
    colour: Colour
    level: Level
    point: Point
    points: tuple[Point, ...]
    pair: tuple[int, str]
    counts: dict[str, int]
    maybe: str | None


@frame(0x71)
class Nothing:
    pass


@frame(0x74)
class Even:
    number: int

    def __post_init__(self) -> None:
        if self.number in (1, 3, 5):
            raise FrameError(f"{self.number} is odd")


WHOLE = Everything(
    whole=-7,
    real=0.5,
    yes=True,
    text="grün",
    data=b"\x00\xff",
    payload=b"packets",
    colour=Colour.BLUE,
    level=Level.HIGH,
    point=Point(1, 2),
    points=(Point(3, 4), Point(5, 6)),
    pair=(9, "nine"),
    counts={"a": 1},
    maybe=None,
)
PARTS: list[Any] = [
    *(0x70, -7, 0.5, True, "grün", b"\x00\xff", b"packets", "blue", 2),
    *([1, 2], [[3, 4], [5, 6]], [9, "nine"], {"a": 1}, None),
]
FIELDS = [field.name for field in dataclasses.fields(Everything)]


def _refusal(data: bytes) -> str:
    try:
        unpack(data)
    except FrameError as error:
        return str(error)
    return ""


def _with(field: str, value: Any) -> bytes:
    parts = list(PARTS)
    parts[1 + FIELDS.index(field)] = value
    data: bytes = msgpack.packb(parts)
    return data


def test_frame_is_one_msgpack_array_that_starts_with_its_number() -> None:
    assert pack(WHOLE) == msgpack.packb(PARTS)


def test_frame_comes_back_as_it_was() -> None:
    assert unpack(msgpack.packb(PARTS)) == WHOLE


def test_frame_without_fields_is_its_number_alone() -> None:
    assert pack(Nothing()) == bytes.fromhex("9171")
    assert unpack(bytes.fromhex("9171")) == Nothing()


def test_frames_are_the_same_after_warming_up() -> None:
    warm_up()
    assert unpack(pack(WHOLE)) == WHOLE


def test_frame_is_read_from_a_view_of_memory() -> None:
    assert unpack(memoryview(msgpack.packb(PARTS))) == WHOLE


@pytest.mark.parametrize("payload", [bytearray(b"abc"), memoryview(b"xabcx")[1:4]])
def test_payload_is_packed_from_where_it_lies(payload: bytearray | memoryview) -> None:
    assert unpack(pack(dataclasses.replace(WHOLE, payload=payload))).payload == b"abc"


def test_frames_are_frozen_and_have_no_room_for_more() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        WHOLE.whole = 1  # type: ignore[misc]
    assert not hasattr(WHOLE, "__dict__")


def test_topic_is_how_every_packed_frame_of_a_type_begins() -> None:
    assert topic(Everything) == pack(WHOLE)[:2] == b"\x9e\x70"


def test_whole_number_is_good_where_a_real_one_belongs() -> None:
    found = unpack(_with("real", 3))
    assert found.real == 3.0
    assert type(found.real) is float


def test_optional_field_may_hold_its_value() -> None:
    assert unpack(_with("maybe", "here")).maybe == "here"


def test_subclass_of_what_travels_travels() -> None:
    class Name(str):
        __slots__ = ()

    assert unpack(pack(dataclasses.replace(WHOLE, text=Name("named")))).text == "named"


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("whole", True, "bool where int belongs"),
        ("whole", 1.0, "float where int belongs"),
        ("whole", "1", "str where int belongs"),
        ("whole", None, "NoneType where int belongs"),
        ("real", "1", "str where a number belongs"),
        ("real", True, "bool where a number belongs"),
        ("yes", 1, "int where bool belongs"),
        ("text", b"bytes", "bytes where str belongs"),
        ("data", "text", "str where bytes belongs"),
        ("payload", "text", "str where bytes belongs"),
        ("colour", "green", "'green' is no Colour"),
        ("colour", 1, "int where a Colour belongs"),
        ("level", 3, "3 is no Level"),
        ("level", 1.0, "float where a Level belongs"),
        ("level", True, "bool where a Level belongs"),
        ("level", {}, "dict where a Level belongs"),
        ("point", 5, "int where a Point belongs"),
        ("point", [1], "Point has 2 fields, not 1"),
        ("point", [1, "2"], "Point.y: str where int belongs"),
        ("point", [-1, 2], "Point: x is negative"),
        ("points", {}, "dict where an array belongs"),
        ("points", [[1, 2], [3, None]], "Point.y: NoneType where int belongs"),
        ("pair", [1], "an array of 2 belongs here"),
        ("pair", 1, "an array of 2 belongs here"),
        ("pair", [1, 2], "int where str belongs"),
        ("counts", [], "tuple where a map belongs"),
        ("counts", {"a": "b"}, "str where int belongs"),
        ("counts", {b"a": 1}, "bytes where str belongs"),
        ("maybe", 1, "int where str belongs"),
        ("text", msgpack.ExtType(5, b""), "ExtType where str belongs"),
        ("whole", msgpack.Timestamp(0, 0), "Timestamp where int belongs"),
    ],
)
def test_wrong_field_is_refused_by_frame_field_and_reason(field: str, value: Any, reason: str) -> None:
    with pytest.raises(FrameError) as caught:
        unpack(_with(field, value))
    assert str(caught.value) == f"Everything.{field}: {reason}"


def test_long_nonsense_is_quoted_in_part() -> None:
    with pytest.raises(FrameError) as caught:
        unpack(_with("colour", "x" * 100_000))
    assert len(str(caught.value)) < 100


def test_what_the_frame_itself_refuses_is_said_without_a_field() -> None:
    with pytest.raises(FrameError, match=r"^Even: 3 is odd$"):
        unpack(msgpack.packb([0x74, 3]))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes are not one msgpack value"),
        (b"\xc1", "1 bytes are not one msgpack value"),
        (b"\x92\x71", "not one msgpack value"),
        (b"\x91\x71\x00", "not one msgpack value"),
        (b"\x91" * 5000, "not one msgpack value"),
        (b"\x92\x71\xa1\xff", "not one msgpack value"),
        (b"\xdd\xff\xff\xff\xff", "not one msgpack value"),
        (b"\x92\x71\x81\x80\x01", "not one msgpack value"),
        (b"\x92\x71\x81\x90\x01", "not one msgpack value"),
        (b"\x92\x71\xd6\xff\x00\x00\x00", "not one msgpack value"),
        (b"\x90", "starts with its number"),
        (b"\x71", "starts with its number"),
        (b"\x91\xc3", "starts with its number"),
        (b"\x91\xcb\x40\x5c\x40\x00\x00\x00\x00\x00", "starts with its number"),
        (b"\x91\x7f", "no frame has number 0x7f"),
        (b"\x91\xff", "no frame has number -0x1"),
        (b"\x92\x71\x01", "Nothing has 0 fields, not 1"),
    ],
)
def test_what_is_no_frame_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(FrameError, match=reason):
        unpack(data)


@given(st.binary(max_size=200))
@example(bytes.fromhex("8180c0"))
@example(bytes.fromhex("c7040500000000"))
def test_any_bytes_give_a_frame_or_the_one_error(data: bytes) -> None:
    try:
        message = unpack(data)
    except FrameError:
        return
    assert unpack(pack(message)) == message


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary(max_size=8)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


@given(field=st.sampled_from(FIELDS), value=_json)
def test_any_value_in_any_field_gives_a_frame_or_the_one_error(field: str, value: Any) -> None:
    refusal = _refusal(_with(field, value))
    assert not refusal or refusal.startswith(f"Everything.{field}: ")


@given(data=st.just(msgpack.packb(PARTS)), position=st.integers(0, 60), bit=st.integers(0, 7))
def test_any_flipped_bit_gives_a_frame_or_the_one_error(data: bytes, position: int, bit: int) -> None:
    flipped = bytearray(data)
    flipped[position % len(data)] ^= 1 << bit
    _refusal(bytes(flipped))


# --- declaring --------------------------------------------------------------------------------------------------------


def test_number_that_is_taken_is_refused_at_declaration() -> None:
    with pytest.raises(TypeError, match="0x70 of Again is taken"):

        @frame(0x70)
        class Again:
            pass


@pytest.mark.parametrize("number", [-1, 0x80])
def test_number_out_of_range_is_refused_at_declaration(number: int) -> None:
    with pytest.raises(TypeError, match="out of range"):

        @frame(number)
        class Far:
            pass


def test_frame_of_more_fields_than_two_bytes_can_name_is_refused_at_declaration() -> None:
    body = {"__annotations__": {f"field{n}": "int" for n in range(MAX_FIELDS + 1)}}
    with pytest.raises(TypeError, match="more than 14 fields"):
        frame(0x79)(type("Large", (), body))


def test_what_is_no_frame_is_not_packed() -> None:
    with pytest.raises(FrameError, match="Point is not a frame"):
        pack(Point(1, 2))


@pytest.mark.parametrize("hint", ["set[int]", "int | str", "object"])
def test_field_that_can_not_travel_is_refused_at_declaration(hint: str) -> None:
    body = {"__annotations__": {"strange": hint}, "__module__": __name__}
    with pytest.raises(TypeError, match="can't travel in a frame"):
        frame(0x78)(type("Strange", (), body))


def test_value_that_can_not_travel_is_not_packed() -> None:
    with pytest.raises(TypeError):
        pack(Even({1}))  # type: ignore[arg-type]
