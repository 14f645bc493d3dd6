"""Data of large messages: each in a file of its own beside the database, written once, in place, as it comes.

A file has a name that is never used again. The database says which files there are; one that it does not know was left
by a process that died, and goes.
"""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from collections.abc import Collection
from pathlib import Path
from typing import Final

FOLDER: Final = "bodies"
LARGE_BYTES: Final = 256 << 10
"""From here on a body is a file. Below, rows are faster: a file costs the disk two waits of its own."""
EARLY_BYTES: Final = 8 << 20
"""Written to one file since it was last synced: by then the disk should begin, or who waits at the end waits long."""
_MOST_OPEN: Final = 64
_NAME_BYTES: Final = 8


class Bodies:
    """The files of one folder. Raises `OSError` as the calls below it do: where the disk is full, for one."""

    def __init__(self, folder: Path) -> None:
        """`folder` is made where it is missing."""
        self.folder: Final = folder
        folder.mkdir(mode=0o700, exist_ok=True)
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._open: OrderedDict[str, int] = OrderedDict()
        """Name → descriptor, the one used longest ago first."""
        self._unsynced: dict[str, int] = {}
        """Name → bytes written since it was last synced."""

    def close(self) -> None:
        """Closes all files; what is not synced is on disk soon."""
        while self._open:
            os.close(self._open.popitem()[1])
        os.close(self._folder)

    def new(self) -> str:
        """Makes an empty file; its name."""
        name = os.urandom(_NAME_BYTES).hex()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._remember(name, os.open(name, flags, 0o600, dir_fd=self._folder))
        self._unsynced[name] = 0
        return name

    def write(self, name: str, at: int, data: bytes | memoryview) -> bool:
        """Writes `data` at an offset; whether so much was written by now that it should be synced early."""
        descriptor = self._descriptor(name)
        left = memoryview(data)
        while left:
            written = os.pwrite(descriptor, left, at)
            left = left[written:]
            at += written
        self._unsynced[name] = self._unsynced.get(name, 0) + len(data)
        return self._unsynced[name] >= EARLY_BYTES

    def read(self, name: str, at: int, size: int) -> bytes:
        """`size` bytes from an offset on, or as many as there are. Raises `FileNotFoundError` likewise."""
        descriptor = self._descriptor(name)
        parts = []
        while size and (part := os.pread(descriptor, size, at)):
            parts.append(part)
            at += len(part)
            size -= len(part)
        return b"".join(parts)

    def size(self, name: str) -> int:
        """Bytes of a file; -1 for one that is not there."""
        try:
            return os.stat(name, dir_fd=self._folder, follow_symlinks=False).st_size
        except FileNotFoundError:
            return -1

    def to_sync(self, name: str) -> tuple[int, int]:
        """Descriptors of the file and of the folder it is named in; the caller syncs both, and closes both."""
        self._unsynced[name] = 0
        return os.dup(self._descriptor(name)), os.dup(self._folder)

    def sync(self, name: str) -> None:
        """Returns when the file and its name are on disk."""
        self._unsynced[name] = 0
        os.fdatasync(self._descriptor(name))
        os.fsync(self._folder)

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        self._unsynced.pop(name, None)
        descriptor = self._open.pop(name, None)
        if descriptor is not None:
            os.close(descriptor)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._folder)

    def keep_only(self, names: Collection[str]) -> None:
        """Removes all other files."""
        for path in self.folder.iterdir():
            if path.name not in names:
                self.remove(path.name)

    def _descriptor(self, name: str) -> int:
        descriptor = self._open.get(name)
        if descriptor is None:
            descriptor = os.open(name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._folder)
            self._remember(name, descriptor)
        self._open.move_to_end(name)
        return descriptor

    def _remember(self, name: str, descriptor: int) -> None:
        self._open[name] = descriptor
        if len(self._open) > _MOST_OPEN:
            os.close(self._open.popitem(last=False)[1])
