"""Answers to programs: what finds the way to one full waits for it, and none overtakes another."""

from __future__ import annotations

from collections import deque
from typing import Final

from actors.runtime.actor import Runtime, Sent
from protocol.codec import pack

PAUSE_SECONDS: Final = 0.002
MOST_WAITING: Final = 4096
"""Answers to all; above that the one whom most wait for loses them: it does not read."""


class Sayings:
    """Short answers on their way."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._loop = runtime.loop
        self._counters = runtime.counters
        self._waiting: dict[bytes, deque[bytes]] = {}
        self._count = 0
        self._planned = False
        runtime.gauges.queue("answers_waiting", lambda: self._count)

    def say(self, receiver: bytes, message: object) -> bool:
        """Sends a frame, now or a little later; False where nobody is there."""
        data = pack(message)
        if receiver not in self._waiting:
            sent = self._runtime.offer(receiver, data)
            if sent is not Sent.FULL:
                return self._known(sent)
        self._waiting.setdefault(receiver, deque()).append(data)
        self._count += 1
        if self._count > MOST_WAITING:
            self._forget(max(self._waiting, key=lambda name: len(self._waiting[name])))
        self._plan()
        return True

    def _plan(self) -> None:
        if self._waiting and not self._planned:
            self._planned = True
            self._loop.call_after(PAUSE_SECONDS, self._again)

    def _again(self) -> None:
        self._planned = False
        for receiver, waiting in list(self._waiting.items()):
            while waiting:
                sent = self._runtime.offer(receiver, waiting[0])
                if sent is Sent.FULL:
                    break
                if not self._known(sent):
                    waiting.clear()
                    break
                waiting.popleft()
            if not waiting:
                del self._waiting[receiver]
        self._count = sum(map(len, self._waiting.values()))
        self._plan()

    def _known(self, sent: Sent) -> bool:
        if sent is Sent.UNREACHABLE:
            self._counters["answers.gone"] += 1
        return sent is Sent.TAKEN

    def _forget(self, receiver: bytes) -> None:
        lost = len(self._waiting.pop(receiver))
        self._count -= lost
        self._counters["answers.given_up"] += lost
