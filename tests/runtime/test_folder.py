"""The runtime folder: claimed once, cleaned of what a dead node left, and never somebody else's."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.runtime.asking import LOCK_FILE
from actors.runtime.folder import FolderError, RuntimeFolder, base_folder

NOBODY = 65534


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the folders of nodes lie, as systemd says it: short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="st-"))
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(folder))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def claim(base: Path) -> Iterator[type[RuntimeFolder]]:
    """`RuntimeFolder`, whose folders are let go at the end."""
    claimed: list[RuntimeFolder] = []

    class Claiming(RuntimeFolder):
        def __init__(self, path: Path, lock: int) -> None:
            super().__init__(path, lock)
            claimed.append(self)

        def remove(self) -> None:
            claimed.remove(self)
            super().remove()

    yield Claiming
    while claimed:
        claimed[-1].remove()


def test_claimed_folder_lets_nobody_else_in(claim: type[RuntimeFolder], base: Path) -> None:
    folder = claim.claim(None, "mycelium")
    assert folder.path == base / "mycelium"
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder.path / LOCK_FILE).stat().st_mode) == 0o600


def test_mode_of_a_folder_that_stood_open_is_put_right(claim: type[RuntimeFolder], base: Path) -> None:
    (base / "mycelium").mkdir(mode=0o755)
    assert stat.S_IMODE(claim.claim(None, "mycelium").path.stat().st_mode) == 0o700


def test_second_node_without_a_name_gets_the_next_number(claim: type[RuntimeFolder], base: Path) -> None:
    names = [claim.claim(None, "mycelium").path.name for _ in range(3)]
    assert names == ["mycelium", "mycelium-2", "mycelium-3"]


def test_second_node_with_the_same_name_is_refused(claim: type[RuntimeFolder], base: Path) -> None:
    claim.claim("left", "mycelium")
    with pytest.raises(FolderError, match=rf"an instance 'left' runs already in {base}/left; choose another"):
        claim.claim("left", "mycelium")


def test_living_nodes_files_survive_a_second_claim(claim: type[RuntimeFolder], base: Path) -> None:
    folder = claim.claim("left", "mycelium")
    (folder.path / "router").write_bytes(b"in use")
    with pytest.raises(FolderError):
        claim.claim("left", "mycelium")
    assert (folder.path / "router").read_bytes() == b"in use"


def test_numbers_end_somewhere(claim: type[RuntimeFolder], base: Path) -> None:
    for _ in range(64):
        claim.claim(None, "mycelium")
    with pytest.raises(FolderError, match="64 instances run already"):
        claim.claim(None, "mycelium")


def test_files_of_a_dead_node_are_removed(claim: type[RuntimeFolder], base: Path) -> None:
    (base / "mycelium").mkdir()
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(base / "mycelium" / "router"))
    (base / "mycelium" / LOCK_FILE).touch()
    folder = claim.claim(None, "mycelium")
    assert [entry.name for entry in folder.path.iterdir()] == [LOCK_FILE]


def test_folder_is_free_again_when_its_node_is_gone(claim: type[RuntimeFolder], base: Path) -> None:
    claim.claim("left", "mycelium").remove()
    assert list(base.iterdir()) == []
    assert claim.claim("left", "mycelium").path == base / "left"


def test_lock_goes_with_the_process(claim: type[RuntimeFolder], base: Path) -> None:
    folder = claim.claim("left", "mycelium")
    with (folder.path / LOCK_FILE).open() as lock:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.close(folder._lock)
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    folder._lock = os.open("/dev/null", os.O_RDONLY)


def test_symbolic_link_is_refused_and_what_it_points_to_is_left_alone(claim: type[RuntimeFolder], base: Path) -> None:
    (base / "elsewhere").mkdir()
    (base / "elsewhere" / "precious").touch()
    (base / "mycelium").symlink_to(base / "elsewhere")
    with pytest.raises(FolderError, match=f"{base}/mycelium belongs to somebody else"):
        claim.claim(None, "mycelium")
    assert (base / "elsewhere" / "precious").exists()


def test_lock_that_is_a_symbolic_link_is_not_followed(claim: type[RuntimeFolder], base: Path) -> None:
    (base / "mycelium").mkdir()
    (base / "mycelium" / LOCK_FILE).symlink_to(base / "made")
    with pytest.raises(FolderError, match=f"cannot use the runtime folder below {base}"):
        claim.claim(None, "mycelium")
    assert not (base / "made").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder of somebody else")
def test_folder_of_somebody_else_is_refused(claim: type[RuntimeFolder], base: Path) -> None:
    (base / "mycelium").mkdir()
    (base / "mycelium" / "theirs").touch()
    os.chown(base / "mycelium", NOBODY, NOBODY)
    with pytest.raises(FolderError, match=f"{base}/mycelium belongs to somebody else; remove it"):
        claim.claim(None, "mycelium")
    assert (base / "mycelium" / "theirs").exists()


def test_folder_that_is_a_file_is_refused_by_name(claim: type[RuntimeFolder], base: Path) -> None:
    (base / "mycelium").touch()
    with pytest.raises(FolderError, match=f"cannot use the runtime folder below {base}: File exists"):
        claim.claim(None, "mycelium")


@pytest.mark.parametrize("instance", ["..", ".", "a/b", "/etc", " ", "-x", "x" * 65])
def test_name_that_could_lead_elsewhere_is_refused(claim: type[RuntimeFolder], base: Path, instance: str) -> None:
    with pytest.raises(FolderError, match="can't name a node"):
        claim.claim(instance, "mycelium")
    assert list(base.iterdir()) == []


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("..", "_."),
        (".", "_"),
        ("../etc", "_._etc"),
        ("a b", "a_b"),
        ("-x", "_x"),
        ("tun+0", "tun_0"),
        ("grün", "gr_n"),
    ],
)
def test_device_name_never_leads_out_of_the_base(
    claim: type[RuntimeFolder], base: Path, device: str, name: str
) -> None:
    assert claim.claim(None, device).path == base / name


def test_base_that_can_not_be_made_is_named_with_the_reason(
    claim: type[RuntimeFolder], base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (base / "file").touch()
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(base / "file" / "below"))
    with pytest.raises(FolderError, match=rf"below {base}/file/below: Not a directory; make room there, or set XDG_"):
        claim.claim(None, "mycelium")


def test_path_too_long_for_a_socket_is_refused_by_name_before_anything_is_made(
    claim: type[RuntimeFolder], base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = base / ("x" * 90)
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(long))
    with pytest.raises(FolderError, match=rf"socket paths in {long}/mycelium would have \d+ bytes, at most 107"):
        claim.claim(None, "mycelium")
    assert not (long / "mycelium").exists()


def test_longest_path_that_is_allowed_holds_every_socket(
    claim: type[RuntimeFolder], base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = 107 - len("/mycelium/link-4294967295.events") - len(str(base)) - 1
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(base / ("x" * room)))
    folder = claim.claim(None, "mycelium")
    with socket.socket(socket.AF_UNIX) as longest:
        longest.bind(str(folder.path / "link-4294967295.events"))


def test_first_folder_that_systemd_names_counts(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{base}:/run/other")
    assert base_folder() == base


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder of somebody else")
def test_base_that_somebody_else_made_is_not_trusted(base: Path) -> None:
    (base / "septate").mkdir(mode=0o777)
    base.chmod(0o777)
    (base / "septate").chmod(0o777)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setuid(NOBODY)
        del os.environ["RUNTIME_DIRECTORY"]
        os.environ["XDG_RUNTIME_DIR"] = str(base)
        try:
            RuntimeFolder.claim(None, "mycelium")
        except FolderError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(writer)
    with os.fdopen(reader) as words:
        assert words.read() == f"{base}/septate is not a folder of this user; remove it, or set XDG_RUNTIME_DIR"
