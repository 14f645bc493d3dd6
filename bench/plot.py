"""The results as an SVG of horizontal bars, written by hand: one group per row, each scaled to its largest figure."""

from html import escape
from pathlib import Path
from typing import Final

from bench.report import Results, figure
from bench.rows import ROWS

COLOURS: Final = ("#2b7a4b", "#b5651d", "#4a6fa5", "#777777")
BAR_HEIGHT: Final = 14
GROUP_GAP: Final = 12
LABEL_WIDTH: Final = 420
BAR_WIDTH: Final = 420
FIGURE_WIDTH: Final = 110
TOP: Final = 50


def draw(results: Results) -> str:
    """The document. A row without any figure is left out: the table says why."""
    body: list[str] = []
    y = TOP
    for row in ROWS:
        medians = {name: results.median(name, row) for name in results.contenders}
        largest = max((value for value in medians.values() if value is not None), default=0.0)
        if largest <= 0:
            continue
        direction = "higher" if row.higher_is_better else "lower"
        label_y = y + BAR_HEIGHT * len(medians) / 2 + 4
        label = escape(f"{row.title} [{row.unit}], {direction} is better")
        body.append(f'<text x="{LABEL_WIDTH - 8}" y="{label_y:.0f}" text-anchor="end">{label}</text>')
        for index, value in enumerate(medians.values()):
            if value is not None:
                width = max(0.0, value / largest * BAR_WIDTH)
                body.append(
                    f'<rect x="{LABEL_WIDTH}" y="{y}" width="{width:.1f}" height="{BAR_HEIGHT - 2}" '
                    f'fill="{COLOURS[index % len(COLOURS)]}"/>'
                )
                body.append(f'<text x="{LABEL_WIDTH + width + 4:.1f}" y="{y + 10}">{figure(value)}</text>')
            y += BAR_HEIGHT
        y += GROUP_GAP
    width = LABEL_WIDTH + BAR_WIDTH + FIGURE_WIDTH
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y}" viewBox="0 0 {width} {y}" '
        'font-family="sans-serif" font-size="11">'
    )
    return "\n".join([head, f'<rect width="{width}" height="{y}" fill="white"/>', *_legend(results), *body, "</svg>\n"])


def _legend(results: Results) -> list[str]:
    parts: list[str] = []
    x = LABEL_WIDTH
    for index, name in enumerate(results.contenders):
        parts.append(f'<rect x="{x}" y="18" width="12" height="12" fill="{COLOURS[index % len(COLOURS)]}"/>')
        parts.append(f'<text x="{x + 17}" y="28">{escape(name)}</text>')
        x += 120
    return parts


def write_svg(results: Results, path: Path) -> None:
    """Writes the plot."""
    path.write_text(draw(results))
