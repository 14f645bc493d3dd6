"""The database of the message box: what outlives its process, and what becomes of a file that is none of ours."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.messagebox.bodies import FOLDER, LARGE_BYTES
from actors.messagebox.database import APPLICATION, FILE, SCHEMA, StoreError
from actors.messagebox.store import Store
from protocol.mycelium.messages.chunking import CHUNK_BYTES
from protocol.mycelium.messages.completions import Completion
from protocol.mycelium.messages.core import REMEMBER_SECONDS, Key
from protocol.mycelium.messages.events import (
    ForgetMessage,
    ForgetOutgoing,
    ForgetPending,
    Message,
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
from protocol.mycelium.messages.records import Progress
from protocol.mycelium.messages.topics import Source, TopicRules
from tests.unit.message_factory import ALICE, BOB, ID, payload

NOW, WALL = 1000.0, 1_700_000_000.0
LIFE = b"one life".ljust(16)
OLD_TABLES = """
PRAGMA application_id=1397773381; PRAGMA user_version=1;
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


_opened: list[Store] = []


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    _opened.append(Store(tmp_path))
    yield _opened[-1]
    _opened.pop().close()


def again(store: Store) -> Store:
    """The store that a successor opens after a SIGKILL: nothing but what was committed."""
    store._connection.rollback()
    store._database.close()
    _opened[-1] = Store(store.path.parent)
    return _opened[-1]


def receive(
    store: Store,
    number: int,
    data: bytes = b"hello",
    *,
    topic: bytes = b"",
    place: Place = Place.INBOX,
    message_id: bytes = ID,
    wall: float = WALL,
) -> None:
    """Stores a message as the box would; its pending number is ten times its number."""
    pending = 10 * number
    fields = message_id, ALICE.address, BOB.address
    store.apply(StorePending(pending, *fields, len(data), topic, False, False), wall)
    pieces = tuple(data[start : start + 1300] for start in range(0, len(data), 1300))
    for index, piece in enumerate(pieces):
        store.apply(StoreChunk(pending, index, 1300 * index, piece), wall)
    message = Message(number, message_id, ALICE.address, ALICE.key, BOB.address, topic, False, len(data), pieces)
    store.apply(StoreMessage(pending, message, place, len(pieces), bytes(32)), wall)


def test_only_the_owner_may_read_it(store: Store) -> None:
    store.apply(StoreOutgoing(1, ID, BOB.address, b"", False, b"secret"), WALL)
    store.apply(StoreOutgoing(2, bytes(8), BOB.address, b"", False, bytes(LARGE_BYTES)), WALL)
    store.commit()
    files = [path for path in store.path.parent.rglob("*") if path.is_file()]
    assert len(files) == 3, "database, log, one body"
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE((store.path.parent / FOLDER).stat().st_mode) == 0o700


@pytest.mark.parametrize("size", [0, 5, 4096, 4097, 300_000])
def test_an_own_message_goes_on_in_the_next_life(store: Store, size: int) -> None:
    data = payload(size)
    store.apply(StoreOutgoing(7, ID, BOB.address, b"demo", True, data), WALL)
    store.apply(StoreDoneSent(7), WALL)
    store.commit()
    (saved,) = again(store).outgoing(WALL + 100, NOW)
    assert (saved.number, saved.id, saved.destination, saved.topic, saved.reply) == (7, ID, BOB.address, b"demo", True)
    assert (saved.data, saved.state, saved.done_sent) == (data, State.PENDING, True)
    assert saved.created == NOW - 100


def test_a_clock_that_was_set_back_makes_no_message_younger(store: Store) -> None:
    store.apply(StoreOutgoing(1, ID, BOB.address, b"", False, b""), WALL)
    (saved,) = store.outgoing(WALL - 5000, NOW)
    assert saved.created == NOW


def test_what_was_not_committed_never_happened(store: Store) -> None:
    store.apply(StoreOutgoing(1, ID, BOB.address, b"", False, b"first"), WALL)
    store.commit()
    store.apply(StoreOutgoing(2, ID, BOB.address, b"", False, b"second"), WALL)
    assert [saved.number for saved in again(store).outgoing(WALL, NOW)] == [1]


def test_progress_is_what_a_successor_need_not_send_again(store: Store) -> None:
    data = payload(5 * CHUNK_BYTES)
    store.apply(StoreOutgoing(1, ID, BOB.address, b"", False, data), WALL)
    store.save_progress([Progress(1, CHUNK_BYTES, bytes([1, 0, 1, 1, 0]))])
    store.commit()
    (saved,) = again(store).outgoing(WALL, NOW)
    assert (saved.state, saved.largest, list(saved.acked)) == (State.SENDING, CHUNK_BYTES, [0, 2, 3])


def test_progress_counts_no_longer_when_the_message_begins_again(store: Store) -> None:
    store.apply(StoreOutgoing(1, ID, BOB.address, b"", False, payload(2600)), WALL)
    store.save_progress([Progress(1, CHUNK_BYTES, bytes([1, 0]))])
    store.apply(StateChanged(1, ID, State.PENDING), WALL)
    (saved,) = store.outgoing(WALL, NOW)
    assert (saved.state, list(saved.acked)) == (State.PENDING, [])


@pytest.mark.parametrize("size", [5, 300_000])
def test_the_data_of_a_finished_message_is_gone_but_not_its_length(store: Store, size: int) -> None:
    store.apply(StoreOutgoing(1, ID, BOB.address, b"", False, payload(size)), WALL)
    store.apply(StateChanged(1, ID, State.RECEIVED), WALL)
    (saved,) = store.outgoing(WALL, NOW)
    assert (saved.data, saved.length, saved.state) == (b"", size, State.RECEIVED)


def test_an_incoming_message_goes_on_with_its_chunks(store: Store) -> None:
    store.apply(StorePending(3, ID, ALICE.address, BOB.address, 2600, b"demo", True, True), WALL)
    store.apply(StoreChunk(3, 1, 1300, b"old"), WALL)
    store.apply(StoreChunk(3, 1, 1300, b"second"), WALL)
    store.apply(StoreChunk(3, 0, 0, b"first"), WALL)
    store.apply(StorePending(4, bytes(8), ALICE.address, BOB.address, 5, b"", False, False), WALL)
    store.apply(ForgetPending(4), WALL)
    store.commit()
    (saved,) = again(store).pending(NOW)
    assert list(saved.chunks) == [(0, b"first"), (1, b"second")]
    assert (saved.number, saved.length, saved.topic, saved.reply, saved.large) == (3, 2600, b"demo", True, True)


def test_a_complete_message_has_all_its_data_in_order_and_in_parts(store: Store) -> None:
    data = payload(10_000)
    receive(store, 1, data)
    receive(store, 2, b"another", message_id=bytes(8))
    assert store.data_of(1) == data
    facts = store.facts(1)
    assert (facts.source_key, facts.length, facts.destination) == (ALICE.key, 10_000, BOB.address)
    parts, after = [], -1
    while True:
        part, after = store.part_of(facts, after, 2000)
        if not part:
            break
        parts.append(part)
    assert b"".join(parts) == data
    assert [len(part) for part in parts] == [2600, 2600, 2600, 2200]


def test_messages_wait_in_the_order_of_their_numbers_and_by_topic(store: Store) -> None:
    for number in range(1, 200):
        receive(store, number, topic=b"odd" if number % 2 else b"even", message_id=number.to_bytes(8, "big"))
    assert [entry.number for entry in store.waiting(None, 0)] == list(range(1, 200))
    assert [entry.number for entry in store.waiting(b"even", 100)] == list(range(102, 200, 2))
    assert [entry.number for entry in store.waiting(b"od", 0)] == []


def test_a_message_is_held_under_its_key_until_it_is_forgotten(store: Store) -> None:
    receive(store, 1)
    assert store.holds(Key.of(ALICE.address, ID))
    assert not store.holds(Key.of(BOB.address, ID))
    store.apply(ForgetMessage(1), WALL)
    assert not store.holds(Key.of(ALICE.address, ID))
    assert store._database.one("SELECT count(*) FROM chunks", ()) == (0,)
    with pytest.raises(KeyError):
        store.facts(1)


def test_completions_are_remembered_as_long_as_they_are_needed(store: Store) -> None:
    receive(store, 1, message_id=bytes(8))
    receive(store, 2)
    store.apply(ForgetMessage(1), WALL)
    store.forget_old(WALL + REMEMBER_SECONDS - 1)
    assert store.known(Key.of(ALICE.address, bytes(8))) == Completion(1, bytes(32))
    store.forget_old(WALL + REMEMBER_SECONDS + 1)
    assert store.known(Key.of(ALICE.address, bytes(8))) is None
    assert store.known(Key.of(ALICE.address, ID)) is not None, "the message is still there"


def test_numbers_are_never_given_twice_even_when_their_rows_are_gone(store: Store) -> None:
    store.apply(StoreOutgoing(9, ID, BOB.address, b"", False, b""), WALL)
    store.apply(ForgetOutgoing(9, ID), WALL)
    receive(store, 4)
    store.apply(ForgetMessage(4), WALL)
    store.commit()
    assert again(store).last_numbers() == (9, 40, 4)


def test_rooms_of_the_inbox_are_counted_by_sender(store: Store) -> None:
    receive(store, 1, b"abc")
    receive(store, 2, b"defgh", message_id=bytes(8))
    assert store.stored_by_subnet() == [(ALICE.address[:8], 2, 8)]


def test_what_is_to_be_forwarded_is_known_until_it_is_in_the_inbox_for_good(store: Store) -> None:
    receive(store, 1, topic=b"web", place=Place.FORWARD)
    receive(store, 2, topic=b"web", place=Place.FORWARD, message_id=bytes(8))
    store.apply(StorePlace(1), WALL)
    assert [entry.number for entry in store.to_forward(b"web")] == [2]
    assert store.to_forward(b"other") == []


def test_old_messages_are_found_by_age(store: Store) -> None:
    receive(store, 1)
    receive(store, 2, message_id=bytes(8), wall=WALL + 10)
    assert [entry.number for entry in store.older_than(WALL + 5)] == [1]


def test_an_idempotency_key_leads_to_its_message_for_a_day(store: Store) -> None:
    store.remember_key(b"key", ID, BOB.address, bytes(32), WALL)
    store.commit()
    store = again(store)
    found = store.repeated(b"key")
    assert found is not None
    assert (found.id, found.destination) == (ID, BOB.address)
    assert store.repeated(b"other") is None
    store.forget_old(WALL + 86_401)
    assert store.repeated(b"key") is None


def test_topic_rules_last_for_the_life_of_the_node_and_no_longer(store: Store) -> None:
    rules = TopicRules(accept=False)
    rules.add(b"empty")
    rules.add_source(b"web", Source.parse("400::1/7"))
    rules.add_source(b"web", Source.parse("400::1/7"))
    rules.set_forward(b"web", "/run/web.sock")
    store.save_topics(LIFE, rules)
    store.commit()
    store = again(store)
    saved = store.saved_topics(LIFE)
    assert saved is not None
    assert (saved.accept, sorted(saved), saved.sources(b"web")) == (False, [b"empty", b"web"], ("400::1/7",) * 2)
    assert (saved.forward_path(b"web"), saved.forward_path(b"empty")) == ("/run/web.sock", None)
    assert store.saved_topics(bytes(16)) is None


def test_a_tidied_database_gives_its_pages_back(store: Store) -> None:
    for number in range(1, 11):
        receive(store, number, payload(200_000), message_id=bytes([number]) * 8)
    store.commit()
    store.tidy()
    full = store.path.stat().st_size
    for number in range(1, 11):
        store.apply(ForgetMessage(number), WALL)
    store.commit()
    store.tidy()
    store.tidy()
    assert store.path.stat().st_size < full / 2


def test_a_store_keeps_its_name(store: Store) -> None:
    assert again(store).identity == store.identity


# --- large messages: files --------------------------------------------------------------------------------------------


def bodies(store: Store) -> list[Path]:
    """The files of large messages."""
    return sorted((store.path.parent / FOLDER).iterdir())


def begin_large(store: Store, number: int, data: bytes, message_id: bytes = ID) -> list[tuple[int, int, bytes]]:
    """An incoming message; (index, offset, data) of its pieces."""
    store.apply(StorePending(number, message_id, ALICE.address, BOB.address, len(data), b"", False, True), WALL)
    return [(index, at, data[at : at + 60_000]) for index, at in enumerate(range(0, len(data), 60_000))]


def complete(store: Store, number: int, pending: int, data: bytes, message_id: bytes = ID) -> None:
    """The box says that a message is whole."""
    pieces = tuple(data[at : at + 60_000] for at in range(0, len(data), 60_000))
    message = Message(number, message_id, ALICE.address, ALICE.key, BOB.address, b"", False, len(data), pieces)
    store.apply(StoreMessage(pending, message, Place.INBOX, len(pieces), bytes(32)), WALL)


def test_a_large_message_is_read_from_its_file_in_parts(store: Store) -> None:
    data = payload(LARGE_BYTES)
    for piece in reversed(begin_large(store, 10, data)):
        store.apply(StoreChunk(10, *piece), WALL)
    complete(store, 1, 10, data)
    store.commit()
    store = again(store)
    (file,) = bodies(store)
    assert file.read_bytes() == data == store.data_of(1)
    part, after = store.part_of(store.facts(1), -1, 100_000)
    assert part + store.part_of(store.facts(1), after, 100_000)[0] == data[:200_000]


def test_pieces_of_a_large_message_go_on_in_the_next_life(store: Store) -> None:
    data = payload(LARGE_BYTES)
    pieces = begin_large(store, 10, data)
    for piece in pieces[:3]:
        store.apply(StoreChunk(10, *piece), WALL)
    store.commit()
    store.apply(StoreChunk(10, *pieces[3]), WALL)
    store = again(store)
    (saved,) = store.pending(NOW)
    assert list(saved.chunks) == [(index, piece) for index, _, piece in pieces[:3]], "the fourth was not committed"
    for piece in pieces[3:]:
        store.apply(StoreChunk(10, *piece), WALL)
    complete(store, 1, 10, data)
    assert store.data_of(1) == data


def test_a_piece_that_the_disk_swallowed_is_not_taken_for_there(store: Store) -> None:
    pieces = begin_large(store, 10, payload(LARGE_BYTES))
    for piece in pieces:
        store.apply(StoreChunk(10, *piece), WALL)
    store.commit()
    (file,) = bodies(store)
    content = file.read_bytes()
    file.write_bytes(content[:60_000] + bytes(60_000) + content[120_000:130_000])
    (saved,) = again(store).pending(NOW)
    assert [index for index, _ in saved.chunks] == [0]


@pytest.mark.parametrize("first_lie", [True, False])
def test_pieces_that_lie_elsewhere_than_they_belong_are_put_in_order(store: Store, first_lie: bool) -> None:
    data = payload(LARGE_BYTES)
    pieces = begin_large(store, 10, data)
    for index, at, piece in pieces:
        # A sender that is none of ours may say what it likes about the place; the index counts.
        store.apply(StoreChunk(10, index, 0 if index == 2 and not first_lie else at, piece), WALL)
        if index == 2 and first_lie:
            store.apply(StoreChunk(10, index, 0, b"x" * len(piece)), WALL)
            store.apply(StoreChunk(10, index, at, piece), WALL)
    complete(store, 1, 10, data)
    assert store.data_of(1) == data


@pytest.mark.parametrize(
    "end",
    [
        [ForgetPending(10)],
        [StateChanged(5, bytes(8), State.ABORTED)],
        [ForgetOutgoing(5, bytes(8))],
        [ForgetMessage(1)],
    ],
)
def test_a_file_goes_when_the_disk_knows_that_nobody_needs_it(store: Store, end: list[Any]) -> None:
    data = payload(LARGE_BYTES)
    match end[0]:
        case ForgetPending() | ForgetMessage():
            for piece in begin_large(store, 10, data):
                store.apply(StoreChunk(10, *piece), WALL)
            if isinstance(end[0], ForgetMessage):
                complete(store, 1, 10, data)
        case _:
            store.apply(StoreOutgoing(5, bytes(8), BOB.address, b"", False, data), WALL)
    store.commit()
    store.apply(end[0], WALL)
    store.commit()
    assert len(bodies(store)) == 1
    store.to_keep()
    assert len(bodies(store)) == 1, "not yet"
    store.kept()
    assert bodies(store) == []


def test_files_that_belong_to_nothing_are_removed_at_the_start(store: Store) -> None:
    store.apply(StoreOutgoing(1, ID, BOB.address, b"", False, payload(LARGE_BYTES)), WALL)
    store.commit()
    (kept,) = bodies(store)
    store.bodies.write(store.bodies.new(), 0, b"an upload that never became whole")
    store.apply(StoreOutgoing(2, ID, BOB.address, b"", False, payload(LARGE_BYTES)), WALL)
    assert len(bodies(store)) == 3
    assert bodies(again(store)) == [kept]


def test_messages_whose_files_somebody_removed_are_lost_and_counted(store: Store) -> None:
    data = payload(LARGE_BYTES)
    for piece in begin_large(store, 10, data):
        store.apply(StoreChunk(10, *piece), WALL)
    complete(store, 1, 10, data)
    store.apply(StoreOutgoing(5, bytes(8), BOB.address, b"", False, data), WALL)
    begin_large(store, 30, data, bytes(8))
    receive(store, 2, b"small", message_id=b"12345678")
    store.commit()
    for file in bodies(store):
        file.unlink()
    store = again(store)
    assert store.large.lost == 2
    assert [entry.number for entry in store.waiting(None, 0)] == [2]
    assert [saved.state for saved in store.outgoing(WALL, NOW)] == [State.ABORTED]
    assert [(saved.number, list(saved.chunks)) for saved in store.pending(NOW)][-1] == (30, [])


def test_a_database_of_the_first_schema_goes_on_with_what_it_holds(tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / FILE)
    old.executescript(OLD_TABLES)
    data = payload(300_000)
    old.execute(
        "INSERT INTO outgoing VALUES (1, ?, ?, x'', 0, x'', 300000, 0, 'pending', 0, 0, x'')", (ID, BOB.address)
    )
    old.execute("INSERT INTO outgoing_large VALUES (1, ?)", (data,))
    old.execute("INSERT INTO pending VALUES (2, ?, ?, ?, 300000, x'', 0, 1, 0)", (ID, ALICE.address, BOB.address))
    old.execute("INSERT INTO chunks VALUES (?, ?)", (2 << 20, data[:60_000]))
    old.commit()
    old.close()
    store = Store(tmp_path)
    assert [saved.data for saved in store.outgoing(WALL, NOW)] == [data]
    assert [list(saved.chunks) for saved in store.pending(NOW)] == [[(0, data[:60_000])]]
    for index, at in list(enumerate(range(0, 300_000, 60_000)))[1:]:
        store.apply(StoreChunk(2, index, at, data[at : at + 60_000]), WALL)
    complete(store, 1, 2, data)
    store.apply(StateChanged(1, ID, State.RECEIVED), WALL)
    assert store.data_of(1) == data
    store.close()


# --- files that are not what they should be ---------------------------------------------------------------------------


def test_a_damaged_database_is_set_aside_and_an_empty_one_made(tmp_path: Path) -> None:
    garbage = b"no database at all" * 1000
    (tmp_path / FILE).write_bytes(garbage)
    store = Store(tmp_path)
    assert store.set_aside is not None
    assert store.set_aside.read_bytes() == garbage
    assert store.last_numbers() == (0, 0, 0)
    store.close()


def test_a_database_with_a_damaged_page_is_set_aside_when_it_was_suspected(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number in range(1, 300):
        receive(store, number, payload(1000, number), message_id=number.to_bytes(8, "big"))
    store.close()
    content = bytearray((tmp_path / FILE).read_bytes())
    content[30 * 4096 : 80 * 4096] = bytes(50 * 4096)
    (tmp_path / FILE).write_bytes(content)
    broken = Store(tmp_path)
    with pytest.raises(sqlite3.DatabaseError):
        sum(len(broken.data_of(number)) for number in range(1, 300))
    broken.suspect()
    broken._database.close()
    found = Store(tmp_path)
    assert found.set_aside is not None
    assert found.set_aside.exists()
    found.close()
    healthy = Store(tmp_path)
    assert healthy.set_aside is None
    healthy.close()


def test_a_database_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    Store(tmp_path).close()
    database = sqlite3.connect(tmp_path / FILE)
    database.execute(f"PRAGMA user_version={SCHEMA + 1}")
    database.close()
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(StoreError, match=f"newer version .schema {SCHEMA + 1}, this one knows {SCHEMA}.; use that"):
        Store(tmp_path)
    assert (tmp_path / FILE).read_bytes() == before


def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / FILE)
    database.execute("CREATE TABLE theirs (a)")
    database.commit()
    database.close()
    with pytest.raises(StoreError, match="of another program; move it away"):
        Store(tmp_path)


def test_a_folder_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(StoreError, match=FILE):
        Store(tmp_path)


def test_a_database_names_its_program(tmp_path: Path) -> None:
    Store(tmp_path).close()
    assert int.from_bytes((tmp_path / FILE).read_bytes()[68:72], "big") == APPLICATION
