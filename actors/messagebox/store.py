"""The message box on disk: SQLite, one transaction for all that happens in one round (protocol: `messages/events.py`).

What an event asks of the database is done at once, inside the open transaction, so that the box's own questions see it;
`commit` ends the transaction. Only what promises something to somebody waits for the disk (`synchronous=FULL`): losing
the rest costs a repetition, and only where the machine itself dies. SIGKILL loses neither.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from actors.messagebox.statements import GONE, PROMISES, apply, position_of
from protocol.mycelium.messages.chunking import CHUNK_BYTES
from protocol.mycelium.messages.completions import Completion
from protocol.mycelium.messages.core import REMEMBER_SECONDS, SUBNET_BYTES, Key
from protocol.mycelium.messages.events import Event, State
from protocol.mycelium.messages.inbox import InboxEntry
from protocol.mycelium.messages.receiver import SavedPending
from protocol.mycelium.messages.sender import Progress, SavedOutgoing
from protocol.mycelium.messages.topics import Source, TopicRules

FILE: Final = "messages.sqlite"
SCHEMA: Final = 1
APPLICATION: Final = 0x53505445
"""In the file's header: a database of ours, and of nobody else."""
MOST_KEYS: Final = 100_000
"""Idempotency keys; the oldest goes."""
KEY_SECONDS: Final = 86_400.0
"""How long an idempotency key is remembered."""
_PAGE_BYTES: Final = 16_384
"""A large chunk lies on four or five, each of which is counted, checked and freed by itself."""
_WAL_PAGES: Final = 2048
_WAL_BYTES_KEPT: Final = 8 << 20
_CACHE_KIB: Final = 4096
_PAGES_PER_VACUUM: Final = 256
_FETCH: Final = 64
_FORGET_STEP: Final = 256
FORWARDS_AT_ONCE: Final = 1024

_TABLES: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID, STRICT;
CREATE TABLE outgoing (
    number INTEGER PRIMARY KEY, id BLOB NOT NULL, destination BLOB NOT NULL, topic BLOB NOT NULL,
    reply INTEGER NOT NULL, data BLOB NOT NULL, length INTEGER NOT NULL, created REAL NOT NULL, state TEXT NOT NULL,
    done_sent INTEGER NOT NULL, largest INTEGER NOT NULL, acked BLOB NOT NULL
) STRICT;
CREATE TABLE outgoing_large (number INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT;
CREATE TABLE idempotency (
    key BLOB PRIMARY KEY, id BLOB NOT NULL, destination BLOB NOT NULL, digest BLOB NOT NULL, created REAL NOT NULL
) WITHOUT ROWID, STRICT;
CREATE INDEX idempotency_by_age ON idempotency (created);
CREATE TABLE pending (
    number INTEGER PRIMARY KEY, id BLOB NOT NULL, source BLOB NOT NULL, destination BLOB NOT NULL,
    length INTEGER NOT NULL, topic BLOB NOT NULL, reply INTEGER NOT NULL, large INTEGER NOT NULL, began REAL NOT NULL
) STRICT;
CREATE TABLE chunks (position INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT;
CREATE TABLE messages (
    number INTEGER PRIMARY KEY, body INTEGER NOT NULL, id BLOB NOT NULL, source BLOB NOT NULL,
    source_key BLOB NOT NULL, destination BLOB NOT NULL, topic BLOB NOT NULL, reply INTEGER NOT NULL,
    length INTEGER NOT NULL, place TEXT NOT NULL, completed REAL NOT NULL
) STRICT;
CREATE INDEX messages_by_topic ON messages (topic, number);
CREATE INDEX messages_by_id ON messages (id);
CREATE TABLE completions (
    subnet BLOB NOT NULL, id BLOB NOT NULL, count INTEGER NOT NULL, digest BLOB NOT NULL, completed REAL NOT NULL,
    PRIMARY KEY (subnet, id)
) WITHOUT ROWID, STRICT;
CREATE INDEX completions_by_age ON completions (completed);
CREATE TABLE topics (topic BLOB PRIMARY KEY, forward TEXT) WITHOUT ROWID, STRICT;
CREATE TABLE sources (number INTEGER PRIMARY KEY, topic BLOB NOT NULL, subnet TEXT NOT NULL) STRICT;
"""
MIGRATIONS: Final[dict[int, str]] = {}
"""Schema → the statements that make the next one of it."""
_ENTRY: Final = "number, id, source, destination, topic, length"


class StoreError(Exception):
    """A database that can't be used; says which file, why, and what to do."""


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
    """Which chunks are its data: see `chunks_of`."""
    reply: bool


class Store:
    """One database in one folder. Times in it are seconds since the Unix epoch: it outlives clocks that start at 0."""

    def __init__(self, folder: Path) -> None:
        """Opens the database, which is made where it is missing.

        One that is damaged is set aside under another name: see `set_aside`. Raises `StoreError` for one that can't be
        opened, that is none of ours, or that a newer version wrote.
        """
        self.path: Final = folder / FILE
        self._suspect = folder / f"{FILE}.suspect"
        self.set_aside: Path | None = None
        """Where the damaged database lies that was found here."""
        try:
            self._database = self._open()
        except OSError as error:
            raise StoreError(f"cannot open {self.path}: {error.strerror}; see that it is a file of this user") from None
        except sqlite3.DatabaseError as error:
            if not is_damaged(error):
                raise StoreError(
                    f"cannot open {self.path}: {error}; see that it belongs to this user, on a disk with room"
                ) from None
            self.set_aside = self._put_away()
            self._database = self._open()
        self._promises = False
        """What is not committed promises something."""
        self._owed = False
        """What is committed does, and may not be on disk."""
        self._gone: dict[str, int] = {}
        """Table → the highest number of a row that was deleted since the last commit."""
        self._changes = self._database.total_changes
        self.identity: Final = self._find_identity()
        """8 random bytes of this database: with the number of a message they name it for ever."""
        self._begin()

    def close(self) -> None:
        """Commits what is open, and closes."""
        self.commit()
        self.keep_promises()
        self._database.rollback()
        self._database.close()

    # --- events -------------------------------------------------------------------------------------------------------

    def apply(self, event: Event, wall: float) -> None:
        """Does what an event asks of the database; nothing for those that ask nothing. `wall`: seconds since 1970."""
        if apply(self._database, event, wall):
            kind = type(event)
            if kind in PROMISES:
                self._promises = True
            if kind in GONE:
                table, number = GONE[kind](event)
                self._gone[table] = max(number, self._gone.get(table, 0))

    def commit(self) -> None:
        """Ends the transaction of this round: no death of this process undoes it.

        What promises something may be told to others after `keep_promises` only: the machine may die, too.
        """
        if self._database.total_changes == self._changes:
            return
        for table, number in self._gone.items():
            # No number is given twice, also when its row is gone.
            self._database.execute(
                "INSERT INTO meta VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = max(value, ?2)",
                (f"last_{table}", number.to_bytes(8, "big")),
            )
        self._gone.clear()
        self._database.execute("COMMIT")
        self._owed |= self._promises
        self._promises = False
        self._begin()
        self._changes = self._database.total_changes

    def keep_promises(self) -> None:
        """Returns when what was committed and promises something is on disk."""
        if not self._owed:
            return
        self._database.execute("COMMIT")
        # The safety level can't be changed inside a transaction. A full one syncs the log with all before it.
        self._database.execute("PRAGMA synchronous=FULL")
        self._set("promised", b"")
        self._database.execute("PRAGMA synchronous=NORMAL")
        self._owed = self._promises = False
        self._begin()
        self._changes = self._database.total_changes

    def suspect(self) -> None:
        """The database said that it is damaged: the next process looks closely before it uses it."""
        self._suspect.touch(mode=0o600)

    def tidy(self) -> None:
        """Copies the log into the database, and gives free pages back; for a quiet moment, outside of a round."""
        self.commit()
        self.keep_promises()
        self._database.rollback()
        # By `execute` one page would be given back: it gives no rows, and is not asked for the rest.
        self._database.executescript(f"PRAGMA incremental_vacuum({_PAGES_PER_VACUUM})")
        self._database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        self._begin()
        self._changes = self._database.total_changes

    def forget_old(self, wall: float) -> None:
        """Forgets completions and idempotency keys that are too old."""
        execute = self._database.execute
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
        row = self._one("SELECT count, digest FROM completions WHERE subnet = ? AND id = ?", tuple(key))
        return None if row is None else Completion(*row)

    def waiting(self, topic: bytes | None, above: int) -> Iterator[InboxEntry]:
        """Stored messages in order: see `inbox.Stored`."""
        many = 1
        while True:
            if topic is None:
                found = self._database.execute(
                    f"SELECT {_ENTRY} FROM messages WHERE number > ? ORDER BY number LIMIT ?", (above, many)
                ).fetchall()
            else:
                found = self._database.execute(
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
        rows = self._database.execute("SELECT source FROM messages WHERE id = ?", (key.id,)).fetchall()
        return any(source[:SUBNET_BYTES] == key.subnet for (source,) in rows)

    # --- what its actor asks ------------------------------------------------------------------------------------------

    def facts(self, number: int) -> Facts:
        """Of stored message `number`. Raises `KeyError` where there is none."""
        row = self._one(
            "SELECT id, source, source_key, destination, topic, length, body, reply FROM messages WHERE number = ?",
            (number,),
        )
        if row is None:
            raise KeyError(number)
        message_id, source, source_key, destination, topic, length, body, reply = row
        return Facts(message_id, source, source_key, destination, topic, length, body, bool(reply))

    def has(self, number: int) -> bool:
        """Whether message `number` is stored."""
        return self._one("SELECT 1 FROM messages WHERE number = ?", (number,)) is not None

    def chunks_of(self, body: int, after: int, most_bytes: int) -> tuple[list[bytes], int]:
        """Chunks of a body behind chunk `after` (-1: from the first on), at least one and about `most_bytes` of them.

        Returns them and the index of the last, to go on with; nothing when there are no more.
        """
        found: list[bytes] = []
        last, octets = after, 0
        rows = self._database.execute(
            "SELECT position, data FROM chunks WHERE position > ? AND position < ? ORDER BY position",
            (position_of(body, after), position_of(body + 1, 0)),
        )
        for position, data in rows:
            found.append(data)
            last = position - position_of(body, 0)
            octets += len(data)
            if octets >= most_bytes:
                break
        rows.close()
        return found, last

    def data_of(self, number: int) -> bytes:
        """All data of stored message `number`. Raises `KeyError` where there is none."""
        facts = self.facts(number)
        return b"".join(self.chunks_of(facts.body, -1, facts.length + 1)[0])

    def to_forward(self, topic: bytes) -> list[InboxEntry]:
        """Messages of a topic that its forward socket has not taken yet, oldest first, some of them."""
        rows = self._database.execute(
            f"SELECT {_ENTRY} FROM messages WHERE topic = ? AND place = 'forward' ORDER BY number LIMIT ?",
            (topic, FORWARDS_AT_ONCE),
        )
        return [InboxEntry(*row) for row in rows.fetchall()]

    def older_than(self, wall: float) -> list[InboxEntry]:
        """Stored messages that were complete before then, some of them."""
        rows = self._database.execute(
            f"SELECT {_ENTRY} FROM messages WHERE completed < ? ORDER BY number LIMIT ?", (wall, _FORGET_STEP)
        )
        return [InboxEntry(*row) for row in rows.fetchall()]

    def repeated(self, key: bytes) -> Repeated | None:
        """What was pushed with this idempotency key."""
        row = self._one("SELECT id, destination, digest FROM idempotency WHERE key = ?", (key,))
        return None if row is None else Repeated(*row)

    def remember_key(self, key: bytes, message_id: bytes, destination: bytes, digest: bytes, wall: float) -> None:
        """This message was pushed with this idempotency key."""
        self._database.execute(
            "INSERT OR REPLACE INTO idempotency VALUES (?, ?, ?, ?, ?)", (key, message_id, destination, digest, wall)
        )

    def save_progress(self, progress: Iterable[Progress]) -> None:
        """How far own messages are."""
        self._database.executemany(
            "UPDATE outgoing SET state = 'sending', largest = ?, acked = ? WHERE number = ?",
            [(step.largest, step.acked, step.number) for step in progress],
        )

    # --- an earlier life ----------------------------------------------------------------------------------------------

    def outgoing(self, wall: float, now: float) -> Iterator[SavedOutgoing]:
        """Own messages in the order of their numbers; `now` is monotonic, and `wall` the same moment since 1970."""
        rows = self._database.execute("SELECT number FROM outgoing ORDER BY number").fetchall()
        for (number,) in rows:
            row = self._one(
                "SELECT id, destination, topic, reply, coalesce(large.data, outgoing.data), length, created, state, "
                "done_sent, largest, acked "
                "FROM outgoing LEFT JOIN outgoing_large AS large USING (number) WHERE number = ?",
                (number,),
            )
            if row is None:
                continue
            message_id, destination, topic, reply, data, length, created, state, done_sent, largest, acked = row
            yield SavedOutgoing(
                number=number,
                id=message_id,
                destination=destination,
                topic=topic,
                reply=bool(reply),
                data=data,
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
        rows = self._database.execute(
            "SELECT number, id, source, destination, length, topic, reply, large FROM pending ORDER BY number"
        ).fetchall()
        for number, message_id, source, destination, length, topic, reply, large in rows:
            base = position_of(number, 0)
            chunks = self._database.execute(
                "SELECT position - ?, data FROM chunks WHERE position >= ? AND position < ? ORDER BY position",
                (base, base, position_of(number + 1, 0)),
            ).fetchall()
            yield SavedPending(
                number, message_id, source, destination, length, topic, bool(reply), now, chunks, bool(large)
            )

    def stored_by_subnet(self) -> list[tuple[bytes, int, int]]:
        """Of each /64 (8 bytes): how many messages of it are stored, and how many bytes."""
        return self._database.execute(
            "SELECT CAST(substr(source, 1, 8) AS BLOB), count(*), sum(length) FROM messages GROUP BY 1"
        ).fetchall()

    def last_numbers(self) -> tuple[int, int, int]:
        """The last numbers given to own, pending and stored messages."""
        bodies = self._one("SELECT max(body) FROM messages", ())
        pending = max(self._number("pending"), (bodies and bodies[0]) or 0)
        return self._number("outgoing"), pending, self._number("messages")

    # --- topics -------------------------------------------------------------------------------------------------------

    def save_topics(self, life: bytes, rules: TopicRules) -> None:
        """Keeps the rules as they are for a successor in this life of the node, and no longer."""
        self._promises = True
        execute = self._database.execute
        execute("DELETE FROM topics")
        execute("DELETE FROM sources")
        for topic in rules:
            execute("INSERT INTO topics VALUES (?, ?)", (topic, rules.forward_path(topic)))
            for subnet in rules.sources(topic):
                execute("INSERT INTO sources (topic, subnet) VALUES (?, ?)", (topic, subnet))
        self._set("topics_accept", b"\x01" if rules.accept else b"\x00")
        self._set("topics_life", life)

    def saved_topics(self, life: bytes) -> TopicRules | None:
        """The rules that were changed in this life of the node; None where nobody changed any."""
        if self._get("topics_life") != life:
            return None
        rules = TopicRules(self._get("topics_accept") == b"\x01")
        forwards = self._database.execute("SELECT topic, forward FROM topics").fetchall()
        for topic, _ in forwards:
            rules.add(topic)
        for topic, subnet in self._database.execute("SELECT topic, subnet FROM sources ORDER BY number").fetchall():
            rules.add_source(topic, Source.parse(subnet))
        for topic, forward in forwards:
            rules.set_forward(topic, forward)
        return rules

    # --- the file -----------------------------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        # Made before SQLite does it, so that nobody else may ever read it; the log takes its mode from it.
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        database = sqlite3.connect(self.path, isolation_level=None, cached_statements=256)
        try:
            self._prepare(database)
        except BaseException:
            database.close()
            raise
        return database

    def _prepare(self, database: sqlite3.Connection) -> None:
        # One process has it; so its log needs no index in shared memory.
        database.execute("PRAGMA locking_mode=EXCLUSIVE")
        application = database.execute("PRAGMA application_id").fetchone()[0]
        schema = database.execute("PRAGMA user_version").fetchone()[0]
        is_new = not database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if not is_new and application != APPLICATION:
            raise StoreError(f"{self.path} is a database of another program; move it away, or use another folder")
        if schema > SCHEMA:
            raise StoreError(
                f"{self.path} was written by a newer version (schema {schema}, this one knows {SCHEMA}); use that "
                "version, or move the file away to begin with an empty message box"
            )
        if is_new:
            # Counts from before the first table on.
            database.execute("PRAGMA auto_vacuum=INCREMENTAL")
            database.execute(f"PRAGMA page_size={_PAGE_BYTES}")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        database.execute(f"PRAGMA wal_autocheckpoint={_WAL_PAGES}")
        database.execute(f"PRAGMA journal_size_limit={_WAL_BYTES_KEPT}")
        database.execute("PRAGMA temp_store=MEMORY")
        if is_new:
            database.executescript(
                f"BEGIN; {_TABLES} PRAGMA application_id={APPLICATION}; PRAGMA user_version={SCHEMA}; COMMIT;"
            )
        else:
            for known in range(schema, SCHEMA):
                database.executescript(f"BEGIN; {MIGRATIONS[known]} PRAGMA user_version={known + 1}; COMMIT;")
            if self._suspect.exists():
                # Looks at every page, so only where a predecessor met with something.
                problems = database.execute("PRAGMA quick_check(1)").fetchone()[0]
                if problems != "ok":
                    raise sqlite3.DatabaseError(f"{_DAMAGED}: {problems}")
                self._suspect.unlink()
        database.execute("PRAGMA synchronous=NORMAL")

    def _put_away(self) -> Path:
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        name = self.path.with_name(f"{self.path.name}.damaged-{stamp}")
        for suffix in ("-wal", "-shm", ""):
            # The log belongs to it: without that a repair finds less.
            with contextlib.suppress(FileNotFoundError):
                Path(f"{self.path}{suffix}").rename(f"{name}{suffix}")
        self._suspect.unlink(missing_ok=True)
        return name

    def _find_identity(self) -> bytes:
        identity = self._get("identity")
        if identity is None:
            identity = os.urandom(8)
            self._set("identity", identity)
        return identity

    def _begin(self) -> None:
        self._database.execute("BEGIN IMMEDIATE")

    def _one(self, statement: str, parameters: tuple[object, ...]) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self._database.execute(statement, parameters).fetchone()
        return row

    def _number(self, table: str) -> int:
        highest = self._one(f"SELECT max(number) FROM {table}", ())
        kept = self._get(f"last_{table}")
        return max(int(highest[0] or 0) if highest else 0, int.from_bytes(kept or b"", "big"))

    def _get(self, name: str) -> bytes | None:
        row = self._one("SELECT value FROM meta WHERE name = ?", (name,))
        return None if row is None else bytes(row[0])

    def _set(self, name: str, value: bytes) -> None:
        self._database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))


_DAMAGED: Final = "database disk image is malformed"


def is_damaged(error: sqlite3.DatabaseError) -> bool:
    """Whether the database itself is broken, and not what it lies on."""
    code = getattr(error, "sqlite_errorcode", None)
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or str(error).startswith(_DAMAGED)
