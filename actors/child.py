"""A child of the supervisor over all its incarnations, and how a process ended."""

from __future__ import annotations

import os
import signal
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from actors.keepsakes import Connection
from actors.runtime.birth import Birth
from actors.runtime.channel import Channel
from protocol.frames import ActorList, Figures
from protocol.restarts import RestartPolicy


@dataclass(slots=True)
class Child:
    """One supervised process over all its incarnations."""

    birth: Birth[Any]
    links: dict[int, Connection] | None = None
    """Its connections by number, where it is a process of links."""
    policy: RestartPolicy = field(default_factory=RestartPolicy)
    pid: int = 0
    pidfd: int = -1
    channel: Channel | None = None
    started: float = 0.0
    last_sign: float = 0.0
    end_reason: str = ""
    figures: Figures = field(default_factory=lambda: Figures(0.0, 0, {}, {}))
    answers: deque[ActorList] = field(default_factory=deque)
    """What its channel could not take yet."""

    @property
    def name(self) -> str:
        """The actor's name: its socket's in the runtime folder."""
        return self.birth.start.name


def how_it_ended(status: int) -> str:
    """What became of a process, by its wait status, as the end of a sentence."""
    if os.WIFSIGNALED(status):
        return f"was killed by {signal_name(os.WTERMSIG(status))}"
    code = os.waitstatus_to_exitcode(status)
    return f"ended with code {code}" if code else "ended"


def signal_name(number: int) -> str:
    """A signal as people write it."""
    try:
        return signal.Signals(number).name
    except ValueError:
        # Most real-time signals have none.
        return f"signal {number}"
