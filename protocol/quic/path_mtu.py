"""Whether a path still carries datagrams of the size in use: questions to it, and what its silence means.

After RFC 8899 (DPLPMTUD), for a connection whose library can make its datagrams smaller, but does not find out by
itself that it has to. A question is a datagram that nothing depends on, padded to a size; the peer acknowledges it or
never gets it. Only a path that answers small questions and none of three large ones has become smaller: one that
answers nothing is broken, and one that loses some is busy.
"""

from __future__ import annotations

from typing import Final

STEPS: Final = (1200, 1280, 1350, 1400, 1452)
"""Bytes of UDP payload: what QUIC demands, IPv6's minimum and tunnels of many kinds leave, and Ethernet."""
TRIES: Final = 3
SHORTEST_WAIT_SECONDS: Final = 0.1
LONGEST_WAIT_SECONDS: Final = 1.0
ROUND_TRIPS: Final = 4
"""So many are waited for an answer, within these bounds."""
PAUSE_SECONDS: Final = 1.0
"""Between two rounds of questions: while a path loses packets, a question a second."""


class PathMtu:
    """Asks a path that loses packets. `now` is monotonic seconds; all sizes are bytes of UDP payload."""

    def __init__(self) -> None:
        self._size = 0
        """What is asked about; 0 while nothing is."""
        self._tries = 0
        self._wait = 0.0
        self._next = 0.0
        self._answered = 0
        self._losses = 0

    @property
    def asking(self) -> bool:
        """Whether a round of questions goes on."""
        return self._size > 0

    def begin(self, size: int, losses: int, round_trip: float | None, now: float) -> None:
        """Begins a round about `size`, unless one goes on. `losses`: packets of the connection lost so far."""
        if self.asking:
            return
        self._losses = losses
        if size <= STEPS[0]:
            return
        self._size, self._tries, self._answered, self._next = size, 0, 0, now
        wait = LONGEST_WAIT_SECONDS if round_trip is None else ROUND_TRIPS * round_trip
        self._wait = min(LONGEST_WAIT_SECONDS, max(SHORTEST_WAIT_SECONDS, wait))

    def look(self, size: int, losses: int, round_trip: float | None, now: float) -> None:
        """Begins a round where packets were lost since the last one began. To be called whenever that is known."""
        if losses > self._losses and now >= self._next:
            self.begin(size, losses, round_trip, now)

    def take_due(self, now: float) -> tuple[int, ...]:
        """The sizes to ask for now; of the first try only that in question."""
        if not self.asking or now < self._next or self._tries == TRIES:
            return ()
        self._tries += 1
        self._next = now + self._wait
        smaller = () if self._tries == 1 else tuple(step for step in STEPS if self._answered < step < self._size)
        return (*smaller, self._size)

    def answered(self, size: int, now: float) -> None:
        """The path carried a question of `size`."""
        if self.asking:
            self._answered = max(self._answered, size)
            if size >= self._size:
                self._end(now)

    def verdict(self, now: float) -> int | None:
        """The largest size that the path carries, once it is known that it does not carry that in question."""
        if not self.asking or self._tries < TRIES or now < self._next:
            return None
        found = self._answered
        self._end(now)
        return found or None

    def next_deadline(self) -> float | None:
        """When to ask again, or for the verdict."""
        return self._next if self.asking else None

    def _end(self, now: float) -> None:
        self._size, self._next = 0, now + PAUSE_SECONDS
