"""A memory file: what an actor wants its successor to know. Lives as long as the node, and never on a disk.

The supervisor holds the descriptor and hands it to each incarnation. Records are appended before what they describe
takes effect outside. A record torn by a kill fails its checksum and is cut off. The first 8 bytes say where the
records begin: that one word is how a shorter list of records replaces a longer one, whole or not at all.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import Final

from actors.runtime.pages import give_back_pages

MAX_RECORD: Final = 1 << 16
_HEAD: Final = struct.Struct("<II")
_START: Final = struct.Struct("<Q")
_READ: Final = 1 << 20


class MemoryFile:
    """Appends records to a descriptor, and reads back what a predecessor appended."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        if os.fstat(descriptor).st_size < _START.size:
            os.pwrite(descriptor, _START.pack(_START.size), 0)
        self._start: int = _START.unpack(os.pread(descriptor, _START.size, 0))[0]
        self._end = os.fstat(descriptor).st_size

    @property
    def size(self) -> int:
        """Bytes that the records take."""
        return self._end - self._start

    def replay(self) -> Iterator[bytes]:
        """All whole records, oldest first; what is torn behind them is cut off."""
        content = b"".join(self._content())
        position = 0
        while position + _HEAD.size <= len(content):
            length, checksum = _HEAD.unpack_from(content, position)
            body = content[position + _HEAD.size : position + _HEAD.size + length]
            if length > MAX_RECORD or len(body) < length or zlib.crc32(body) != checksum:
                break
            yield body
            position += _HEAD.size + length
        self._end = self._start + position
        os.ftruncate(self._descriptor, self._end)

    def append(self, records: Iterable[bytes]) -> None:
        """Adds records behind the others.

        Raises `ValueError` on one of more than `MAX_RECORD` bytes, which no successor would read.
        """
        data = b"".join(_framed(record) for record in records)
        os.pwrite(self._descriptor, data, self._end)
        self._end += len(data)

    def rewrite(self, records: Iterable[bytes]) -> None:
        """Replaces everything by fewer records that say the same, and gives the memory of the old ones back."""
        old_start, new_start = self._start, self._end
        self.append(records)
        os.pwrite(self._descriptor, _START.pack(new_start), 0)
        self._start = new_start
        # Where a kernel can't, the old records stay until the node ends.
        give_back_pages(self._descriptor, max(old_start, _START.size), new_start - old_start)

    def _content(self) -> Iterator[bytes]:
        position = self._start
        while part := os.pread(self._descriptor, _READ, position):
            yield part
            position += len(part)


def _framed(record: bytes) -> bytes:
    if len(record) > MAX_RECORD:
        raise ValueError(f"a record of {len(record)} bytes in a memory file, at most {MAX_RECORD}")
    return _HEAD.pack(len(record), zlib.crc32(record)) + record
