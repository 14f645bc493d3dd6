"""Which message has its data in a file, and what each event of the box does to those files (`bodies.py`).

The order is what makes it safe: a file is on disk before a row is committed that promises its data, and is removed only
when the disk knows that no row names it. Pieces of a message that is not complete are promised to nobody; each is
written down with a checksum, so that a successor takes none for there that the machine's death swallowed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from typing import Any, Final
from zlib import crc32

from actors.messagebox.bodies import LARGE_BYTES, Bodies
from actors.messagebox.statements import position_of
from protocol.mycelium.messages.events import (
    Event,
    ForgetMessage,
    ForgetOutgoing,
    ForgetPending,
    State,
    StateChanged,
    StoreChunk,
    StoreMessage,
    StoreOutgoing,
    StorePending,
)

_DATA_NOT_NEEDED: Final = frozenset({State.RECEIVED, State.READ, State.ABORTED})


class Large:
    """The files of own, incoming and complete messages."""

    def __init__(self, connection: sqlite3.Connection, bodies: Bodies) -> None:
        """Finds the files of an earlier life, and removes those that belong to nothing."""
        self._connection = connection
        self._bodies = bodies
        self.sync_early: Callable[[str], None] = bodies.sync
        """Called with the name of a file to which much was written, so that the disk begins with it."""
        self._outgoing = self._named("outgoing")
        self._pending = self._named("pending")
        self._messages = self._named("messages")
        self._handed_over: dict[int, str] = {}
        """Number of an own message that is about to be stored → the file in which its data is already."""
        self._replaced: set[int] = set()
        """Incoming messages of which a piece came twice, and differed."""
        self._litter: list[str] = []
        """Files that no row names since the last commit, or the one before."""
        self.lost = self._forget_lost()
        """How many messages were lost with their files."""
        bodies.keep_only({*self._outgoing.values(), *self._pending.values(), *self._messages.values()})

    def hand_over(self, number: int, name: str) -> None:
        """The data of own message `number`, which is stored next, is in this file, and on disk."""
        self._handed_over[number] = name

    def file_of(self, event: Event) -> str | None:
        """The file that an event is about, in which its data is now; None where it has none."""
        act = _ACTS.get(type(event))
        return None if act is None else act(self, event)

    def take_litter(self) -> list[str]:
        """The files that may be removed as soon as all that was committed is on disk."""
        litter, self._litter = self._litter, []
        return litter

    def chunks_of(self, number: int, name: str) -> Iterator[tuple[int, bytes]]:
        """(index, data) of the pieces of an incoming message that are really there; others are forgotten."""
        base = position_of(number, 0)
        rows = self._connection.execute(
            "SELECT position - ?, at, size, crc FROM pieces WHERE position >= ? AND position < ? ORDER BY position",
            (base, base, position_of(number + 1, 0)),
        ).fetchall()
        for index, at, size, crc in rows:
            data = self._bodies.read(name, at, size)
            if len(data) == size and crc32(data) == crc:
                yield index, data
            else:
                self._connection.execute("DELETE FROM pieces WHERE position = ?", (base + index,))

    # --- events -------------------------------------------------------------------------------------------------------

    def _store_outgoing(self, event: StoreOutgoing) -> str | None:
        name = self._handed_over.pop(event.number, None)
        if name is None and len(event.data) >= LARGE_BYTES:
            name = self._write_all((event.data,))
        if name is not None:
            self._outgoing[event.number] = name
        return name

    def _state_changed(self, event: StateChanged) -> str | None:
        if event.state not in _DATA_NOT_NEEDED:
            return None
        return self._drop(self._outgoing, event.number)

    def _forget_outgoing(self, event: ForgetOutgoing) -> str | None:
        return self._drop(self._outgoing, event.number)

    def _store_pending(self, event: StorePending) -> str | None:
        if event.length < LARGE_BYTES:
            return None
        name = self._pending[event.number] = self._bodies.new()
        return name

    def _store_chunk(self, event: StoreChunk) -> str | None:
        name = self._pending.get(event.number)
        if name is not None:
            if self._bodies.write(name, event.offset, event.data):
                self.sync_early(name)
            row = position_of(event.number, event.index), event.offset, len(event.data), crc32(event.data)
            if not self._connection.execute("INSERT OR IGNORE INTO pieces VALUES (?, ?, ?, ?)", row).rowcount:
                self._connection.execute("REPLACE INTO pieces VALUES (?, ?, ?, ?)", row)
                # What it was before may have lain elsewhere, on the place of others.
                self._replaced.add(event.number)
        return name

    def _store_message(self, event: StoreMessage) -> str | None:
        name = self._pending.pop(event.pending, None)
        if name is None:
            return None
        if not self._lies_in_order(event):
            # The data is what the order of the indices says (messages spec 5.2); nobody checks where a sender saw it.
            self._litter.append(name)
            name = self._write_all(event.message.chunks)
        else:
            self._bodies.sync(name)
        self._forget_pieces(event.pending)
        self._messages[event.message.number] = name
        return name

    def _forget_pending(self, event: ForgetPending) -> str | None:
        name = self._drop(self._pending, event.number)
        if name is not None:
            self._forget_pieces(event.number)
        return name

    def _forget_message(self, event: ForgetMessage) -> str | None:
        return self._drop(self._messages, event.number)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _drop(self, files: dict[int, str], number: int) -> str | None:
        name = files.pop(number, None)
        if name is not None:
            self._litter.append(name)
        return name

    def _write_all(self, parts: tuple[bytes, ...]) -> str:
        name = self._bodies.new()
        at = 0
        for part in parts:
            self._bodies.write(name, at, part)
            at += len(part)
        self._bodies.sync(name)
        return name

    def _lies_in_order(self, event: StoreMessage) -> bool:
        """Whether the pieces follow each other in the file as they do in the message."""
        if event.pending in self._replaced:
            return False
        end = 0
        rows = self._connection.execute(
            "SELECT at, size FROM pieces WHERE position >= ? AND position < ? ORDER BY position",
            (position_of(event.pending, 0), position_of(event.pending + 1, 0)),
        )
        for at, size in rows.fetchall():
            if at != end:
                return False
            end += size
        return bool(end == event.message.length)

    def _forget_pieces(self, number: int) -> None:
        self._replaced.discard(number)
        self._connection.execute(
            "DELETE FROM pieces WHERE position >= ? AND position < ?",
            (position_of(number, 0), position_of(number + 1, 0)),
        )

    def _named(self, table: str) -> dict[int, str]:
        return dict(self._connection.execute(f"SELECT number, file FROM {table} WHERE file IS NOT NULL").fetchall())

    def _forget_lost(self) -> int:
        """Forgets messages whose files somebody else removed or cut, and begins pending ones anew."""
        execute = self._connection.execute
        lost = 0
        for number, name in list(self._pending.items()):
            if self._bodies.size(name) < 0:
                self._pending[number] = self._bodies.new()
                execute("UPDATE pending SET file = ? WHERE number = ?", (self._pending[number], number))
                self._forget_pieces(number)
        for number, name in list(self._messages.items()):
            (length,) = execute("SELECT length FROM messages WHERE number = ?", (number,)).fetchone()
            if self._bodies.size(name) != length:
                execute("DELETE FROM messages WHERE number = ?", (number,))
                self._drop(self._messages, number)
                lost += 1
        for number, name in list(self._outgoing.items()):
            (length,) = execute("SELECT length FROM outgoing WHERE number = ?", (number,)).fetchone()
            if self._bodies.size(name) != length:
                execute("UPDATE outgoing SET state = ?, file = NULL WHERE number = ?", (State.ABORTED.value, number))
                self._drop(self._outgoing, number)
                lost += 1
        return lost


_ACTS: Final[dict[type[Any], Callable[[Large, Any], str | None]]] = {
    StoreOutgoing: Large._store_outgoing,
    StateChanged: Large._state_changed,
    ForgetOutgoing: Large._forget_outgoing,
    StorePending: Large._store_pending,
    StoreChunk: Large._store_chunk,
    StoreMessage: Large._store_message,
    ForgetPending: Large._forget_pending,
    ForgetMessage: Large._forget_message,
}
