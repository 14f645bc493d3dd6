"""Messages of other nodes that are complete: remembered, so that none is delivered twice (messages spec 5.7)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from protocol.mycelium.messages.core import REMEMBER_SECONDS, Key
from protocol.mycelium.messages.packets import Done


class Completion(NamedTuple):
    """What the DONE of a complete message said."""

    chunks: int
    digest: bytes

    def matches(self, done: Done) -> bool:
        """Whether `done` is that DONE again."""
        return self.chunks == done.count and self.digest == done.digest


Known: TypeAlias = Callable[[Key], Completion | None]
"""Asks the store for a message that was completed in the last `REMEMBER_SECONDS`, or is still stored."""


class Completions:
    """The latest completions in memory; what isn't there is asked of the store, which outlives this process."""

    def __init__(self, limit: int, known: Known) -> None:
        self._limit = limit
        self._known = known
        self._recent: OrderedDict[Key, tuple[float, Completion]] = OrderedDict()

    def find(self, key: Key, now: float) -> Completion | None:
        """The message of this key, if it was completed lately."""
        recent = self._recent.get(key)
        if recent is not None and now - recent[0] < REMEMBER_SECONDS:
            return recent[1]
        return self._known(key)

    def remember(self, key: Key, completion: Completion, now: float) -> None:
        """The message of this key is complete."""
        self._recent[key] = (now, completion)
        self._recent.move_to_end(key)
        if len(self._recent) > self._limit:
            self._recent.popitem(last=False)
