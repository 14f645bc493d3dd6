"""The message box on disk: SQLite, one transaction for all that happens in one round (protocol: `messages/events.py`).

What an event asks of the database is done at once, inside the open transaction, so that the box's own questions see it;
`commit` ends the transaction. Only what promises something to somebody waits for the disk (`owed`, `to_keep`): losing
the rest costs a repetition, and only where the machine itself dies. SIGKILL loses neither.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from actors.messagebox.bodies import FOLDER as BODIES_FOLDER
from actors.messagebox.bodies import Bodies
from actors.messagebox.database import Database, StoreError, is_damaged
from actors.messagebox.large import Large
from actors.messagebox.statements import GONE, PROMISES, apply, position_of
from protocol.mycelium.messages.chunking import CHUNK_BYTES
from protocol.mycelium.messages.completions import Completion
from protocol.mycelium.messages.core import REMEMBER_SECONDS, SUBNET_BYTES, Key
from protocol.mycelium.messages.events import Event, State
from protocol.mycelium.messages.inbox import InboxEntry
from protocol.mycelium.messages.receiver import SavedPending
from protocol.mycelium.messages.records import Progress, SavedOutgoing
from protocol.mycelium.messages.topics import Source, TopicRules

MOST_KEYS: Final = 100_000
"""Idempotency keys; the oldest goes."""
KEY_SECONDS: Final = 86_400.0
"""How long an idempotency key is remembered."""
_FETCH: Final = 64
_FORGET_STEP: Final = 256
FORWARDS_AT_ONCE: Final = 1024

_ENTRY: Final = "number, id, source, destination, topic, length"


class Repeated(NamedTuple):
    """A message that was pushed before with the same idempotency key."""

    id: bytes
    destination: bytes
    digest: bytes


class Facts(NamedTuple):
    """What is known of a stored message besides what the inbox knows."""

    id: bytes
    source: bytes
    source_key: bytes
    destination: bytes
    topic: bytes
    length: int
    body: int
    """Which chunks are its data, where those are rows."""
    reply: bool
    file: str | None
    """The file that its data is in, where it is large."""


class Store:
    """One database in one folder. Times in it are seconds since the Unix epoch: it outlives clocks that start at 0."""

    def __init__(self, folder: Path) -> None:
        """Opens the database of a folder. Raises `StoreError`: see `Database`."""
        self._database = Database(folder)
        self._connection = self._database.connection
        self.bodies: Final = self._open_bodies(folder)
        try:
            self.large: Final = Large(self._connection, self.bodies)
        except sqlite3.DatabaseError as error:
            if is_damaged(error):
                self.suspect()
            self._database.close()
            raise
        self._litter: list[str] = []
        """Files that go when the disk has what it is being given."""
        self._promises = False
        """What is not committed promises something."""
        self._owed = False
        """What is committed does, and may not be on disk."""
        self._gone: dict[str, int] = {}
        """Table → the highest number of a row that was deleted since the last commit."""
        self.identity: Final = self._find_identity()
        """8 random bytes of this database: with the number of a message they name it for ever."""

    @property
    def path(self) -> Path:
        """The file."""
        return self._database.path

    @property
    def set_aside(self) -> Path | None:
        """Where the damaged database lies that was found here."""
        return self._database.set_aside

    def suspect(self) -> None:
        """The database said that it is damaged: the next process looks closely before it uses it."""
        self._database.suspect()

    def close(self) -> None:
        """Commits what is open, waits for the disk, and closes."""
        self.commit()
        self.keep_promises()
        self._database.close()
        self.bodies.close()

    # --- events -------------------------------------------------------------------------------------------------------

    def apply(self, event: Event, wall: float) -> None:
        """Does what an event asks of the database; nothing for those that ask nothing. `wall`: seconds since 1970."""
        if apply(self._connection, event, wall, self.large.file_of(event)):
            kind = type(event)
            if kind in PROMISES:
                self._promises = True
            if kind in GONE:
                table, number = GONE[kind](event)
                self._gone[table] = max(number, self._gone.get(table, 0))

    def commit(self) -> None:
        """Ends the transaction of this round: no death of this process undoes it.

        What promises something may be told to others only when the disk has it, too: the machine may die. `owed` says
        whether there is such.
        """
        if not self._database.changed:
            return
        for table, number in self._gone.items():
            # No number is given twice, also when its row is gone.
            self._connection.execute(
                "INSERT INTO meta VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = max(value, ?2)",
                (f"last_{table}", number.to_bytes(8, "big")),
            )
        self._gone.clear()
        self._database.commit()
        self._owed |= self._promises
        self._promises = False

    @property
    def owed(self) -> bool:
        """Whether something was committed that promises something, and `to_keep` was not asked since."""
        return self._owed

    def to_keep(self) -> tuple[int, ...]:
        """Descriptors of the files to be synced, so that all promises hold that were committed until now.

        `kept` says that it is done; it is not asked for again before.
        """
        self._owed = False
        self._litter = self.large.take_litter()
        return (self._database.log,)

    def kept(self) -> None:
        """What `to_keep` gave is on disk: files that no row named then are not needed any more."""
        for name in self._litter:
            self.bodies.remove(name)
        self._litter = []

    def keep_promises(self) -> None:
        """Returns when all that was committed is on disk."""
        litter = self._litter
        for descriptor in self.to_keep():
            os.fdatasync(descriptor)
        self._litter += litter
        self.kept()

    def tidy(self) -> None:
        """Copies the log into the database, and gives free pages back; for a quiet moment, outside of a round."""
        self.commit()
        self.keep_promises()
        self._database.tidy()

    def forget_old(self, wall: float) -> None:
        """Forgets completions and idempotency keys that are too old."""
        execute = self._connection.execute
        execute(
            "DELETE FROM completions WHERE completed < ? "
            "AND NOT EXISTS (SELECT 1 FROM messages WHERE messages.id = completions.id)",
            (wall - REMEMBER_SECONDS,),
        )
        execute("DELETE FROM idempotency WHERE created < ?", (wall - KEY_SECONDS,))
        execute(
            "DELETE FROM idempotency WHERE created <= "
            "(SELECT created FROM idempotency ORDER BY created DESC LIMIT 1 OFFSET ?)",
            (MOST_KEYS,),
        )

    # --- what the box asks --------------------------------------------------------------------------------------------

    def known(self, key: Key) -> Completion | None:
        """A message that was completed lately: see `completions.Known`."""
        row = self._database.one("SELECT count, digest FROM completions WHERE subnet = ? AND id = ?", tuple(key))
        return None if row is None else Completion(*row)

    def waiting(self, topic: bytes | None, above: int) -> Iterator[InboxEntry]:
        """Stored messages in order: see `inbox.Stored`."""
        many = 1
        while True:
            if topic is None:
                found = self._connection.execute(
                    f"SELECT {_ENTRY} FROM messages WHERE number > ? ORDER BY number LIMIT ?", (above, many)
                ).fetchall()
            else:
                found = self._connection.execute(
                    f"SELECT {_ENTRY} FROM messages WHERE topic = ? AND number > ? ORDER BY number LIMIT ?",
                    (topic, above, many),
                ).fetchall()
            for row in found:
                yield InboxEntry(*row)
            if len(found) < many:
                return
            above, many = found[-1][0], _FETCH

    def holds(self, key: Key) -> bool:
        """Whether a message is stored: see `inbox.Stored`."""
        rows = self._connection.execute("SELECT source FROM messages WHERE id = ?", (key.id,)).fetchall()
        return any(source[:SUBNET_BYTES] == key.subnet for (source,) in rows)

    # --- what its actor asks ------------------------------------------------------------------------------------------

    def facts(self, number: int) -> Facts:
        """Of stored message `number`. Raises `KeyError` where there is none."""
        row = self._database.one(
            "SELECT id, source, source_key, destination, topic, length, body, reply, file FROM messages "
            "WHERE number = ?",
            (number,),
        )
        if row is None:
            raise KeyError(number)
        message_id, source, source_key, destination, topic, length, body, reply, file = row
        return Facts(message_id, source, source_key, destination, topic, length, body, bool(reply), file)

    def has(self, number: int) -> bool:
        """Whether message `number` is stored."""
        return self._database.one("SELECT 1 FROM messages WHERE number = ?", (number,)) is not None

    def part_of(self, facts: Facts, after: int, most_bytes: int) -> tuple[bytes, int]:
        """About `most_bytes` of a message, and no less than one of its chunks, behind what `after` says.

        Returns them and what is given as `after` for the next part, -1 for the first; no bytes when there are no more.
        """
        if facts.file is not None:
            data = self.bodies.read(facts.file, after + 1, most_bytes)
            if not data and after + 1 < facts.length:
                raise OSError(errno.EIO, f"it ends at {after + 1}, before its {facts.length} bytes", facts.file)
            return data, after + len(data)
        found: list[bytes] = []
        last, octets = after, 0
        rows = self._connection.execute(
            "SELECT position, data FROM chunks WHERE position > ? AND position < ? ORDER BY position",
            (position_of(facts.body, after), position_of(facts.body + 1, 0)),
        )
        for position, data in rows:
            found.append(data)
            last = position - position_of(facts.body, 0)
            octets += len(data)
            if octets >= most_bytes:
                break
        rows.close()
        return b"".join(found), last

    def data_of(self, number: int) -> bytes:
        """All data of stored message `number`. Raises `KeyError` where there is none."""
        facts = self.facts(number)
        return self.part_of(facts, -1, facts.length + 1)[0]

    def to_forward(self, topic: bytes) -> list[InboxEntry]:
        """Messages of a topic that its forward socket has not taken yet, oldest first, some of them."""
        rows = self._connection.execute(
            f"SELECT {_ENTRY} FROM messages WHERE topic = ? AND place = 'forward' ORDER BY number LIMIT ?",
            (topic, FORWARDS_AT_ONCE),
        )
        return [InboxEntry(*row) for row in rows.fetchall()]

    def older_than(self, wall: float) -> list[InboxEntry]:
        """Stored messages that were complete before then, some of them."""
        rows = self._connection.execute(
            f"SELECT {_ENTRY} FROM messages WHERE completed < ? ORDER BY number LIMIT ?", (wall, _FORGET_STEP)
        )
        return [InboxEntry(*row) for row in rows.fetchall()]

    def repeated(self, key: bytes) -> Repeated | None:
        """What was pushed with this idempotency key."""
        row = self._database.one("SELECT id, destination, digest FROM idempotency WHERE key = ?", (key,))
        return None if row is None else Repeated(*row)

    def remember_key(self, key: bytes, message_id: bytes, destination: bytes, digest: bytes, wall: float) -> None:
        """This message was pushed with this idempotency key."""
        self._connection.execute(
            "INSERT OR REPLACE INTO idempotency VALUES (?, ?, ?, ?, ?)", (key, message_id, destination, digest, wall)
        )

    def save_progress(self, progress: Iterable[Progress]) -> None:
        """How far own messages are."""
        self._connection.executemany(
            "UPDATE outgoing SET state = 'sending', largest = ?, acked = ? WHERE number = ?",
            [(step.largest, step.acked, step.number) for step in progress],
        )

    # --- an earlier life ----------------------------------------------------------------------------------------------

    def outgoing(self, wall: float, now: float) -> Iterator[SavedOutgoing]:
        """Own messages in the order of their numbers; `now` is monotonic, and `wall` the same moment since 1970."""
        rows = self._connection.execute("SELECT number FROM outgoing ORDER BY number").fetchall()
        for (number,) in rows:
            row = self._database.one(
                "SELECT id, destination, topic, reply, coalesce(large.data, outgoing.data), length, created, state, "
                "done_sent, largest, acked, file "
                "FROM outgoing LEFT JOIN outgoing_large AS large USING (number) WHERE number = ?",
                (number,),
            )
            if row is None:
                continue
            message_id, destination, topic, reply, data, length, created, state, done_sent, largest, acked, file = row
            yield SavedOutgoing(
                number=number,
                id=message_id,
                destination=destination,
                topic=topic,
                reply=bool(reply),
                data=data if file is None else self.bodies.read(file, 0, length),
                # A clock that was set back makes no message younger than now.
                created=now - max(0.0, wall - created),
                state=State(state),
                done_sent=bool(done_sent),
                acked=[index for index, arrived in enumerate(acked) if arrived],
                length=length,
                largest=largest or CHUNK_BYTES,
            )

    def pending(self, now: float) -> Iterator[SavedPending]:
        """Incoming messages that are not complete, the oldest first."""
        rows = self._connection.execute(
            "SELECT number, id, source, destination, length, topic, reply, large, file FROM pending ORDER BY number"
        ).fetchall()
        for number, message_id, source, destination, length, topic, reply, large, file in rows:
            base = position_of(number, 0)
            if file is not None:
                chunks = list(self.large.chunks_of(number, file))
            else:
                chunks = self._connection.execute(
                    "SELECT position - ?, data FROM chunks WHERE position >= ? AND position < ? ORDER BY position",
                    (base, base, position_of(number + 1, 0)),
                ).fetchall()
            yield SavedPending(
                number, message_id, source, destination, length, topic, bool(reply), now, chunks, bool(large)
            )

    def stored_by_subnet(self) -> list[tuple[bytes, int, int]]:
        """Of each /64 (8 bytes): how many messages of it are stored, and how many bytes."""
        return self._connection.execute(
            "SELECT CAST(substr(source, 1, 8) AS BLOB), count(*), sum(length) FROM messages GROUP BY 1"
        ).fetchall()

    def last_numbers(self) -> tuple[int, int, int]:
        """The last numbers given to own, pending and stored messages."""
        bodies = self._database.one("SELECT max(body) FROM messages", ())
        pending = max(self._number("pending"), (bodies and bodies[0]) or 0)
        return self._number("outgoing"), pending, self._number("messages")

    # --- topics -------------------------------------------------------------------------------------------------------

    def save_topics(self, life: bytes, rules: TopicRules) -> None:
        """Keeps the rules as they are for a successor in this life of the node, and no longer."""
        self._promises = True
        execute = self._connection.execute
        execute("DELETE FROM topics")
        execute("DELETE FROM sources")
        for topic in rules:
            execute("INSERT INTO topics VALUES (?, ?)", (topic, rules.forward_path(topic)))
            for subnet in rules.sources(topic):
                execute("INSERT INTO sources (topic, subnet) VALUES (?, ?)", (topic, subnet))
        self._database.set("topics_accept", b"\x01" if rules.accept else b"\x00")
        self._database.set("topics_life", life)

    def saved_topics(self, life: bytes) -> TopicRules | None:
        """The rules that were changed in this life of the node; None where nobody changed any."""
        if self._database.get("topics_life") != life:
            return None
        rules = TopicRules(self._database.get("topics_accept") == b"\x01")
        forwards = self._connection.execute("SELECT topic, forward FROM topics").fetchall()
        for topic, _ in forwards:
            rules.add(topic)
        for topic, subnet in self._connection.execute("SELECT topic, subnet FROM sources ORDER BY number").fetchall():
            rules.add_source(topic, Source.parse(subnet))
        for topic, forward in forwards:
            rules.set_forward(topic, forward)
        return rules

    def _open_bodies(self, folder: Path) -> Bodies:
        bodies = folder / BODIES_FOLDER
        try:
            if self.set_aside is not None and bodies.exists():
                # They belong to it.
                bodies.rename(self.set_aside.with_name(f"{self.set_aside.name}-{BODIES_FOLDER}"))
            return Bodies(bodies)
        except OSError as error:
            raise StoreError(f"cannot use {bodies}: {error.strerror}; see that it is a folder of this user") from None

    def _find_identity(self) -> bytes:
        identity = self._database.get("identity")
        if identity is None:
            identity = os.urandom(8)
            self._database.set("identity", identity)
            self._database.commit()
        return identity

    def _number(self, table: str) -> int:
        highest = self._database.one(f"SELECT max(number) FROM {table}", ())
        kept = self._database.get(f"last_{table}")
        return max(int(highest[0] or 0) if highest else 0, int.from_bytes(kept or b"", "big"))
