"""The file of the message box: SQLite, opened, migrated, set aside where it is damaged; and what is on disk of it.

A commit is written to the log and survives any death of this process. Whether it survives the machine's, too, is asked
apart from it, and of the whole log: `log` is synced by whoever promises something (`disk.py`), not by SQLite.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path
from typing import Any, Final

FILE: Final = "messages.sqlite"
SCHEMA: Final = 2
APPLICATION: Final = 0x53505445
"""In the file's header: a database of ours, and of nobody else."""
_PAGE_BYTES: Final = 4096
"""A commit writes whole pages, and a message changes one of each of ten trees. Older files have 16 KiB."""
_WAL_PAGES: Final = 4096
_WAL_BYTES_KEPT: Final = 64 << 20
"""All of it: where the log is written again in place, the disk is waited for a tenth of the time."""
_CACHE_KIB: Final = 4096
_PAGES_PER_VACUUM: Final = 1024

_TABLES: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID, STRICT;
CREATE TABLE outgoing (
    number INTEGER PRIMARY KEY, id BLOB NOT NULL, destination BLOB NOT NULL, topic BLOB NOT NULL,
    reply INTEGER NOT NULL, data BLOB NOT NULL, length INTEGER NOT NULL, created REAL NOT NULL, state TEXT NOT NULL,
    done_sent INTEGER NOT NULL, largest INTEGER NOT NULL, acked BLOB NOT NULL, file TEXT
) STRICT;
CREATE TABLE outgoing_large (number INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT;
CREATE TABLE idempotency (
    key BLOB PRIMARY KEY, id BLOB NOT NULL, destination BLOB NOT NULL, digest BLOB NOT NULL, created REAL NOT NULL
) WITHOUT ROWID, STRICT;
CREATE INDEX idempotency_by_age ON idempotency (created);
CREATE TABLE pending (
    number INTEGER PRIMARY KEY, id BLOB NOT NULL, source BLOB NOT NULL, destination BLOB NOT NULL,
    length INTEGER NOT NULL, topic BLOB NOT NULL, reply INTEGER NOT NULL, large INTEGER NOT NULL, began REAL NOT NULL,
    file TEXT
) STRICT;
CREATE TABLE chunks (position INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT;
CREATE TABLE pieces (
    position INTEGER PRIMARY KEY, at INTEGER NOT NULL, size INTEGER NOT NULL, crc INTEGER NOT NULL
) STRICT;
CREATE TABLE messages (
    number INTEGER PRIMARY KEY, body INTEGER NOT NULL, id BLOB NOT NULL, source BLOB NOT NULL,
    source_key BLOB NOT NULL, destination BLOB NOT NULL, topic BLOB NOT NULL, reply INTEGER NOT NULL,
    length INTEGER NOT NULL, place TEXT NOT NULL, completed REAL NOT NULL, file TEXT
) STRICT;
CREATE INDEX messages_by_topic ON messages (topic, number);
CREATE INDEX messages_by_id ON messages (id);
CREATE INDEX messages_in_files ON messages (number, file) WHERE file IS NOT NULL;
CREATE TABLE completions (
    subnet BLOB NOT NULL, id BLOB NOT NULL, count INTEGER NOT NULL, digest BLOB NOT NULL, completed REAL NOT NULL,
    PRIMARY KEY (subnet, id)
) WITHOUT ROWID, STRICT;
CREATE INDEX completions_by_age ON completions (completed);
CREATE TABLE topics (topic BLOB PRIMARY KEY, forward TEXT) WITHOUT ROWID, STRICT;
CREATE TABLE sources (number INTEGER PRIMARY KEY, topic BLOB NOT NULL, subnet TEXT NOT NULL) STRICT;
"""
MIGRATIONS: Final[dict[int, str]] = {
    1: """
ALTER TABLE outgoing ADD COLUMN file TEXT;
ALTER TABLE pending ADD COLUMN file TEXT;
ALTER TABLE messages ADD COLUMN file TEXT;
CREATE INDEX messages_in_files ON messages (number, file) WHERE file IS NOT NULL;
CREATE TABLE pieces (
    position INTEGER PRIMARY KEY, at INTEGER NOT NULL, size INTEGER NOT NULL, crc INTEGER NOT NULL
) STRICT;
""",
}
"""Schema → the statements that make the next one of it."""


class StoreError(Exception):
    """A database that can't be used; says which file, why, and what to do."""


class Database:
    """One database in one folder, with a transaction that is open at all times."""

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
            self.connection = self._open()
        except OSError as error:
            raise StoreError(f"cannot open {self.path}: {error.strerror}; see that it is a file of this user") from None
        except sqlite3.DatabaseError as error:
            if not is_damaged(error):
                raise StoreError(
                    f"cannot open {self.path}: {error}; see that it belongs to this user, on a disk with room"
                ) from None
            self.set_aside = self._put_away()
            self.connection = self._open()
        self.log: Final = os.open(f"{self.path}-wal", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        """Descriptor of the log: what is synced of it holds, whatever the machine does."""
        self._changes = self.connection.total_changes
        self.begin()

    def close(self) -> None:
        """Gives up what was not committed, and closes."""
        self.connection.rollback()
        os.close(self.log)
        self.connection.close()

    @property
    def changed(self) -> bool:
        """Whether anything was written since the last commit."""
        return self.connection.total_changes != self._changes

    def begin(self) -> None:
        """Opens the next transaction."""
        self.connection.execute("BEGIN IMMEDIATE")
        self._changes = self.connection.total_changes

    def commit(self) -> None:
        """Ends the transaction, and opens the next: no death of this process undoes it."""
        self.connection.execute("COMMIT")
        self.begin()

    def suspect(self) -> None:
        """The database said that it is damaged: the next process looks closely before it uses it."""
        self._suspect.touch(mode=0o600)

    def tidy(self) -> None:
        """Copies the log into the database, and gives free pages back; nothing may be waiting to be committed."""
        self.connection.rollback()
        # By `execute` one page would be given back: it gives no rows, and is not asked for the rest.
        self.connection.executescript(f"PRAGMA incremental_vacuum({_PAGES_PER_VACUUM})")
        self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        self.begin()

    def one(self, statement: str, parameters: tuple[object, ...]) -> tuple[Any, ...] | None:
        """The first row, None where there is none."""
        row: tuple[Any, ...] | None = self.connection.execute(statement, parameters).fetchone()
        return row

    def get(self, name: str) -> bytes | None:
        """What was `set` under a name."""
        row = self.one("SELECT value FROM meta WHERE name = ?", (name,))
        return None if row is None else bytes(row[0])

    def set(self, name: str, value: bytes) -> None:
        """Keeps a value under a name."""
        self.connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    # --- opening ------------------------------------------------------------------------------------------------------

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
        # The log is synced by whoever promises something; SQLite does so itself where it copies it into the database.
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


_DAMAGED: Final = "database disk image is malformed"


def is_damaged(error: sqlite3.DatabaseError) -> bool:
    """Whether the database itself is broken, and not what it lies on."""
    code = getattr(error, "sqlite_errorcode", None)
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or str(error).startswith(_DAMAGED)
