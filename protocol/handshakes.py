"""Connections whose transport is still agreeing with its peer: whose they are, and how many a stranger may have.

A stranger can begin thousands and finish none. He gets few per address; and of all strangers together the one who has
had the longest makes room, for an honest handshake takes a few round trips.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

MOST_OF_ONE_SOURCE: Final = 8
MOST_OF_STRANGERS: Final = 32


@dataclass(frozen=True, slots=True)
class Handshake:
    """One that is going on."""

    endpoint: str
    outbound: bool
    source: str
    """What a stranger's are counted by; empty of those that we dialled."""


class Handshakes:
    """All that are going on, by the link that they are to become."""

    def __init__(self) -> None:
        self._going_on: dict[int, Handshake] = {}
        self._by_source: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._going_on)

    @property
    def of_strangers(self) -> int:
        """How many we did not begin."""
        return self._by_source.total()

    def dialled(self, link: int, endpoint: str) -> None:
        """We began one."""
        self._going_on[link] = Handshake(endpoint, True, "")

    def too_many_of(self, source: str) -> bool:
        """Whether the stranger at `source` has as many as he may."""
        return self._by_source[source] >= MOST_OF_ONE_SOURCE

    def accepted(self, link: int, endpoint: str, source: str) -> None:
        """A stranger began one."""
        self._going_on[link] = Handshake(endpoint, False, source)
        self._by_source[source] += 1

    def oldest_of_too_many(self) -> int:
        """The link of the stranger who has to make room for another; 0 while there is some."""
        if self.of_strangers < MOST_OF_STRANGERS:
            return 0
        return next(link for link, handshake in self._going_on.items() if not handshake.outbound)

    def ended(self, link: int) -> Handshake | None:
        """That of `link` is over, well or badly; None where there was none."""
        handshake = self._going_on.pop(link, None)
        if handshake is not None and not handshake.outbound:
            self._by_source[handshake.source] -= 1
            if not self._by_source[handshake.source]:
                del self._by_source[handshake.source]
        return handshake
