"""When a dead process comes back: the table of its life, the pauses, and the end of patience."""

from __future__ import annotations

import itertools

import pytest

from protocol.restarts import (
    FIRST_PAUSE_SECONDS,
    GIVE_UP_AFTER,
    LONGEST_PAUSE_SECONDS,
    TRANSITIONS,
    Life,
    RestartError,
    RestartPolicy,
    Saw,
)

LEGAL = {
    (Life.STARTING, Saw.SERVES, Life.READY),
    (Life.STARTING, Saw.DIED, Life.PAUSING),
    (Life.STARTING, Saw.TOO_OFTEN, Life.GIVEN_UP),
    (Life.STARTING, Saw.TOLD_TO_STOP, Life.STOPPING),
    (Life.READY, Saw.DIED, Life.PAUSING),
    (Life.READY, Saw.TOLD_TO_STOP, Life.STOPPING),
    (Life.PAUSING, Saw.DUE, Life.STARTING),
    (Life.PAUSING, Saw.TOLD_TO_STOP, Life.ENDED),
    (Life.STOPPING, Saw.SERVES, Life.STOPPING),
    (Life.STOPPING, Saw.TOLD_TO_STOP, Life.STOPPING),
    (Life.STOPPING, Saw.DIED, Life.ENDED),
    (Life.GIVEN_UP, Saw.TOLD_TO_STOP, Life.ENDED),
    (Life.ENDED, Saw.TOLD_TO_STOP, Life.ENDED),
}


def _policy(life: Life) -> RestartPolicy:
    """A policy that came to `life` by legal moves."""
    policy = RestartPolicy()
    match life:
        case Life.READY:
            policy.serves()
        case Life.PAUSING:
            policy.died()
        case Life.GIVEN_UP:
            _die_before_ready(policy, GIVE_UP_AFTER)
        case Life.STOPPING:
            policy.stop()
        case Life.ENDED:
            policy.stop()
            policy.died()
    assert policy.life is life
    return policy


def _die_before_ready(policy: RestartPolicy, times: int) -> list[float | None]:
    pauses = []
    for _ in range(times):
        pauses.append(policy.died())
        if policy.life is Life.PAUSING:
            policy.again()
    return pauses


def _tell(policy: RestartPolicy, saw: Saw) -> None:
    moves = {Saw.SERVES: policy.serves, Saw.DIED: policy.died, Saw.DUE: policy.again, Saw.TOLD_TO_STOP: policy.stop}
    moves[saw]()


def test_table_is_the_one_that_was_thought_through() -> None:
    assert {(life, saw, following) for (life, saw), following in TRANSITIONS.items()} == LEGAL


@pytest.mark.parametrize(
    ("life", "saw", "following"), [move for move in sorted(LEGAL, key=str) if move[1] is not Saw.TOO_OFTEN]
)
def test_legal_move_leads_where_the_table_says(life: Life, saw: Saw, following: Life) -> None:
    policy = _policy(life)
    _tell(policy, saw)
    assert policy.life is following


@pytest.mark.parametrize(
    ("life", "saw"),
    [
        (life, saw)
        for life, saw in itertools.product(Life, Saw)
        if saw is not Saw.TOO_OFTEN and not any((life, saw) == move[:2] for move in LEGAL)
    ],
)
def test_illegal_move_is_an_error_that_names_both_and_changes_nothing(life: Life, saw: Saw) -> None:
    policy = _policy(life)
    with pytest.raises(RestartError, match=f"a process that is {life.value}, and {saw.value}"):
        _tell(policy, saw)
    assert policy.life is life


def test_death_after_ready_is_answered_at_once_however_often() -> None:
    policy = RestartPolicy()
    for restarts in range(100):
        policy.serves()
        assert policy.died() == 0.0
        assert policy.restarts == restarts
        policy.again()
    assert policy.restarts == 100


def test_deaths_before_ready_wait_twice_as_long_each_time_up_to_a_bound() -> None:
    pauses = _die_before_ready(RestartPolicy(), GIVE_UP_AFTER - 1)
    assert pauses[:4] == [FIRST_PAUSE_SECONDS * factor for factor in (1, 2, 4, 8)]
    assert pauses[-1] == LONGEST_PAUSE_SECONDS
    assert all(a is not None and b is not None and a <= b for a, b in itertools.pairwise(pauses))


def test_crash_loop_is_given_up_after_half_a_minute_of_trying() -> None:
    policy = RestartPolicy()
    pauses = _die_before_ready(policy, GIVE_UP_AFTER)
    assert pauses[-1] is None
    assert policy.life is Life.GIVEN_UP
    assert 20 < sum(pause for pause in pauses if pause is not None) < 40
    assert policy.restarts == GIVE_UP_AFTER - 1


def test_ready_once_makes_early_deaths_forgotten() -> None:
    policy = RestartPolicy()
    _die_before_ready(policy, GIVE_UP_AFTER - 1)
    policy.serves()
    assert policy.died() == 0.0
    policy.again()
    assert policy.died() == FIRST_PAUSE_SECONDS


def test_process_that_was_told_to_stop_is_not_started_again() -> None:
    policy = _policy(Life.READY)
    policy.stop()
    assert policy.died() is None
    assert policy.life is Life.ENDED
