"""A private network: its name, which every connection tells in the clear, and its key (wire spec 5.7)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

KEY_BYTES: Final = 32
SHORTEST_NAME: Final = 2
LONGEST_NAME: Final = 64
"""Bytes of UTF-8."""


class NetworkError(ValueError):
    """A name or a key that no private network can have; says why."""


def check_name(name: str) -> None:
    """Raises `NetworkError` for a name that can't be, in the reference's words where it has some."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise NetworkError(f"network name {name!r} can't be written as UTF-8") from None
    if not SHORTEST_NAME <= size <= LONGEST_NAME:
        raise NetworkError(f"network name must be between {SHORTEST_NAME} and {LONGEST_NAME} characters; it has {size}")
    if "\0" in name:
        raise NetworkError("network name must not contain a zero byte")


@dataclass(frozen=True, slots=True)
class Network:
    """Who knows both is in it. Raises `NetworkError` for what can't be."""

    name: str
    key: bytes = field(repr=False)
    """32 bytes, used as they are."""

    def __post_init__(self) -> None:
        check_name(self.name)
        if len(self.key) != KEY_BYTES:
            raise NetworkError(f"a network key has {KEY_BYTES} bytes, not {len(self.key)}")
