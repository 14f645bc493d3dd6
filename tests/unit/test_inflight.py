"""How much may be on its way to a process: falls while it is slow, rises when it ran dry, within bounds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocol.inflight import LEAST_BYTES, MOST_BYTES, TARGET_SECONDS, WINDOW_SECONDS, InFlightLimit

SLOW = 3 * TARGET_SECONDS
QUICK = TARGET_SECONDS / 4


def windows(limit: InFlightLimit, count: int, *times: float, start: float = 100.0) -> float:
    """In each of so many windows something comes back after each of `times`; returns when the last window ends."""
    now = start
    for _ in range(count):
        for took in times:
            limit.returned(took, now)
        now += WINDOW_SECONDS
    return now


def test_limit_falls_while_everything_takes_long() -> None:
    limit = InFlightLimit()
    before = limit.limit
    now = windows(limit, 2, SLOW)
    assert limit.limit == int(before * 0.75)
    windows(limit, 1, SLOW, start=now)
    assert limit.limit == int(int(before * 0.75) * 0.75)


def test_limit_falls_once_in_a_window() -> None:
    limit = InFlightLimit()
    before = limit.limit
    limit.returned(SLOW, 100.0)
    for step in range(50):
        limit.returned(SLOW, 100.0 + WINDOW_SECONDS + step * WINDOW_SECONDS / 100)
    assert limit.limit == int(before * 0.75)


def test_single_long_time_among_short_ones_does_not_count() -> None:
    limit = InFlightLimit()
    before = limit.limit
    windows(limit, 20, SLOW, QUICK, SLOW)
    assert limit.limit == before


def test_limit_stays_while_everything_is_quick() -> None:
    limit = InFlightLimit()
    before = limit.limit
    windows(limit, 20, QUICK)
    assert limit.limit == before


def test_first_return_after_a_start_says_nothing_yet() -> None:
    limit = InFlightLimit()
    before = limit.limit
    limit.returned(SLOW, 100.0)
    assert limit.limit == before


def test_limit_rises_when_the_reader_ran_dry() -> None:
    limit = InFlightLimit()
    before = limit.limit
    limit.ran_dry()
    assert limit.limit == 2 * before


def test_limit_never_falls_below_what_keeps_a_reader_busy() -> None:
    limit = InFlightLimit()
    windows(limit, 100, SLOW)
    assert limit.limit == LEAST_BYTES


def test_limit_recovers_from_its_floor() -> None:
    limit = InFlightLimit()
    windows(limit, 100, SLOW)
    limit.ran_dry()
    assert limit.limit == 2 * LEAST_BYTES


@given(st.lists(st.one_of(st.just("dry"), st.tuples(st.floats(0, 1), st.floats(0, 0.2))), max_size=60))
def test_limit_stays_within_its_bounds_whatever_happens(steps: list[str | tuple[float, float]]) -> None:
    limit, now = InFlightLimit(), 5.0
    for step in steps:
        if isinstance(step, str):
            limit.ran_dry()
        else:
            took, passed = step
            now += passed
            limit.returned(took, now)
        assert LEAST_BYTES <= limit.limit <= MOST_BYTES
