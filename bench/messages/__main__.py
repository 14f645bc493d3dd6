"""Messages and API calls: Septate beside Mycelium, in the same run, repetitions interleaved, one table.

`python -m bench.messages [--quick] [--repetitions N] [--only septate,mycelium] [--rows rate,large]`, or
`make bench ARGS="--messages …"`. Needs root, as it builds network namespaces. Mycelium takes part when MYCELIUM_BIN
names its program.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from bench.contenders import Line, listening_and_dialling, version_of
from bench.machine import describe_machine, look
from bench.messages.measure import (
    QUICK,
    Amounts,
    measure_api,
    measure_huge,
    measure_inbox,
    measure_large,
    measure_latency,
    measure_rate,
    measure_rate_batches,
    measure_rate_both,
)
from bench.messages.rows import MESSAGE_ROWS
from bench.report import Results, table, write_json
from bench.rows import Figures, unavailable
from tests.lab import namespaces
from tests.lab.namespaces import LabError
from tests.lab.nodes import MyceliumNode, Node, SeptateNode
from tests.lab.sandbox import enter_if_unprivileged

RESULTS_FOLDER: Final = Path(__file__).resolve().parents[1] / "results"
KINDS: Final[tuple[type[Node], ...]] = (SeptateNode, MyceliumNode)
STEPS: Final[tuple[tuple[tuple[str, ...], Callable[[Line, Amounts], Figures]], ...]] = (
    (("api", "api_p99"), measure_api),
    (("latency", "latency_p99"), measure_latency),
    (("rate",), measure_rate),
    (("rate_batches",), measure_rate_batches),
    (("rate_both",), measure_rate_both),
    (("large",), measure_large),
    (("huge",), measure_huge),
    (("inbox", "inbox_more"), measure_inbox),
)
"""The rows that each measurement fills. Each has fresh nodes: what one leaves behind mustn't be seen in the next."""


def measure_contender(kind: type[Node], amounts: Amounts, wanted: Sequence[str], results: Results) -> None:
    """One repetition of everything for one contender. What fails leaves its reason in its rows."""
    for keys, measure in STEPS:
        if wanted and keys[0] not in wanted:
            continue
        say(f"  {kind.kind}: {keys[0]}")
        try:
            with listening_and_dialling(kind) as line:
                line.first.start().wait_until_up()
                line.first.wait_for_links(1)
                results.add(kind.kind, measure(line, amounts))
        except LabError as error:
            results.add(kind.kind, unavailable(str(error).splitlines()[0], *keys))


def say(text: str) -> None:
    """Tells how far the run is, beside the table."""
    print(text, file=sys.stderr, flush=True)


def run(contenders: Sequence[str], wanted: Sequence[str], amounts: Amounts, repetitions: int) -> int:
    """Measures, prints the table, writes the file; exit code 0 when at least one contender ran."""
    absent: dict[str, str] = {}
    present: list[type[Node]] = []
    for kind in KINDS:
        reason = "not asked for" if contenders and kind.kind.lower() not in contenders else kind.missing()
        if reason is None:
            present.append(kind)
        else:
            absent[kind.kind] = reason
    results = Results(describe_machine(), {kind.kind: version_of(kind) for kind in present}, absent)
    for number in range(1, repetitions + 1):
        business = look()
        results.loads.append(business.load_average)
        say(f"repetition {number} of {repetitions}: {business}")
        for kind in present:
            measure_contender(kind, amounts, wanted, results)
    rows = [row for row in MESSAGE_ROWS if not wanted or row.key.split("_p99")[0].split("_more")[0] in wanted]
    print(table(results, rows))
    if present:
        RESULTS_FOLDER.mkdir(exist_ok=True)
        path = RESULTS_FOLDER / time.strftime("%Y%m%d-%H%M%S-messages.json")
        write_json(results, path, rows)
        print(f"\nwritten: {path}")
    return 0 if present else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; exit code 2 when nothing can be run here."""
    parser = argparse.ArgumentParser(prog="python -m bench.messages", description="Compare messages and API calls.")
    parser.add_argument("--repetitions", type=int, default=3, help="of everything, contenders interleaved (default 3)")
    parser.add_argument("--quick", action="store_true", help="one repetition, fewer messages")
    parser.add_argument("--only", default="", help="contenders, separated by commas")
    parser.add_argument(
        "--rows", default="", help=f"measurements, separated by commas: {', '.join(keys[0] for keys, _ in STEPS)}"
    )
    given = parser.parse_args(arguments)
    enter_if_unprivileged("bench.messages", sys.argv[1:] if arguments is None else arguments)
    missing = namespaces.available()
    if missing is not None:
        print(f"the benchmark cannot run: {missing}", file=sys.stderr)
        return 2
    contenders, wanted = ([name for name in text.lower().split(",") if name] for text in (given.only, given.rows))
    repetitions = 1 if given.quick else max(1, given.repetitions)
    return run(contenders, wanted, QUICK if given.quick else Amounts(), repetitions)


if __name__ == "__main__":
    sys.exit(main())
