"""Rows about time: the ping, idle and beside a bulk flow, and from a node's start to the first pong."""

import time
from typing import Final

from bench.contenders import REACH_TIMEOUT, Line
from bench.measure_throughput import put_load
from bench.rows import Figures, unavailable
from tests.lab.ping import Pinger, ping

PING_INTERVAL: Final = 0.02
FLOW_UNDER_WAY_SECONDS: Final = 0.5
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


def measure_loaded_ping(line: Line, seconds: int) -> Figures:
    """Pings the neighbour every 20 ms beside one TCP stream, once that has been under way for half a second."""
    pinger = Pinger(line.first.namespace, line.last.address, interval=PING_INTERVAL)
    try:
        begin = time.monotonic()
        put_load(line, seconds)
        report = pinger.stop().between(begin + FLOW_UNDER_WAY_SECONDS, begin + seconds)
    finally:
        pinger.kill()
    if not report.received:
        return {
            **unavailable(f"no reply to {report.sent} requests", "ping_load_average", "ping_load_p99"),
            "ping_load_lost": 100.0,
        }
    return {
        "ping_load_average": report.average() * MILLISECONDS,
        "ping_load_p99": report.percentile(0.99) * MILLISECONDS,
        "ping_load_lost": 100 * report.lost / report.sent,
    }
