"""What a process says of itself in each heartbeat: processor time, memory, queue depths and counters."""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from protocol.frames import Figures

MEMORY_EVERY: Final = 60
"""Looks at the figures between two looks at the memory: the kernel walks all pages for it."""
MEMORY_SETTLED: Final = 15
"""By this look a young process has taken most of the memory that it needs."""


class Gauges:
    """Counters that only grow, and queue depths that are asked for when needed."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self._queues: dict[str, Callable[[], int]] = {}
        self._beats = 0
        self._pss_kib = 0

    def queue(self, name: str, depth: Callable[[], int]) -> None:
        """Names a queue whose depth belongs into every heartbeat."""
        self._queues[name] = depth

    def figures(self) -> Figures:
        """The present figures."""
        if self._beats % MEMORY_EVERY == 0 or self._beats == MEMORY_SETTLED:
            self._pss_kib = proportional_kib("self")
        self._beats += 1
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return Figures(
            cpu_seconds=round(usage.ru_utime + usage.ru_stime, 3),
            pss_kib=self._pss_kib,
            queues={name: depth() for name, depth in self._queues.items()},
            counters=dict(self.counters),
        )


def proportional_kib(pid: int | str) -> int:
    """Proportional set size of a process in KiB: its own pages and its share of those it has in common with others.

    0 where the kernel doesn't tell: a figure for people is no reason to die.
    """
    try:
        with Path(f"/proc/{pid}/smaps_rollup").open(encoding="ascii") as lines:
            for line in lines:
                if line.startswith("Pss:"):
                    return int(line.split()[1])
    except OSError:
        return 0
    return 0
