"""The arena's book-keeping, held against sets that say the same slowly; its descriptors, against bytes made here."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from protocol.arena import (
    MAX_BATCH_BYTES,
    MAX_PIECES,
    SLOT_BYTES,
    SMALLEST_SHARE,
    Arena,
    ArenaError,
    Piece,
    pack_pieces,
    unpack_pieces,
)
from protocol.mycelium.framing import DATA_HEADER

TUN, LINK, OTHER = b"tun", b"link-1", b"link-2"


def arena_with(slots: int, *readers: bytes) -> Arena:
    arena = Arena(slots)
    for reader in readers:
        arena.reader_joined(reader)
    return arena


def taken(arena: Arena) -> int:
    slot = arena.take()
    assert slot is not None
    return slot


def leased(arena: Arena, reader: bytes) -> int:
    """A slot, closed, of which `reader` leases one piece."""
    slot = taken(arena)
    assert arena.lease(slot, reader)
    arena.close(slot)
    return slot


def test_slot_freed_last_is_taken_first() -> None:
    arena = Arena(4)
    first, second = taken(arena), taken(arena)
    arena.close(second)
    arena.close(first)
    assert [arena.take(), arena.take()] == [first, second]


def test_slot_that_nobody_leases_is_free_when_it_is_closed() -> None:
    arena = Arena(2)
    slot = taken(arena)
    assert arena.free == 1
    arena.close(slot)
    assert arena.free == 2


def test_arena_without_a_free_slot_gives_none() -> None:
    arena = Arena(2)
    taken(arena)
    taken(arena)
    assert arena.take() is None


def test_closed_slot_is_free_when_the_last_piece_comes_back() -> None:
    arena = arena_with(8, TUN, LINK)
    slot = taken(arena)
    for reader in (TUN, TUN, TUN, LINK):
        assert arena.lease(slot, reader)
    arena.close(slot)
    arena.returned(slot, TUN, 2)
    arena.returned(slot, LINK)
    assert arena.free == 7
    arena.returned(slot, TUN)
    assert arena.free == 8


def test_open_slot_is_not_free_though_every_piece_came_back() -> None:
    arena = arena_with(2, TUN)
    slot = taken(arena)
    arena.lease(slot, TUN)
    arena.returned(slot, TUN)
    assert arena.free == 1
    arena.close(slot)
    assert arena.free == 2


def test_closed_slot_that_is_still_pinned_can_be_leased_to_another() -> None:
    arena = arena_with(8, TUN, LINK)
    slot = leased(arena, TUN)
    assert arena.lease(slot, LINK)
    arena.returned(slot, TUN)
    assert arena.free == 7


def test_reader_pins_no_more_than_its_share() -> None:
    arena = arena_with(9, TUN, LINK)
    assert arena.share == 4
    slots = [leased(arena, LINK) for _ in range(4)]
    slot = taken(arena)
    assert not arena.lease(slot, LINK)
    assert arena.lease(slot, TUN)
    arena.returned(slots[0], LINK)
    assert arena.lease(slot, LINK)


def test_more_pieces_of_a_slot_that_a_reader_pins_cost_nothing() -> None:
    arena = arena_with(3, TUN)
    slots = [taken(arena), taken(arena)]
    for slot in slots * 10:
        assert arena.lease(slot, TUN)
    assert arena.pinned(TUN) == 2


def test_stuck_readers_leave_the_writer_a_slot() -> None:
    arena = arena_with(9, TUN, LINK, OTHER)
    for reader in (TUN, LINK, OTHER):
        while arena.pinned(reader) < arena.share:
            leased(arena, reader)
    slot = taken(arena)
    assert not any(arena.lease(slot, reader) for reader in (TUN, LINK, OTHER))


def test_share_never_falls_below_the_smallest() -> None:
    arena = arena_with(4, *(b"link-%d" % number for number in range(10)))
    assert arena.share == SMALLEST_SHARE


def test_share_grows_when_a_reader_leaves() -> None:
    arena = arena_with(9, TUN, LINK)
    arena.reader_left(LINK)
    assert arena.share == 8


def test_reader_keeps_what_it_pins_when_another_joins() -> None:
    arena = arena_with(9, TUN)
    slots = [leased(arena, TUN) for _ in range(6)]
    arena.reader_joined(LINK)
    assert (arena.pinned(TUN), arena.lease(taken(arena), TUN)) == (6, False)
    for slot in slots:
        arena.returned(slot, TUN)


@pytest.mark.parametrize("left", [False, True])
def test_reader_that_has_not_joined_or_has_left_is_leased_nothing(left: bool) -> None:
    arena = arena_with(4, TUN)
    if left:
        arena.reader_joined(LINK)
        arena.reader_left(LINK)
    assert not arena.lease(taken(arena), LINK)


def test_leases_of_a_dead_reader_stay_pinned_until_they_are_released() -> None:
    arena = arena_with(4, LINK)
    leased(arena, LINK)
    arena.reader_left(LINK)
    arena.reader_joined(LINK)
    assert arena.free == 3
    arena.release(LINK)
    assert arena.free == 4
    arena.release(LINK)
    assert arena.free == 4


def test_what_a_predecessor_left_counts_towards_its_successors_share() -> None:
    arena = arena_with(5, TUN, LINK)
    slot = leased(arena, LINK)
    arena.reader_left(LINK)
    arena.reader_joined(LINK)
    assert arena.lease(taken(arena), LINK)
    assert not arena.lease(taken(arena), LINK)
    with pytest.raises(ArenaError, match=f"returned 1 pieces of slot {slot}, of which it leases 0"):
        arena.returned(slot, LINK)


def test_slot_that_two_incarnations_left_pinned_is_released_once() -> None:
    arena = arena_with(8, LINK)
    slot = taken(arena)
    arena.lease(slot, LINK)
    arena.reader_left(LINK)
    arena.reader_joined(LINK)
    other = leased(arena, LINK)
    arena.lease(slot, LINK)
    arena.reader_left(LINK)
    arena.close(slot)
    assert (arena.free, arena.pinned(LINK)) == (6, 2)
    arena.release(LINK)
    assert (arena.free, arena.pinned(LINK)) == (8, 0)
    assert {taken(arena), taken(arena)} == {slot, other}


def test_successor_still_leases_a_slot_that_its_predecessor_gave_back() -> None:
    arena = arena_with(8, LINK)
    slot = taken(arena)
    arena.lease(slot, LINK)
    arena.reader_left(LINK)
    arena.reader_joined(LINK)
    arena.lease(slot, LINK)
    arena.close(slot)
    arena.release(LINK)
    assert arena.free == 7
    arena.returned(slot, LINK)
    assert arena.free == 8


@pytest.mark.parametrize(
    ("slot", "reader", "pieces"),
    [
        (0, TUN, 3),
        (0, TUN, 0),
        (0, TUN, -1),
        (0, LINK, 1),
        (0, b"stranger", 1),
        (1, TUN, 1),
        (-1, TUN, 1),
        (99, TUN, 1),
    ],
)
def test_return_of_a_lease_that_does_not_exist_is_refused_and_changes_nothing(
    slot: int, reader: bytes, pieces: int
) -> None:
    arena = arena_with(8, TUN, LINK)
    held = taken(arena)
    arena.lease(held, TUN)
    arena.lease(held, TUN)
    arena.close(held)
    with pytest.raises(ArenaError, match="returned"):
        arena.returned(slot, reader, pieces)
    arena.returned(held, TUN, 2)
    assert arena.free == 8


def test_piece_returned_twice_is_refused() -> None:
    arena = arena_with(8, TUN)
    slot = leased(arena, TUN)
    arena.returned(slot, TUN)
    with pytest.raises(ArenaError, match="b'tun' returned 1 pieces of slot 0, of which it leases 0"):
        arena.returned(slot, TUN)


@pytest.mark.parametrize("slot", [0, 1, -1, 8])
def test_slot_that_is_not_open_can_be_neither_closed_nor_leased(slot: int) -> None:
    arena = arena_with(8, TUN)
    arena.close(taken(arena))
    with pytest.raises(ArenaError, match="not open"):
        arena.close(slot)
    with pytest.raises(ArenaError, match="not taken"):
        arena.lease(slot, TUN)


def test_reader_joins_once_and_leaves_once() -> None:
    arena = arena_with(8, TUN)
    with pytest.raises(ArenaError, match="joined twice"):
        arena.reader_joined(TUN)
    arena.reader_left(TUN)
    with pytest.raises(ArenaError, match="had not joined"):
        arena.reader_left(TUN)


def test_arena_without_room_for_one_share_is_refused() -> None:
    with pytest.raises(ArenaError, match="1 slots, at least 2"):
        Arena(1)


def test_slots_that_were_never_used_hold_no_memory_to_give_back() -> None:
    arena = Arena(4)
    assert arena.idle() == []
    arena.close(taken(arena))
    assert arena.idle() == []


def test_slot_is_idle_when_nobody_used_it_for_a_whole_period() -> None:
    arena = Arena(4)
    first, second = taken(arena), taken(arena)
    arena.close(second)
    arena.close(first)
    arena.idle()
    arena.close(taken(arena))
    assert arena.idle() == [second]
    assert arena.idle() == [first]
    assert arena.idle() == []


def test_slot_that_was_given_back_is_idle_again_only_after_it_was_used_again() -> None:
    arena = Arena(4)
    slot = taken(arena)
    arena.close(slot)
    arena.idle()
    assert arena.idle() == [slot]
    assert taken(arena) == slot
    arena.idle()
    arena.close(slot)
    assert [arena.idle(), arena.idle(), arena.idle()] == [[], [slot], []]


class ArenaMachine(RuleBasedStateMachine):
    """Any sequence of operations, beside a model of sets that is searched from end to end."""

    SLOTS = 7
    READERS = (TUN, LINK, OTHER)

    def __init__(self) -> None:
        super().__init__()
        self.arena = Arena(self.SLOTS)
        self.open: set[int] = set()
        self.active: set[bytes] = set()
        self.leases: Counter[tuple[int, bytes]] = Counter()
        self.left_behind: set[tuple[int, bytes]] = set()
        self.holds_memory: set[int] = set()
        self.used: set[int] = set()

    def pinned_slots(self) -> set[int]:
        return {slot for slot, _ in [*self.leases, *self.left_behind]}

    def free_slots(self) -> set[int]:
        return set(range(self.SLOTS)) - self.open - self.pinned_slots()

    def pinned_by(self, reader: bytes) -> int:
        return sum(holder == reader for _, holder in [*self.leases, *self.left_behind])

    def share(self) -> int:
        return max(2, (self.SLOTS - 1) // max(1, len(self.active)))

    @rule()
    def take(self) -> None:
        free = self.free_slots()
        slot = self.arena.take()
        if not free:
            assert slot is None
            return
        assert slot in free
        self.open.add(slot)
        self.used.add(slot)
        self.holds_memory.add(slot)

    @rule(slot=st.integers(-1, SLOTS))
    def close(self, slot: int) -> None:
        if slot not in self.open:
            with pytest.raises(ArenaError):
                self.arena.close(slot)
            return
        self.arena.close(slot)
        self.open.remove(slot)

    @rule(slot=st.integers(-1, SLOTS), reader=st.sampled_from(READERS))
    def lease(self, slot: int, reader: bytes) -> None:
        if slot not in self.open | self.pinned_slots():
            with pytest.raises(ArenaError):
                self.arena.lease(slot, reader)
            return
        pins_already = (slot, reader) in self.leases
        allowed = reader in self.active and (pins_already or self.pinned_by(reader) < self.share())
        assert self.arena.lease(slot, reader) == allowed
        if allowed:
            self.leases[slot, reader] += 1

    @rule(slot=st.integers(-1, SLOTS), reader=st.sampled_from(READERS), pieces=st.integers(-1, 3))
    def give_back_anything(self, slot: int, reader: bytes, pieces: int) -> None:
        self.give_back(slot, reader, pieces)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def give_back_what_is_leased(self, data: st.DataObject) -> None:
        slot, reader = data.draw(st.sampled_from(sorted(self.leases)))
        self.give_back(slot, reader, data.draw(st.integers(1, self.leases[slot, reader])))

    def give_back(self, slot: int, reader: bytes, pieces: int) -> None:
        if not 0 < pieces <= self.leases.get((slot, reader), 0):
            with pytest.raises(ArenaError):
                self.arena.returned(slot, reader, pieces)
            return
        self.arena.returned(slot, reader, pieces)
        self.leases[slot, reader] -= pieces
        self.leases = +self.leases

    @rule(reader=st.sampled_from(READERS))
    def join_or_leave(self, reader: bytes) -> None:
        if reader not in self.active:
            self.arena.reader_joined(reader)
            self.active.add(reader)
            return
        self.arena.reader_left(reader)
        self.active.remove(reader)
        mine = {(slot, holder) for slot, holder in self.leases if holder == reader}
        self.left_behind |= mine
        for lease in mine:
            del self.leases[lease]

    @rule(reader=st.sampled_from(READERS))
    def release(self, reader: bytes) -> None:
        self.arena.release(reader)
        self.left_behind = {(slot, holder) for slot, holder in self.left_behind if holder != reader}

    @rule()
    def give_idle_slots_back_to_the_system(self) -> None:
        idle = self.arena.idle()
        assert len(set(idle)) == len(idle)
        assert set(idle) == (self.free_slots() & self.holds_memory) - self.used
        self.holds_memory -= set(idle)
        # What is not free now is in use until it is.
        self.used = set(range(self.SLOTS)) - self.free_slots()

    @invariant()
    def every_slot_is_where_the_model_has_it(self) -> None:
        assert self.arena.free == len(self.free_slots())
        assert self.arena.share == self.share()
        assert [self.arena.pinned(reader) for reader in self.READERS] == list(map(self.pinned_by, self.READERS))

    def teardown(self) -> None:
        for slot in list(self.open):
            self.close(slot)
        for slot, reader in list(self.leases):
            self.arena.returned(slot, reader, self.leases[slot, reader])
        for reader in self.READERS:
            self.arena.release(reader)
        assert {self.arena.take() for _ in range(self.SLOTS)} == set(range(self.SLOTS))


ArenaMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=50, deadline=None)
TestArenaMachine = ArenaMachine.TestCase


def words(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(4, "little") for number in numbers)


def test_descriptor_is_offset_count_and_ends_in_little_endian_words() -> None:
    packed = pack_pieces([(0x40000, (100, 1442)), (7, (0x10027,))])
    assert packed == bytes.fromhex("00000400 02000000 64000000 a2050000 07000000 01000000 27000100")
    assert unpack_pieces(packed, 1 << 20) == [Piece(0x40000, (100, 1442)), Piece(7, (0x10027,))]


def test_piece_may_reach_the_end_of_its_slot_and_of_the_arena() -> None:
    assert unpack_pieces(words(64, 1, 64), 128, 64) == [Piece(64, (64,))]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes of descriptors"),
        (words(0, 1, 5) + b"\0", "13 bytes of descriptors"),
        (bytes(MAX_BATCH_BYTES + 4), f"{MAX_BATCH_BYTES + 4} bytes of descriptors"),
        (words(0), "descriptor 0 of a batch"),
        (words(0, 0), "descriptor 0 of a batch has no packets"),
        (words(0, 2, 5), "descriptor 0 of a batch"),
        (words(0, 0xFFFFFFFF, 5), "descriptor 0 of a batch"),
        (words(0, 1, 5, 5), "descriptor 1 of a batch"),
        (words(0, 1, 5, 5, 0), "descriptor 1 of a batch"),
        (words(0, 1, 0), "empty packet"),
        (words(0, 2, 0, 5), "empty packet"),
        (words(0, 2, 5, 5), "empty packet"),
        (words(0, 3, 5, 4, 6), "empty packet"),
        (words(0, 1, 65), "not in one slot"),
        (words(1, 1, 64), "not in one slot"),
        (words(127, 1, 2), "not in one slot"),
        (words(128, 1, 1), "not in one slot"),
        (words(0xFFFFFFFF, 1, 1), "not in one slot"),
        (words(0, 1, 5, 128, 1, 1), "a piece of 1 bytes at 128"),
    ],
)
def test_descriptor_that_can_not_be_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ArenaError, match=reason):
        unpack_pieces(data, 128, 64)


def test_batch_has_no_more_pieces_than_allowed() -> None:
    most = [(0, (1,))] * MAX_PIECES
    assert len(unpack_pieces(pack_pieces(most), SLOT_BYTES)) == MAX_PIECES
    with pytest.raises(ArenaError, match=f"{MAX_PIECES + 1} pieces with {MAX_PIECES + 1} packets"):
        pack_pieces([*most, (0, (1,))])
    with pytest.raises(ArenaError, match=f"descriptor {MAX_PIECES} of a batch"):
        unpack_pieces(words(0, 1, 1) * (MAX_PIECES + 1), SLOT_BYTES)


def test_slot_full_of_smallest_packets_that_go_two_ways_is_one_batch() -> None:
    every_other = [Piece(start, (DATA_HEADER,)) for start in range(0, SLOT_BYTES - DATA_HEADER, 2 * DATA_HEADER)]
    assert unpack_pieces(pack_pieces(every_other), SLOT_BYTES) == every_other
    all_of_them = [Piece(0, tuple(range(DATA_HEADER, SLOT_BYTES, DATA_HEADER)))]
    assert unpack_pieces(pack_pieces(all_of_them), SLOT_BYTES) == all_of_them


def test_batch_has_no_more_packets_than_allowed() -> None:
    most = MAX_BATCH_BYTES // 4 - 2
    assert unpack_pieces(pack_pieces([(0, tuple(range(1, most + 1)))]), SLOT_BYTES)[0].ends[-1] == most
    with pytest.raises(ArenaError, match="at most"):
        pack_pieces([(0, tuple(range(1, most + 2)))])


pieces = st.tuples(st.integers(0, 3), st.lists(st.integers(1, 100), min_size=1, max_size=10)).map(
    lambda drawn: Piece(drawn[0] * 1000, tuple(accumulate(drawn[1])))
)


@given(st.lists(pieces, min_size=1, max_size=20))
def test_pieces_come_back_as_they_were_packed(batch: list[Piece]) -> None:
    assert unpack_pieces(pack_pieces(batch), 4000, 1000) == batch


@given(st.lists(st.integers(0, 12) | st.integers(0, 2**32 - 1), max_size=20).map(lambda drawn: words(*drawn)))
def test_garbage_is_refused_or_lies_in_the_arena(data: bytes) -> None:
    try:
        batch = unpack_pieces(data, 24, 8)
    except ArenaError:
        return
    for offset, ends in batch:
        assert all(start < end for start, end in zip((0, *ends), ends, strict=False))
        assert 0 <= offset < offset + ends[-1] <= 24
        assert offset // 8 == (offset + ends[-1] - 1) // 8
    assert pack_pieces(batch) == data
