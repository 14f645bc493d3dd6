"""What consumers of the message stream say and hear: words of any program, so maps with names in msgpack.

| Word           | From     | Members beside `word`                                                                  |
|----------------|----------|----------------------------------------------------------------------------------------|
| (empty)        | consumer | sent by ZeroMQ on each new connection, with `ZMQ_PROBE_ROUTER` and `ZMQ_IMMEDIATE`       |
| `welcome`      | stream   | –: answers the empty one; a new connection has no subscription                           |
| `subscribe`    | consumer | `topic`: bytes, or nil for all; `window`: messages at a time, 1 to 256. Both optional   |
| `acknowledge`  | consumer | `uid`                                                                                    |
| `unsubscribe`  | consumer | –                                                                                        |
| `message`      | stream   | `uid`, `id`, `source`, `source_key`, `destination`, `topic`, `reply`, `data`             |
| `acknowledged` | stream   | `uid`: it will not come again                                                            |
| `probe`        | stream   | –: is anybody there? Nothing need be answered                                            |
| `refused`      | stream   | `reason`                                                                                 |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgpack

UID_BYTES: Final = 16
MAX_WINDOW: Final = 256
DEFAULT_WINDOW: Final = 32
MAX_WORD_BYTES: Final = 4096
"""Of what a consumer says."""


class StreamError(ValueError):
    """A word that a consumer can't say; the text is for him."""


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Begin to send; what this consumer had before without acknowledging it comes first."""

    topic: bytes | None
    window: int


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """The consumer has dealt with a message."""

    uid: bytes


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Send no more."""


Word: TypeAlias = Subscribe | Acknowledge | Unsubscribe


def parse(data: bytes) -> Word:
    """What a consumer says. Raises `StreamError`."""
    if len(data) > MAX_WORD_BYTES:
        raise StreamError(f"{len(data)} bytes, at most {MAX_WORD_BYTES}")
    try:
        word = msgpack.unpackb(data, strict_map_key=True)
    except (ValueError, msgpack.exceptions.StackError) as error:
        raise StreamError(f"not one msgpack value: {error}") from None
    if not isinstance(word, dict):
        raise StreamError("a word is a msgpack map, with its name under `word`")
    match word.get("word"):
        case "subscribe":
            return _subscribe(word)
        case "acknowledge":
            uid = word.get("uid")
            if not isinstance(uid, bytes) or len(uid) != UID_BYTES:
                raise StreamError(f"acknowledge: uid is the {UID_BYTES} bytes of the message")
            return Acknowledge(uid)
        case "unsubscribe":
            return Unsubscribe()
        case other:
            raise StreamError(f"no word is called {other!r:.40}; say subscribe, acknowledge or unsubscribe")


def pack_word(word: str, **members: Any) -> bytes:
    """What a consumer hears."""
    data: bytes = msgpack.packb({"word": word, **members})
    return data


def _subscribe(word: dict[str, Any]) -> Subscribe:
    topic, window = word.get("topic"), word.get("window", DEFAULT_WINDOW)
    if topic is not None and not isinstance(topic, bytes):
        raise StreamError("subscribe: topic is bytes, or nil for all topics")
    if type(window) is not int or not 1 <= window <= MAX_WINDOW:
        raise StreamError(f"subscribe: window is a number between 1 and {MAX_WINDOW}")
    return Subscribe(topic, window)
