"""The order of things: the database first, then whatever others hear of it (protocol: `messages/events.py`).

All that arrives in one round of the loop is one transaction. What promises something waits until the disk has that,
while further rounds go on: they wait for the disk together, once it has time for them. Packets that promise nothing
don't wait: a death of this process can't undo what they rest on, and the machine's own is made good for by the other
end, which begins again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, TypeAlias, TypeVar

from actors.messagebox.disk import Disk
from actors.messagebox.store import Store
from actors.runtime.loop import Loop, Timer
from protocol.mycelium.messages.box import MessageBox
from protocol.mycelium.messages.events import Send
from protocol.mycelium.messages.packets import Chunk, ChunkAck, Init, InitAck

PROGRESS_SECONDS: Final = 0.25
"""How much of a large message may have to be sent again after a death."""

_PROMISE_NOTHING: Final = frozenset({Init, InitAck, Chunk, ChunkAck})
"""Packets that a node which lost all its memory makes good for: they begin a message, or go on with it."""

_Event = TypeVar("_Event")
_Call: TypeAlias = tuple[Callable[[Any], None], Any]


class Rounds:
    """Ties the box to its store. Whoever has called the box calls `settle` before anything else."""

    def __init__(self, loop: Loop, box: MessageBox, store: Store, disk: Disk) -> None:
        self._loop = loop
        self._disk = disk
        self._box = box
        self._store = store
        self._handlers: dict[type[Any], Callable[[Any], None]] = {}
        self._early: list[_Call] = []
        """What needs no more than that this process can't forget it."""
        self._later: list[_Call] = []
        """What rests on this round, and on those before."""
        self._kept_next: list[_Call] = []
        """What rests on rounds that were committed since the disk was last asked."""
        self._keeping: list[_Call] | None = None
        """What is done when the disk has what it is being given; None while it is given nothing."""
        self._planned = False
        self._timer: Timer | None = None
        self._at_end: list[Callable[[], None]] = []
        self._will_save = False
        """Whether progress will be saved soon: while nothing happens there is none, and nobody has to wake up."""

    def on(self, kind: type[_Event], handler: Callable[[_Event], None]) -> None:
        """Calls `handler(event)` for each event of this type, when the database has what came before it."""
        self._handlers[kind] = handler

    def at_end(self, call: Callable[[], None]) -> None:
        """Calls this at the end of each round in which something happened."""
        self._at_end.append(call)

    @property
    def waiting(self) -> int:
        """How much waits for the disk. No more than messages may be on their way or in the inbox."""
        return len(self._kept_next) + len(self._keeping or ())

    def now(self) -> float:
        """Monotonic seconds."""
        return self._loop.now()

    def settle(self) -> None:
        """Does in the database what the box asks; the rest follows at the end of this round of the loop."""
        wall = time.time()
        handlers, store = self._handlers, self._store
        for event in self._box.events():
            store.apply(event, wall)
            handler = handlers.get(type(event))
            if handler is not None:
                promises_nothing = type(event) is Send and type(event.packet) in _PROMISE_NOTHING
                (self._early if promises_nothing else self._later).append((handler, event))
        self._plan()

    def after_commit(self, call: Callable[[Any], None], argument: Any) -> None:
        """Calls `call(argument)` when the database has all that was done until now."""
        self._later.append((call, argument))
        self._plan()

    def _plan(self) -> None:
        if not self._planned:
            self._planned = True
            self._loop.defer(self._finish)

    def _finish(self) -> None:
        self._planned = False
        self._store.commit()
        early, self._early = self._early, []
        self._kept_next += self._later
        self._later = []
        self._call(early)
        if self._keeping is None:
            self._keep()
        if not self._will_save:
            self._will_save = True
            self._loop.call_after(PROGRESS_SECONDS, self._save_progress)
        if not self._planned:
            self._arm()

    def _keep(self) -> None:
        """Does what needs the disk as soon as that has all of it; at once where nothing was promised."""
        calls, self._kept_next = self._kept_next, []
        if self._store.owed:
            self._keeping = calls
            self._disk.keep(self._store.to_keep(), self._on_kept)
        else:
            self._call(calls)

    def _on_kept(self) -> None:
        self._store.kept()
        calls, self._keeping = self._keeping or [], None
        # The disk first: it works while these calls do.
        following = self._kept_next
        if self._store.owed:
            self._kept_next = []
            self._keeping = following
            self._disk.keep(self._store.to_keep(), self._on_kept)
            following = []
        else:
            self._kept_next = []
        self._call([*calls, *following])

    def _call(self, calls: list[_Call]) -> None:
        for call, argument in calls:
            call(argument)
        for end in self._at_end:
            end()

    def _arm(self) -> None:
        deadline = self._box.next_deadline()
        timer = self._timer
        if timer is not None and not timer.cancelled and (deadline is None or timer.when <= deadline):
            # Too early does no harm: it is armed again.
            return
        if timer is not None:
            timer.cancel()
        self._timer = None if deadline is None else self._loop.call_at(deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._box.handle_timer(self._loop.now())
        self.settle()

    def _save_progress(self) -> None:
        self._will_save = False
        progress = self._box.progress()
        if progress:
            self._store.save_progress(progress)
            self._plan()
