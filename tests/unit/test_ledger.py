"""The ledger, killed after each of its stores, with packets of a toy framing: the first byte is the packet's length."""

from __future__ import annotations

import itertools
import random
import struct
import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import protocol.ledger
from protocol.ledger import (
    LEDGER_BYTES,
    MAX_PIECES,
    OWN_BYTES,
    OWN_MEMORY,
    Ledger,
    LedgerError,
    PoisonGuard,
    Recovery,
    Survey,
    place,
)
from protocol.queues import SendLimits, SendQueue

ARENA, OTHER = 7, 0xFFFF_FFFF


def toy_packet(size: int, fill: int) -> bytes:
    return bytes((size,)) + bytes((fill,)) * (size - 1)


def toy_end(piece: memoryview, start: int) -> int:
    return start + piece[start]


def cut_toys(stream: bytes) -> list[bytes]:
    packets = []
    start = 0
    while start < len(stream):
        end = start + stream[start]
        assert end <= len(stream), f"the stream ends inside a packet of {stream[start]} bytes"
        packets.append(stream[start:end])
        start = end
    return packets


def new_memory() -> memoryview:
    return memoryview(bytearray(LEDGER_BYTES))


def new_ledger() -> Ledger:
    return Ledger.begin(new_memory())


def recover(ledger: Ledger, sent: int = 0, received: int = 0, **arenas: bytes) -> Recovery:
    views = {int(name.removeprefix("a")): memoryview(content) for name, content in arenas.items()}
    return ledger.recover(sent, received, views, toy_end)


# --- out ------------------------------------------------------------------------------------------------------------


def test_new_connection_has_nothing_to_recover() -> None:
    recovery = recover(new_ledger())
    assert (recovery.torn, recovery.dropped, recovery.boundary, bytes(recovery.uncut)) == (b"", 0, 0, b"")


def test_torn_packet_is_finished_and_the_rest_of_the_batch_dropped() -> None:
    ledger = new_ledger()
    content = b"....\x05abcd\x05efgh\x05ijkl"
    ledger.begin_batch(100, (place(ARENA, 4), 15))
    recovery = recover(ledger, 107, a7=content)
    assert (recovery.torn, recovery.dropped) == (b"fgh", 5)


def test_packet_that_was_torn_before_the_batch_is_finished() -> None:
    ledger = new_ledger()
    ledger.begin_batch(100, (place(ARENA, 0), 6), lead=3)
    for written, torn in ((100, b"abc"), (101, b"bc"), (103, b""), (104, b"de")):
        assert recover(ledger, written, a7=b"abc\x03de").torn == torn


def test_later_pieces_begin_with_a_packet_even_if_the_first_does_not() -> None:
    ledger = new_ledger()
    ledger.begin_batch(0, (place(ARENA, 0), 3, place(ARENA, 3), 3), lead=3)
    assert recover(ledger, 5, a7=b"abc\x03de").torn == b"e"


def test_torn_control_packet_is_finished_from_the_ledgers_own_copy() -> None:
    ledger = new_ledger()
    own = bytearray(b"\x03ab\x04cde")
    ledger.begin_batch(0, (place(OWN_MEMORY, 0), 7), own)
    own[:] = bytes(7)
    assert recover(ledger, 5).torn == b"de"


def test_own_pieces_may_lie_anywhere_among_those_of_arenas() -> None:
    ledger = new_ledger()
    pieces = (place(ARENA, 0), 3, place(OWN_MEMORY, 0), 3, place(ARENA, 3), 3, place(OWN_MEMORY, 3), 3)
    ledger.begin_batch(0, pieces, b"\x03ij\x03kl")
    content = b"\x03ab\x03cd"
    found = [recover(ledger, sent, a7=content).torn for sent in (1, 4, 7, 10)]
    assert found == [b"ab", b"ij", b"cd", b"kl"]


def test_stream_that_stands_between_pieces_needs_no_arena() -> None:
    ledger = new_ledger()
    ledger.begin_batch(50, (place(ARENA, 0), 10, place(OTHER, 0), 20))
    for sent, dropped in ((50, 30), (60, 20), (80, 0)):
        assert ledger.survey(sent, 0) == Survey(0, 0, sent, dropped, ())
        assert (recover(ledger, sent).torn, recover(ledger, sent).dropped) == (b"", dropped)


def test_survey_names_only_the_arenas_that_recovery_needs() -> None:
    ledger = new_ledger()
    ledger.rx_boundary(0, place(9, 0))
    ledger.begin_batch(0, (place(ARENA, 0), 10, place(OTHER, 0), 20))
    assert ledger.survey(15, 0).arenas == (OTHER,)
    assert ledger.survey(15, 1).arenas == (9, OTHER)
    ledger.rx_boundary(1, place(OTHER, 0))
    assert ledger.survey(15, 2).arenas == (OTHER,)


def test_survey_of_a_batch_torn_in_own_memory_names_no_arena() -> None:
    ledger = new_ledger()
    ledger.begin_batch(0, (place(OWN_MEMORY, 0), 3), b"\x03ab")
    assert ledger.survey(1, 0).arenas == ()


def test_ended_batch_needs_no_arena_and_drops_nothing() -> None:
    ledger = new_ledger()
    ledger.begin_batch(0, (place(ARENA, 0), 9))
    ledger.end_batch(3)
    assert ledger.survey(3, 0) == Survey(0, 0, 3, 0, ())


def test_recovery_may_be_asked_for_twice() -> None:
    memory = new_memory()
    Ledger.begin(memory).begin_batch(0, (place(OWN_MEMORY, 0), 4), b"\x04abc")
    assert recover(Ledger(memory), 2).torn == b"bc"
    assert recover(Ledger(memory), 3).torn == b"c"
    assert recover(Ledger(memory), 4).torn == b""


def test_successor_may_name_the_rest_that_it_got_from_the_ledgers_own_copy() -> None:
    memory = new_memory()
    Ledger.begin(memory).begin_batch(0, (place(OWN_MEMORY, 0), 6), b"\x06abcde")
    for sent, torn in ((2, b"bcde"), (3, b"cde"), (4, b"de")):
        successor = Ledger(memory)
        rest = recover(successor, sent).torn
        assert rest == torn
        successor.begin_batch(sent, (place(OWN_MEMORY, 0), len(rest)), rest, len(rest))


def test_torn_rest_is_a_copy_that_later_batches_do_not_touch() -> None:
    ledger = new_ledger()
    ledger.begin_batch(0, (place(OWN_MEMORY, 0), 4), b"\x04abc")
    rest = recover(ledger, 1).torn
    for number in range(3):
        ledger.begin_batch(number, (place(OWN_MEMORY, 0), 4), b"\x04xyz")
    assert rest == b"abc"


def test_batch_of_the_largest_size_is_recovered_to_its_last_byte() -> None:
    ledger = new_ledger()
    own = (b"\x00" * 255 + b"\x01") * (OWN_BYTES // 256)
    step = OWN_BYTES // MAX_PIECES
    pieces = [word for i in range(MAX_PIECES) for word in (place(OWN_MEMORY, i * step), step)]
    ledger.begin_batch(0, pieces, own)
    recovery = ledger.recover(OWN_BYTES - 1, 0, {}, lambda _piece, _start: step)
    assert (recovery.torn, recovery.dropped) == (b"\x01", 0)


@pytest.mark.parametrize(
    ("pieces", "own"),
    [
        ((1, 1) * (MAX_PIECES + 1), b""),
        ((1, 1, 1), b""),
        ((0, OWN_BYTES + 1), bytes(OWN_BYTES + 1)),
    ],
    ids=["too many pieces", "a place without a length", "too much own memory"],
)
def test_batch_that_the_ledger_cannot_hold_is_refused_and_changes_nothing(pieces: tuple[int, ...], own: bytes) -> None:
    memory = new_memory()
    ledger = Ledger.begin(memory)
    ledger.begin_batch(0, (place(OWN_MEMORY, 0), 4), b"\x04abc")
    before = bytes(memory)
    with pytest.raises(LedgerError, match="write less at a time"):
        ledger.begin_batch(4, pieces, own)
    assert bytes(memory) == before
    ledger.begin_batch(4, (place(OWN_MEMORY, 0), 4), b"\x04def")
    assert recover(ledger, 5).torn == b"def"


# --- in -------------------------------------------------------------------------------------------------------------


def test_bytes_behind_the_boundary_are_found() -> None:
    ledger = new_ledger()
    ledger.rx_boundary(1000, place(OTHER, 2))
    recovery = ledger.recover(0, 1004, {OTHER: memoryview(b"..abcd..")}, toy_end)
    assert (recovery.boundary, bytes(recovery.uncut)) == (1000, b"abcd")


def test_stream_that_is_cut_to_its_end_needs_no_arena() -> None:
    ledger = new_ledger()
    ledger.rx_boundary(1000, place(ARENA, 2))
    recovery = recover(ledger, 0, 1000)
    assert (recovery.boundary, bytes(recovery.uncut)) == (1000, b"")


def test_read_only_ledger_and_arena_are_enough_to_recover() -> None:
    memory = new_memory()
    ledger = Ledger.begin(memory)
    ledger.rx_boundary(0, place(ARENA, 0))
    ledger.begin_batch(0, (place(OWN_MEMORY, 0), 3), b"\x03ab")
    recovery = recover(Ledger(memoryview(bytes(memory))), 1, 3, a7=b"xyz")
    assert (recovery.torn, bytes(recovery.uncut)) == (b"ab", b"xyz")


# --- what can't be trusted ------------------------------------------------------------------------------------------


def written(position: int, *pieces: int, own: bytes = b"", lead: int = 0) -> Ledger:
    ledger = new_ledger()
    ledger.begin_batch(position, pieces, own, lead)
    return ledger


def cut(position: int, where: int) -> Ledger:
    ledger = new_ledger()
    ledger.rx_boundary(position, where)
    return ledger


@pytest.mark.parametrize(
    ("ledger", "sent", "received", "reason"),
    [
        (new_ledger(), 1, 0, "1 bytes were written that no batch names"),
        (new_ledger(), 0, 1, "1 bytes were read to a place that nobody named"),
        (written(10, place(ARENA, 0), 4), 9, 0, "9 bytes were written, but the last batch goes from 10 to 14"),
        (written(10, place(ARENA, 0), 4), 15, 0, "15 bytes were written, but the last batch goes from 10 to 14"),
        (written(10, place(ARENA, 0), 4, 0, 0), 10, 0, "makes no sense"),
        (written(10, place(ARENA, 0), 4, lead=5), 11, 0, "makes no sense"),
        (written(10, lead=1), 10, 0, "makes no sense"),
        (written(10, place(OTHER, 0), 4), 11, 0, "arena 4294967295, which holds what is needed, is gone"),
        (written(10, place(ARENA, 9), 4), 11, 0, "4 bytes at 9 of arena 7, which has only 12"),
        (written(10, place(ARENA, 9), 1 << 63), 11, 0, "of arena 7, which has only 12"),
        (written(0, place(OWN_MEMORY, OWN_BYTES - 1), 2), 1, 0, "of arena 0, which has only"),
        (written(0, place(ARENA, 3), 4), 2, 0, "no packet lies at 0 of the torn piece of 4 bytes"),
        (written(0, place(ARENA, 0), 4), 2, 0, "no packet lies at 0 of the torn piece of 4 bytes"),
        (cut(5, place(ARENA, 0)), 0, 4, "the stream was cut up to 5, but only 4 bytes were read"),
        (cut(5, place(ARENA, 0)), 0, 18, "13 bytes at 0 of arena 7, which has only 12"),
        (cut(5, place(OTHER, 0)), 0, 6, "arena 4294967295, which holds what is needed, is gone"),
        (cut(5, place(OWN_MEMORY, 0)), 0, 6, "1 bytes were read to no arena"),
    ],
)
def test_ledger_that_contradicts_the_kernel_or_itself_is_not_trusted(
    ledger: Ledger, sent: int, received: int, reason: str
) -> None:
    # A packet longer than the piece at 0, one without length at 3.
    with pytest.raises(LedgerError, match=reason):
        recover(ledger, sent, received, a7=b"\x09ab\x00cdefghij")


def test_whole_offer_of_a_send_queue_fits_without_any_arena() -> None:
    limits = SendLimits()
    queue = SendQueue(limits)
    size = 1 << 16
    for _ in range(limits.control_bytes // size):
        assert queue.control(bytes(size))
    queue.data(memoryview(bytes(size)), (size,), 0.0)
    offer = queue.offer(0.0, limits.control_bytes)
    ledger = new_ledger()
    ledger.begin_batch(0, offer.pieces, offer.own, offer.lead)
    assert ledger.survey(0, 0).unwritten == limits.control_bytes


def test_torn_rest_that_its_successor_could_not_name_is_not_trusted() -> None:
    ledger = written(0, place(ARENA, 0), OWN_BYTES + 2)
    arena = {ARENA: memoryview(bytes(OWN_BYTES + 2))}
    with pytest.raises(LedgerError, match="the rest of the torn packet"):
        ledger.recover(1, 0, arena, lambda piece, _start: len(piece))


def test_count_of_pieces_beyond_the_bound_is_not_trusted() -> None:
    memory = new_memory()
    Ledger.begin(memory).begin_batch(0, (place(ARENA, 0), 4) * MAX_PIECES)
    words = memory.cast("Q")
    (position,) = (i for i in range(len(words)) if words[i] == MAX_PIECES)
    words[position] = MAX_PIECES + 1
    with pytest.raises(LedgerError, match=f"a batch of {MAX_PIECES + 1} pieces"):
        Ledger(memory).survey(1, 0)


@pytest.mark.parametrize("size", [0, 8, LEDGER_BYTES - 8, LEDGER_BYTES + 8])
def test_memory_of_another_size_is_no_ledger(size: int) -> None:
    with pytest.raises(LedgerError, match="a ledger has"):
        Ledger.begin(memoryview(bytearray(size)))


def test_memory_of_another_layout_is_no_ledger() -> None:
    with pytest.raises(LedgerError, match="no ledger of this layout"):
        Ledger(new_memory())
    memory = new_memory()
    Ledger.begin(memory)
    memory[0] += 1
    with pytest.raises(LedgerError, match="no ledger of this layout"):
        Ledger(memory)


@settings(max_examples=300)
@given(
    head=st.lists(st.one_of(st.integers(0, 20), st.integers(0, 2**64 - 1)), min_size=20, max_size=20),
    sent=st.integers(0, 100),
    received=st.integers(0, 100),
    content=st.binary(min_size=64, max_size=64),
)
def test_garbage_is_an_error_or_stays_within_its_bounds(
    head: list[int], sent: int, received: int, content: bytes
) -> None:
    memory = new_memory()
    Ledger.begin(memory)
    struct.pack_into(f"={len(head)}Q", memory, 8, *head)
    ledger = Ledger(memory)
    arenas = {number: memoryview(content) for number in range(4)}
    try:
        survey = ledger.survey(sent, received)
        recovery = ledger.recover(sent, received, arenas, toy_end)
    except LedgerError:
        return
    assert len(survey.arenas) <= 2
    assert len(recovery.torn) + recovery.dropped == survey.unwritten
    assert recovery.boundary + len(recovery.uncut) == received


# --- a kill after each store ----------------------------------------------------------------------------------------


def stores(memory: memoryview, call: Callable[[], None]) -> list[bytes]:
    """Runs `call` and returns `memory` before it and after each instruction of the ledger that changed it."""
    states = [bytes(memory)]

    def look(frame: FrameType, event: str, _argument: Any) -> Any:
        if frame.f_code.co_filename != protocol.ledger.__file__:
            return None
        frame.f_trace_opcodes = True
        state = bytes(memory)
        if state != states[-1]:
            states.append(state)
        return look

    outer = sys.gettrace()
    sys.settrace(look)
    try:
        call()
    finally:
        sys.settrace(outer)
    state = bytes(memory)
    return states if state == states[-1] else [*states, state]


def changed_words(before: bytes, after: bytes) -> list[int]:
    return np.flatnonzero(np.frombuffer(before, np.uint64) != np.frombuffer(after, np.uint64)).tolist()


def states_of_a_kill(states: list[bytes], dice: random.Random) -> Iterator[bytes]:
    """The memory at any moment: what one instruction stored in more than one word may be there in part."""
    yield states[0]
    for before, after in itertools.pairwise(states):
        changed = changed_words(before, after)
        if len(changed) > 1:
            start, end = 8 * changed[0], 8 * changed[-1] + 8
            edge = dice.randint(start, end)
            yield before[:start] + after[start:edge] + before[edge:]
            yield before[:edge] + after[edge:end] + before[end:]
            yield before[:start] + bytes(end - start) + before[end:]
        yield after


class ToyLink:
    """Writes packets the way a link does, and lets what it needs no more be overwritten as early as it may."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.memory = new_memory()
        self.ledger = Ledger.begin(self.memory)
        self.arena = bytearray(1 << 14)
        self.arena_used = 0
        self.stream = b""
        """What the kernel took."""
        self.torn = (0, b"")
        """Place and bytes of the rest of the packet that the last write tore."""
        self.packets = 0
        self.kills = 0
        self.finished = 0

    def write_batch(self) -> None:
        pieces, own = self._choose_pieces()
        words = [word for where, content in pieces for word in (where, len(content))]
        content = b"".join(content for _, content in pieces)
        begin = partial(self.ledger.begin_batch, len(self.stream), words, own, len(self.torn[1]))
        for state in states_of_a_kill(stores(self.memory, begin), self.dice):
            self._kill(state)
        self._keep_only(pieces)
        before = self.stream
        for count in sorted(self.dice.choices(range(len(content) + 1), k=6)):
            self.stream = before + content[:count]
            self._kill(bytes(self.memory))
        missing = unfinished(self.stream)
        self.torn = (0, b"")
        start = 0
        for index, (where, piece) in enumerate(pieces):
            if start <= count < start + len(piece):
                self._keep_only(pieces[index:])
                if missing:
                    self.torn = (where + count - start, piece[count - start :][:missing])
            start += len(piece)
        if count == len(content):
            self._keep_only([])
        elif not missing and self.dice.random() < 0.5:
            self.ledger.end_batch(len(self.stream))
            self._keep_only([])
        self._kill(bytes(self.memory))

    def _choose_pieces(self) -> tuple[list[tuple[int, bytes]], bytes]:
        own = b""
        pieces = []
        where, rest = self.torn
        if rest and where >> 32 == OWN_MEMORY:
            pieces.append((place(OWN_MEMORY, 0), rest))
            own = rest
        elif rest:
            pieces.append((where, rest))
        for _ in range(self.dice.randint(0, 4)):
            piece = b"".join(self._new_packet() for _ in range(self.dice.randint(1, 3)))
            if self.dice.random() < 0.4:
                pieces.append((place(OWN_MEMORY, len(own)), piece))
                own += piece
            else:
                pieces.append((place(ARENA, self.arena_used), piece))
                self.arena[self.arena_used : self.arena_used + len(piece)] = piece
                self.arena_used += len(piece)
        return pieces, own

    def _new_packet(self) -> bytes:
        self.packets += 1
        return toy_packet(self.dice.choice((1, 2, 5, 60)), self.packets % 256)

    def _keep_only(self, pieces: list[tuple[int, bytes]]) -> None:
        self.arena[:] = b"\xee" * len(self.arena)
        for where, content in pieces:
            if where >> 32 == ARENA:
                offset = where & 0xFFFF_FFFF
                self.arena[offset : offset + len(content)] = content

    def _kill(self, state: bytes) -> None:
        """A successor that finds `state` finishes the packet that was torn, and no more than that."""
        self.kills += 1
        arenas = {ARENA: memoryview(self.arena).toreadonly()}
        torn = Ledger(memoryview(state)).recover(len(self.stream), 0, arenas, toy_end).torn
        assert len(torn) == unfinished(self.stream)
        self.finished += bool(torn)
        *_, last = cut_toys(self.stream + torn) or [b""]
        assert last == toy_packet(len(last), last[-1]) if len(last) > 1 else True


def unfinished(stream: bytes) -> int:
    """How many bytes the stream's last packet misses."""
    start = 0
    while start < len(stream):
        start += stream[start]
    return start - len(stream)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_kill_after_any_store_of_a_batch_leaves_a_stream_that_can_be_finished(seed: int) -> None:
    link = ToyLink(random.Random(seed))
    for _ in range(12):
        link.write_batch()
    assert link.kills > 100
    assert link.finished > 5


@settings(max_examples=12, deadline=None)
@given(
    moves=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 64)), min_size=1, max_size=8),
)
def test_kill_after_any_store_of_a_boundary_leaves_the_old_or_the_new_one(moves: list[tuple[int, int, int]]) -> None:
    stream = bytes(range(256)) * 2
    memory = new_memory()
    ledger = Ledger.begin(memory)
    ledger.rx_boundary(0, place(1, 0))
    arenas = {1: memoryview(bytearray(512))}
    boundary = received = offset = 0
    for number, (read, cut_off, new_offset) in enumerate(moves, 2):
        start = offset + received - boundary
        arenas[number - 1][start : start + read] = stream[received : received + read]
        received += read
        new_boundary = min(received, boundary + cut_off)
        arenas[number] = memoryview(bytearray(512))
        arenas[number][new_offset : new_offset + received - new_boundary] = stream[new_boundary:received]
        states = stores(memory, partial(ledger.rx_boundary, new_boundary, place(number, new_offset)))
        for state in states_of_a_kill(states, random.Random(number)):
            recovery = Ledger(memoryview(state)).recover(0, received, arenas, toy_end)
            assert recovery.boundary in (boundary, new_boundary)
            assert bytes(recovery.uncut) == stream[recovery.boundary : received]
        assert recovery.boundary == new_boundary
        boundary, offset = new_boundary, new_offset


def test_each_change_takes_hold_with_one_store_of_one_word() -> None:
    memory = new_memory()
    ledger = Ledger.begin(memory)
    ledger.begin_batch(0, (place(OWN_MEMORY, 0), 3), b"\x03ab")
    for call in (
        lambda: ledger.begin_batch(3, (place(ARENA, 0), 9), b"xyz"),
        lambda: ledger.rx_boundary(0, place(ARENA, 0)),
    ):
        *_, before, after = stores(memory, call)
        assert len(changed_words(before, after)) == 1


# --- poison ---------------------------------------------------------------------------------------------------------


def survey(*, boundary: int = 0, uncut: int = 0, sent: int = 0, unwritten: int = 0) -> Survey:
    return Survey(boundary, uncut, sent, unwritten, ())


def test_two_deaths_over_the_same_uncut_bytes_close_the_connection() -> None:
    guard = PoisonGuard()
    assert guard.died(survey(boundary=10, uncut=5, sent=1))
    assert not guard.died(survey(boundary=10, uncut=9, sent=2))


def test_two_deaths_inside_the_same_write_close_the_connection() -> None:
    guard = PoisonGuard()
    assert guard.died(survey(boundary=1, sent=10, unwritten=5))
    assert not guard.died(survey(boundary=2, sent=10, unwritten=7))


def test_deaths_of_a_connection_that_moves_on_close_nothing() -> None:
    guard = PoisonGuard()
    for step in range(5):
        assert guard.died(survey(boundary=step, uncut=5, sent=step, unwritten=5))


def test_deaths_of_a_connection_at_rest_close_nothing() -> None:
    guard = PoisonGuard()
    for _ in range(5):
        assert guard.died(survey(boundary=10, sent=10))


def test_death_at_rest_before_the_poison_arrives_is_not_counted() -> None:
    guard = PoisonGuard()
    assert guard.died(survey(boundary=10))
    assert guard.died(survey(boundary=10, uncut=3))
    assert not guard.died(survey(boundary=10, uncut=3))
