"""How fast chunks go to one remote: round-trip time, when to repeat, how much may be under way.

The reference has none of it: all chunks in one burst, and again every 100 to 200 ms (messages spec 6.3). Here nothing
is repeated sooner than the reference would, and less often where the round trip takes longer; the window grows as TCP's
does. Source: RFC 6298 for the timer, RFC 5681 for the window.
"""

from __future__ import annotations

from typing import Final

from protocol.mycelium.messages.chunking import CHUNK_BYTES, LARGE_CHUNK_BYTES

SHORTEST_REPEAT: Final = 0.1
"""Seconds: the reference's own timer. A receiver that is busy is not to be hit more often than by its own kind."""
LONGEST_REPEAT: Final = 3.0
LONGEST_GUESS: Final = 1.0
"""While the round-trip time is a guess; a message is not to be kept waiting long for what may be a lost packet."""
_GUESS_MARGIN: Final = 1.5
_GRANULARITY: Final = 0.02
"""A steady round trip leaves no deviation, and a timer without slack would fire while the answer is being read."""

FIRST_WINDOW: Final = 256 * CHUNK_BYTES
SMALLEST_WINDOW: Final = 64 * CHUNK_BYTES
"""On a way that loses a third of everything this still keeps up with the reference, which never slows down."""
FIRST_LARGE_WINDOW: Final = 24 * LARGE_CHUNK_BYTES
LARGEST_WINDOW: Final = 4 << 20


class Pace:
    """The state of the way to one remote. Times are monotonic seconds, amounts are bytes of chunk data."""

    __slots__ = ("_backed_off", "_deviation", "_guess", "_reduced", "_smoothed", "_threshold", "flight", "window")

    def __init__(self) -> None:
        self._smoothed: float | None = None
        self._deviation = 0.0
        self._guess = 0.0
        self._backed_off = False
        self._threshold = LARGEST_WINDOW
        self._reduced = float("-inf")
        self.window = FIRST_WINDOW
        self.flight = 0
        """Sent, and neither acknowledged nor given up."""

    @property
    def is_known(self) -> bool:
        """Whether the remote has answered lately: there is a way, and it understands."""
        return self._smoothed is not None

    @property
    def has_room(self) -> bool:
        """Whether a chunk may go."""
        return self.flight < self.window

    def repeat_after(self) -> float:
        """Seconds after which a packet without an acknowledgement is sent again."""
        pause = min(self._guess, LONGEST_GUESS)
        if self._smoothed is not None:
            # At most doubled: the window answers congestion already, and on a lossy way the reference doesn't wait.
            measured = self._smoothed + max(4 * self._deviation, _GRANULARITY)
            pause = max(pause, measured * (2 if self._backed_off else 1))
        return min(max(pause, SHORTEST_REPEAT), LONGEST_REPEAT)

    def measured(self, seconds: float) -> None:
        """A packet that was sent once was acknowledged after so many seconds (RFC 6298 section 2, Karn's rule)."""
        if self._smoothed is None:
            self._smoothed, self._deviation = seconds, seconds / 2
        else:
            self._deviation += (abs(self._smoothed - seconds) - self._deviation) / 4
            self._smoothed += (seconds - self._smoothed) / 8
        self._guess = 0.0
        self._backed_off = False

    def bounded(self, seconds: float) -> None:
        """A packet that was sent several times was acknowledged so many seconds after the first.

        That is no sample: it may belong to the last one, or have waited for a route. But if the round trip is longer
        than the timer, there will be no sample before the timer is longer too.
        """
        self._guess = seconds * _GUESS_MARGIN

    def timed_out(self) -> None:
        """A packet was not acknowledged in time."""
        self._backed_off = True

    def acknowledged(self, size: int) -> None:
        """A chunk of `size` bytes arrived: the window grows, by as much, or, above the threshold, by one per window."""
        growth = size if self.window < self._threshold else size * CHUNK_BYTES // self.window
        self.window = min(self.window + growth, LARGEST_WINDOW)

    def widen(self) -> None:
        """Chunks are large from here on: a few dozen at first, as of small ones some hundred."""
        self.window = max(self.window, FIRST_LARGE_WINDOW)

    def lost(self, now: float) -> None:
        """Chunks were lost: the window is halved, once for each round of chunks."""
        if now - self._reduced < self.repeat_after():
            return
        self._reduced = now
        self.window = self._threshold = max(self.window // 2, SMALLEST_WINDOW)
