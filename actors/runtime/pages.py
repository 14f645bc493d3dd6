"""Memory for packets: large, and taken from the system page by page as it is used."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
from typing import Final

_FIXED_SIZE: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_PUNCH_HOLE_KEEP_SIZE: Final = 0x03
_READ_ONLY_MODE: Final = 0o400
_NOBODY: Final = 65534

_libc = ctypes.CDLL(None, use_errno=True)


class MemoryRefused(Exception):
    """Somebody shows memory that can't be looked into safely; says why."""


def untouched(size: int) -> memoryview:
    """`size` zero bytes; unlike a `bytearray`'s, its pages cost nothing before something is written to them."""
    return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def shared(name: str, size: int) -> tuple[int, int]:
    """Memory of `size` zero bytes that processes share: a descriptor to write through, and one that only reads.

    Whoever holds the second can't make a writable one of it: the file's mode forbids that to processes without
    capabilities, as all our actors are. Its owner could still change the mode, so where this process may, it makes it
    nobody's. (A seal against writing would hold in any case, but idle memory could not be given back any more.)
    """
    writable = fixed(name, size)
    readable = os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
    os.fchmod(writable, _READ_ONLY_MODE)
    with contextlib.suppress(OSError):
        os.fchown(writable, _NOBODY, _NOBODY)
    return writable, readable


def fixed(name: str, size: int) -> int:
    """A descriptor of `size` zero bytes in memory whose size nobody can change.

    A process that looks into memory which somebody cuts short is killed by SIGBUS.
    """
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _FIXED_SIZE)
    return descriptor


def look_into(descriptor: int, size: int) -> memoryview:
    """The memory of `size` bytes behind `descriptor`, which came from another process, for reading.

    Raises `MemoryRefused` for anything but memory of exactly this size that stays so.
    """
    try:
        found = os.fstat(descriptor).st_size
        if found != size or not fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
            raise MemoryRefused(f"memory of {found} bytes, not {size} that nobody can cut short")
        return memoryview(mmap.mmap(descriptor, size, mmap.MAP_SHARED, mmap.PROT_READ))
    except OSError as error:
        raise MemoryRefused(f"what was shown can't be looked into: {error.strerror}") from error


def give_back_pages(descriptor: int, offset: int, length: int) -> bool:
    """Gives the memory of a range back to the system; it reads as zeros then. False where the kernel can't."""
    arguments = (ctypes.c_long(offset), ctypes.c_long(length))
    return bool(_libc.fallocate(descriptor, _PUNCH_HOLE_KEEP_SIZE, *arguments) == 0)
