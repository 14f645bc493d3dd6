"""The source table: the best metric announced for each source, which keeps routes loop-free (wire spec 7.7).

A neighbour's route is taken only if it is better than everything this node has announced for the same source, so it
can't lead back here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

from protocol.mycelium.routing.arithmetic import seqno_newer
from protocol.mycelium.tlv import METRIC_INFINITE
from protocol.prefix import Prefix

SOURCE_LIFETIME: Final = 1800.0
"""Seconds after the last announcement (wire spec 7.7); longer than any neighbour keeps a route unheard of."""

Source: TypeAlias = tuple[Prefix, bytes]
"""(prefix, 40-byte router-id)."""
Distance: TypeAlias = tuple[int, int]
"""(metric, seqno)."""


def is_feasible(distance: Distance | None, seqno: int, metric: int) -> bool:
    """Whether a route with this seqno and metric, as received, is feasible against what was announced."""
    if distance is None or metric == METRIC_INFINITE:
        return True
    best_metric, best_seqno = distance
    return seqno_newer(seqno, best_seqno) or (seqno == best_seqno and metric < best_metric)


class Sources:
    """(prefix, router-id) → feasibility distance, the source announced longest ago first."""

    def __init__(self, limit: int, restored: Mapping[Source, Distance], now: float) -> None:
        """`restored` distances count as announced now: too old is safe, forgotten too early is not."""
        self._limit = limit
        self._distances: dict[Source, tuple[int, int, float]] = {
            source: (metric, seqno, now) for source, (metric, seqno) in restored.items()
        }

    def get(self, prefix: Prefix, router_id: bytes) -> Distance | None:
        """The feasibility distance of a source, `None` where nothing was announced."""
        found = self._distances.get((prefix, router_id))
        return None if found is None else found[:2]

    def items(self) -> Iterator[tuple[Source, Distance]]:
        """Every source and its distance, the one announced longest ago first."""
        return ((source, (metric, seqno)) for source, (metric, seqno, _) in self._distances.items())

    def feasible(self, prefix: Prefix, router_id: bytes, seqno: int, metric: int) -> bool:
        """Whether a route from this source, with its metric as received, may be selected."""
        return is_feasible(self.get(prefix, router_id), seqno, metric)

    def announced(self, prefix: Prefix, router_id: bytes, seqno: int, metric: int, now: float) -> bool:
        """Notes that a finite `metric` is announced now; returns whether the feasibility distance changed."""
        source = (prefix, router_id)
        found = self._distances.pop(source, None)
        if found is not None:
            best_metric, best_seqno, _ = found
            if not seqno_newer(seqno, best_seqno) and (seqno != best_seqno or metric >= best_metric):
                self._distances[source] = (best_metric, best_seqno, now)
                return False
        self._distances[source] = (metric, seqno, now)
        return True

    def pop_surplus(self) -> Source | None:
        """Takes out the source announced longest ago if there are more than the limit allows."""
        if len(self._distances) <= self._limit:
            return None
        source = next(iter(self._distances))
        del self._distances[source]
        return source

    def pop_expired(self, now: float) -> Source | None:
        """Takes out one source that was last announced a lifetime ago, if there is one."""
        deadline = self.next_deadline()
        if deadline is None or deadline > now:
            return None
        source = next(iter(self._distances))
        del self._distances[source]
        return source

    def next_deadline(self) -> float | None:
        """When the next source expires, `None` without any."""
        for _, _, announced in self._distances.values():
            return announced + SOURCE_LIFETIME
        return None
