"""The router's arithmetic against computed vectors and the reference's own tests, and its deadlines."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.mycelium.routing import arithmetic
from protocol.mycelium.routing.deadlines import Deadlines, Tick
from protocol.mycelium.routing.selection import takes_over
from protocol.mycelium.routing.sources import is_feasible

MATH: Final = json.loads((Path(__file__).parent.parent / "vectors" / "routing_math.json").read_text())


@pytest.mark.parametrize(("left", "right", "total"), MATH["metric_add"])
def test_metrics_add_up_to_a_cap_and_infinity_stays(left: int, right: int, total: int) -> None:
    assert arithmetic.add_metric(left, right) == total


def test_subtracting_from_a_metric_ends_at_zero_and_infinity_stays() -> None:
    assert arithmetic.subtract_metric(100, 10) == 90
    assert arithmetic.subtract_metric(5, 10) == 0
    assert arithmetic.subtract_metric(0xFFFF, 10) == 0xFFFF


@pytest.mark.parametrize("case", MATH["seqno"])
def test_sequence_numbers_are_compared_around_the_wrap(case: dict[str, Any]) -> None:
    assert arithmetic.seqno_newer(case["a"], case["b"]) is case["a_gt_b"]
    assert arithmetic.seqno_older(case["a"], case["b"]) is case["a_lt_b"]


def test_the_sequence_number_after_the_last_is_zero() -> None:
    assert arithmetic.next_seqno(0xFFFF) == 0


def test_the_smoothed_cost_follows_the_samples() -> None:
    smoothing = MATH["link_cost_smoothing"]
    cost = smoothing["start"]
    values = [cost]
    for sample in smoothing["samples"]:
        cost = arithmetic.smoothed_cost(cost, sample)
        values.append(cost)

    assert values == smoothing["values"]


@pytest.mark.parametrize("case", MATH["hold_time_ms"])
def test_the_hold_time_is_three_and_a_half_intervals_or_six_seconds(case: dict[str, Any]) -> None:
    assert arithmetic.hold_time(case["interval_cs"], case["metric"]) * 1000 == pytest.approx(case["hold_ms"])


@pytest.mark.parametrize("case", MATH["feasibility"])
def test_feasibility_compares_with_what_was_announced(case: dict[str, Any]) -> None:
    distance = None if case["fd"] is None else tuple(case["fd"])

    assert is_feasible(distance, case["seqno"], case["metric"]) is case["feasible"]


@pytest.mark.parametrize("case", MATH["route_switch"])
def test_a_route_takes_over_only_if_it_is_clearly_better_or_direct(case: dict[str, Any]) -> None:
    assert takes_over(case["current_total"], case["best_total"], case["best_metric"]) is case["switch"]


def test_a_deadline_moves_to_an_earlier_time_only() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.arm("route", 10.0)
    deadlines.arm("route", 20.0)
    assert deadlines.next() == 10.0

    deadlines.arm("route", 5.0)

    assert deadlines.next() == 5.0
    assert deadlines.pop_due(30.0, 10) == ["route"]
    assert deadlines.next() is None


def test_a_disarmed_deadline_never_comes() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.arm("route", 10.0)
    deadlines.disarm("route")
    deadlines.disarm("never armed")

    assert deadlines.pop_due(30.0, 10) == []


def test_no_more_deadlines_are_taken_out_than_asked_for() -> None:
    deadlines: Deadlines[int] = Deadlines()
    for key in range(5):
        deadlines.arm(key, float(key))

    assert deadlines.pop_due(10.0, 2) == [0, 1]
    assert len(deadlines) == 3


def test_replaced_deadlines_do_not_pile_up() -> None:
    deadlines: Deadlines[int] = Deadlines()
    for when in range(10_000, 0, -1):
        deadlines.arm(0, float(when))

    assert len(deadlines._heap) < 100
    assert deadlines.next() == 1.0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 100))), st.integers(0, 100))
def test_deadlines_come_due_like_in_a_plain_dictionary(moves: list[tuple[int, int]], now: int) -> None:
    deadlines: Deadlines[int] = Deadlines()
    plain: dict[int, int] = {}
    for key, when in moves:
        if when % 7 == 0:
            deadlines.disarm(key)
            plain.pop(key, None)
        else:
            deadlines.arm(key, when)
            plain[key] = min(when, plain.get(key, when))

    due = deadlines.pop_due(now, 100)

    assert sorted(due) == sorted(key for key, when in plain.items() if when <= now)
    assert [plain[key] for key in due] == sorted(plain[key] for key in due)


def test_a_tick_keeps_its_rhythm_and_counts_missed_ones_once() -> None:
    tick = Tick(20.0, 100.0)

    assert not tick.passed(119.9)
    assert tick.passed(120.3)
    assert tick.next == 140.0
    assert tick.passed(201.0)
    assert tick.next == 220.0


def test_a_tick_is_never_left_in_the_past() -> None:
    source = random.Random(7)
    tick = Tick(20.0, 0.1)
    now = 0.1
    for _ in range(1000):
        now += source.random() * 70
        tick.passed(now)
        assert tick.next > now - 1e-6
