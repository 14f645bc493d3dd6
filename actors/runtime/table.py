"""A data actor's own copy of the forwarding table: follows the router's numbered changes.

No packet ever waits for the router: the copy is looked up in this process, and stays good while the router is away.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Final

from actors.runtime.actor import Outlet, Runtime
from actors.runtime.loop import Timer
from protocol.forwarding import ForwardingTable
from protocol.frames import AskTable, RouteDelta, RouteEntry, RouteState, TableEpoch, TablePart, TableSerial
from protocol.prefix import SUBNET_BITS

MOST_HELD_BACK: Final = 16_384
"""Changes that arrive while a whole table is on its way; past that it is asked for again."""
ASK_AGAIN_SECONDS: Final = 1.0
"""Of silence, while a table is on its way."""
MOST_ENTRIES: Final = 1_000_000


class TableFollower:
    """Keeps `table` in step with what the router publishes."""

    def __init__(
        self,
        runtime: Runtime,
        router: Outlet,
        changed: Callable[[Sequence[RouteEntry]], None],
        introduce: Callable[[], None] | None = None,
    ) -> None:
        """`changed` hears of every entry that changed, came with a whole table, or vanished with the one before it (as
        FORGOTTEN); `introduce` runs when a router process that has never heard of us begins to publish."""
        self.table = ForwardingTable()
        self._runtime = runtime
        self._router = router
        self._changed = changed
        self._introduce = introduce
        self._epoch: int | None = None
        self._last_serial = 0
        """Of the last change, as far as the router told us apart from the change itself."""
        self._asking = False
        self._patience: Timer | None = None
        self._entries: list[RouteEntry] = []
        self._parts = 0
        """How many of the table on its way, which is the one as of `_serial`."""
        self._serial = 0
        self._held_back: list[RouteDelta] = []
        self._changes_held_back = 0
        runtime.on(TableEpoch, self._on_epoch, inbox=False)
        runtime.on(RouteDelta, self._on_delta, inbox=False)
        runtime.on(TableSerial, self._on_serial, inbox=False)
        runtime.on(TablePart, self._on_part, inbox=False)
        runtime.subscribe("router", (TableEpoch, RouteDelta, TableSerial), priority=0)

    def _on_epoch(self, _sender: bytes, message: TableEpoch) -> None:
        if message.epoch != self._epoch:
            self._epoch = message.epoch
            self._last_serial = 0
            if self._introduce is not None:
                self._introduce()
        self._ask()

    def _on_delta(self, _sender: bytes, message: RouteDelta) -> None:
        if message.epoch != self._epoch:
            return
        if self._asking:
            self._held_back.append(message)
            self._changes_held_back += len(message.changes) + 1
            if self._changes_held_back > MOST_HELD_BACK:
                self._ask()
            return
        changes = self._usable(message.changes)
        if self.table.apply(message.serial, map(_change, changes)):
            self._changed(changes)
        else:
            self._missed()

    def _on_serial(self, _sender: bytes, message: TableSerial) -> None:
        if message.epoch == self._epoch:
            self._last_serial = message.serial
            self._catch_up()

    def _catch_up(self) -> None:
        if not self._asking and (self.table.serial is None or self.table.serial < self._last_serial):
            self._missed()

    def _missed(self) -> None:
        self._runtime.counters["table.missed_deltas"] += 1
        self._ask()

    def _on_part(self, _sender: bytes, message: TablePart) -> None:
        if message.epoch != self._epoch or not self._asking:
            return
        if message.number == 0:
            self._entries.clear()
        elif (message.serial, message.number) != (self._serial, self._parts):
            # The rest of an answer to a question that was given up.
            return
        self._serial, self._parts = message.serial, message.number + 1
        self._entries.extend(message.entries)
        if len(self._entries) > MOST_ENTRIES:
            self._runtime.counters["table.too_large"] += 1
            del self._entries[MOST_ENTRIES:]
        if message.more:
            self._wait()
            return
        if self._patience is not None:
            self._patience.cancel()
        entries, self._entries = self._usable(self._entries), []
        self._asking = False
        # Those that vanished come last: within a /64 that is still there, nothing that waits is given up for them.
        vanished = set(self.table.prefixes()).difference((entry.network, entry.length) for entry in entries)
        self.table.load(message.serial, map(_change, entries))
        self._changed([*entries, *itertools.starmap(_forgotten, sorted(vanished))])
        held_back, self._held_back = self._held_back, []
        for delta in held_back:
            if delta.serial > message.serial:
                self._on_delta(b"", delta)
        self._catch_up()

    def _usable(self, entries: Sequence[RouteEntry]) -> Sequence[RouteEntry]:
        """Those that a table can hold: a frame may name any prefix, and one that does not fit costs itself only."""
        if all(entry.length >= SUBNET_BITS for entry in entries):
            return entries
        usable = [entry for entry in entries if entry.length >= SUBNET_BITS]
        self._runtime.counters["table.unusable_entries"] += len(entries) - len(usable)
        return usable

    def _ask(self) -> None:
        self._asking = True
        self._entries.clear()
        self._parts = 0
        self._held_back.clear()
        self._changes_held_back = 0
        self._router.send(AskTable())
        self._wait()

    def _wait(self) -> None:
        # One timer at a time: a router that is slow to answer must not be asked more and more often.
        if self._patience is not None:
            self._patience.cancel()
        self._patience = self._runtime.loop.call_after(ASK_AGAIN_SECONDS, self._ask)


def _forgotten(network: bytes, length: int) -> RouteEntry:
    return RouteEntry(network, length, RouteState.FORGOTTEN, 0, b"", clean=False)


def _change(entry: RouteEntry) -> tuple[bytes, int, int, int, bytes, bool]:
    return entry.network, entry.length, entry.state, entry.link, entry.public_key, entry.clean
