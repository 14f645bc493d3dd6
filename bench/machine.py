"""The machine that the figures come from, and how busy it is with other things."""

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROCESSOR_TIMES: Final = Path("/proc/stat")
LOOK_SECONDS: Final = 1.0
QUIET_LOAD: Final = 1.0
_IDLE_COLUMNS: Final = slice(3, 5)
"""`idle` and `iowait`, in proc(5)."""


def describe_machine() -> dict[str, str]:
    """What a reader must know to judge the figures."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": models[0].partition(":")[2].strip() if models else platform.machine(),
        "cores": str(os.cpu_count()),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    }


@dataclass(frozen=True, slots=True)
class Business:
    """How busy the machine is: its load average over a minute, and the share (0..1) of its processors used just now.

    The load average still knows the last repetition; the share does not.
    """

    load_average: float
    share: float

    @property
    def too_high(self) -> bool:
        """Whether somebody else may be seen in the figures."""
        return self.load_average > QUIET_LOAD

    def __str__(self) -> str:
        text = f"load average {self.load_average:.1f}, {self.share:.0%} of the processors in use"
        if self.too_high:
            text += f"; WARNING: the load is above {QUIET_LOAD:g}, figures are comparable only if that is our own past"
        return text


def look() -> Business:
    """Looks at the processors for a second in which we do nothing."""
    idle, total = _processor_ticks()
    time.sleep(LOOK_SECONDS)
    idle_after, total_after = _processor_ticks()
    passed = total_after - total
    return Business(os.getloadavg()[0], 1 - (idle_after - idle) / passed if passed else 0.0)


def _processor_ticks() -> tuple[int, int]:
    ticks = [int(word) for word in PROCESSOR_TIMES.read_text().splitlines()[0].split()[1:]]
    return sum(ticks[_IDLE_COLUMNS]), sum(ticks[:8])
