"""Rows about time: the idle ping, and how long a node needs from its start to the first pong."""

import time
from typing import Final

from bench.contenders import REACH_TIMEOUT, Line
from bench.rows import Figures
from tests.lab.ping import Pinger, ping

PING_INTERVAL: Final = 0.02
MILLISECONDS: Final = 1e3


def measure_cold_start(line: Line) -> Figures:
    """Starts the dialling node and times it until the first echo reply of its listening neighbour.

    The pinger runs before the node does: what its interpreter needs to start isn't counted.
    """
    pinger = Pinger(line.first.namespace, line.last.address, interval=0.005, until_reply=REACH_TIMEOUT)
    begin = time.monotonic()
    line.first.start()
    reply = pinger.wait_first_reply(REACH_TIMEOUT)
    pinger.finish()
    line.first.wait_until_up()
    return {"cold_start": (reply - begin) * MILLISECONDS}


def measure_idle_ping(line: Line, seconds: float) -> Figures:
    """Pings the neighbour every 20 ms while nothing else happens."""
    report = ping(line.first.namespace, line.last.address, count=round(seconds / PING_INTERVAL), interval=PING_INTERVAL)
    if report.lost:
        reason = f"{report.lost} of {report.sent} lost"
        return {"ping_average": reason, "ping_p99": reason}
    return {
        "ping_average": report.average() * MILLISECONDS,
        "ping_p99": report.percentile(0.99) * MILLISECONDS,
    }
