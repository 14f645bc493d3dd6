"""The search for the highest rate without loss, on figures made up here."""

import pytest

from bench.measure_lossless import Search, is_carried
from bench.measure_throughput import Datagrams, Load


def rates_tried(limit: float, tries: int, first_rate: float = 100.0) -> list[float]:
    """What the search offers to a node that carries up to `limit` per second."""
    search = Search(first_rate)
    tried = []
    for _ in range(tries):
        tried.append(round(search.rate, 1))
        search.enter(search.rate <= limit)
    return tried


def test_the_rate_doubles_until_it_is_too_high_and_is_bisected_then() -> None:
    assert rates_tried(500, 6) == [100, 200, 400, 800, 565.7, 475.7]


def test_the_rate_is_halved_while_it_is_too_high() -> None:
    assert rates_tried(30, 4) == [100, 50, 25, 35.4]


def test_a_rate_that_was_carried_is_not_forgotten_for_a_lower_one() -> None:
    search = Search(100)
    search.enter(carried=True)
    search.rate = 50
    search.enter(carried=True)
    assert search.low == 100


@pytest.mark.parametrize(
    ("seen", "carried"),
    [
        (Datagrams(sent=10_000, arrived=10_000, missed=0, seconds=1.0), True),
        (Datagrams(sent=10_000, arrived=9_990, missed=10, seconds=1.0), True),
        (Datagrams(sent=10_000, arrived=9_989, missed=11, seconds=1.0), False),
        (Datagrams(sent=10_000, arrived=9_500, missed=0, seconds=1.0), True),
        (Datagrams(sent=10_000, arrived=9_499, missed=0, seconds=1.0), False),
        (Datagrams(sent=0, arrived=0, missed=0, seconds=1.0), False),
    ],
)
def test_a_rate_is_carried_with_little_loss_and_no_growing_queue(seen: Datagrams, carried: bool) -> None:
    assert is_carried(seen) is carried


def test_datagrams_that_arrived_are_counted_by_the_bytes_of_the_receiver() -> None:
    report = {
        "end": {
            "sum_sent": {"packets": 1000},
            "sum_received": {"bytes": 64 * 700, "packets": 980, "lost_packets": 280, "seconds": 2.0},
        }
    }
    seen = Datagrams.of(Load(report, 0.0), 64)
    assert seen == Datagrams(sent=1000, arrived=700, missed=280, seconds=2.0)
    assert seen.per_second == 350
