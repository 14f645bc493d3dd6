"""Metrics, sequence numbers, smoothed costs and hold times: the router's arithmetic (wire spec 7.1, 7.4, 7.12)."""

from __future__ import annotations

from typing import Final

from protocol.mycelium.tlv import METRIC_INFINITE

METRIC_LARGEST_FINITE: Final = METRIC_INFINITE - 1
RETRACTION_HOLD: Final = 6.0
"""Seconds that a retracted, expired or orphaned entry stays (wire spec 7.12)."""
HOLD_INTERVALS: Final = 3.5
"""Announcement intervals that a route outlives the last Update about it (wire spec 7.12)."""

_CENTISECONDS: Final = 100
_SEQNO_SPACE: Final = 1 << 16
_SEQNO_HALF: Final = 1 << 15


def add_metric(left: int, right: int) -> int:
    """Sum of two metrics: infinite where one is, else capped at the largest finite metric."""
    if left == METRIC_INFINITE or right == METRIC_INFINITE:
        return METRIC_INFINITE
    return min(left + right, METRIC_LARGEST_FINITE)


def subtract_metric(left: int, right: int) -> int:
    """`left` less a finite `right`: infinite stays infinite, else never below 0."""
    if left == METRIC_INFINITE:
        return METRIC_INFINITE
    return max(left - right, 0)


def seqno_newer(left: int, right: int) -> bool:
    """Whether `left` is newer than `right`; of two that lie half the space apart neither is."""
    return (right - left) % _SEQNO_SPACE > _SEQNO_HALF


def seqno_older(left: int, right: int) -> bool:
    """Whether `left` is older than `right`; of two that lie half the space apart neither is."""
    return 0 < (right - left) % _SEQNO_SPACE < _SEQNO_HALF


def next_seqno(seqno: int) -> int:
    """The sequence number after `seqno`."""
    return (seqno + 1) % _SEQNO_SPACE


def smoothed_cost(old: int, sample_ms: int) -> int:
    """A link's smoothed cost after a round trip of `sample_ms` milliseconds (wire spec 7.4)."""
    return (9 * old + sample_ms) // 10


def hold_time(interval_cs: int, metric: int) -> float:
    """Seconds that a route lasts after an Update with this interval (centiseconds) and metric (wire spec 7.12)."""
    if metric == METRIC_INFINITE:
        return RETRACTION_HOLD
    return HOLD_INTERVALS * interval_cs / _CENTISECONDS
