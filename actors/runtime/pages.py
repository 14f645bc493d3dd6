"""Memory for packets: large, and taken from the system page by page as it is used."""

from __future__ import annotations

import mmap


def untouched(size: int) -> memoryview:
    """`size` zero bytes; unlike a `bytearray`'s, its pages cost nothing before something is written to them."""
    return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
