"""The benchmark: Septate and each peer that is here, in the same run, repetitions interleaved, one table.

`make bench`, or `python -m bench.run [--quick] [--repetitions N] [--only septate,mycelium] [--check] [--profile]`.
Needs root, as it builds network namespaces. Mycelium takes part when MYCELIUM_BIN names its program, Yggdrasil when it
is installed.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from bench import check, profiling
from bench.contenders import Line, listening_and_dialling, split_by_presence, three_in_line, version_of
from bench.machine import describe_machine, look
from bench.measure_exchange import measure_exchange
from bench.measure_footprint import measure_idle, measure_links, memory_by_role
from bench.measure_latency import measure_cold_start, measure_idle_ping, measure_loaded_ping
from bench.measure_lossless import SIZES, measure_lossless
from bench.measure_pairs import MIXED_PAIRS, measure_pair, name_of
from bench.measure_recovery import measure_recovery_dialling, measure_recovery_listening
from bench.measure_throughput import (
    measure_tcp,
    measure_tcp_both,
    measure_tcp_four,
    measure_tcp_relay,
    measure_tcp_reverse,
    measure_udp,
    missing_tool,
)
from bench.messages import __main__ as messages
from bench.plot import write_svg
from bench.report import Results, pair_table, process_table, table, write_json
from bench.rows import Figures, unavailable
from tests.lab import namespaces
from tests.lab.namespaces import LabError
from tests.lab.nodes import Node, SeptateNode
from tests.lab.sandbox import enter_if_unprivileged

RESULTS_FOLDER: Final = Path(__file__).resolve().parent / "results"
PROFILE_SECONDS: Final = 8
QUICK_PROFILE_SECONDS: Final = 3


@dataclass(frozen=True, slots=True)
class Durations:
    """Seconds that each kind of measurement lasts; whole ones where iperf3 counts them."""

    ping: float = 5.0
    flow: int = 5
    exchange: float = 3.0
    settle: float = 2.0
    idle: float = 10.0
    datagrams: int = 1
    datagram_tries: int = 6


QUICK: Final = Durations(ping=2.0, flow=2, exchange=1.0, settle=1.0, idle=3.0, datagram_tries=4)


@dataclass(frozen=True, slots=True)
class Step:
    """One measurement on a line of nodes, and the rows that it fills."""

    keys: tuple[str, ...]
    measure: Callable[[Line], Figures]
    needs_iperf3: bool = False


Stage: TypeAlias = tuple[str, Sequence[Step]]
"""When the memory of processes is noted, after the steps; not at all when empty."""


def stages_for_two(durations: Durations) -> list[Stage]:
    """On two nodes, the quiet ones first: what a flow leaves in caches and queues mustn't be seen in them."""
    flow = durations.flow
    quiet = [
        Step(("cold_start",), measure_cold_start),
        Step(
            ("idle_cpu", "memory", "memory_process"),
            lambda line: measure_idle(line, durations.settle, durations.idle),
        ),
        Step(("ping_average", "ping_p99"), lambda line: measure_idle_ping(line, durations.ping)),
        Step(("exchange",), lambda line: measure_exchange(line, durations.exchange)),
    ]
    loud = [
        Step(("tcp", "cpu_direct"), lambda line: measure_tcp(line, flow), True),
        Step(("tcp_four",), lambda line: measure_tcp_four(line, flow), True),
        Step(("tcp_reverse",), lambda line: measure_tcp_reverse(line, flow), True),
        Step(("tcp_both",), lambda line: measure_tcp_both(line, flow), True),
        Step(
            ("ping_load_average", "ping_load_p99", "ping_load_lost"),
            lambda line: measure_loaded_ping(line, flow),
            True,
        ),
        Step(
            tuple(f"udp_lossless_{size}" for size in SIZES),
            lambda line: measure_lossless(line, durations.datagrams, durations.datagram_tries),
            True,
        ),
        Step(("udp",), lambda line: measure_udp(line, flow), True),
    ]
    deadly = [
        Step(("recovery_dialling",), measure_recovery_dialling),
        Step(("recovery_listening",), measure_recovery_listening),
    ]
    return [("before any flow", quiet), ("after the flows", loud), ("", deadly)]


def stages_for_three(durations: Durations) -> list[Stage]:
    """On three nodes in line."""
    steps = [
        Step(("exchange_relay",), lambda line: measure_exchange(line, durations.exchange, "exchange_relay")),
        Step(("tcp_relay", "cpu_relay"), lambda line: measure_tcp_relay(line, durations.flow), True),
    ]
    return [("", steps)]


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


def note_processes(line: Line, moment: str, results: Results) -> None:
    """Enters the memory of each process of the first node, if it is our own."""
    if isinstance(line.first, SeptateNode):
        try:
            results.add_processes(moment, memory_by_role(line.first))
        except LabError as error:
            say(f"no memory of processes {moment}: {str(error).splitlines()[0]}")


def measure_contender(kind: type[Node], durations: Durations, results: Results) -> None:
    """One repetition of everything for one contender, on fresh nodes."""
    two, three = stages_for_two(durations), stages_for_three(durations)
    for stages, network in ((two, listening_and_dialling), (three, three_in_line)):
        taken = False
        try:
            with network(kind) as line:
                taken = True
                for moment, steps in stages:
                    take(line, steps, results, kind.kind)
                    if moment:
                        note_processes(line, moment, results)
        except LabError as error:
            if taken:
                raise
            for _, steps in stages:
                for step in steps:
                    results.add(kind.kind, unavailable(str(error).splitlines()[0], *step.keys))
    try:
        results.add(kind.kind, measure_links(kind, durations.settle))
    except LabError as error:
        reason = str(error).splitlines()[0]
        results.add(kind.kind, unavailable(reason, "memory_link_1", "memory_link_4", "memory_link_16"))


def measure_all(present: Sequence[type[Node]], durations: Durations, repetitions: int, results: Results) -> None:
    """All repetitions: every contender in turn, then the pairs, then the next repetition."""
    for number in range(1, repetitions + 1):
        business = look()
        results.loads.append(business.load_average)
        say(f"repetition {number} of {repetitions}: {business}")
        for kind in present:
            say(f"repetition {number} of {repetitions}: {kind.kind}")
            measure_contender(kind, durations, results)
        for pair in MIXED_PAIRS:
            if all(kind in present for kind in pair):
                say(f"repetition {number} of {repetitions}: {name_of(*pair)}")
                results.add_pair(name_of(*pair), measure_pair(*pair, durations.flow))


def say(text: str) -> None:
    """Tells how far the run is, beside the tables."""
    print(text, file=sys.stderr, flush=True)


def run_check(quick: bool) -> int:
    """Sends long flows; exit code 0 when all arrived whole."""
    return 0 if check.check(check.QUICK_FLOW_BYTES if quick else check.FLOW_BYTES) else 1


def run_profile(quick: bool) -> int:
    """Profiles our own actors; exit code 0 when that worked, 2 when something is missing."""
    missing = profiling.missing()
    if missing is not None:
        print(f"no profile: {missing}", file=sys.stderr)
        return 2
    folder = RESULTS_FOLDER / time.strftime("%Y%m%d-%H%M%S-profile")
    try:
        profiling.profile(folder, QUICK_PROFILE_SECONDS if quick else PROFILE_SECONDS)
    except LabError as error:
        print(f"no profile: {error}", file=sys.stderr)
        return 1
    return 0


def run_comparison(wanted: Sequence[str], durations: Durations, repetitions: int) -> int:
    """Measures, prints the tables, writes the files; exit code 0 when at least one contender ran."""
    present, absent = split_by_presence(wanted)
    results = Results(describe_machine(), {kind.kind: version_of(kind) for kind in present}, absent)
    measure_all(present, durations, repetitions, results)
    machine = results.machine
    loads = ", ".join(f"{load:.1f}" for load in results.loads)
    print(
        f"{machine['processor']}, {machine['cores']} cores, Linux {machine['kernel']}, load average before each "
        f"repetition {loads}, medians of {repetitions}\n"
    )
    print("\n\n".join(filter(None, [table(results), pair_table(results), process_table(results)])))
    if present:
        RESULTS_FOLDER.mkdir(exist_ok=True)
        stem = RESULTS_FOLDER / time.strftime("%Y%m%d-%H%M%S")
        write_json(results, stem.with_suffix(".json"))
        write_svg(results, stem.with_suffix(".svg"))
        print(f"\nwritten: {stem}.json, {stem}.svg")
    return 0 if present else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit codes are those of what it runs, 2 when nothing can be run here."""
    parser = argparse.ArgumentParser(prog="python -m bench.run", description="Compare Septate with its peers.")
    parser.add_argument("--repetitions", type=int, default=3, help="of everything, contenders interleaved (default 3)")
    parser.add_argument("--quick", action="store_true", help="one repetition, shorter flows")
    parser.add_argument("--only", default="", help="contenders, separated by commas")
    parser.add_argument("--check", action="store_true", help="instead: send 2 GB on three ways and compare SHA-256")
    parser.add_argument("--profile", action="store_true", help="instead: profile every actor under a TCP stream")
    parser.add_argument("--messages", action="store_true", help="instead: messages and API calls (bench.messages)")
    given = parser.parse_args(arguments)
    enter_if_unprivileged("bench.run", sys.argv[1:] if arguments is None else arguments)
    missing = namespaces.available()
    if missing is not None:
        print(f"the benchmark cannot run: {missing}", file=sys.stderr)
        return 2
    if given.messages:
        quick = ["--quick"] if given.quick else []
        return messages.main(["--repetitions", str(given.repetitions), "--only", given.only, *quick])
    if given.check or given.profile:
        codes = [run_check(given.quick)] if given.check else []
        codes += [run_profile(given.quick)] if given.profile else []
        return max(codes)
    wanted = [name for name in given.only.lower().split(",") if name]
    repetitions = 1 if given.quick else max(1, given.repetitions)
    return run_comparison(wanted, QUICK if given.quick else Durations(), repetitions)


if __name__ == "__main__":
    sys.exit(main())
