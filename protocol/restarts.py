"""When a dead process comes back: at once if it had served, after a growing pause if it never got that far."""

from __future__ import annotations

import enum
from typing import Final

FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 5.0
GIVE_UP_AFTER: Final = 12
"""Deaths in a row before *ready*; with the pauses above that is about half a minute of trying."""


class Life(enum.Enum):
    """Where a supervised process stands."""

    STARTING = "starting"
    READY = "ready"
    PAUSING = "pausing"
    GIVEN_UP = "given up"
    STOPPING = "stopping"
    ENDED = "ended"


class Saw(enum.Enum):
    """What happens to it."""

    SERVES = "it said ready"
    DIED = "it died"
    DUE = "the pause is over"
    TOO_OFTEN = "it died too often before ready"
    TOLD_TO_STOP = "it was told to stop"


TRANSITIONS: Final = {
    (Life.STARTING, Saw.SERVES): Life.READY,
    (Life.STARTING, Saw.DIED): Life.PAUSING,
    (Life.STARTING, Saw.TOO_OFTEN): Life.GIVEN_UP,
    (Life.STARTING, Saw.TOLD_TO_STOP): Life.STOPPING,
    (Life.READY, Saw.DIED): Life.PAUSING,
    (Life.READY, Saw.TOLD_TO_STOP): Life.STOPPING,
    (Life.PAUSING, Saw.DUE): Life.STARTING,
    (Life.PAUSING, Saw.TOLD_TO_STOP): Life.ENDED,
    (Life.STOPPING, Saw.SERVES): Life.STOPPING,
    (Life.STOPPING, Saw.TOLD_TO_STOP): Life.STOPPING,
    (Life.STOPPING, Saw.DIED): Life.ENDED,
    (Life.GIVEN_UP, Saw.TOLD_TO_STOP): Life.ENDED,
    (Life.ENDED, Saw.TOLD_TO_STOP): Life.ENDED,
}


class RestartError(Exception):
    """Something happened that can't happen in this state."""


class RestartPolicy:
    """The life of one supervised process over all its incarnations. `now` is monotonic seconds."""

    __slots__ = ("_failures", "life", "restarts")

    def __init__(self) -> None:
        self.life = Life.STARTING
        self.restarts = 0
        self._failures = 0

    def serves(self) -> None:
        """It said *ready*."""
        self._move(Saw.SERVES)
        self._failures = 0

    def died(self) -> float | None:
        """It ended; returns seconds until the next try, or None where there is none."""
        if self.life is Life.STOPPING:
            self._move(Saw.DIED)
            return None
        if self.life is Life.READY:
            self._move(Saw.DIED)
            return 0.0
        self._failures += 1
        if self._failures >= GIVE_UP_AFTER:
            self._move(Saw.TOO_OFTEN)
            return None
        self._move(Saw.DIED)
        pause: float = FIRST_PAUSE_SECONDS * 2 ** (self._failures - 1)
        return min(pause, LONGEST_PAUSE_SECONDS)

    def again(self) -> None:
        """The next incarnation starts."""
        self._move(Saw.DUE)
        self.restarts += 1

    def stop(self) -> None:
        """It is wanted no more."""
        self._move(Saw.TOLD_TO_STOP)

    def _move(self, saw: Saw) -> None:
        following = TRANSITIONS.get((self.life, saw))
        if following is None:
            raise RestartError(f"a process that is {self.life.value}, and {saw.value}")
        self.life = following
