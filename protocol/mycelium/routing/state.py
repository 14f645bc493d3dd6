"""What of a router survives its process: small records in a journal, and the state that they add up to.

A neighbour's loop freedom rests on what was announced to it (wire spec 7.7), so every record is written before the
Update that depends on it is sent. Records are packed like frames (`protocol/codec.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from protocol.codec import FrameError, frame, pack, unpack
from protocol.frames import RouteState
from protocol.mycelium.identity import ROUTER_ID_BYTES
from protocol.prefix import Prefix


class StateError(ValueError):
    """Records that no router wrote, or that don't add up to a router's state."""


@frame(0x7B)
class OwnState:
    """Who the router is, its sequence number, and when (monotonic seconds) that was last increased."""

    router_id: bytes
    seqno: int
    seqno_changed: float

    def __post_init__(self) -> None:
        if len(self.router_id) != ROUTER_ID_BYTES:
            raise FrameError(f"a router-id has {ROUTER_ID_BYTES} bytes, not {len(self.router_id)}")


@frame(0x7C)
class FeasibilityDistance:
    """The best (metric, seqno) announced for a source; `metric` is `None` when it was forgotten."""

    network: bytes
    length: int
    router_id: bytes
    metric: int | None
    seqno: int


@frame(0x7D)
class LinkCost:
    """A link's smoothed cost; `None` when the link is gone."""

    link: int
    smoothed: int | None


@frame(0x7E)
class PublishedEntry:
    """The forwarding table's entry for a prefix; FORGOTTEN removes it."""

    network: bytes
    length: int
    state: RouteState
    link: int | None
    public_key: bytes | None
    clean: bool


Record: TypeAlias = OwnState | FeasibilityDistance | LinkCost | PublishedEntry


class Published(NamedTuple):
    """What the forwarding table holds for a prefix; see `RouteChanged`."""

    state: RouteState
    link: int | None
    public_key: bytes | None
    clean: bool


NOT_PUBLISHED = Published(RouteState.FORGOTTEN, None, None, clean=False)


def published_record(prefix: Prefix, entry: Published) -> PublishedEntry:
    """The journal's record of what is published for `prefix`."""
    return PublishedEntry(prefix.network, prefix.length, entry.state, entry.link, entry.public_key, entry.clean)


def pack_record(record: Record) -> bytes:
    """One record as bytes (one msgpack value)."""
    return pack(record)


def unpack_record(data: bytes | memoryview) -> Record:
    """The record in `data`. Raises `StateError` for anything that is not exactly one record."""
    try:
        record = unpack(data)
    except FrameError as error:
        raise StateError(f"not a record of a router's journal: {error}") from error
    if not isinstance(record, OwnState | FeasibilityDistance | LinkCost | PublishedEntry):
        raise StateError(f"{type(record).__name__} is no record of a router's journal")
    return record


@dataclass(slots=True)
class SavedState:
    """What a router takes over from its predecessor."""

    own: OwnState
    distances: dict[tuple[Prefix, bytes], tuple[int, int]] = field(default_factory=dict)
    """(prefix, router-id) → (metric, seqno), the one announced longest ago first."""
    link_costs: dict[int, int] = field(default_factory=dict)
    """link → smoothed cost of the links that were up."""
    published: dict[Prefix, Published] = field(default_factory=dict)

    @classmethod
    def replay(cls, records: Iterable[Record]) -> SavedState:
        """The state after all `records`, in the order in which they were written.

        Raises `StateError` if none of them says who the router is.
        """
        own: OwnState | None = None
        distances: dict[tuple[Prefix, bytes], tuple[int, int]] = {}
        link_costs: dict[int, int] = {}
        published: dict[Prefix, Published] = {}
        for record in records:
            match record:
                case OwnState():
                    own = record
                case FeasibilityDistance(network, length, router_id, metric, seqno):
                    source = (Prefix(network, length), router_id)
                    distances.pop(source, None)
                    if metric is not None:
                        distances[source] = (metric, seqno)
                case LinkCost(link, smoothed):
                    link_costs.pop(link, None)
                    if smoothed is not None:
                        link_costs[link] = smoothed
                case PublishedEntry(network, length, state, via, public_key, clean):
                    prefix = Prefix(network, length)
                    published.pop(prefix, None)
                    if state is not RouteState.FORGOTTEN:
                        published[prefix] = Published(state, via, public_key, clean)
        if own is None:
            raise StateError("the journal has no record of the router's own id; start without it")
        return cls(own, distances, link_costs, published)
