"""The ways to other nodes: the pace of each, and the own messages that share it."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

from protocol.mycelium.messages.outgoing import Outgoing
from protocol.mycelium.messages.pacing import Pace

IDLE_WAYS: Final = 256
"""Remotes without a message under way whose pace is kept for the next one."""


class Way:
    """The way to one remote, and the messages that have chunks for it."""

    __slots__ = ("pace", "ring", "under_way", "users", "waiting")

    def __init__(self) -> None:
        self.pace = Pace()
        self.ring: deque[Outgoing] = deque()
        self.under_way: set[int] = set()
        """Numbers of the messages that keep others from being announced."""
        self.waiting: deque[Outgoing] = deque()
        """Messages that wait to be announced."""
        self.users = 0
        """Messages that are not finished."""


class Ways:
    """All of them, by /64 (8 bytes)."""

    def __init__(self) -> None:
        self._used: dict[bytes, Way] = {}
        self._idle: OrderedDict[bytes, Way] = OrderedDict()

    def __getitem__(self, subnet: bytes) -> Way:
        """The way that a message uses."""
        return self._used[subnet]

    def enter(self, subnet: bytes) -> None:
        """One message more uses it."""
        way = self._used.get(subnet)
        if way is None:
            way = self._used[subnet] = self._idle.pop(subnet) if subnet in self._idle else Way()
        way.users += 1

    def leave(self, subnet: bytes) -> None:
        """One of its messages is finished."""
        way = self._used[subnet]
        way.users -= 1
        if not way.users:
            way.ring.clear()
            del self._used[subnet]
            self._idle[subnet] = way
            if len(self._idle) > IDLE_WAYS:
                self._idle.popitem(last=False)
