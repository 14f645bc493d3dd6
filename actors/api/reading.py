"""What callers give, read as strictly as the reference reads it (API spec 2): JSON, and the values in it.

An error in the JSON itself is another one (`NOT_JSON`) than JSON of another shape (`WRONG_SHAPE`).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, NoReturn, TypeVar

from actors.api.faults import ApiError, Fault
from protocol.mycelium.endpoint import EndpointError, SocketAddress, parse_ip
from protocol.mycelium.identity import address_of

MAX_U64: Final = (1 << 64) - 1
KEY_DIGITS: Final = 64
ID_DIGITS: Final = 16
_HEX: Final = frozenset("0123456789abcdefABCDEF")
_MAPPED: Final = bytes(10) + b"\xff\xff"

T = TypeVar("T")
Reader = Callable[[Any], T]


class Members(list[tuple[str, Any]]):
    """A JSON object with doubled members still in it, in order."""

    def get(self, name: str) -> list[Any]:
        """All values of the member."""
        return [value for key, value in self if key == name]


def parse(data: bytes | str) -> Any:
    """The JSON value in `data`, with objects as `Members`. Raises `ApiError` (`NOT_JSON`)."""
    try:
        value = json.loads(
            data if isinstance(data, str) else data.decode(),
            object_pairs_hook=Members,
            parse_constant=_refuse_constant,
        )
        _refuse_surrogates(value, data)
    except (ValueError, RecursionError):
        raise ApiError(Fault.NOT_JSON, "the body is not JSON in UTF-8") from None
    return value


def _refuse_surrogates(value: Any, data: bytes | str) -> None:
    # Half a character can only come from an escape. It is no text and can't be passed on.
    if (b"\\u" if isinstance(data, bytes) else "\\u") in data:  # type: ignore[operator]
        json.dumps(value, ensure_ascii=False).encode()


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# --- objects ----------------------------------------------------------------------------------------------------------

_REQUIRED: Final[Any] = object()


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an object that is read; `names` are those that it goes by, the proper one first."""

    names: tuple[str, ...]
    reader: Reader[Any]
    default: Any = _REQUIRED
    """What a missing one stands for. `null` is a value like any other: the reader may refuse it."""


def members(value: Any, wanted: Sequence[Member]) -> list[Any]:
    """The wanted members of a JSON object, or of an array that has them all in order. Raises `ApiError`.

    The array is an accident of the reference; unknown members are ignored.
    """
    if isinstance(value, Members):
        return [_member(value, member) for member in wanted]
    if isinstance(value, list):
        if len(value) > len(wanted):
            raise ApiError(Fault.NOT_JSON, f"an array stands for an object with {len(wanted)} members")
        if len(value) == len(wanted):
            return [member.reader(part) for member, part in zip(wanted, value, strict=True)]
    names = ", ".join(repr(member.names[0]) for member in wanted)
    raise wrong_shape(f"an object with {names} belongs here")


def _member(found: Members, member: Member) -> Any:
    values = [value for name in member.names for value in found.get(name)]
    if len(values) > 1:
        raise wrong_shape(f"member {member.names[0]!r} is given twice")
    if not values:
        if member.default is _REQUIRED:
            raise wrong_shape(f"member {member.names[0]!r} is missing")
        return member.default
    try:
        return member.reader(values[0])
    except ApiError as error:
        raise ApiError(error.fault, f"{member.names[0]}: {error.text}") from None


def wrong_shape(text: str) -> ApiError:
    """JSON that is not what belongs there."""
    return ApiError(Fault.WRONG_SHAPE, text)


# --- values -----------------------------------------------------------------------------------------------------------


def string(value: Any) -> str:
    """A JSON string."""
    if not isinstance(value, str):
        raise wrong_shape("a string belongs here")
    return value


def boolean(value: Any) -> bool:
    """`true` or `false`."""
    if not isinstance(value, bool):
        raise wrong_shape("true or false belongs here")
    return value


def whole_number(value: Any) -> int:
    """An integer of 64 bits without a sign."""
    if type(value) is not int or not 0 <= value <= MAX_U64:
        raise wrong_shape("a whole number of at most 64 bits belongs here")
    return value


def optional(reader: Reader[T]) -> Reader[T | None]:
    """`null`, or what `reader` reads."""

    def read(value: Any) -> T | None:
        return None if value is None else reader(value)

    return read


def base64_value(value: Any) -> bytes:
    """The bytes that a JSON string stands for."""
    return decode_base64(string(value), Fault.WRONG_SHAPE)


def byte_values(value: Any) -> bytes:
    """An array of numbers below 256, or the same bytes in base64, as the reference's documents have it."""
    if isinstance(value, str):
        return base64_value(value)
    if not isinstance(value, list) or isinstance(value, Members):
        raise wrong_shape("an array of byte values belongs here")
    if not all(type(part) is int and 0 <= part <= 255 for part in value):
        raise wrong_shape("a byte value is a whole number below 256")
    return bytes(value)


def socket_address(value: Any) -> SocketAddress:
    """`192.0.2.1:1080`, or `[2001:db8::1]:1080`."""
    try:
        return SocketAddress.parse(string(value))
    except EndpointError as error:
        raise wrong_shape(str(error)) from None


# --- messages ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message that somebody wants to send: the 16 bytes of its destination, topic and data."""

    destination: bytes
    topic: bytes
    data: bytes


def message(value: Any) -> Outgoing:
    """A `PushMessage` (API spec 4)."""
    destination, topic, data = members(value, _MESSAGE)
    return Outgoing(destination, topic or b"", data)


def _destination(value: Any) -> bytes:
    if (isinstance(value, list) and not isinstance(value, Members)) or value is None:
        raise ApiError(Fault.NOT_JSON, "an object with one member, 'ip' or 'pk', belongs here")
    if not isinstance(value, Members):
        raise wrong_shape("an object with one member, 'ip' or 'pk', belongs here")
    if len(value) != 1:
        raise ApiError(Fault.NOT_JSON, "exactly one member, 'ip' or 'pk', belongs here")
    name, part = value[0]
    if name == "ip":
        return address_bytes(string(part), Fault.WRONG_SHAPE)
    if name == "pk":
        return address_of(public_key(string(part), Fault.WRONG_SHAPE))
    raise wrong_shape("a destination is given as 'ip' or as 'pk'")


_MESSAGE: Final = (
    Member(("dst",), _destination),
    Member(("topic",), optional(base64_value), None),
    Member(("payload",), base64_value),
)


# --- texts, in JSON, in paths or in queries ---------------------------------------------------------------------------


def decode_base64(text: str, fault: Fault) -> bytes:
    """The bytes that `text` stands for; it has to be what those bytes are written as. Raises `ApiError` of `fault`."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise ApiError(fault, "this is not base64 with padding") from None
    # Stray bits in the last letter mean nothing, and the reference refuses them.
    if encode_base64(data) != text:
        raise ApiError(fault, "this is not base64 without stray bits")
    return data


def encode_base64(data: bytes | bytearray) -> str:
    """The inverse of `decode_base64`."""
    return base64.b64encode(data).decode("ascii")


def address_bytes(text: str, fault: Fault) -> bytes:
    """16 bytes of an IP address; an IPv4 address is mapped into IPv6. Raises `ApiError` of `fault`."""
    ip = ip_address(text, fault)
    return _MAPPED + ip.packed if isinstance(ip, IPv4Address) else ip.packed


def ip_address(text: str, fault: Fault) -> IPv4Address | IPv6Address:
    """An IP address. Raises `ApiError` of `fault`."""
    try:
        return parse_ip(text)
    except EndpointError as error:
        raise ApiError(fault, str(error)) from None


def public_key(text: str, fault: Fault) -> bytes:
    """32 bytes written as 64 hex digits. Raises `ApiError` of `fault`."""
    if len(text) != KEY_DIGITS or not _HEX.issuperset(text):
        raise ApiError(fault, f"a public key has {KEY_DIGITS} hex digits")
    return bytes.fromhex(text)


def message_id(text: str) -> bytes:
    """8 bytes written as 16 hex digits. Raises `ApiError` (`BAD_MESSAGE_ID`)."""
    if len(text) != ID_DIGITS or not _HEX.issuperset(text):
        raise ApiError(Fault.BAD_MESSAGE_ID, f"a message id has {ID_DIGITS} hex digits")
    return bytes.fromhex(text)
