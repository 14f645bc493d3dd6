"""Rows about what a node costs while nothing happens: memory, memory per link, processor time."""

import time
from typing import Final

from bench.accounting import memory_of, processor_seconds
from bench.contenders import Line, listening_and_dialling
from bench.rows import Figures
from tests.lab.nodes import Node

MEGA: Final = 1e6
ADDITIONAL_LINKS: Final = 8
SETTLE_SECONDS: Final = 2.0


def measure_idle(line: Line, seconds: float) -> Figures:
    """Memory and processor time of the dialling node, with one link, for `seconds` after it has settled."""
    time.sleep(SETTLE_SECONDS)
    node = [line.first.process_id]
    before = processor_seconds(node)
    begin = time.monotonic()
    time.sleep(seconds)
    used = processor_seconds(node) - before
    passed = time.monotonic() - begin
    memory = memory_of(line.first.process_id)
    return {
        "idle_cpu": 100 * used / passed,
        "memory": memory.total / MEGA,
        "memory_process": memory.mean / MEGA,
    }


def measure_links(kind: type[Node]) -> Figures:
    """Memory of a node that dials its neighbour at nine addresses, less that of one that dials one, for each more."""
    sizes: list[int] = []
    for links in (1, 1 + ADDITIONAL_LINKS):
        with listening_and_dialling(kind, links) as line:
            line.first.start()
            line.first.wait_for_links(links)
            time.sleep(SETTLE_SECONDS)
            sizes.append(memory_of(line.first.process_id).total)
    return {"memory_link": (sizes[1] - sizes[0]) / ADDITIONAL_LINKS / MEGA}
