"""How large each table of the router may grow, and the counters that say when one was full or input was refused."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the router's tables. Raises `ValueError` on a bound below 1."""

    prefixes: int = 131_072
    """Prefixes with a route. When full, only prefixes that are being queried are learned, at most `queries` more."""
    entries_per_prefix: int = 32
    """Routes to one prefix, at most one per link. Above it the costliest fallback is dropped."""
    queries: int = 8_192
    """Prefixes that are being resolved. When full, a new one is given up at once."""
    queries_per_link: int = 1_024
    """Of these, how many one neighbour's Route Requests may cause; what is above is not forwarded."""
    sources: int = 262_144
    """Feasibility distances. When full, the one announced longest ago goes: nobody is likely to still rely on it."""
    route_requests: int = 8_192
    """Route Requests remembered to avoid repeating them. When full, the oldest goes: at worst one is repeated."""
    seqno_requests: int = 8_192
    """Seqno Requests remembered. When full, the oldest goes: at worst one is repeated, or an answer not handed on."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(f"limit {field.name} is {getattr(self, field.name)}, it must be at least 1")


COUNTERS: Final = (
    "links_up",
    "links_down",
    "links_dead",
    "tlvs_from_unknown_link",
    "hellos",
    "ihus",
    "updates",
    "updates_denied",
    "updates_not_interesting",
    "updates_without_selection",
    "updates_over_prefix_limit",
    "updates_over_entry_limit",
    "triggered_updates",
    "selections",
    "selections_after_loss",
    "route_requests",
    "route_requests_denied",
    "route_requests_too_far",
    "route_requests_over_limit",
    "wildcard_requests",
    "wildcard_requests_while_answering",
    "resolves_denied",
    "queries_over_limit",
    "queries_given_up",
    "seqno_requests",
    "seqno_requests_denied",
    "seqno_requests_repeated",
    "seqno_requests_answered",
    "seqno_requests_bumped",
    "seqno_requests_bump_too_soon",
    "seqno_requests_too_far",
    "seqno_requests_forwarded",
    "seqno_requests_forwarded_unfeasible",
    "seqno_requests_unhandled",
    "routes_expired",
    "routes_retracted_by_expiry",
    "sources_expired",
    "sources_over_limit",
    "probes",
)
"""Every counter of a router. What a full table or refused input costs has a name of its own."""


def new_counters() -> dict[str, int]:
    """All counters at zero; counting under another name is a `KeyError`."""
    return dict.fromkeys(COUNTERS, 0)
