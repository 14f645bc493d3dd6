"""Runs: packets of one round by their next step, held against the obvious list."""

from __future__ import annotations

from random import Random

import pytest

from actors.runtime.runs import Run, Runs

MEMORY = memoryview(Random(3).randbytes(4096))


def run_of(*packets: tuple[int, int]) -> Run:
    run = Run()
    for start, end in packets:
        run.add(start, end)
    return run


def test_neighbours_become_one_slice() -> None:
    run = run_of((10, 20), (20, 25), (25, 100))
    assert run.slices == [(10, [10, 15, 90])]


def test_gap_begins_a_new_slice() -> None:
    run = run_of((10, 20), (21, 25), (25, 30))
    assert run.slices == [(10, [10]), (21, [4, 9])]


def test_packet_in_front_of_the_last_begins_a_new_slice() -> None:
    run = run_of((10, 20), (0, 10))
    assert run.slices == [(10, [10]), (0, [10])]


def test_payload_in_one_piece_is_not_copied() -> None:
    payload = run_of((10, 20), (20, 25)).payload(MEMORY)
    assert isinstance(payload, memoryview)
    assert payload.obj is MEMORY.obj
    assert payload == MEMORY[10:25]


def test_each_lane_has_its_own_run() -> None:
    runs = Runs()
    runs.add(3, 0, 10)
    runs.add(7, 10, 20)
    runs.add(3, 20, 30)
    assert {lane: run.slices for lane, run in runs.items()} == {3: [(0, [10]), (20, [10])], 7: [(10, [10])]}


@pytest.mark.parametrize("seed", range(20))
def test_run_is_that_of_the_obvious_list(seed: int) -> None:
    dice = Random(seed)
    packets, position = [], 0
    while position < 3000:
        start = position + dice.choice((0, 0, 0, 5))
        position = start + dice.randint(1, 300)
        packets.append((start, position))
    run = run_of(*packets)
    assert run.packets == len(packets)
    assert run.lengths() == [end - start for start, end in packets]
    assert run.octets == sum(run.lengths())
    assert bytes(run.payload(MEMORY)) == b"".join(MEMORY[start:end] for start, end in packets)
