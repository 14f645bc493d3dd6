"""What was asked for and who asked: queries under way, Route Requests sent, Seqno Requests seen (wire spec 7.9, 7.15).

All three are bounded, and ordered by age so that nothing has to be searched to find what is too old.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from protocol.prefix import Prefix

QUERY_PATIENCE: Final = 15.0
"""Seconds that a query waits for an answer (wire spec 7.9)."""
ROUTE_REQUEST_LIFETIME: Final = 15.0
"""Seconds during which a neighbour is not sent the same Route Request again (wire spec 7.9)."""
SEQNO_REQUEST_LIFETIME: Final = 60.0
"""Seconds during which a Seqno Request is remembered, and its answer handed on (wire spec 7.15)."""
SEQNO_REQUEST_PAUSE: Final = 4.0
"""Seconds during which a neighbour is not sent the same Seqno Request again (wire spec 7.15)."""


@dataclass(slots=True)
class Query:
    """A prefix that is being resolved."""

    until: float
    local: bool
    """Whether this node's own packets wait for it, and not only a neighbour."""
    asker: int | None
    """The link whose Route Request started it, `None` if this node did."""


class Queries:
    """Prefix → query. All wait equally long, so the oldest is always the first."""

    def __init__(self, limit: int, limit_per_link: int) -> None:
        self._limit = limit
        self._limit_per_link = limit_per_link
        self._queries: dict[Prefix, Query] = {}
        self._asked_by: Counter[int] = Counter()

    def get(self, prefix: Prefix) -> Query | None:
        """The query for exactly this prefix, if one is under way."""
        return self._queries.get(prefix)

    def __iter__(self) -> Iterator[Prefix]:
        return iter(self._queries)

    def items(self) -> Iterator[tuple[Prefix, Query]]:
        """Every query under way, oldest first."""
        return iter(self._queries.items())

    def start(self, prefix: Prefix, asker: int | None, now: float) -> bool:
        """Starts a query for a prefix that has none; `asker` is the neighbour's link, `None` for this node itself.

        Returns whether there was room for it, in the table and in the neighbour's share.
        """
        if len(self._queries) >= self._limit:
            return False
        if asker is not None:
            if self._asked_by[asker] >= self._limit_per_link:
                return False
            self._asked_by[asker] += 1
        self._queries[prefix] = Query(now + QUERY_PATIENCE, asker is None, asker)
        return True

    def restart(self, prefix: Prefix, now: float) -> None:
        """Gives the query for `prefix` its full time again."""
        query = self._queries.pop(prefix)
        query.until = now + QUERY_PATIENCE
        self._queries[prefix] = query

    def end(self, prefix: Prefix) -> Query | None:
        """Ends the query for `prefix`, if one is under way."""
        query = self._queries.pop(prefix, None)
        if query is not None and query.asker is not None:
            self._asked_by[query.asker] -= 1
            if not self._asked_by[query.asker]:
                del self._asked_by[query.asker]
        return query

    def pop_expired(self, now: float) -> tuple[Prefix, Query] | None:
        """Ends the oldest query if its time is over."""
        deadline = self.next_deadline()
        if deadline is None or deadline > now:
            return None
        prefix, query = next(iter(self._queries.items()))
        self.end(prefix)
        return prefix, query

    def next_deadline(self) -> float | None:
        """When the oldest query's time is over, `None` without any."""
        for query in self._queries.values():
            return query.until
        return None


class SentRouteRequest(NamedTuple):
    """A Route Request that went out: to whom, when, and in which generation."""

    generation: int
    recipients: frozenset[int]
    sent: float


class RouteRequestCache:
    """Which neighbours have been sent a Route Request for a prefix lately."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._sent: dict[Prefix, SentRouteRequest] = {}

    def __len__(self) -> int:
        return len(self._sent)

    def note(self, prefix: Prefix, generation: int, links: frozenset[int], now: float) -> frozenset[int]:
        """Which of `links` need a request of this generation, which they are now taken to have been sent.

        Those that had one of no larger generation within its lifetime don't. A request that only adds recipients keeps
        the older time: being asked twice is harmless, staying unasked is not.
        """
        self._drop_old(now)
        known = self._sent.get(prefix)
        if known is None or known.generation > generation:
            self._sent.pop(prefix, None)
            if len(self._sent) >= self._limit:
                del self._sent[next(iter(self._sent))]
            self._sent[prefix] = SentRouteRequest(generation, links, now)
            return links
        missing = links - known.recipients
        if missing:
            self._sent[prefix] = known._replace(recipients=known.recipients | links)
        return missing

    def forget(self, prefix: Prefix) -> None:
        """Lets the next request for `prefix` go to everyone."""
        self._sent.pop(prefix, None)

    def _drop_old(self, now: float) -> None:
        while self._sent:
            prefix, oldest = next(iter(self._sent.items()))
            if oldest.sent + ROUTE_REQUEST_LIFETIME > now:
                return
            del self._sent[prefix]


SeqnoKey: TypeAlias = tuple[bytes, Prefix, int]
"""(router-id, prefix, requested seqno)."""


@dataclass(slots=True)
class SentSeqnoRequest:
    """A Seqno Request that went out."""

    first_sent: float
    targets: dict[int, float] = field(default_factory=dict)
    """Link → when it was last sent there."""
    requesters: dict[int, None] = field(default_factory=dict)
    """The links that asked for it, in order."""

    def was_sent(self, link: int, now: float) -> bool:
        """Whether it was sent over `link` so lately that it needn't be repeated."""
        sent = self.targets.get(link)
        return sent is not None and now - sent < SEQNO_REQUEST_PAUSE


class SeqnoRequestCache:
    """Which Seqno Requests were sent where, and which neighbours wait for the answer."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._sent: dict[SeqnoKey, SentSeqnoRequest] = {}

    def __len__(self) -> int:
        return len(self._sent)

    def get(self, key: SeqnoKey, now: float) -> SentSeqnoRequest | None:
        """The request, unless it was first sent a lifetime ago."""
        self._drop_old(now)
        return self._sent.get(key)

    def note(self, key: SeqnoKey, target: int, requester: int | None, now: float) -> None:
        """The request goes to `target` now, on behalf of `requester` or of this node itself."""
        found = self.get(key, now)
        if found is None:
            if len(self._sent) >= self._limit:
                del self._sent[next(iter(self._sent))]
            found = self._sent[key] = SentSeqnoRequest(now)
        found.targets[target] = now
        if requester is not None:
            found.requesters[requester] = None

    def may_ask(self, key: SeqnoKey, target: int, now: float) -> bool:
        """Whether `target` may be asked: it is not waiting for the same answer, and was not asked just now."""
        found = self.get(key, now)
        return found is None or (target not in found.requesters and not found.was_sent(target, now))

    def link_down(self, link: int) -> None:
        """Forgets a link; a request that nobody is left to answer may be sent again at once."""
        unanswerable: list[SeqnoKey] = []
        for key, request in self._sent.items():
            request.requesters.pop(link, None)
            if request.targets.pop(link, None) is not None and not request.targets:
                unanswerable.append(key)
        for key in unanswerable:
            del self._sent[key]

    def _drop_old(self, now: float) -> None:
        while self._sent:
            key, oldest = next(iter(self._sent.items()))
            if oldest.first_sent + SEQNO_REQUEST_LIFETIME > now:
                return
            del self._sent[key]
