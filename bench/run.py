"""The benchmark: Septate and each peer that is here, in the same run, repetitions interleaved, one table.

`make bench`, or `python -m bench.run [--quick] [--repetitions N] [--only septate,mycelium]`. Needs root, as it builds
network namespaces. Mycelium takes part when MYCELIUM_BIN names its program, Yggdrasil when it is installed.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.contenders import Line, listening_and_dialling, split_by_presence, three_in_line, version_of
from bench.measure_exchange import measure_exchange
from bench.measure_footprint import measure_idle, measure_links
from bench.measure_latency import measure_cold_start, measure_idle_ping
from bench.measure_throughput import (
    measure_tcp,
    measure_tcp_four,
    measure_tcp_relay,
    measure_tcp_reverse,
    measure_udp,
    missing_tool,
)
from bench.plot import write_svg
from bench.report import Results, table, write_json
from bench.rows import Figures, unavailable
from tests.lab import namespaces
from tests.lab.namespaces import LabError
from tests.lab.nodes import Node
from tests.lab.sandbox import enter_if_unprivileged

RESULTS_FOLDER: Final = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True, slots=True)
class Durations:
    """Seconds that each kind of measurement lasts."""

    ping: float = 5.0
    flow: float = 5.0
    exchange: float = 3.0
    idle: float = 10.0


@dataclass(frozen=True, slots=True)
class Step:
    """One measurement on a line of nodes, and the rows that it fills."""

    keys: tuple[str, ...]
    measure: Callable[[Line], Figures]
    needs_iperf3: bool = False


def steps_for_two(durations: Durations) -> list[Step]:
    """On two nodes, the quiet ones first: what a flow leaves in caches and queues mustn't be seen in them."""
    return [
        Step(("cold_start",), measure_cold_start),
        Step(("idle_cpu", "memory", "memory_process"), lambda line: measure_idle(line, durations.idle)),
        Step(("ping_average", "ping_p99"), lambda line: measure_idle_ping(line, durations.ping)),
        Step(("exchange",), lambda line: measure_exchange(line, durations.exchange)),
        Step(("tcp", "cpu_direct"), lambda line: measure_tcp(line, durations.flow), True),
        Step(("tcp_four",), lambda line: measure_tcp_four(line, durations.flow), True),
        Step(("tcp_reverse",), lambda line: measure_tcp_reverse(line, durations.flow), True),
        Step(("udp",), lambda line: measure_udp(line, durations.flow), True),
    ]


def steps_for_three(durations: Durations) -> list[Step]:
    """On three nodes in line."""
    return [
        Step(("exchange_relay",), lambda line: measure_exchange(line, durations.exchange, "exchange_relay")),
        Step(("tcp_relay", "cpu_relay"), lambda line: measure_tcp_relay(line, durations.flow), True),
    ]


def take(line: Line, steps: Sequence[Step], results: Results, contender: str) -> None:
    """Takes the steps in turn. One that fails leaves its reason in its rows, and the next is taken."""
    for step in steps:
        reason = missing_tool() if step.needs_iperf3 else None
        if reason is None:
            try:
                results.add(contender, step.measure(line))
                continue
            except LabError as error:
                reason = str(error).splitlines()[0]
        results.add(contender, unavailable(reason, *step.keys))


def measure_contender(kind: type[Node], durations: Durations, results: Results) -> None:
    """One repetition of everything for one contender, on fresh nodes."""
    two, three = steps_for_two(durations), steps_for_three(durations)
    for steps, network in ((two, listening_and_dialling), (three, three_in_line)):
        taken = False
        try:
            with network(kind) as line:
                taken = True
                take(line, steps, results, kind.kind)
        except LabError as error:
            if taken:
                raise
            for step in steps:
                results.add(kind.kind, unavailable(str(error).splitlines()[0], *step.keys))
    try:
        results.add(kind.kind, measure_links(kind))
    except LabError as error:
        results.add(kind.kind, unavailable(str(error).splitlines()[0], "memory_link"))


def describe_machine() -> dict[str, str]:
    """What a reader must know to judge the figures."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": models[0].partition(":")[2].strip() if models else platform.machine(),
        "cores": str(os.cpu_count()),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": f"{os.getloadavg()[0]:.1f}",
        "date": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; exit code 0 when at least one contender ran."""
    parser = argparse.ArgumentParser(prog="python -m bench.run", description="Compare Septate with its peers.")
    parser.add_argument("--repetitions", type=int, default=3, help="of everything, contenders interleaved (default 3)")
    parser.add_argument("--quick", action="store_true", help="one repetition, shorter flows")
    parser.add_argument("--only", default="", help="contenders, separated by commas")
    given = parser.parse_args(arguments)
    enter_if_unprivileged("bench.run", sys.argv[1:] if arguments is None else arguments)
    missing = namespaces.available()
    if missing is not None:
        print(f"the benchmark cannot run: {missing}", file=sys.stderr)
        return 2
    durations = Durations(ping=2.0, flow=2.0, exchange=1.5, idle=5.0) if given.quick else Durations()
    repetitions = 1 if given.quick else max(1, given.repetitions)
    present, absent = split_by_presence([name for name in given.only.lower().split(",") if name])
    results = Results(describe_machine(), {kind.kind: version_of(kind) for kind in present}, absent)
    for number in range(1, repetitions + 1):
        for kind in present:
            print(f"repetition {number} of {repetitions}: {kind.kind}", file=sys.stderr, flush=True)
            measure_contender(kind, durations, results)
    machine = results.machine
    print(
        f"{machine['processor']}, {machine['cores']} cores, Linux {machine['kernel']}, load {machine['load']} at the "
        f"start, medians of {repetitions}\n"
    )
    print(table(results))
    if present:
        RESULTS_FOLDER.mkdir(exist_ok=True)
        stem = RESULTS_FOLDER / time.strftime("%Y%m%d-%H%M%S")
        write_json(results, stem.with_suffix(".json"))
        write_svg(results, stem.with_suffix(".svg"))
        print(f"\nwritten: {stem}.json, {stem}.svg")
    return 0 if present else 1


if __name__ == "__main__":
    sys.exit(main())
