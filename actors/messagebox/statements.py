"""What each event of the message box asks of the database."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, Final

from protocol.mycelium.messages.core import SUBNET_BYTES
from protocol.mycelium.messages.events import (
    Event,
    ForgetMessage,
    ForgetOutgoing,
    ForgetPending,
    Place,
    State,
    StateChanged,
    StoreChunk,
    StoreDoneSent,
    StoreMessage,
    StoreOutgoing,
    StorePending,
    StorePlace,
)

PROMISES: Final = (StoreOutgoing, StoreDoneSent, StoreMessage, ForgetMessage)
"""Behind these somebody is told what must stay true even if the machine dies: the program that pushed, the receiver
that may deliver, the sender that forgets, the reader that has it."""

GONE: Final[dict[type[Any], Callable[[Any], tuple[str, int]]]] = {
    ForgetOutgoing: lambda event: ("outgoing", event.number),
    ForgetPending: lambda event: ("pending", event.number),
    StoreMessage: lambda event: ("pending", event.pending),
    ForgetMessage: lambda event: ("messages", event.number),
}
"""Events that delete a row: from which table, and its number."""
_APART_BYTES: Final = 4096
_CHUNK_BITS: Final = 20
"""The longest message has fewer chunks of the shortest length."""
_DONE_WITH_DATA: Final = frozenset({State.RECEIVED, State.READ, State.ABORTED})


def position_of(body: int, chunk: int) -> int:
    """The key of a chunk: those of one body lie side by side, and in order."""
    return (body << _CHUNK_BITS) + chunk


def apply(database: sqlite3.Connection, event: Event, wall: float, file: str | None) -> bool:
    """Does what `event` asks at `wall`, seconds since 1970; False for an event that asks nothing.

    `file`: where the data of its message is, if that is not in the database.
    """
    statement = _STATEMENTS.get(type(event))
    if statement is None:
        return False
    statement(database, event, wall, file)
    return True


def _store_outgoing(database: sqlite3.Connection, event: StoreOutgoing, wall: float, file: str | None) -> None:
    apart = file is None and len(event.data) > _APART_BYTES
    database.execute(
        "INSERT INTO outgoing VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'pending', 0, 0, x'', ?)",
        (
            event.number,
            event.id,
            event.destination,
            event.topic,
            int(event.reply),
            b"" if apart or file is not None else event.data,
            len(event.data),
            wall,
            file,
        ),
    )
    if apart:
        # Not in the same row: whatever is changed in a row, all of it is written again.
        database.execute("INSERT INTO outgoing_large VALUES (?, ?)", (event.number, event.data))


def _store_done_sent(database: sqlite3.Connection, event: StoreDoneSent, _wall: float, _file: str | None) -> None:
    database.execute("UPDATE outgoing SET done_sent = 1 WHERE number = ?", (event.number,))


def _state_changed(database: sqlite3.Connection, event: StateChanged, _wall: float, _file: str | None) -> None:
    if event.state in _DONE_WITH_DATA:
        database.execute(
            "UPDATE outgoing SET state = ?, data = x'', acked = x'', file = NULL WHERE number = ?",
            (event.state.value, event.number),
        )
        database.execute("DELETE FROM outgoing_large WHERE number = ?", (event.number,))
    elif event.state is State.PENDING:
        # Whatever was acknowledged before, it begins again. That it is being sent counts with its progress only.
        database.execute("UPDATE outgoing SET state = 'pending', acked = x'' WHERE number = ?", (event.number,))


def _forget_outgoing(database: sqlite3.Connection, event: ForgetOutgoing, _wall: float, _file: str | None) -> None:
    database.execute("DELETE FROM outgoing WHERE number = ?", (event.number,))
    database.execute("DELETE FROM outgoing_large WHERE number = ?", (event.number,))


def _store_pending(database: sqlite3.Connection, event: StorePending, wall: float, file: str | None) -> None:
    database.execute(
        "INSERT INTO pending VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            event.number,
            event.id,
            event.source,
            event.destination,
            event.length,
            event.topic,
            int(event.reply),
            int(event.large),
            wall,
            file,
        ),
    )


def _store_chunk(database: sqlite3.Connection, event: StoreChunk, _wall: float, file: str | None) -> None:
    if file is not None:
        # It is there already.
        return
    database.execute(
        "INSERT OR REPLACE INTO chunks VALUES (?, ?)", (position_of(event.number, event.index), event.data)
    )


def _forget_pending(database: sqlite3.Connection, event: ForgetPending, _wall: float, _file: str | None) -> None:
    database.execute("DELETE FROM pending WHERE number = ?", (event.number,))
    _forget_chunks(database, event.number)


def _store_message(database: sqlite3.Connection, event: StoreMessage, wall: float, file: str | None) -> None:
    message = event.message
    database.execute("DELETE FROM pending WHERE number = ?", (event.pending,))
    database.execute(
        "INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            message.number,
            event.pending,
            message.id,
            message.source,
            message.source_key,
            message.destination,
            message.topic,
            int(message.reply),
            message.length,
            event.place.value,
            wall,
            file,
        ),
    )
    database.execute(
        "INSERT OR REPLACE INTO completions VALUES (?, ?, ?, ?, ?)",
        (message.source[:SUBNET_BYTES], message.id, event.count, event.digest, wall),
    )


def _store_place(database: sqlite3.Connection, event: StorePlace, _wall: float, _file: str | None) -> None:
    database.execute("UPDATE messages SET place = ? WHERE number = ?", (Place.INBOX.value, event.number))


def _forget_message(database: sqlite3.Connection, event: ForgetMessage, _wall: float, _file: str | None) -> None:
    row = database.execute("DELETE FROM messages WHERE number = ? RETURNING body", (event.number,)).fetchone()
    if row is not None:
        _forget_chunks(database, row[0])


def _forget_chunks(database: sqlite3.Connection, body: int) -> None:
    database.execute(
        "DELETE FROM chunks WHERE position >= ? AND position < ?", (position_of(body, 0), position_of(body + 1, 0))
    )


_STATEMENTS: Final[dict[type[Any], Callable[[sqlite3.Connection, Any, float, str | None], None]]] = {
    StoreOutgoing: _store_outgoing,
    StoreDoneSent: _store_done_sent,
    StateChanged: _state_changed,
    ForgetOutgoing: _forget_outgoing,
    StorePending: _store_pending,
    StoreChunk: _store_chunk,
    ForgetPending: _forget_pending,
    StoreMessage: _store_message,
    StorePlace: _store_place,
    ForgetMessage: _forget_message,
}
