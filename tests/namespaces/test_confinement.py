"""What each process of a node holds and may do, seen from outside: descriptors, memory, files, names."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

import pytest

from actors import births
from actors.runtime.actor import Runtime
from actors.runtime.birth import Birth
from actors.runtime.confine import landlock_abi
from protocol.frames import SpawnLink
from protocol.mycelium.endpoint import Protocol
from septate.config import NodeConfig
from tests.lab.namespaces import Lab
from tests.namespaces.networks import Line, build_line
from tests.namespaces.processes import Process, find_process, processes_of

pytestmark = pytest.mark.namespaces

STANDARD: Final = frozenset({0, 1, 2})
SAME_USER_WITHOUT_RIGHTS: Final = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
READ_A_BYTE: Final = "import sys; open(sys.argv[1], 'rb').read(1)"


class OpenFile(NamedTuple):
    """One open file of a process: what /proc calls it, device and inode, and whether it may be written."""

    target: str
    identity: tuple[int, int]
    writable: bool


@pytest.fixture(scope="module")
def line(module_lab: Lab) -> Line:
    return build_line(module_lab)


@pytest.fixture(scope="module")
def children(line: Line) -> dict[str, Process]:
    """The relay's processes but the supervisor, by name."""
    return {process.name: process for process in processes_of(line.relay) if process.role != "supervisor"}


@pytest.fixture(scope="module")
def held(children: dict[str, Process]) -> dict[str, list[OpenFile]]:
    """What each of them has open besides the standard three."""
    return {name: descriptors_of(process.pid) for name, process in children.items()}


def descriptors_of(pid: int) -> list[OpenFile]:
    """The open files of a process besides the standard three."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        # One may be closed between two looks.
        with contextlib.suppress(FileNotFoundError):
            status = entry.stat()
            writable = bool(entry.lstat().st_mode & stat.S_IWUSR)
            if int(entry.name) not in STANDARD:
                found.append(OpenFile(str(entry.readlink()), (status.st_dev, status.st_ino), writable))
    return found


def tcp_sockets(pid: int) -> dict[str, str]:
    """Every TCP socket of the process's namespace: how /proc calls it → `listens` or `connected`."""
    found = {}
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = row.split()
            found[f"socket:[{fields[9]}]"] = "listens" if fields[3] == "0A" else "connected"
    return found


# --- descriptors ------------------------------------------------------------------------------------------------------


def test_no_two_processes_hold_the_same_socket(held: dict[str, list[OpenFile]]) -> None:
    sockets = {
        name: {file.target for file in files if file.target.startswith("socket:")} for name, files in held.items()
    }
    shared = {(one, other) for one, other in itertools.combinations(sockets, 2) if sockets[one] & sockets[other]}
    assert shared == set()


def test_no_two_processes_may_write_the_same_memory(held: dict[str, list[OpenFile]]) -> None:
    writers: dict[tuple[int, int], set[str]] = {}
    for name, files in held.items():
        for file in files:
            if "memfd:" in file.target and file.writable:
                writers.setdefault(file.identity, set()).add(name)
    assert writers
    assert {tuple(sorted(names)) for names in writers.values() if len(names) > 1} == set()


def test_each_process_has_the_connections_of_its_duty_only(
    held: dict[str, list[OpenFile]], children: dict[str, Process]
) -> None:
    known = tcp_sockets(children["router"].pid)
    found = {
        process.role: sorted(known[file.target] for file in held[name] if file.target in known)
        for name, process in children.items()
        if process.role not in ("status", "rpc")
    }
    assert found == {"router": [], "tun": [], "link": ["connected"], "peers": ["listens"], "messagebox": []}


def test_device_is_held_by_tun_only(held: dict[str, list[OpenFile]]) -> None:
    assert [name for name, files in held.items() if any(file.target == "/dev/net/tun" for file in files)] == ["tun"]


def test_nobody_but_the_message_box_holds_a_file_on_a_disk(held: dict[str, list[OpenFile]]) -> None:
    kinds = re.compile(r"(socket|pipe|anon_inode):|/memfd:|/dev/(net/tun|urandom|null)$")
    on_a_disk = {
        (name, Path(file.target).name) for name, files in held.items() for file in files if not kinds.match(file.target)
    }
    expected = ("messages.sqlite", "messages.sqlite-wal", "bodies")
    assert on_a_disk == {("messagebox", name) for name in expected}


# --- memory and rights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["mem", "environ", "maps"])
def test_memory_of_tun_is_closed_to_its_own_user(line: Line, file: str) -> None:
    tun = find_process(line.relay, "tun")
    command = [*SAME_USER_WITHOUT_RIGHTS, "python3", "-c", READ_A_BYTE, f"/proc/{tun.pid}/{file}"]
    refused = line.relay.namespace.run(command)
    assert b"PermissionError" in refused.stderr


def test_same_user_can_look_at_a_process_without_secret(line: Line) -> None:
    # Else the test above would pass on any machine.
    router = find_process(line.relay, "router")
    command = [*SAME_USER_WITHOUT_RIGHTS, "python3", "-c", READ_A_BYTE, f"/proc/{router.pid}/environ"]
    assert line.relay.namespace.run(command).returncode == 0


def test_no_process_keeps_a_capability_or_may_gain_one(children: dict[str, Process]) -> None:
    rights = {}
    for name, process in children.items():
        status = dict(row.split(":\t") for row in Path(f"/proc/{process.pid}/status").read_text().splitlines())
        rights[name] = (int(status["CapPrm"], 16), int(status["CapEff"], 16), int(status["NoNewPrivs"]))
    assert set(rights.values()) == {(0, 0, 1)}


@pytest.fixture
def glimpse(lab: Lab) -> dict[str, str]:
    """What a process with the file rights of a link sees: path → `open`, or why not."""
    if not landlock_abi():
        pytest.skip("this kernel has no Landlock")
    key_file, run = lab.folder / "key", lab.folder / "run"
    key_file.write_bytes(bytes(32))
    run.mkdir()
    # What a link is told is not looked at: only its rights are.
    around: Any = SimpleNamespace(
        config=NodeConfig(key_file=key_file, make_key_folder=False), run=run, public_key=bytes(range(32))
    )
    connection = SimpleNamespace(
        message=SpawnLink(1, "tcp://192.0.2.1:9651", False, Protocol.TCP, b"", "tcp://192.0.2.1:9651")
    )
    connections: Any = {1: connection}
    link = births.links(around, "links-1", connections)
    paths = [key_file, Path("/etc/passwd"), Path("/root"), Path("/tmp"), Path(births.__file__), run]
    reader, writer = os.pipe()
    probe = Birth(link.start, look_around, lambda: (writer, paths), lambda: (writer,), link.files)
    pid, channel = probe.fork()
    os.close(writer)
    with os.fdopen(reader, "rb") as seen:
        found: dict[str, str] = json.loads(seen.read() or b"{}")
    channel.close()
    os.waitpid(pid, 0)
    return {"key": found[str(key_file)], "code": found[births.__file__], "run": found[str(run)]} | found


def look_around(_runtime: Runtime, task: tuple[int, list[Path]]) -> None:
    """Runs in the child: tries to open each path and tells what came of it."""
    writer, paths = task
    found = {}
    for path in paths:
        try:
            os.close(os.open(path, os.O_RDONLY))
            found[str(path)] = "open"
        except OSError as error:
            found[str(path)] = error.strerror or "?"
    os.write(writer, json.dumps(found).encode())


def test_link_cannot_open_the_key_file(glimpse: dict[str, str]) -> None:
    assert glimpse["key"] == "Permission denied"


def test_link_opens_its_code_and_the_runtime_folder(glimpse: dict[str, str]) -> None:
    assert (glimpse["code"], glimpse["run"]) == ("open", "open")


def test_link_sees_neither_homes_nor_configuration(glimpse: dict[str, str]) -> None:
    assert {glimpse[path] for path in ("/etc/passwd", "/root", "/tmp")} == {"Permission denied"}


# --- names ------------------------------------------------------------------------------------------------------------


def test_processes_are_shown_under_their_names(children: dict[str, Process], line: Line) -> None:
    shown = [Path(f"/proc/{process.pid}/cmdline").read_bytes().rstrip(b"\0").decode() for process in children.values()]
    links = [title for title in shown if title.startswith("septate: link tcp://")]
    assert sorted(set(shown) - set(links)) == [
        "septate: messagebox",
        "septate: peers",
        "septate: router",
        "septate: rpc",
        "septate: status",
        "septate: tun overlay0",
    ]
    assert len(links) == 2
    assert any(line.near_wire.left_address in title for title in links)
