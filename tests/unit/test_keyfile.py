"""The secret key's file: who may read it, and what a failed write costs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.mycelium.identity import KeyFileError
from septate import keyfile

OLD = bytes(range(32))
NEW = bytes(range(100, 132))


@pytest.fixture(autouse=True)
def _open_umask() -> Iterator[None]:
    old = os.umask(0)
    yield
    os.umask(old)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_new_key_may_be_read_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "key"
    keyfile.create(path, NEW, make_folder=False)
    assert (keyfile.load(path), mode(path)) == (NEW, 0o600)
    assert not keyfile.readable_by_others(path)


def test_folder_is_made_for_the_default_path_only(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "key"
    with pytest.raises(KeyFileError, match="No such file or directory"):
        keyfile.create(path, NEW, make_folder=False)
    keyfile.create(path, NEW, make_folder=True)
    assert keyfile.load(path) == NEW
    assert mode(path.parent) == 0o700


def test_existing_key_is_not_created_over(tmp_path: Path) -> None:
    path = tmp_path / "key"
    keyfile.create(path, OLD, make_folder=False)
    with pytest.raises(KeyFileError, match="File exists"):
        keyfile.create(path, NEW, make_folder=False)
    assert keyfile.load(path) == OLD


@pytest.mark.parametrize(("before", "after"), [(0o644, 0o640), (0o666, 0o660), (0o400, 0o400)])
def test_overwriting_takes_only_the_rights_of_others(tmp_path: Path, before: int, after: int) -> None:
    path = tmp_path / "key"
    path.write_bytes(OLD + b"and more")
    path.chmod(before)
    if before & 0o200 or os.geteuid() == 0:
        keyfile.overwrite(path, NEW)
        assert path.read_bytes() == NEW
        assert mode(path) == after


def test_overwriting_what_is_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="cannot write key file"):
        keyfile.overwrite(tmp_path, NEW)


def test_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    path.write_bytes(OLD)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(KeyFileError, match="No space left"):
        keyfile.overwrite(path, NEW)
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
