"""How much may be on its way to a process before more only waits there instead of here.

What waits at a link is ciphertext that can't be scheduled by flow any more. So each link gets what keeps it busy and
not much more: the limit falls while the time from handing over to giving back stays long, and rises when the link ran
dry while something waited for it.
"""

from __future__ import annotations

from typing import Final

LEAST_BYTES: Final = 128 << 10
"""Two super-packets: one that is written and one that follows it."""
MOST_BYTES: Final = 2 << 20
TARGET_SECONDS: Final = 0.008
WINDOW_SECONDS: Final = 0.050
"""The shortest time in a window is what counts: a single long one is only a process that slept."""
_FALL: Final = 0.75
_RISE: Final = 2


class InFlightLimit:
    """The limit for one reader, in bytes. `now` is monotonic seconds."""

    __slots__ = ("_shortest", "_window_end", "limit")

    def __init__(self) -> None:
        self.limit = MOST_BYTES // 2
        self._shortest = float("inf")
        self._window_end = 0.0

    def returned(self, took: float, now: float) -> None:
        """Something came back after `took` seconds."""
        self._shortest = min(self._shortest, took)
        if now >= self._window_end:
            if self._shortest > TARGET_SECONDS and self._window_end:
                self.limit = max(LEAST_BYTES, int(self.limit * _FALL))
            self._shortest = float("inf")
            self._window_end = now + WINDOW_SECONDS

    def ran_dry(self) -> None:
        """Everything came back although more was waiting."""
        self.limit = min(MOST_BYTES, self.limit * _RISE)
