"""Which of a peer's addresses to try, and when (RFC 8305, "happy eyeballs"): side by side, each with a head start."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, zip_longest
from typing import Final, Generic, TypeVar

HEAD_START_SECONDS: Final = 0.25
"""RFC 8305 section 5."""
MOST_ADDRESSES: Final = 8
"""Of one answer that are tried in one dial: a name with a thousand must not become a thousand connections."""

_Address = TypeVar("_Address")


class Race(Generic[_Address]):
    """One dial. `now` is monotonic seconds. An address starts when its predecessor failed or had its head start."""

    def __init__(self, addresses: Iterable[_Address], now: float) -> None:
        self._waiting = deque(addresses)
        self._running: list[_Address] = []
        self._next = now
        self.reasons: list[str] = []
        """Why those that failed did, in that order."""

    @property
    def lost(self) -> bool:
        """Whether nobody is left."""
        return not self._waiting and not self._running

    def take_due(self, now: float) -> _Address | None:
        """The next address to try, if its time has come."""
        if not self._waiting or now < self._next:
            return None
        address = self._waiting.popleft()
        self._running.append(address)
        self._next = now + HEAD_START_SECONDS
        return address

    def failed(self, address: _Address, reason: str, now: float) -> None:
        """An address that was tried can't be reached."""
        self._running.remove(address)
        self.reasons.append(reason)
        self._next = now

    def start_no_more(self) -> None:
        """Whoever has not started never will."""
        self._waiting.clear()

    def next_deadline(self) -> float | None:
        """When `take_due` has something to say next."""
        return self._next if self._waiting else None


def in_turn(*families: Iterable[_Address]) -> Iterator[_Address]:
    """The addresses of several families in turn, beginning with the first one's (RFC 8305 section 4)."""
    missing = object()
    for address in chain.from_iterable(zip_longest(*families, fillvalue=missing)):
        if address is not missing:
            yield address  # type: ignore[misc]
