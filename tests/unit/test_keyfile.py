"""The secret key's file: who may read it, and that a write that fails or is killed costs nothing."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from actors.runtime import keyfile
from protocol.mycelium.identity import KeyFileError

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

OLD = bytes(range(32))
NEW = bytes(range(100, 132))


@pytest.fixture(autouse=True)
def _open_umask() -> Iterator[None]:
    old = os.umask(0)
    yield
    os.umask(old)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def create(path: Path) -> None:
    keyfile.create(path, NEW, make_folder=False)


def overwrite(path: Path) -> None:
    keyfile.overwrite(path, NEW)


def killed_at(monkeypatch: pytest.MonkeyPatch, call: str, write: Callable[[Path], None], path: Path) -> None:
    """Runs `write(path)` in a process that is killed when it calls `os.<call>`."""
    pid = os.fork()
    if pid == 0:
        try:
            monkeypatch.setattr(os, call, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            write(path)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


# --- a new key --------------------------------------------------------------------------------------------------------


def test_new_key_may_be_read_by_its_owner_only_and_is_alone(tmp_path: Path) -> None:
    path = tmp_path / "key"
    create(path)
    assert (keyfile.load(path), mode(path)) == (NEW, 0o600)
    assert not keyfile.readable_by_others(path)
    assert list(tmp_path.iterdir()) == [path]


def test_folder_is_made_for_the_default_path_only(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "key"
    with pytest.raises(KeyFileError, match="No such file or directory"):
        create(path)
    keyfile.create(path, NEW, make_folder=True)
    assert keyfile.load(path) == NEW
    assert mode(path.parent) == 0o700


def test_existing_key_is_not_created_over(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(OLD)
    with pytest.raises(KeyFileError, match="File exists"):
        create(path)
    assert keyfile.load(path) == OLD
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "link"])
def test_start_that_was_killed_while_it_made_a_key_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "key"
    killed_at(monkeypatch, call, create, path)
    with pytest.raises(FileNotFoundError):
        keyfile.load(path)
    assert {mode(left_over) for left_over in tmp_path.iterdir()} == {0o600}
    create(path)
    assert keyfile.load(path) == NEW


# --- a key in the place of another ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "after"), [(0o644, 0o640), (0o666, 0o660), (0o400, 0o400)])
def test_overwriting_takes_only_the_rights_of_others(tmp_path: Path, before: int, after: int) -> None:
    path = tmp_path / "key"
    path.write_bytes(OLD + b"and more")
    path.chmod(before)
    overwrite(path)
    assert (path.read_bytes(), mode(path)) == (NEW, after)
    assert list(tmp_path.iterdir()) == [path]


def test_overwriting_keeps_owner_and_group(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may give files away")
    path = tmp_path / "key"
    path.write_bytes(OLD)
    os.chown(path, 1234, 5678)
    path.chmod(0o640)
    overwrite(path)
    found = path.stat()
    assert (found.st_uid, found.st_gid, mode(path)) == (1234, 5678, 0o640)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_overwriting_that_is_killed_keeps_the_old_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "key"
    path.write_bytes(OLD)
    killed_at(monkeypatch, call, overwrite, path)
    assert keyfile.load(path) == OLD


def test_overwriting_follows_a_symbolic_link_to_the_key(tmp_path: Path) -> None:
    path, link = tmp_path / "key", tmp_path / "link"
    path.write_bytes(OLD)
    link.symlink_to(path)
    overwrite(link)
    assert link.is_symlink()
    assert keyfile.load(path) == NEW


@pytest.mark.parametrize("what", [Path("/dev/null"), Path("/tmp")])
def test_overwriting_what_is_no_file_is_an_error(what: Path) -> None:
    with pytest.raises(KeyFileError, match=f"cannot write key file {what}: Not a regular file"):
        overwrite(what)
    assert not stat.S_ISREG(what.stat().st_mode)


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [create, overwrite])
def test_full_disk_is_an_error_and_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None]
) -> None:
    path = tmp_path / "key"
    if write is overwrite:
        path.write_bytes(OLD)
    before = list(tmp_path.iterdir())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KeyFileError, match=f"cannot write key file {path}: No space left"):
        write(path)
    assert list(tmp_path.iterdir()) == before
    if write is overwrite:
        assert keyfile.load(path) == OLD


def test_short_key_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(OLD[:31])
    with pytest.raises(KeyFileError, match=f"{path}: .*31 bytes"):
        keyfile.load(path)


def test_unreadable_key_file_is_an_error_and_a_missing_one_another(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="Is a directory"):
        keyfile.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        keyfile.load(tmp_path / "absent")


def test_open_key_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(OLD)
    path.chmod(0o644)
    assert keyfile.readable_by_others(path)
