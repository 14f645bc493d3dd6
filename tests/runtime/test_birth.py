"""How a process is born: with its own descriptors and nothing else, few rights, and no way to outlive its parent."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.runtime import confine
from actors.runtime.actor import Runtime
from actors.runtime.birth import fork_once
from actors.runtime.channel import Channel
from protocol.frames import SCHEMA, Hello, Ready, Role, Stop
from tests.runtime.children import PATIENCE, Child, as_the_supervisor, born, run_folder, tell

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

SECRET = bytes(range(100, 132))

landlock = pytest.mark.skipif(confine.landlock_abi() == 0, reason="this kernel has no Landlock")


@pytest.fixture
def run() -> Iterator[Path]:
    with run_folder() as folder:
        yield folder


def _status(pid: int | str) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def _attempt(action: Any) -> str:
    """What came of `action`: `done`, or the name of the error."""
    try:
        action()
    except OSError as error:
        return type(error).__name__
    return "done"


# --- descriptors ------------------------------------------------------------------------------------------------------


def test_child_has_its_own_descriptors_and_no_others(run: Path) -> None:
    def main(runtime: Runtime, _: None) -> None:
        runtime.context.destroy()
        # The one that lists them is open while it does.
        names = [Path(f"/proc/self/fd/{entry.name}") for entry in Path("/proc/self/fd").iterdir()]
        tell(runtime, sorted(str(name.readlink()) for name in names if int(name.name) > 2 and name.is_symlink()))

    mine, others = os.memfd_create("mine"), os.memfd_create("somebody-elses")
    with socket.create_server(("127.0.0.1", 0)) as listener, born(run, main, descriptors=(mine,)) as child:
        held = child.told()
        assert [name for name in held if "mine" in name] == ["/memfd:mine (deleted)"]
        assert not [name for name in held if "somebody" in name]
        assert f"socket:[{os.fstat(listener.fileno()).st_ino}]" not in held
        # Besides: the channel.
        assert len([name for name in held if name.startswith("socket:")]) == 1
    os.close(mine)
    os.close(others)


def test_closing_all_but_some_leaves_exactly_those() -> None:
    program = """
import os
from pathlib import Path
from actors.runtime.confine import close_all_but
null = os.open("/dev/null", os.O_RDONLY)
for number in (3, 4, 5, 9, 10, 200, 4000):
    os.dup2(null, number) if number != null else None
close_all_but((4, 9, 200, 1, 4, 70000))
found = []
for number in range(3, 5000):
    try:
        os.fstat(number)
    except OSError:
        continue
    found.append(number)
print(found)
"""
    resource_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if resource_limit < 4096:
        program = program.replace("4000", "400")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[4, 9, 200]"


# --- rights -----------------------------------------------------------------------------------------------------------


def test_child_has_no_capability_and_gets_no_new_ones(run: Path) -> None:
    with born(run, lambda runtime, _: runtime.serve()) as child:
        child.hear(Ready)
        status = _status(child.pid)
    held = {name: int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")}
    assert held == dict.fromkeys(held, 0)
    assert status["NoNewPrivs"] == "1"
    if os.geteuid() == 0:
        assert int(status["CapBnd"], 16) == 0


def test_threads_of_a_child_have_no_capability_either(run: Path) -> None:
    with born(run, lambda runtime, _: runtime.serve()) as child:
        child.hear(Ready)
        threads = [thread.name for thread in Path(f"/proc/{child.pid}/task").iterdir()]
        effective = [_status(f"{child.pid}/task/{thread}")["CapEff"] for thread in threads]
    assert len(threads) > 1
    assert {int(word, 16) for word in effective} == {0}


def test_folder_where_it_was_started_is_none_that_it_may_read(tmp_path: Path) -> None:
    here, listed, installed = tmp_path / "here", tmp_path / "listed", tmp_path / "lib" / "site-packages"
    for folder in (here, listed, installed):
        folder.mkdir(parents=True)
    (here / "started.py").write_text(
        "import actors.runtime.confine as confine; print(*confine.python_trees(), sep='\\n')"
    )
    path = f"{Path(__file__).parents[2]}:{listed}:{installed}:relative/site-packages"
    done = subprocess.run(
        [sys.executable, "-m", "started"],
        cwd=here,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    trees = [Path(line) for line in done.stdout.splitlines()]
    assert [tree for tree in trees if tree in (here, listed, *Path(__file__).parents)] == []
    assert installed in trees
    assert all(tree.is_absolute() for tree in trees)
    assert any(Path(pytest.__file__).is_relative_to(tree) for tree in trees)


@landlock
def test_file_outside_of_its_rights_can_not_be_read_and_the_runtime_folder_can_be_used(
    run: Path, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_bytes(SECRET)

    def main(runtime: Runtime, _: None) -> None:
        results = {
            "read the key": _attempt(key.read_bytes),
            "list its folder": _attempt(lambda: list(tmp_path.iterdir())),
            "write beside it": _attempt(lambda: (tmp_path / "other").write_bytes(b"x")),
            "write in the runtime folder": _attempt(lambda: (run / "new").write_bytes(b"x")),
            "read it again": _attempt((run / "new").read_bytes),
            "remove it": _attempt((run / "new").unlink),
            "bind a socket there": _attempt(lambda: socket.socket(socket.AF_UNIX).bind(str(run / "socket"))),
            "read Python's own files": _attempt(Path(os.__file__).read_bytes),
            "write them": _attempt(lambda: os.close(os.open(os.__file__, os.O_WRONLY))),
        }
        tell(runtime, results)

    with born(run, main) as child:
        assert child.told() == {
            "read the key": "PermissionError",
            "list its folder": "PermissionError",
            "write beside it": "PermissionError",
            "write in the runtime folder": "done",
            "read it again": "done",
            "remove it": "done",
            "bind a socket there": "done",
            "read Python's own files": "done",
            "write them": "PermissionError",
        }


@landlock
def test_file_that_is_named_may_be_read_but_not_its_neighbour(run: Path, tmp_path: Path) -> None:
    named, neighbour = tmp_path / "named", tmp_path / "neighbour"
    for path in (named, neighbour):
        path.write_bytes(b"x")

    def main(runtime: Runtime, _: None) -> None:
        tell(runtime, [_attempt(named.read_bytes), _attempt(neighbour.read_bytes)])

    with born(run, main, read=(named, tmp_path / "absent")) as child:
        assert child.told() == ["done", "PermissionError"]


@pytest.mark.skipif(confine.landlock_abi() < 4, reason="this kernel's Landlock knows no TCP")
def test_child_that_does_not_dial_can_not(run: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()

        def main(runtime: Runtime, _: None) -> None:
            tell(runtime, _attempt(lambda: socket.create_connection(address, 5)))

        with born(run, main) as child:
            assert child.told() == "PermissionError"


@pytest.mark.skipif(confine.landlock_abi() < 6, reason="this kernel's Landlock knows no signals")
def test_child_can_not_signal_others(run: Path) -> None:
    parent = os.getpid()

    def main(runtime: Runtime, _: None) -> None:
        tell(runtime, _attempt(lambda: os.kill(parent, 0)))

    with born(run, main) as child:
        assert child.told() == "PermissionError"


def test_child_leaves_no_core_file(run: Path) -> None:
    with born(run, lambda runtime, _: runtime.serve()) as child:
        child.hear(Ready)
        assert resource.prlimit(child.pid, resource.RLIMIT_CORE) == (0, 0)


@pytest.mark.parametrize("dumpable", [True, False])
def test_child_with_a_secret_is_not_dumpable(run: Path, dumpable: bool) -> None:
    def main(runtime: Runtime, _: None) -> None:
        runtime.serve()

    with born(run, main, dumpable=dumpable) as child:
        child.hear(Ready)
        # PR_GET_DUMPABLE asks about the caller only; from outside, it shows in who owns /proc/PID.
        program = "import ctypes; print(ctypes.CDLL(None).prctl(3))"
        assert int(subprocess.check_output([sys.executable, "-c", program])) == 1
        environment = Path(f"/proc/{child.pid}/environ")
        if os.geteuid() == 0:
            assert _flags(child) == dumpable
        else:
            assert os.access(environment, os.R_OK) == dumpable


def _flags(child: Child) -> bool:
    """Whether a process without rights over others, of the same user, may read the child's memory."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        word = b"error"
        try:
            confine.drop_capabilities()
            with Path(f"/proc/{child.pid}/environ").open("rb") as environment:
                environment.read()
            word = b"open"
        except OSError:
            word = b"closed"
        finally:
            os.write(writer, word)
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(writer)
    with os.fdopen(reader, "rb") as words:
        return {b"open": True, b"closed": False}[words.read()]


# --- life and death ---------------------------------------------------------------------------------------------------


def test_first_word_is_a_hello_with_schema_and_pid(run: Path) -> None:
    with born(run, lambda runtime, _: runtime.serve(), name="router") as child:
        assert child.hear(Hello) == Hello(SCHEMA, Role.STATUS, "router", child.pid)


def test_title_says_what_the_process_is(run: Path) -> None:
    with born(run, lambda runtime, _: runtime.serve()) as child:
        child.hear(Ready)
        title = Path(f"/proc/{child.pid}/cmdline").read_bytes().rstrip(b"\0")
    assert title == b"septate: probe of a test"


def test_prepare_runs_with_the_rights_of_the_parent_and_its_result_reaches_main(run: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(SECRET)

    def prepare() -> list[str]:
        return [key.read_bytes().hex(), _status("self")["CapEff"]]

    def main(runtime: Runtime, prepared: list[str]) -> None:
        tell(runtime, prepared)

    with born(run, main, prepare=prepare) as child:
        assert child.told() == [SECRET.hex(), _status("self")["CapEff"]]


def test_child_ends_with_code_0_when_main_returns(run: Path) -> None:
    with born(run, lambda *_: None) as child:
        assert child.ended() == 0


def test_child_that_is_told_to_stop_does(run: Path) -> None:
    with born(run, lambda runtime, _: runtime.serve()) as child:
        child.hear(Ready)
        child.channel.send(Stop("enough"))
        assert child.ended() == 0


@pytest.mark.parametrize("place", ["prepare", "main"])
def test_exception_is_printed_without_the_secret_and_the_child_ends_with_code_1(
    run: Path, capfd: pytest.CaptureFixture[str], place: str
) -> None:
    def prepare() -> bytes:
        secret = bytes(SECRET)
        if place == "prepare":
            raise RuntimeError("broken at birth")
        return secret

    def main(runtime: Runtime, secret: bytes) -> None:
        key = {"secret": secret}
        raise RuntimeError(f"broken in life with {len(key)} keys")

    with born(run, main, prepare=prepare) as child:
        assert child.ended() == 1
    printed = capfd.readouterr().err
    assert f"RuntimeError: broken {'at birth' if place == 'prepare' else 'in life with 1 keys'}" in printed
    assert "Traceback" in printed
    assert not [text for text in (SECRET.hex(), repr(SECRET)[2:-1], str(list(SECRET))[1:-1]) if text in printed]


def test_exit_from_within_an_actor_is_an_end_like_any_other(run: Path) -> None:
    with born(run, lambda *_: sys.exit(7)) as child:
        assert child.ended() == 1


def test_child_never_comes_back_from_its_birth_even_without_standard_error(run: Path) -> None:
    def main(runtime: Runtime, _: None) -> None:
        os.close(2)
        raise RuntimeError("nobody reads this")

    with born(run, main) as child:
        assert child.ended() == 1


def test_child_of_a_killed_parent_is_killed(run: Path) -> None:
    reader, writer = os.pipe()
    parent = os.fork()
    if parent == 0:
        try:
            with born(run, lambda runtime, _: runtime.serve()) as child:
                child.hear(Ready)
                os.write(writer, b"%d" % child.pid)
                signal.pause()
        finally:
            os._exit(1)
    os.close(writer)
    pidfd = os.pidfd_open(int(os.read(reader, 16)))
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    assert select.select([pidfd], [], [], PATIENCE)[0], "the child outlived its parent"
    os.close(pidfd)
    os.close(reader)


def test_parent_that_died_in_the_moment_of_birth_is_noticed() -> None:
    pid = os.fork()
    if pid == 0:
        try:
            confine.die_with_parent(os.getppid() + 1)
        finally:
            os._exit(42)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


def test_interrupt_from_the_keyboard_is_the_supervisors_business(run: Path) -> None:
    with born(run, lambda runtime, _: runtime.serve()) as child:
        child.hear(Ready)
        os.kill(child.pid, signal.SIGINT)
        os.kill(child.pid, signal.SIGHUP)
        child.channel.send(Stop("enough"))
        assert child.ended() == 0


def test_termination_ends_a_child(run: Path) -> None:
    with born(run, lambda runtime, _: runtime.serve()) as child:
        child.hear(Ready)
        os.kill(child.pid, signal.SIGTERM)
        assert child.ended() == -signal.SIGTERM


# --- children that do one thing ---------------------------------------------------------------------------------------


def _once(main: Any) -> Child:
    with as_the_supervisor():
        return Child(*fork_once(main, "setup"))


def test_one_shot_child_reports_and_is_gone() -> None:
    def main(channel: Channel) -> None:
        status = _status("self")
        channel.send(Stop(f"{status['CapEff']} {Path('/proc/self/cmdline').read_text().rstrip(chr(0))}"))

    child = _once(main)
    assert child.hear(Stop).reason == f"{_status('self')['CapEff']} septate: setup"
    assert child.ended() == 0
    child.close()


def test_one_shot_child_that_breaks_says_why_and_ends_with_code_1(capfd: pytest.CaptureFixture[str]) -> None:
    def main(_: Channel) -> None:
        raise RuntimeError("no device")

    child = _once(main)
    assert child.ended() == 1
    child.close()
    assert "RuntimeError: no device" in capfd.readouterr().err


def test_fork_that_fails_leaves_no_descriptor_behind(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    before = {entry.name for entry in Path("/proc/self/fd").iterdir()}
    monkeypatch.setattr(os, "fork", refuse)
    with pytest.raises(BlockingIOError), born(run, lambda *_: None):
        pass
    assert {entry.name for entry in Path("/proc/self/fd").iterdir()} == before
