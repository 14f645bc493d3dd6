"""Memory for packets: large, and taken from the system page by page as it is used."""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Final

_PUNCH_HOLE_KEEP_SIZE: Final = 0x03
_READ_ONLY_MODE: Final = 0o400

_libc = ctypes.CDLL(None, use_errno=True)


def untouched(size: int) -> memoryview:
    """`size` zero bytes; unlike a `bytearray`'s, its pages cost nothing before something is written to them."""
    return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def shared(name: str, size: int) -> tuple[int, int]:
    """Memory of `size` zero bytes that processes share: a descriptor to write through, and one that only reads.

    Whoever holds the second can't make a writable one of it: the file's mode forbids that to processes without
    capabilities, as all our actors are.
    """
    writable = os.memfd_create(name, os.MFD_CLOEXEC)
    os.ftruncate(writable, size)
    readable = os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
    os.fchmod(writable, _READ_ONLY_MODE)
    return writable, readable


def give_back_pages(descriptor: int, offset: int, length: int) -> bool:
    """Gives the memory of a range back to the system; it reads as zeros then. False where the kernel can't."""
    arguments = (ctypes.c_long(offset), ctypes.c_long(length))
    return bool(_libc.fallocate(descriptor, _PUNCH_HOLE_KEEP_SIZE, *arguments) == 0)
