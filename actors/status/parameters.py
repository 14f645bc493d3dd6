"""The parts of paths, query parameters and headers that several routes have in common."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Final

from actors.api.faults import ApiError, Fault
from actors.api.objects import Address, Base64, EndpointText, MessageId, Subnet
from actors.api.reading import MAX_U64, decode_base64, message_id
from actors.api.schema import Range, Text
from actors.status.route import Parameter

MAX_KEY_TEXT: Final = 255
_KEY_BYTES: Final = 32
_MAX_DIGITS: Final = 20


def _as_it_is(text: str) -> str:
    return text


def _topic(text: str) -> bytes:
    return decode_base64(text, Fault.BAD_TOPIC)


def _topic_filter(text: str) -> bytes:
    try:
        return decode_base64(text, Fault.BAD_QUERY)
    except ApiError as error:
        raise ApiError(Fault.BAD_QUERY, f"topic: {error.text}") from None


def seconds(name: str) -> Any:
    """Reads plain digits, without a sign."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdecimal()) or len(text) > _MAX_DIGITS or int(text) > MAX_U64:
            raise ApiError(Fault.BAD_QUERY, f"{name} is a number of seconds, in plain digits")
        return int(text)

    return read


def _peek(text: str) -> bool:
    if text not in ("true", "false"):
        raise ApiError(Fault.BAD_QUERY, "peek is either true or false")
    return text == "true"


def _idempotency_key(text: str) -> bytes:
    if not 0 < len(text) <= MAX_KEY_TEXT:
        raise ApiError(Fault.BAD_HEADER, f"an Idempotency-Key has between 1 and {MAX_KEY_TEXT} letters")
    return hashlib.blake2b(text.encode(), digest_size=_KEY_BYTES).digest()


ENDPOINT: Final = Parameter("endpoint", EndpointText, _as_it_is, "The endpoint, percent-encoded.")
RULE: Final = Parameter("rule", str, _as_it_is, "The rule, percent-encoded.")
IP: Final = Parameter("ip", Address, _as_it_is, "An address.")
TOPIC: Final = Parameter("topic", Base64, _topic, "The topic in base64, percent-encoded.")
SUBNET: Final = Parameter("subnet", Subnet, _as_it_is, "The subnet, percent-encoded.")
ID: Final = Parameter("id", MessageId, message_id, "The id of the message.")

_Seconds = Annotated[int, Range(0, MAX_U64)]
PEEK: Final = Parameter("peek", bool, _peek, "Look at the message and leave it where it is.", False)
TIMEOUT: Final = Parameter("timeout", _Seconds, seconds("timeout"), "How many seconds to wait for a message.", 0)
TOPIC_FILTER: Final = Parameter(
    "topic", Base64, _topic_filter, "Only messages of exactly this topic; empty: those without one."
)
REPLY_TIMEOUT: Final = Parameter(
    "reply_timeout", _Seconds, seconds("reply_timeout"), "Wait for a reply, for so many seconds."
)
IDEMPOTENCY_KEY: Final = Parameter(
    "Idempotency-Key",
    Annotated[str, Text(r"^.{1,255}$")],
    _idempotency_key,
    "A repetition with the same key sends nothing and is answered as the first was.",
    b"",
)
