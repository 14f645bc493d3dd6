"""The file that holds a node's secret key: reading it, making it, and who else could read it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from protocol.mycelium.identity import KEY_BYTES, KeyFileError, read_secret

_NEW_MODE: Final = 0o600
"""The reference's 0640 let the group read it (and its early versions everybody)."""


def load(path: Path) -> bytes:
    """The 32-byte secret in the file; what follows it there is ignored (wire spec 1.1).

    Raises `FileNotFoundError` where there is none, `KeyFileError` for any other problem.
    """
    try:
        with path.open("rb") as file:
            return read_secret(file.read(KEY_BYTES))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise KeyFileError(f"cannot read key file {path}: {error.strerror}; name another one with --key-file") from None
    except KeyFileError as error:
        raise KeyFileError(f"{path}: {error}") from None


def create(path: Path, secret: bytes, *, make_folder: bool) -> None:
    """Writes a new key file that only its owner may read.

    `make_folder` is for the default path: a folder that somebody named has to exist. Raises `KeyFileError`, also where
    the file exists by now.
    """
    try:
        if make_folder:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _NEW_MODE)
    except OSError as error:
        raise _cannot_write(path, error) from None
    _write(descriptor, path, secret)


def overwrite(path: Path, secret: bytes) -> None:
    """Puts a new key into an existing file: owner, group and mode stay, but others lose their rights first.

    Raises `KeyFileError`.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        os.fchmod(descriptor, stat.S_IMODE(os.fstat(descriptor).st_mode) & ~stat.S_IRWXO)
    except OSError as error:
        raise _cannot_write(path, error) from None
    _write(descriptor, path, secret)


def readable_by_others(path: Path) -> bool:
    """Whether users outside the file's group may read or write it."""
    return bool(path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH))


def _write(descriptor: int, path: Path, secret: bytes) -> None:
    try:
        # Not truncated before: a full disk must not cost the old key.
        os.pwrite(descriptor, secret, 0)
        os.ftruncate(descriptor, len(secret))
        os.fsync(descriptor)
    except OSError as error:
        raise _cannot_write(path, error) from None
    finally:
        os.close(descriptor)


def _cannot_write(path: Path, error: OSError) -> KeyFileError:
    return KeyFileError(f"cannot write key file {path}: {error.strerror}; name another one with --key-file")
