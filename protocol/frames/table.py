"""Frames of the forwarding table: the router publishes, data actors follow and ask."""

from __future__ import annotations

import enum
from typing import Final

from protocol.codec import FrameError, frame, record
from protocol.frames.parts import ADDRESS_BYTES, KEY_BYTES

MAX_CHANGES: Final = 1024


class RouteState(enum.IntEnum):
    """What a prefix is to the packet path."""

    FORGOTTEN = 0
    """Nothing is known (any more): packets that wait for it are given up."""
    SELECTED = 1
    """A link leads there."""
    RESOLVING = 2
    """Asked for: packets wait."""
    UNREACHABLE = 3
    """Known, but no route is usable now; the key still opens packets from there."""


@record
class RouteEntry:
    """One prefix of the forwarding table. `link` is 0 and `public_key` empty where there is none."""

    network: bytes
    length: int
    state: RouteState
    link: int
    public_key: bytes
    clean: bool

    def __post_init__(self) -> None:
        if len(self.network) != ADDRESS_BYTES or not 0 <= self.length <= 128:
            raise FrameError("a prefix has 16 bytes and 0 to 128 bits")
        if len(self.public_key) not in (0, KEY_BYTES):
            raise FrameError(f"a public key has {KEY_BYTES} bytes, not {len(self.public_key)}")


@frame(0x20)
class TableEpoch:
    """Router → each new subscriber: which router process publishes. A new epoch means: introduce yourself again."""

    epoch: int


@frame(0x21)
class RouteDelta:
    """Router → data actors: change number `serial` of the forwarding table."""

    epoch: int
    serial: int
    changes: tuple[RouteEntry, ...]

    def __post_init__(self) -> None:
        if len(self.changes) > MAX_CHANGES:
            raise FrameError(f"{len(self.changes)} changes in one delta, at most {MAX_CHANGES}")


@frame(0x26)
class TableSerial:
    """Router → data actors, for some seconds after a change: the number of the last one, lest its loss go unnoticed."""

    epoch: int
    serial: int


@frame(0x22)
class AskTable:
    """Data actor → router: the whole table, please."""


@frame(0x23)
class TablePart:
    """Router → data actor: part `number` of the table as of change `serial`; `more` where another part follows.

    Two answers may overlap on their way: parts of one serial, numbered from 0 without a gap, make a whole table.
    """

    epoch: int
    serial: int
    number: int
    entries: tuple[RouteEntry, ...]
    more: bool


@frame(0x24)
class Resolve:
    """Data actor → router: packets wait for (or came from) this prefix."""

    network: bytes
    length: int


@frame(0x25)
class RouteUsed:
    """Data actor → router: these /64 prefixes carried packets lately, so don't let them expire."""

    networks: tuple[bytes, ...]
