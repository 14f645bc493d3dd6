"""Whether the peer of a QUIC connection still lives, as far as its silence tells: when to ask it, when to give it up.

The wire's own idle time-out is 60 s (wire spec 5.3). Whoever is asked, by anything that has to be acknowledged, answers
within a round trip.
"""

from __future__ import annotations

import enum
from typing import Final

SILENT_SECONDS: Final = 4.5
"""Who was not heard for so long, though asked, is gone: much as with TCP (`actors/link/transports/tcp.py`)."""
QUIET_SECONDS: Final = 2.0
"""Who was not heard for so long is asked, though we want nothing of it. So both ends of a dead path notice at about the
same time, whichever of them had something to send."""
ANSWER_SECONDS: Final = 2.0
"""Whoever is asked has at least so long to answer."""


class Verdict(enum.Enum):
    """What is to be done."""

    WAIT = "wait"
    ASK = "ask"
    """Send a PING, and say so by `asked`."""
    GIVE_UP = "give up"


class Vigil:
    """Over one connection. `now` is monotonic seconds."""

    __slots__ = ("_asked", "_heard")

    def __init__(self, now: float) -> None:
        self._heard = now
        self._asked = 0.0

    @property
    def silent_since(self) -> float:
        """When the peer was last heard."""
        return self._heard

    @property
    def waits(self) -> bool:
        """Whether something that was sent waits for an answer, and nothing was heard since."""
        return bool(self._asked)

    @property
    def deadline(self) -> float:
        """When `judge` has something to say, unless something is heard or asked before."""
        if self._asked:
            return max(self._heard + SILENT_SECONDS, self._asked + ANSWER_SECONDS)
        return self._heard + QUIET_SECONDS

    def heard(self, now: float) -> None:
        """The peer sent something."""
        self._heard, self._asked = now, 0.0

    def asked(self, now: float) -> None:
        """Something was sent that it has to acknowledge; only the first since it was heard counts."""
        self._asked = self._asked or now

    def judge(self, now: float, *, listening: bool) -> Verdict:
        """`listening` is false while we don't read what it may have answered long ago."""
        if self._asked and not listening:
            self._asked = now
        if now < self.deadline:
            return Verdict.WAIT
        return Verdict.GIVE_UP if self._asked else Verdict.ASK
