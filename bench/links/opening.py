"""From telling a running node of a peer, through its API, to the first packet that went there and back."""

from __future__ import annotations

import statistics
import time
from typing import Final

from bench.contenders import REACH_TIMEOUT
from bench.links.meeting import NAMES, Choice, introduced
from tests.lab.namespaces import LabError
from tests.lab.ping import Pinger

TIMES: Final = 5
PING_INTERVAL: Final = 0.002
MILLISECONDS: Final = 1e3


def report(choice: Choice) -> None:
    """Prints the median of several openings, each of fresh nodes, and the range."""
    print(f"{'transport':<10} {'nodes':<10} {'ms to first reply':>18} {'from':>6} {'to':>6}")
    for letter, transport in choice.kinds():
        row = f"{transport:<10} {NAMES[letter]:<10} "
        try:
            took = sorted(_opening(letter * 2, transport) * MILLISECONDS for _ in range(TIMES))
            print(f"{row}{statistics.median(took):>18.0f} {took[0]:>6.0f} {took[-1]:>6.0f}", flush=True)
        except LabError as error:
            print(f"{row}failed: {str(error).splitlines()[0]}", flush=True)


def _opening(pair: str, transport: str) -> float:
    with introduced(pair, transport) as (line, endpoints):
        dialler, listener = line.nodes
        dialler.start().wait_until_up()
        # Nobody can know yet when the host's first packet comes.
        pinger = Pinger(dialler.namespace, listener.address, interval=PING_INTERVAL)
        try:
            begin = time.monotonic()
            dialler.add_peer(endpoints[0])
            return pinger.wait_first_reply(REACH_TIMEOUT) - begin
        finally:
            pinger.kill()
