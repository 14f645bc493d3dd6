"""How a frame between actors becomes bytes: one msgpack array, its number first, every field checked.

`frame(number)` turns a class body into a frozen, slotted dataclass and derives both directions from the same
declaration, so that packing and unpacking can't drift apart. Checked on the way in: the number, how many fields, the
type of each, and what the class's own `__post_init__` asks.
"""

from __future__ import annotations

import enum
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final, TypeVar, Union, dataclass_transform, get_args, get_origin, get_type_hints

import msgpack

MAX_NUMBER: Final = 0x7F
"""Numbers fit msgpack's one-byte integer, fields its one-byte array header: two bytes name a frame's type."""
MAX_FIELDS: Final = 14

Payload = bytes | bytearray | memoryview
"""Bytes that a sender need not copy before it packs them; a receiver gets `bytes`."""

_Check = Callable[[Any], Any]
_TRAVELS_AS_IT_IS: Final = frozenset({int, bytes, str, bool, float, type(None), memoryview, bytearray})
_T = TypeVar("_T")


class FrameError(ValueError):
    """A frame that is not what its number promises; says which frame, which field and why."""


_registry: dict[int, type[Any]] = {}
_unpackers: dict[type[Any], tuple[_Check, ...]] = {}
_packers: dict[type[Any], Callable[[Any], list[Any]]] = {}
_numbers: dict[type[Any], int] = {}


@dataclass_transform(frozen_default=True)
def frame(number: int) -> Callable[[type[_T]], type[_T]]:
    """Declares the frame type `number` (0…127).

    Raises `TypeError` where two types claim one number, or a type has more than 14 fields or one that can't travel.
    """

    def declare(cls: type[_T]) -> type[_T]:
        made: type[_T] = dataclass(frozen=True, slots=True)(cls)
        if not 0 <= number <= MAX_NUMBER or number in _registry:
            raise TypeError(f"frame number {number:#x} of {cls.__name__} is taken or out of range")
        if len(fields(made)) > MAX_FIELDS:  # type: ignore[arg-type]
            raise TypeError(f"{cls.__name__} has more than {MAX_FIELDS} fields")
        _unpackers[made] = _field_checks(made)
        _registry[number] = made
        _numbers[made] = number
        return made

    return declare


@dataclass_transform(frozen_default=True)
def record(cls: type[_T]) -> type[_T]:
    """Declares a part of frames: a frozen, slotted dataclass that travels as a msgpack array."""
    made: type[_T] = dataclass(frozen=True, slots=True)(cls)
    return made


def pack(message: object) -> bytes:
    """One frame as bytes."""
    kind = type(message)
    number = _numbers.get(kind)
    if number is None:
        raise FrameError(f"{kind.__name__} is not a frame")
    packer = _packers.get(kind)
    if packer is None:
        packer = _packers[kind] = _list_packer(kind)
    data: bytes = msgpack.packb([number, *packer(message)])
    return data


def unpack(data: bytes | memoryview) -> Any:
    """The frame in `data`.

    Raises `FrameError` for anything that is not exactly one well-formed frame of a known number.
    """
    try:
        # Keys of maps are strings: another kind may not even be hashable.
        parts = msgpack.unpackb(data, use_list=False, strict_map_key=True)
    except (ValueError, msgpack.exceptions.StackError) as error:
        raise FrameError(f"{len(data)} bytes are not one msgpack value: {error}") from error
    if type(parts) is not tuple or not parts or type(parts[0]) is not int:
        raise FrameError("a frame is a msgpack array that starts with its number")
    kind = _registry.get(parts[0])
    if kind is None:
        raise FrameError(f"no frame has number {parts[0]:#x}")
    return _build(kind, parts[1:])


def topic(kind: type[Any]) -> bytes:
    """The first two bytes of every packed frame of this type: what to subscribe to on an events socket."""
    return bytes((0x90 | (len(fields(kind)) + 1), _numbers[kind]))


def _build(kind: type[Any], parts: tuple[Any, ...]) -> Any:
    checks = _unpackers.get(kind)
    if checks is None:
        checks = _unpackers[kind] = _field_checks(kind)
    if len(parts) != len(checks):
        raise FrameError(f"{kind.__name__} has {len(checks)} fields, not {len(parts)}")
    try:
        return kind(*[check(part) for check, part in zip(checks, parts, strict=True)])
    except FrameError as error:
        raise FrameError(f"{kind.__name__}{_first_wrong_field(kind, checks, parts)}: {error}") from None


def _first_wrong_field(kind: type[Any], checks: tuple[_Check, ...], parts: tuple[Any, ...]) -> str:
    # Looked for once something is wrong, so that a good frame pays nothing for it.
    for field, check, part in zip(fields(kind), checks, parts, strict=True):
        try:
            check(part)
        except FrameError:
            return f".{field.name}"
    return ""


def _field_checks(kind: type[Any]) -> tuple[_Check, ...]:
    hints = get_type_hints(kind, vars(sys.modules[kind.__module__]))
    return tuple(_check_of(hints[field.name]) for field in fields(kind))


def _list_packer(kind: type[Any]) -> Callable[[Any], list[Any]]:
    names = tuple(field.name for field in fields(kind))

    def packer(message: Any) -> list[Any]:
        return [_plain(getattr(message, name)) for name in names]

    return packer


def _plain(value: Any) -> Any:
    if type(value) in _TRAVELS_AS_IT_IS:
        return value
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    if isinstance(value, Mapping):
        return dict(value)
    if is_dataclass(value):
        return [_plain(getattr(value, field.name)) for field in fields(value)]
    return value


def _check_of(hint: Any) -> _Check:
    origin = get_origin(hint)
    if hint == Payload:
        return _exactly(bytes)
    if origin in (Union, types.UnionType):
        return _optional(hint)
    if origin is tuple:
        return _tuple_of(get_args(hint))
    if origin is dict:
        return _mapping_of(*get_args(hint))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _enum_of(hint)
    if isinstance(hint, type) and is_dataclass(hint):
        return _record_of(hint)
    if hint is float:
        return _number
    if hint in (int, bytes, str, bool):
        return _exactly(hint)
    raise TypeError(f"{hint!r} can't travel in a frame")


def _exactly(kind: type[Any]) -> _Check:
    def check(value: Any) -> Any:
        if type(value) is not kind:
            raise FrameError(f"{type(value).__name__} where {kind.__name__} belongs")
        return value

    return check


def _number(value: Any) -> float:
    if type(value) is float:
        return value
    if type(value) is int:
        return float(value)
    raise FrameError(f"{type(value).__name__} where a number belongs")


def _optional(hint: Any) -> _Check:
    inner = [part for part in get_args(hint) if part is not type(None)]
    if len(inner) != 1:
        raise TypeError(f"{hint!r} can't travel in a frame")
    check_value = _check_of(inner[0])

    def check(value: Any) -> Any:
        return None if value is None else check_value(value)

    return check


def _tuple_of(parts: tuple[Any, ...]) -> _Check:
    if len(parts) == 2 and parts[1] is Ellipsis:
        check_part = _check_of(parts[0])

        def check_all(value: Any) -> Any:
            if type(value) is not tuple:
                raise FrameError(f"{type(value).__name__} where an array belongs")
            return tuple([check_part(part) for part in value])

        return check_all
    checks = tuple(_check_of(part) for part in parts)

    def check_each(value: Any) -> Any:
        if type(value) is not tuple or len(value) != len(checks):
            raise FrameError(f"an array of {len(checks)} belongs here")
        return tuple([check(part) for check, part in zip(checks, value, strict=True)])

    return check_each


def _mapping_of(key: Any, value: Any) -> _Check:
    check_key, check_value = _check_of(key), _check_of(value)

    def check(mapping: Any) -> Any:
        if type(mapping) is not dict:
            raise FrameError(f"{type(mapping).__name__} where a map belongs")
        return {check_key(name): check_value(part) for name, part in mapping.items()}

    return check


def _enum_of(kind: type[enum.Enum]) -> _Check:
    travels_as = type(next(iter(kind)).value)

    def check(value: Any) -> Any:
        if type(value) is not travels_as:
            # 1.0 and True equal 1, and would pass for it.
            raise FrameError(f"{type(value).__name__} where a {kind.__name__} belongs")
        try:
            return kind(value)
        except ValueError:
            raise FrameError(f"{value!r:.40} is no {kind.__name__}") from None

    return check


def _record_of(kind: type[Any]) -> _Check:
    def check(value: Any) -> Any:
        if type(value) is not tuple:
            raise FrameError(f"{type(value).__name__} where a {kind.__name__} belongs")
        return _build(kind, value)

    return check


def warm_up() -> None:
    """Derives how each frame is packed now, so that processes forked later share it."""
    for kind in _registry.values():
        _packers.setdefault(kind, _list_packer(kind))
