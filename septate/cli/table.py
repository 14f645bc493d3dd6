"""Tables, sizes and ages in the form that the reference prints (CLI spec 3.5)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with a rule above, between and below all rows; the header is the first one."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    text = [rule]
    for line in lines:
        cells = (f" {cell:<{width}} " for cell, width in zip(line, widths, strict=True))
        text += ["|" + "|".join(cells) + "|", rule]
    return "\n".join(text)


def size_text(octets: int) -> str:
    """`octets` with two decimals in the largest unit that is not larger than it, for example `1.50 KiB`."""
    power = 0
    while power < len(_UNITS) - 1 and octets >= 1024 ** (power + 1):
        power += 1
    return f"{octets / 1024**power:.2f} {_UNITS[power]}"


def age_text(seconds: int) -> str:
    """`Xd Xh Xm Xs` without leading zero units.

    The reference lets hours run to 59 and starts days anew at 60 (its quirk Q9); here a day has 24 hours.
    """
    minutes, left = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "m"), (left, "s")]
    while len(parts) > 1 and not parts[0][0]:
        del parts[0]
    return " ".join(f"{value}{unit}" for value, unit in parts)
