"""A path that loses packets is asked: only one that carries small ones, and no large ones, has become smaller."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.quic.path_mtu import LONGEST_WAIT_SECONDS, PAUSE_SECONDS, STEPS, TRIES, PathMtu

ROUND_TRIP = 0.01


def ask(path: PathMtu, carries: Callable[[int], bool], start: float = 0.0) -> tuple[int | None, float, int]:
    """Plays a round to its end: what was found, when, and how many questions it took."""
    now, asked = start, 0
    while path.asking:
        for size in path.take_due(now):
            asked += 1
            if carries(size):
                path.answered(size, now + ROUND_TRIP)
        deadline = path.next_deadline()
        if deadline is None:
            return None, now, asked
        now = deadline
        found = path.verdict(now)
        if found is not None:
            return found, now, asked
    return None, now, asked


def begun(size: int = 1452, losses: int = 1) -> PathMtu:
    path = PathMtu()
    path.look(size, losses, ROUND_TRIP, 0.0)
    return path


def test_path_that_carries_all_is_asked_once() -> None:
    assert ask(begun(), lambda _: True) == (None, 0.0, 1)


@pytest.mark.parametrize("largest", [1200, 1250, 1279, 1280, 1349, 1350, 1399, 1400, 1451])
def test_path_that_has_become_smaller_is_found_within_a_second(largest: int) -> None:
    found, seconds, asked = ask(begun(), lambda size: size <= largest)
    assert found == max(step for step in STEPS if step <= largest)
    assert seconds < 1.0
    assert asked <= TRIES * len(STEPS)


def test_silent_path_is_no_small_path() -> None:
    path = begun()
    assert ask(path, lambda _: False)[0] is None
    assert not path.asking


def test_path_that_loses_two_of_three_is_no_small_path() -> None:
    answers = iter([False, True, True, False, True, True, True, True, True, True, True, True])
    assert ask(begun(), lambda size: size < 1452 or not next(answers))[0] is None


def test_nothing_is_asked_while_nothing_is_lost() -> None:
    path = PathMtu()
    path.look(1452, 0, ROUND_TRIP, 0.0)
    assert not path.asking


def test_rounds_pause_while_packets_are_lost() -> None:
    path = begun()
    ask(path, lambda _: True)
    path.look(1452, 2, ROUND_TRIP, PAUSE_SECONDS / 2)
    assert not path.asking
    path.look(1452, 2, ROUND_TRIP, ROUND_TRIP + PAUSE_SECONDS)
    assert path.asking


def test_smallest_size_is_never_doubted() -> None:
    path = PathMtu()
    path.begin(1200, 5, None, 0.0)
    assert not path.asking
    assert path.take_due(0.0) == ()


def test_unknown_round_trip_is_waited_for_longest() -> None:
    path = PathMtu()
    path.begin(1452, 0, None, 5.0)
    path.take_due(5.0)
    assert path.next_deadline() == 5.0 + LONGEST_WAIT_SECONDS


def test_late_answer_to_the_question_ends_the_round() -> None:
    path = begun()
    path.take_due(0.0)
    deadline = path.next_deadline()
    assert deadline is not None
    path.take_due(deadline)
    path.answered(1200, deadline)
    path.answered(1452, deadline)
    assert not path.asking
    path.answered(1452, deadline)
    assert path.verdict(deadline + 10) is None


@given(st.integers(1200, 1500), st.lists(st.booleans(), max_size=40))
def test_verdict_is_always_smaller_than_what_was_in_use(size: int, fate: list[bool]) -> None:
    lost = iter(fate)
    found, _, _ = ask(begun(size), lambda _: next(lost, False))
    assert found is None or found < size
