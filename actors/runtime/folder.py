"""The runtime folder of a node: where its sockets lie, who may enter, and which instances live."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from pathlib import Path
from typing import Final

from actors.runtime.asking import LOCK_FILE, NoInstance, check_owner, instance_name, runtime_root

SOCKET_PATH_BYTES: Final = 107
"""sun_path of unix(7), less the final zero."""
_LONGEST_NAME: Final = "link-4294967295.events"
_MOST_INSTANCES: Final = 64
_LONGEST_DEFAULT: Final = 60
_NOT_IN_A_NAME: Final = re.compile(r"^[.-]|[^A-Za-z0-9_.-]")


class FolderError(Exception):
    """The runtime folder can't be used; says which, why, and what to do."""


def base_folder() -> Path:
    """Where the folders of this user's nodes lie: where systemd says, else where people look for them."""
    given = os.environ.get("RUNTIME_DIRECTORY")
    return Path(given.split(":")[0]) if given else runtime_root()


class RuntimeFolder:
    """A claimed folder. Owns the lock that says it lives; the lock goes with the process."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def claim(cls, instance: str | None, default: str) -> RuntimeFolder:
        """Claims the folder of the named instance, or else the first free one of `default`, `default-2`, …

        Raises `FolderError`.
        """
        base = base_folder()
        plain = _folder_name(default)
        try:
            base.mkdir(mode=0o755 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
            if base == runtime_root():
                check_owner(base)
            names = (
                [instance_name(instance)]
                if instance
                else [plain, *(f"{plain}-{n}" for n in range(2, _MOST_INSTANCES + 1))]
            )
            for name in names:
                claimed = cls._claim(base / name)
                if claimed is not None:
                    return claimed
        except NoInstance as error:
            raise FolderError(str(error)) from error
        except OSError as error:
            raise FolderError(
                f"cannot use the runtime folder below {base}: {error.strerror}; "
                "make room there, or set XDG_RUNTIME_DIR to a writable folder"
            ) from error
        if instance:
            raise FolderError(f"an instance {instance!r} runs already in {base / instance}; choose another --instance")
        raise FolderError(f"{_MOST_INSTANCES} instances run already below {base}; name one with --instance")

    @classmethod
    def _claim(cls, path: Path) -> RuntimeFolder | None:
        longest = len(os.fsencode(path / _LONGEST_NAME))
        if longest > SOCKET_PATH_BYTES:
            raise FolderError(
                f"socket paths in {path} would have {longest} bytes, at most {SOCKET_PATH_BYTES}; "
                "choose a shorter --instance or XDG_RUNTIME_DIR"
            )
        path.mkdir(mode=0o700, exist_ok=True)
        if path.stat().st_uid != os.geteuid() or path.is_symlink():
            raise FolderError(f"{path} belongs to somebody else; remove it or choose another --instance")
        path.chmod(0o700)
        lock = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        for left_over in path.iterdir():
            if left_over.name != LOCK_FILE:
                left_over.unlink()
        os.write(lock, b"")
        return cls(path, lock)

    def forget_sockets_of(self, actor: str) -> None:
        """Removes what an actor that won't come back left here; one that was killed could not."""
        for suffix in ("", ".events", ".lane"):
            (self.path / f"{actor}{suffix}").unlink(missing_ok=True)

    def remove(self) -> None:
        """Removes the folder with all that lies in it, and lets go of it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _folder_name(text: str) -> str:
    # The name of a device may hold what leads out of the base folder; what lies in a claimed one is removed.
    return _NOT_IN_A_NAME.sub("_", text)[:_LONGEST_DEFAULT]
