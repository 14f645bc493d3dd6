"""Numbers for those who read the inbox, and whom each of the box's answers is for."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TypeAlias

from actors.messagebox.rounds import Rounds
from protocol.mycelium.messages.box import MessageBox
from protocol.mycelium.messages.events import Deliver, DeliverNothing

OnAnswer: TypeAlias = Callable[[Deliver | DeliverNothing], None]


class Readers:
    """Everybody who waits for a message; the box bounds how many."""

    def __init__(self, box: MessageBox, rounds: Rounds) -> None:
        self._box = box
        self._rounds = rounds
        self._numbers = itertools.count(1)
        self._waiting: dict[int, OnAnswer] = {}
        rounds.on(Deliver, self._on_answer)
        rounds.on(DeliverNothing, self._on_answer)

    def read(self, topic: bytes | None, take: bool, until: float, now: float, on_answer: OnAnswer) -> int:
        """Asks the box (see `MessageBox.read`); returns a number to `stop` with. The caller has to `settle`."""
        number = next(self._numbers)
        self._waiting[number] = on_answer
        self._box.read(number, topic, take, until, now)
        return number

    def stop(self, number: int) -> None:
        """Whoever waited does so no longer; an answer that is on its way goes back."""
        self._waiting.pop(number, None)
        self._box.stop_reading(number)

    def _on_answer(self, event: Deliver | DeliverNothing) -> None:
        on_answer = self._waiting.pop(event.reader, None)
        if on_answer is not None:
            on_answer(event)
        elif isinstance(event, Deliver) and event.take:
            self._box.put_back(event.number, self._rounds.now())
            self._rounds.settle()
