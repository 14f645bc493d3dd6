"""A bar on a terminal for what takes a while; nothing anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from septate.cli.table import size_text
from septate.exchange import Progress

SHOWN_FROM_BYTES: Final = 1_000_000
_EVERY_S: Final = 0.1
_WIDTH: Final = 30
_CLEAR: Final = "\r\x1b[K"


@contextmanager
def bar(label: str) -> Iterator[Progress | None]:
    """What to call with the bytes moved so far and in all, or None where standard error is no terminal.

    The bar is gone when the context ends: an error message, or the prompt, starts on a clean line.
    """
    if not sys.stderr.isatty():
        yield None
        return
    begun = time.monotonic()
    drawn_at = 0.0

    def draw(done: int, total: int) -> None:
        nonlocal drawn_at
        now = time.monotonic()
        if total <= SHOWN_FROM_BYTES or (now - drawn_at < _EVERY_S and done < total):
            return
        drawn_at = now
        sys.stderr.write(_CLEAR + line(label, done, total, now - begun))
        sys.stderr.flush()

    try:
        yield draw
    finally:
        if drawn_at:
            sys.stderr.write(_CLEAR)
            sys.stderr.flush()


def line(label: str, done: int, total: int, seconds: float) -> str:
    """The bar as text: `label [####----]  50 %  1.00 MiB of 2.00 MiB  3.00 MiB/s`."""
    filled = done * _WIDTH // total
    rate = f"  {size_text(int(done / seconds))}/s" if seconds > 0 else ""
    return (
        f"{label} [{'#' * filled}{'-' * (_WIDTH - filled)}] {done * 100 // total:3} %  "
        f"{size_text(done)} of {size_text(total)}{rate}"
    )
