"""The results of a run: medians and ratios, as a table for people and as JSON for programs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from bench.rows import ROWS, Figures, Row, Value


@dataclass(slots=True)
class Results:
    """All figures of a run: contender → row key → one value per repetition."""

    machine: Mapping[str, str]
    versions: Mapping[str, str]
    absent: Mapping[str, str]
    values: dict[str, dict[str, list[Value]]] = field(default_factory=dict)

    def add(self, contender: str, figures: Figures) -> None:
        """Enters what one measurement found."""
        rows = self.values.setdefault(contender, {})
        for key, value in figures.items():
            rows.setdefault(key, []).append(value)

    def median(self, contender: str, row: Row) -> float | None:
        """The median over the repetitions that gave a figure; None when none did."""
        figures = [value for value in self.values.get(contender, {}).get(row.key, ()) if not isinstance(value, str)]
        return median(figures) if figures else None

    def reasons(self, contender: str, row: Row) -> list[str]:
        """Why repetitions gave no figure, each reason once."""
        values = self.values.get(contender, {}).get(row.key, ())
        return list(dict.fromkeys(value for value in values if isinstance(value, str)))

    @property
    def contenders(self) -> list[str]:
        """Those that ran, in order."""
        return list(self.values)


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


def table(results: Results) -> str:
    """The table, one line per row, and below it whatever is missing with its reason."""
    if not results.contenders:
        return "nothing ran:\n" + "\n".join(f"  {name}: {reason}" for name, reason in results.absent.items())
    own, *peers = results.contenders
    head = ["", "unit", *results.contenders, *(f"{own} ÷ {peer}" for peer in peers)]
    lines = [
        [row.title, row.unit]
        + [figure(results.median(name, row)) for name in results.contenders]
        + [ratio(results, row, peer) for peer in peers]
        for row in ROWS
    ]
    notes = [f"{name} did not run: {reason}" for name, reason in results.absent.items()]
    for name in results.contenders:
        for row in ROWS:
            notes.extend(f"{row.title}, {name}: {reason}" for reason in results.reasons(name, row))
    return "\n".join([*_aligned([head, *lines]), "", *notes]).rstrip()


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if index < 2 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def write_json(results: Results, path: Path) -> None:
    """All values and the medians."""
    medians = {name: {row.key: results.median(name, row) for row in ROWS} for name in results.contenders}
    document = {
        "machine": results.machine,
        "versions": results.versions,
        "absent": results.absent,
        "rows": [asdict(row) for row in ROWS],
        "medians": medians,
        "values": results.values,
    }
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
