"""How a message is cut so that it arrives: chunks of nearly equal size (messages spec 6.2).

The reference's own plan, 1300 bytes each and a shorter rest, never arrives at another reference node when the rest has
1 to 249 bytes (Q1): about one long message in five.
"""

from __future__ import annotations

from typing import Final

CHUNK_BYTES: Final = 1300
"""Largest chunk that is sent, and what a receiver divides the length by to know how many there are at least."""
LARGE_CHUNK_BYTES: Final = 64_000
"""Largest chunk where both ends and the whole way between them carry any size (our extension E4): some less than the
65 467 bytes for which a data packet has room."""
SMALLEST_CHUNK: Final = 250
"""Below it a reference receiver takes a chunk at one index only (messages spec 5.2)."""


def expected_chunks(length: int) -> int:
    """How many chunks a message of `length` bytes has at least."""
    return -(-length // CHUNK_BYTES)


def highest_index(length: int) -> int:
    """The largest index that a chunk of a message of `length` bytes may have (messages spec 5.2)."""
    return max(0, -(-length // SMALLEST_CHUNK) - 1)


class ChunkPlan:
    """`count` chunks of a message of `length` bytes; for two and more each has half of `largest` to all of it."""

    __slots__ = ("_larger", "_size", "count", "largest")

    def __init__(self, length: int, largest: int = CHUNK_BYTES) -> None:
        self.largest: Final = largest
        self.count: Final = -(-length // largest)
        self._size, self._larger = divmod(length, self.count or 1)

    def place(self, index: int) -> tuple[int, int]:
        """(offset, size) of chunk `index`."""
        return index * self._size + min(index, self._larger), self.size(index)

    def size(self, index: int) -> int:
        """Bytes of chunk `index`."""
        return self._size + (index < self._larger)
