"""A node with hundreds of peers that call it: how long it takes to have them all, and what they cost when it has."""

from __future__ import annotations

import json
import select
import subprocess
import time
from typing import Final

from bench.accounting import memory_of, processor_seconds
from bench.links.meeting import NAMES, Choice, refusal
from tests.lab.namespaces import Lab, LabError, stop_process
from tests.lab.nodes import MyceliumNode, SeptateNode
from tests.lab.waiting import wait_until

PEERS: Final = 500
ACCEPT_SECONDS: Final = 60.0
SETTLE_SECONDS: Final = 5.0
IDLE_SECONDS: Final = 20.0
MEGA: Final = 1e6


def report(choice: Choice) -> None:
    """Prints a row for each kind of node. Yggdrasil's peers would have to speak Yggdrasil."""
    print(f"{PEERS} peers call over TCP, announce a /64 each, and keep alive")
    head = ("s to all", "CPU s", "PSS MB", "before", "processes", "idle % of a core")
    print(f"{'node':<10} " + " ".join(f"{word:>10}" for word in head))
    for letter in ("s", "m"):
        if letter * 2 in choice.pairs:
            why_not = refusal(letter * 2, "tcp")
            print(f"{NAMES[letter]:<10} " + (f"– {why_not}" if why_not else _measured(letter)), flush=True)


def _measured(letter: str) -> str:
    with Lab() as lab:
        here, there = lab.namespace("node"), lab.namespace("crowd")
        wire = lab.wire(there, here)
        node = (SeptateNode if letter == "s" else MyceliumNode)(lab, here).start()
        node.wait_until_up()
        time.sleep(SETTLE_SECONDS)
        processes = [node.process_id]
        before, memory_before = processor_seconds(processes), memory_of(node.process_id)
        crowd = there.start_tool("bench.links.crowd", wire.right_address, str(PEERS))
        try:
            begin, answered = _until_answered(crowd)
            wait_until(f"{node}: {PEERS} routes", lambda: _has_all(node), ACCEPT_SECONDS, interval=0.1)
            took, cost = answered - begin, processor_seconds(processes) - before
            time.sleep(SETTLE_SECONDS)
            used, since = processor_seconds(processes), time.monotonic()
            time.sleep(IDLE_SECONDS)
            idle = (processor_seconds(processes) - used) / (time.monotonic() - since)
            memory = memory_of(node.process_id)
            if not _has_all(node):
                raise LabError(f"{node}: some peers were lost while nothing happened")
        finally:
            stop_process(crowd)
        figures = (f"{took:.1f}", f"{cost:.1f}", f"{memory.total / MEGA:.0f}", f"{memory_before.total / MEGA:.0f}")
        return " ".join(f"{word:>10}" for word in (*figures, len(memory.by_process), f"{100 * idle:.2f}"))


def _has_all(node: SeptateNode | MyceliumNode) -> bool:
    routes = node.api.get("/api/v1/admin/routes/selected") or []
    return len(routes) >= PEERS and node.count_links() >= PEERS


def _until_answered(crowd: subprocess.Popen[bytes]) -> tuple[float, float]:
    """When the crowd began, and when the Hello of each had been answered. Raises LabError."""
    assert crowd.stdout is not None
    said: dict[str, float] = {}
    deadline = time.monotonic() + ACCEPT_SECONDS
    while "answered" not in said:
        if not select.select([crowd.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise LabError(f"the crowd is not answered within {ACCEPT_SECONDS:g} s; it said {said}")
        line = crowd.stdout.readline()
        if not line:
            raise LabError(f"the crowd ended with code {crowd.wait()}; it said {said}")
        said.update(json.loads(line))
        if "dropped" in said:
            raise LabError("the node dropped one of the crowd")
    return said["begun"], said["answered"]
