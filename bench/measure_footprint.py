"""Rows about what a node costs while nothing happens: memory, memory per link, processor time."""

import time
from collections import Counter
from itertools import pairwise
from typing import Final

from bench.accounting import memory_by_process, memory_of, processor_seconds
from bench.contenders import Line, listening_and_dialling
from bench.rows import Figures
from tests.lab.nodes import Node, SeptateNode

MEGA: Final = 1e6
LINK_COUNTS: Final = (0, 1, 4, 16)


def measure_idle(line: Line, settle: float, seconds: float) -> Figures:
    """Memory and processor time of the dialling node, with one link, for `seconds` after `settle` seconds of rest."""
    time.sleep(settle)
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


def measure_links(kind: type[Node], settle: float) -> Figures:
    """Memory of nodes with none, 1, 4 and 16 links to one neighbour, less that of the one before, for each link more.

    `settle` are the seconds of rest before the memory is read. One node after the other runs, so that each shares its
    program's pages with the neighbour alone.
    """
    sizes: list[int] = []
    with listening_and_dialling(kind, max(LINK_COUNTS)) as line:
        for links in LINK_COUNTS:
            node = kind(line.lab, line.first.namespace, peers=line.first.peers[:links]).start()
            node.wait_until_up()
            node.wait_for_links(links)
            time.sleep(settle)
            sizes.append(memory_of(node.process_id).total)
            node.stop()
    steps = zip(pairwise(LINK_COUNTS), pairwise(sizes), strict=True)
    return {f"memory_link_{more}": (size - less) / (more - fewer) / MEGA for (fewer, more), (less, size) in steps}


def memory_by_role(node: SeptateNode) -> dict[str, float]:
    """Proportional set size, in MB, of every process of a node, by role; several of a role are numbered."""
    roles = {actor.process_id: actor.role for actor in node.actors()}
    sizes: dict[str, float] = {}
    seen: Counter[str] = Counter()
    for process, size in memory_by_process(node.process_id).items():
        role = roles.get(process, "not an actor")
        seen[role] += 1
        sizes[role if seen[role] == 1 else f"{role} {seen[role]}"] = size / MEGA
    return sizes
