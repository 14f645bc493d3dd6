"""The command line of `python -m bench.links`: which sections, over which transports, between whom."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import Final

from bench.links import crowded, failover, memory, opening, throughput
from bench.links.meeting import PAIRS, TRANSPORTS, Choice
from bench.measure_throughput import missing_tool
from tests.lab import namespaces
from tests.lab.sandbox import enter_if_unprivileged

SECTIONS: Final[Mapping[str, Callable[[Choice], None]]] = {
    "throughput": throughput.report,
    "opening": opening.report,
    "failover": failover.report,
    "memory": memory.report,
    "crowd": crowded.report,
}


def main() -> int:
    """Prints a table for each section; 1 where nothing can be measured."""
    parser = argparse.ArgumentParser(prog="bench.links", description="Measure what links cost and how they fare.")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="which of %(default)s")
    parser.add_argument("--only", default=",".join(TRANSPORTS), help="transports (%(default)s)")
    parser.add_argument(
        "--pairs", default=",".join(PAIRS), help="who dials whom: s Septate, m Mycelium, y Yggdrasil (%(default)s)"
    )
    parser.add_argument("--seconds", type=int, default=3, help="of each stream (%(default)s)")
    given = parser.parse_args()
    sections = given.sections.split(",")
    unknown = [name for name in sections if name not in SECTIONS]
    if unknown:
        parser.error(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    enter_if_unprivileged("bench.links", sys.argv[1:])
    reason = namespaces.available() or missing_tool()
    if reason is not None:
        print(reason, file=sys.stderr)
        return 1
    choice = Choice(tuple(given.only.split(",")), tuple(given.pairs.split(",")), given.seconds)
    for name in sections:
        print(f"\n== {name}", flush=True)
        SECTIONS[name](choice)
    return 0


if __name__ == "__main__":
    sys.exit(main())
