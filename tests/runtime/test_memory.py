"""The memory file: what was appended is read back, torn ends are cut off, and a kill at any moment loses no more."""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import signal
import struct
import time
from collections.abc import Callable, Iterator
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.runtime.memory import MAX_RECORD, MemoryFile

START: Final = 8
KILLS: Final = 40

Make = Callable[[bytes], int]


@contextlib.contextmanager
def _file(content: bytes = b"") -> Iterator[int]:
    descriptor = os.memfd_create("test", os.MFD_CLOEXEC)
    try:
        os.pwrite(descriptor, content, 0)
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.fixture
def descriptor() -> Iterator[int]:
    with _file() as made:
        yield made


def _content(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _replayed(descriptor: int) -> list[bytes]:
    return list(MemoryFile(descriptor).replay())


def test_new_file_holds_nothing(descriptor: int) -> None:
    memory = MemoryFile(descriptor)
    assert list(memory.replay()) == []
    assert memory.size == 0


def test_successor_reads_what_was_appended_in_order(descriptor: int) -> None:
    MemoryFile(descriptor).append([b"one", b"", b"two" * 1000])
    successor = MemoryFile(descriptor)
    assert list(successor.replay()) == [b"one", b"", b"two" * 1000]
    successor.append([b"three"])
    assert _replayed(descriptor) == [b"one", b"", b"two" * 1000, b"three"]


def test_records_can_be_read_as_soon_as_append_returns(descriptor: int) -> None:
    memory = MemoryFile(descriptor)
    memory.append([b"first"])
    assert _replayed(descriptor) == [b"first"]


def test_size_is_that_of_the_records(descriptor: int) -> None:
    memory = MemoryFile(descriptor)
    memory.append([b"12345", b"123"])
    assert memory.size == 8 + 5 + 8 + 3
    assert MemoryFile(descriptor).size == memory.size


def test_file_torn_at_any_byte_gives_a_prefix_and_takes_more(descriptor: int) -> None:
    records = [b"one", b"", b"three" * 9, b"4", b"five"]
    MemoryFile(descriptor).append(records)
    whole = _content(descriptor)
    ends = [START]
    for record in records:
        ends.append(ends[-1] + 8 + len(record))
    for length in range(len(whole) + 1):
        expected = records[: max(0, sum(end <= length for end in ends) - 1)]
        with _file(whole[:length]) as torn:
            memory = MemoryFile(torn)
            assert list(memory.replay()) == expected, f"torn at byte {length}"
            memory.append([b"after"])
            assert _replayed(torn) == [*expected, b"after"], f"torn at byte {length}"


def test_flipped_byte_ends_the_replay_before_its_record(descriptor: int) -> None:
    records = [b"one", b"two" * 5, b"three"]
    MemoryFile(descriptor).append(records)
    whole = _content(descriptor)
    for position in range(START, len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        with _file(bytes(damaged)) as torn:
            found = _replayed(torn)
        assert found == records[: len(found)]
        assert len(found) < len(records)


@given(tail=st.binary(min_size=1, max_size=64))
def test_garbage_behind_the_records_costs_none_of_them(tail: bytes) -> None:
    with _file() as descriptor:
        MemoryFile(descriptor).append([b"one", b"two"])
        os.pwrite(descriptor, tail, os.fstat(descriptor).st_size)
        assert _replayed(descriptor)[:2] == [b"one", b"two"]


def test_longest_record_is_read_back_and_a_longer_one_is_refused(descriptor: int) -> None:
    memory = MemoryFile(descriptor)
    memory.append([bytes(MAX_RECORD)])
    with pytest.raises(ValueError, match=f"a record of {MAX_RECORD + 1} bytes in a memory file, at most {MAX_RECORD}"):
        memory.append([b"good", bytes(MAX_RECORD + 1)])
    memory.append([b"next"])
    assert _replayed(descriptor) == [bytes(MAX_RECORD), b"next"]


def test_rewrite_replaces_everything(descriptor: int) -> None:
    memory = MemoryFile(descriptor)
    memory.append([b"old"] * 100)
    memory.rewrite([b"new", b"newer"])
    memory.append([b"newest"])
    assert _replayed(descriptor) == [b"new", b"newer", b"newest"]
    assert memory.size == 3 * 8 + len(b"newnewernewest")


def test_rewrite_to_nothing_leaves_nothing(descriptor: int) -> None:
    memory = MemoryFile(descriptor)
    memory.append([b"old"])
    memory.rewrite([])
    assert _replayed(descriptor) == []


def test_rewriting_for_ever_takes_no_more_memory(descriptor: int) -> None:
    memory = MemoryFile(descriptor)
    for _ in range(200):
        memory.append([bytes(5000)] * 20)
        memory.rewrite([bytes(1000)] * 3)
    assert os.fstat(descriptor).st_blocks * 512 < 1 << 20
    assert _replayed(descriptor) == [bytes(1000)] * 3


def test_rewrite_that_stopped_before_its_last_step_leaves_the_old_records_in_front(descriptor: int) -> None:
    memory = MemoryFile(descriptor)
    memory.append([b"a", b"b"])
    before = _content(descriptor)
    memory.rewrite([b"ab"])
    after = _content(descriptor)
    with _file(before + after[len(before) :]) as stopped:
        assert _replayed(stopped) == [b"a", b"b", b"ab"]


# --- killed at any moment ---------------------------------------------------------------------------------------------

KEYS: Final = 17
BATCH: Final = 3
REWRITE_EVERY: Final = 40
_RECORD: Final = struct.Struct("<QQ")


def _state_after(step: int) -> dict[int, int]:
    """What records say together after `step` steps; step n sets key n mod KEYS to n."""
    return {number % KEYS: number for number in range(max(1, step - KEYS + 1), step + 1)}


def _fold(records: list[bytes]) -> dict[int, int]:
    return dict(_RECORD.unpack_from(record) for record in records)


def _record(key: int, step: int) -> bytes:
    # Of very different lengths, so that a batch now and then spans pages.
    return _RECORD.pack(key, step) + bytes(step * 37 % 6000)


def _write_for_ever(descriptor: int, progress: mmap.mmap) -> None:
    memory = MemoryFile(descriptor)
    state = _fold(list(memory.replay()))
    step = max(state.values(), default=0)
    progress[:8] = struct.pack("<Q", step)
    while True:
        steps = range(step + 1, step + 1 + BATCH)
        memory.append(_record(number % KEYS, number) for number in steps)
        step += BATCH
        state |= {number % KEYS: number for number in steps}
        progress[:8] = struct.pack("<Q", step)
        if step // BATCH % REWRITE_EVERY == 0:
            memory.rewrite(_record(key, number) for key, number in sorted(state.items(), key=lambda item: item[1]))


def _killed_after(seconds: float, descriptor: int, progress: mmap.mmap) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            _write_for_ever(descriptor, progress)
        finally:
            os._exit(1)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1]), "the writer died by itself"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_kill_at_any_moment_leaves_a_state_that_was_reached_and_nothing_acknowledged_is_lost(descriptor: int) -> None:
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    reached = 0
    with mmap.mmap(-1, 8) as progress:
        for kill in range(KILLS):
            _killed_after(moments.uniform(0.001, 0.03), descriptor, progress)
            acknowledged = int.from_bytes(progress[:8], "little")
            state = _fold(_replayed(descriptor))
            reached = max(state.values(), default=0)
            assert state == _state_after(reached), f"kill {kill}: a state that never was"
            assert acknowledged <= reached <= acknowledged + BATCH, f"kill {kill}: {acknowledged} were acknowledged"
    assert reached > REWRITE_EVERY * BATCH, "the writer never got as far as a rewrite"
