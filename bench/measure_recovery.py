"""Rows about the death of a whole node: killed by SIGKILL and started again at once, when does it answer its neighbour?

The neighbour's host pings; the neighbour itself goes on. Where the dead node dialled, it dials again when it is up;
where it listened, its neighbour has to notice and to dial again.
"""

import contextlib
import os
import signal
import time
from typing import Final

from bench.accounting import tree_of
from bench.contenders import REACH_TIMEOUT, Line
from bench.rows import Figures
from tests.lab.namespaces import LabError
from tests.lab.nodes import Node
from tests.lab.ping import Pinger, ping_until_reply

PING_INTERVAL: Final = 0.005
MILLISECONDS: Final = 1e3


def kill_all(node: Node) -> None:
    """Kills the process that was started, so that it replaces nobody, then its descendants."""
    descendants = tree_of(node.process_id)[1:]
    node.kill()
    for process in descendants:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def measure_recovery_dialling(line: Line) -> Figures:
    """The first node, which dials, dies."""
    return {"recovery_dialling": _recovery(line.first, line.last) * MILLISECONDS}


def measure_recovery_listening(line: Line) -> Figures:
    """The last node, which listens, dies."""
    return {"recovery_listening": _recovery(line.last, line.first) * MILLISECONDS}


def _recovery(victim: Node, neighbour: Node) -> float:
    """Seconds from the kill to the first reply to a request sent after it."""
    pinger = Pinger(neighbour.namespace, victim.address, interval=PING_INTERVAL)
    try:
        pinger.wait_first_reply(REACH_TIMEOUT)
        kill_all(victim)
        killed = time.monotonic()
        victim.start()
        victim.wait_until_up()
        ping_until_reply(neighbour.namespace, victim.address, REACH_TIMEOUT)
        report = pinger.stop()
    finally:
        pinger.kill()
    replies = [echo.arrived for echo in report.echoes if echo.sent >= killed and echo.arrived is not None]
    if not replies:
        raise LabError(f"{victim}: no reply within {REACH_TIMEOUT:g} s of its death")
    return min(replies) - killed
