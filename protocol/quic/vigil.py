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
WORRY_SECONDS: Final = 1.0
"""Who owes an answer for so long is asked more loudly, and again and again. To an address of ours that is new to it, a
NAT's new port say, it may send no more than three times what came from there (RFC 9000 section 8.2): what small packets
bring does not carry one of its own."""
AGAIN_SECONDS: Final = 0.5


class Verdict(enum.Enum):
    """What is to be done."""

    WAIT = "wait"
    ASK = "ask"
    """Send a PING, and say so by `asked`."""
    INSIST = "insist"
    """Send one that fills a datagram."""
    GIVE_UP = "give up"


class Vigil:
    """Over one connection. `now` is monotonic seconds."""

    __slots__ = ("_asked", "_heard", "_insist")

    def __init__(self, now: float) -> None:
        self._heard = now
        self._asked = 0.0
        self._insist = 0.0

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
        return min(self._insist, self._end) if self._asked else self._heard + QUIET_SECONDS

    @property
    def _end(self) -> float:
        return max(self._heard + SILENT_SECONDS, self._asked + ANSWER_SECONDS)

    def heard(self, now: float) -> None:
        """The peer sent something."""
        self._heard, self._asked = now, 0.0

    def asked(self, now: float) -> None:
        """Something was sent that it has to acknowledge; only the first since it was heard counts."""
        if not self._asked:
            self._asked, self._insist = now, now + WORRY_SECONDS

    def judge(self, now: float, *, listening: bool) -> Verdict:
        """`listening` is false while we don't read what it may have answered long ago."""
        if not self._asked:
            return Verdict.ASK if now >= self._heard + QUIET_SECONDS else Verdict.WAIT
        if not listening:
            self._asked, self._insist = now, now + WORRY_SECONDS
        if now >= self._end:
            return Verdict.GIVE_UP
        if now < self._insist:
            return Verdict.WAIT
        self._insist = now + AGAIN_SECONDS
        return Verdict.INSIST
