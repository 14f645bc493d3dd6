"""Packets and bytes by address, as people ask for them; bounded, where the reference's grow with every address seen."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

MAX_ADDRESSES: Final = 4096


class AddressCounts:
    """Counts for at most `limit` addresses; the one that was silent for longest makes room."""

    def __init__(self, limit: int = MAX_ADDRESSES) -> None:
        self._counts: OrderedDict[bytes, tuple[int, int]] = OrderedDict()
        self._limit = limit
        self.forgotten = 0

    def add(self, address: bytes, packets: int, octets: int) -> None:
        """So many more packets and bytes for a 16-byte address."""
        before = self._counts.pop(address, (0, 0))
        self._counts[address] = (before[0] + packets, before[1] + octets)
        if len(self._counts) > self._limit:
            self._counts.popitem(last=False)
            self.forgotten += 1

    def __iter__(self) -> Iterator[tuple[bytes, int, int]]:
        for address, (packets, octets) in self._counts.items():
            yield address, packets, octets
