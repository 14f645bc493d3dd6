"""What the router tells the actor around it, in the order in which it has to happen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from protocol.frames import RouteState
from protocol.mycelium.routing.state import Record
from protocol.mycelium.tlv import Tlv
from protocol.prefix import Prefix


@dataclass(frozen=True, slots=True)
class Send:
    """Send `tlv` over link `link`."""

    link: int
    tlv: Tlv


@dataclass(frozen=True, slots=True)
class RouteChanged:
    """The forwarding table's entry for `prefix` is now this one.

    SELECTED releases the packets that wait for the prefix, RESOLVING keeps them; UNREACHABLE and FORGOTTEN give them
    up, also where the state was the same before: then it answers a `resolve` that came to nothing.
    """

    prefix: Prefix
    state: RouteState
    link: int | None
    """Where packets go: set if and only if SELECTED."""
    public_key: bytes | None
    """32 bytes, of the prefix's owner: set if SELECTED or UNREACHABLE."""
    clean: bool
    """Every link of the way, ours included, carries packets of any size."""


@dataclass(frozen=True, slots=True)
class LinkDead:
    """The neighbour on `link` no longer answers: its routes are gone already, the connection is to be closed."""

    link: int
    reason: str


@dataclass(frozen=True, slots=True)
class Saved:
    """Append `record` to the journal before acting on any later event: a successor must know what was promised."""

    record: Record


Event: TypeAlias = Send | RouteChanged | LinkDead | Saved
