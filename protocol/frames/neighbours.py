"""Frames about links to neighbours as the router sees them: what each costs, and how much goes over it."""

from __future__ import annotations

from protocol.codec import frame, record


@frame(0x3B)
class AskLinks:
    """→ router: how are the links?"""

    token: int


@record
class LinkRow:
    """One link. `public_key` is whose own prefix is announced there, empty before it is.

    `cost` is what routing counts, `round_trip_ms` the last one (None before), `prefixes` how many are reached by it.
    """

    link: int
    name: str
    public_key: bytes
    static_cost: int
    cost: int
    round_trip_ms: int | None
    prefixes: int


@frame(0x3A)
class LinkList:
    """Router → asker."""

    token: int
    links: tuple[LinkRow, ...]
    more: bool
