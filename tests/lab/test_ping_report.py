"""The arithmetic of the pinger's report."""

import math

import pytest

from tests.lab.ping import Echo, IcmpError, PingReport


def report_of(*trips: float | None, interval: float = 0.01) -> PingReport:
    """A report of requests sent every `interval` seconds from time 100 on, with these round trips."""
    echoes = tuple(Echo(number, 100 + number * interval, trip) for number, trip in enumerate(trips))
    return PingReport("fd00::2", interval, echoes)


def test_lost_requests_are_those_without_a_reply() -> None:
    report = report_of(0.001, None, 0.001, None)
    assert (report.sent, report.received, report.lost) == (4, 2, 2)


def test_average_and_percentile_are_of_the_replies_only() -> None:
    report = report_of(0.001, None, 0.002, 0.006)
    assert report.average() == pytest.approx(0.003)
    assert report.percentile(0.5) == 0.002
    assert report.percentile(0.99) == 0.006


def test_without_a_reply_there_is_no_average_and_the_gap_has_no_end() -> None:
    report = report_of(None, None)
    assert math.isnan(report.average())
    assert math.isnan(report.percentile(0.99))
    assert report.longest_gap() == math.inf


def test_a_run_of_lost_requests_is_one_gap_between_two_replies() -> None:
    report = report_of(0.001, None, None, None, 0.001, 0.001)
    (gap,) = report.gaps()
    assert gap.begin == pytest.approx(100.001)
    assert gap.end == pytest.approx(100.041)
    assert report.longest_gap() == pytest.approx(0.04)


def test_requests_answered_late_are_a_gap_too() -> None:
    report = report_of(0.001, 0.081, 0.071, 0.061, 0.051, 0.041, 0.031, 0.021, 0.011, 0.001)
    assert report.lost == 0
    assert report.longest_gap() == pytest.approx(0.09)


def test_silence_at_the_end_counts_as_a_gap() -> None:
    report = report_of(0.001, *[None] * 9)
    assert report.longest_gap() == pytest.approx(0.089)


def test_silence_at_the_beginning_counts_as_a_gap() -> None:
    report = report_of(*[None] * 9, 0.001)
    (gap,) = report.gaps()
    assert gap.begin == 100
    assert gap.end == pytest.approx(100.091)


def test_a_part_of_a_report_holds_what_was_sent_in_that_time() -> None:
    report = report_of(0.001, None, 0.001, 0.001)
    assert report.between(100.005, 100.025).sent == 2
    assert report.between(100.005, 100.025).lost == 1


def test_a_report_survives_its_way_through_json() -> None:
    report = PingReport(
        "fd00::2", 0.5, (Echo(0, 1.0, None),), 1, (IcmpError(1, 3, "fd00::9", 0, 1.25),), 2, {"ENETUNREACH": 1}
    )
    assert PingReport.from_json(report.to_json()) == report
