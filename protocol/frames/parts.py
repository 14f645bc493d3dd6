"""What frames of several kinds share: sizes, and long answers in parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

ADDRESS_BYTES: Final = 16
KEY_BYTES: Final = 32
MAX_PART: Final = 1024
"""Rows in one part of a long answer."""

_Row = TypeVar("_Row")


def in_parts(rows: Sequence[_Row]) -> Iterator[tuple[tuple[_Row, ...], bool]]:
    """Rows in parts that fit a frame, each with whether another follows; one empty part where there is nothing."""
    for start in range(0, max(1, len(rows)), MAX_PART):
        yield tuple(rows[start : start + MAX_PART]), start + MAX_PART < len(rows)
