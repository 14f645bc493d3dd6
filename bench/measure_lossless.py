"""Rows about datagrams without loss: the highest rate at which, of those offered, at most one in a thousand is lost.

The search doubles the rate until it is too high (or halves it until it isn't), then takes geometric means. It begins
at the same rate for every contender; a larger size begins where the smaller one ended.
"""

import math
from typing import Final

from bench.contenders import Line
from bench.measure_throughput import Datagrams, put_datagrams
from bench.rows import Figures, Value

SIZES: Final = (64, 512, 1300)
FIRST_RATE: Final = 32_000.0
LOSS_ALLOWED: Final = 0.001
UNDER_WAY_ALLOWED: Final = 0.05
"""Of what was sent, the share that may not be there yet in the end; more means a queue that only grows."""


class Search:
    """The rates to try: `rate` is next, datagrams per second; `low` was carried, `high` was not."""

    def __init__(self, first_rate: float) -> None:
        self.rate = first_rate
        self.low = 0.0
        self.high = math.inf

    def enter(self, carried: bool) -> None:
        """Takes note of what `rate` came to, and chooses the next."""
        if carried:
            self.low = max(self.low, self.rate)
        else:
            self.high = min(self.high, self.rate)
        if math.isinf(self.high):
            self.rate = 2 * self.low
        elif self.low == 0:
            self.rate = self.high / 2
        else:
            self.rate = math.sqrt(self.low * self.high)


def is_carried(seen: Datagrams) -> bool:
    """Whether the loss was small enough, and no queue was left that had only grown."""
    under_way = seen.sent - seen.arrived - seen.missed
    return (
        seen.arrived > 0
        and seen.missed <= LOSS_ALLOWED * (seen.arrived + seen.missed)
        and under_way <= UNDER_WAY_ALLOWED * seen.sent
    )


def measure_lossless(line: Line, seconds: int, tries: int) -> Figures:
    """For each size, datagrams per second that arrived in the best of `tries` runs of `seconds` each."""
    figures: dict[str, Value] = {}
    first_rate = FIRST_RATE
    for size in SIZES:
        search = Search(first_rate)
        best = 0.0
        for _ in range(tries):
            seen = put_datagrams(line, seconds, size, search.rate)
            carried = is_carried(seen)
            if carried:
                best = max(best, seen.per_second)
            search.enter(carried)
        figures[f"udp_lossless_{size}"] = best or f"loss above {LOSS_ALLOWED:.1%} even at {search.high:.0f} per second"
        first_rate = search.low or search.rate
    return figures
