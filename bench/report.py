"""The results of a run: medians and ratios, as a table for people and as JSON for programs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Final, TypeAlias

from bench.rows import PAIR_ROWS, ROWS, Figures, Row, Value

PAIR_SIGN: Final = " → "

Series: TypeAlias = dict[str, dict[str, list[Value]]]
"""Name → key → one value per repetition."""


@dataclass(slots=True)
class Results:
    """All figures of a run.

    `values` are by contender and row, `pairs` (nodes of two kinds) by pair and row, `processes` (memory of our own
    node, MB) by process and moment; `loads` are the machine's load averages before each repetition.
    """

    machine: Mapping[str, str]
    versions: Mapping[str, str]
    absent: Mapping[str, str]
    values: Series = field(default_factory=dict)
    pairs: Series = field(default_factory=dict)
    processes: Series = field(default_factory=dict)
    loads: list[float] = field(default_factory=list)

    def add(self, contender: str, figures: Figures) -> None:
        """Enters what one measurement found."""
        _enter(self.values, contender, figures)

    def add_pair(self, pair: str, figures: Figures) -> None:
        """Enters what was found between nodes of two kinds."""
        _enter(self.pairs, pair, figures)

    def add_processes(self, moment: str, sizes: Mapping[str, float]) -> None:
        """Enters the memory of every process at one moment."""
        for process, size in sizes.items():
            _enter(self.processes, process, {moment: size})

    def median(self, contender: str, row: Row) -> float | None:
        """The median over the repetitions that gave a figure; None when none did."""
        return _median(self.values.get(contender, {}).get(row.key, ()))

    def pair_median(self, pair: str, row: Row) -> float | None:
        """The same of a pair; nodes of one kind are a pair too."""
        sending, _, receiving = pair.partition(PAIR_SIGN)
        if sending == receiving:
            return self.median(sending, row)
        return _median(self.pairs.get(pair, {}).get(row.key, ()))

    def reasons(self, contender: str, row: Row) -> list[str]:
        """Why repetitions gave no figure, each reason once."""
        return _reasons(self.values.get(contender, {}).get(row.key, ()))

    @property
    def contenders(self) -> list[str]:
        """Those that ran, in order."""
        return list(self.values)


def _enter(series: Series, name: str, figures: Figures) -> None:
    rows = series.setdefault(name, {})
    for key, value in figures.items():
        rows.setdefault(key, []).append(value)


def _median(values: Sequence[Value]) -> float | None:
    figures = [value for value in values if not isinstance(value, str)]
    return median(figures) if figures else None


def _reasons(values: Sequence[Value]) -> list[str]:
    return list(dict.fromkeys(value for value in values if isinstance(value, str)))


def ratio(results: Results, row: Row, peer: str) -> str:
    """The first contender's median divided by the peer's, and whether that is good."""
    own, other = results.median(results.contenders[0], row), results.median(peer, row)
    if own is None or other is None or other <= 0:
        return "–"
    quotient = own / other
    if abs(quotient - 1) < 0.03:
        verdict = "even"
    else:
        verdict = "better" if (quotient > 1) == row.higher_is_better else "worse"
    return f"{quotient:.2f} {verdict}"


def figure(value: float | None) -> str:
    """A number with three significant digits, thousands in full; a dash for none."""
    if value is None:
        return "–"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(results: Results, rows: Sequence[Row] = ROWS) -> str:
    """The table, one line per row, and below it whatever is missing with its reason."""
    if not results.contenders:
        return "nothing ran:\n" + "\n".join(f"  {name}: {reason}" for name, reason in results.absent.items())
    own, *peers = results.contenders
    head = ["", "unit", *results.contenders, *(f"{own} ÷ {peer}" for peer in peers)]
    lines = [
        [row.title, row.unit]
        + [figure(results.median(name, row)) for name in results.contenders]
        + [ratio(results, row, peer) for peer in peers]
        for row in rows
    ]
    notes = [f"{name} did not run: {reason}" for name, reason in results.absent.items()]
    for name in results.contenders:
        for row in rows:
            notes.extend(f"{row.title}, {name}: {reason}" for reason in results.reasons(name, row))
    return "\n".join([*_aligned([head, *lines]), "", *notes]).rstrip()


def pair_table(results: Results) -> str:
    """One stream between nodes of two kinds, beside both kinds alone; empty when no pair was measured."""
    if not results.pairs:
        return ""
    kinds = list(dict.fromkeys(kind for pair in results.pairs for kind in pair.split(PAIR_SIGN)))
    alone = [f"{kind}{PAIR_SIGN}{kind}" for kind in kinds]
    names = [*alone[:1], *results.pairs, *alone[1:]]
    lines = [["TCP, one stream; the sender of the bulk first", *(f"{row.title} [{row.unit}]" for row in PAIR_ROWS)]]
    lines += [[name, *(figure(results.pair_median(name, row)) for row in PAIR_ROWS)] for name in names]
    notes = [
        f"{name}: {reason}"
        for name, rows in results.pairs.items()
        for reason in dict.fromkeys(reason for values in rows.values() for reason in _reasons(values))
    ]
    return "\n".join([*_aligned(lines, text_columns=1), *notes])


def process_table(results: Results) -> str:
    """The memory of every process of our own node; empty when it wasn't measured."""
    if not results.processes:
        return ""
    moments = list(dict.fromkeys(moment for sizes in results.processes.values() for moment in sizes))
    medians = {
        process: [_median(sizes.get(moment, ())) for moment in moments] for process, sizes in results.processes.items()
    }
    sums = [sum(sizes[index] or 0.0 for sizes in medians.values()) for index in range(len(moments))]
    lines = [
        ["process, PSS in MB", *moments],
        *([process, *(figure(size) for size in sizes)] for process, sizes in medians.items()),
        ["sum", *(figure(size) for size in sums)],
    ]
    return "\n".join(_aligned(lines, text_columns=1))


def _aligned(rows: Sequence[Sequence[str]], text_columns: int = 2) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if index < text_columns else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def write_json(results: Results, path: Path, rows: Sequence[Row] = ROWS) -> None:
    """All values and the medians."""
    medians = {name: {row.key: results.median(name, row) for row in rows} for name in results.contenders}
    document = {
        "machine": results.machine,
        "versions": results.versions,
        "absent": results.absent,
        "rows": [asdict(row) for row in rows],
        "medians": medians,
        "values": results.values,
        "pairs": results.pairs,
        "processes_mb": results.processes,
        "load_averages": results.loads,
    }
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
