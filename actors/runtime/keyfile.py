"""The file that holds a node's secret key: reading it, making it, and who else could read it.

A key is written to a file beside it, which takes its name when it is whole and on the disk: whatever happens, there is
the old key, the new one, or none.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
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
    with _failures_named(path):
        if make_folder:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A link, unlike a renamed file, never takes the place of another.
        _put(path, secret, os.link, lambda _: None)


def overwrite(path: Path, secret: bytes) -> None:
    """Puts a new key in the place of an existing file; owner, group and mode stay, less the rights of others.

    Raises `KeyFileError`.
    """
    with _failures_named(path):
        # Behind a symbolic link there is the file that is meant.
        target = path.resolve(strict=True)
        before = target.stat()
        if not stat.S_ISREG(before.st_mode):
            raise OSError(errno.EINVAL, "Not a regular file")

        def inherit(descriptor: int) -> None:
            os.fchown(descriptor, before.st_uid, before.st_gid)
            os.fchmod(descriptor, stat.S_IMODE(before.st_mode) & ~stat.S_IRWXO)

        _put(target, secret, os.replace, inherit)


def readable_by_others(path: Path) -> bool:
    """Whether users outside the file's group may read or write it."""
    return bool(path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH))


def _put(path: Path, secret: bytes, move: Callable[[Path, Path], None], inherit: Callable[[int], None]) -> None:
    """Writes `secret` to a new file beside `path`, and has `move` bring it there."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _NEW_MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secret)
            file.flush()
            inherit(descriptor)
            os.fsync(descriptor)
        move(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def _failures_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise KeyFileError(
            f"cannot write key file {path}: {error.strerror}; name another one with --key-file"
        ) from None
