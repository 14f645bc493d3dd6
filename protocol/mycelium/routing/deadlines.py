"""Deadlines: a heap with one live deadline per key, and a steady tick. Neither looks at a clock."""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable
from typing import Generic, TypeVar

_Key = TypeVar("_Key", bound=Hashable)

_SPARE_ITEMS = 64
"""Stale heap items that are tolerated before the heap is rebuilt, so that small heaps aren't rebuilt all the time."""


class Deadlines(Generic[_Key]):
    """When which key has to be looked at; times are monotonic seconds.

    A deadline only ever moves forward to an earlier time: when what it guards is put off, nothing is written here. The
    owner looks at the key when it is due, finds that it is too early and arms it again. Items that an earlier deadline
    replaced stay in the heap until they surface or outnumber the live ones.
    """

    def __init__(self) -> None:
        self._armed: dict[_Key, float] = {}
        self._heap: list[tuple[float, int, _Key]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._armed)

    def arm(self, key: _Key, when: float) -> None:
        """Makes `key` due at `when` unless it is due earlier already."""
        current = self._armed.get(key)
        if current is not None and current <= when:
            return
        self._armed[key] = when
        self._push(when, key)
        if len(self._heap) > 2 * len(self._armed) + _SPARE_ITEMS:
            self._rebuild()

    def disarm(self, key: _Key) -> None:
        """Forgets `key`, if it is known."""
        self._armed.pop(key, None)

    def next(self) -> float | None:
        """When the next key is due, `None` without any."""
        while self._heap:
            when, _, key = self._heap[0]
            if self._armed.get(key) == when:
                return when
            heapq.heappop(self._heap)
        return None

    def pop_due(self, now: float, limit: int) -> list[_Key]:
        """Takes out the keys that are due at `now`, earliest first, at most `limit` of them."""
        due: list[_Key] = []
        while len(due) < limit:
            when = self.next()
            if when is None or when > now:
                break
            key = heapq.heappop(self._heap)[2]
            del self._armed[key]
            due.append(key)
        return due

    def _push(self, when: float, key: _Key) -> None:
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, key))

    def _rebuild(self) -> None:
        self._heap = []
        for key, when in self._armed.items():
            self._push(when, key)


class Tick:
    """A moment that comes back every `period` seconds, the first time one period after `start`."""

    def __init__(self, period: float, start: float) -> None:
        self._period = period
        self.next = start + period

    def passed(self, now: float) -> bool:
        """Whether a tick has come; several missed ones count as one, and the rhythm is kept."""
        if now < self.next:
            return False
        self.next += self._period * (math.floor((now - self.next) / self._period) + 1)
        return True
