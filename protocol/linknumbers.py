"""Which process a new link goes to: one of its own while they are few, else the one with the fewest links."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from protocol.frames import index_of, link_number, process_of

MOST_PROCESSES: Final = 12
"""A process costs 8 MiB, a link in one that exists 80 KiB; few machines have cores for more."""


class LinkNumbers:
    """Gives out link numbers; none is ever given twice."""

    def __init__(self, first_process: int, highest: Iterable[int], living: Iterable[int]) -> None:
        """`first_process` was never used; `highest` are the highest numbers used in processes that may still live."""
        self._next_process = first_process
        self._highest = {process_of(link): link for link in highest}
        self._links: Counter[int] = Counter(process_of(link) for link in living)

    def next(self) -> int:
        """The number of a new link."""
        if len(self._links) < MOST_PROCESSES:
            process, index = self._next_process, 0
            self._next_process += 1
        else:
            process = min(self._links, key=lambda number: (self._links[number], number))
            index = index_of(self._highest[process]) + 1
        link = link_number(process, index)
        self._links[process] += 1
        self._highest[process] = link
        return link

    def gone(self, link: int) -> None:
        """A link ended."""
        process = process_of(link)
        self._links[process] -= 1
        if self._links[process] <= 0:
            del self._links[process]
            self._highest.pop(process, None)
