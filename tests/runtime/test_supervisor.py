"""A whole node without a device: it tells systemd the truth, heals what dies, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from actors.runtime.asking import Asker
from actors.runtime.dialogue import NoAnswer
from protocol.frames import ActorRow, AskActors
from tests.lab.waiting import wait_until
from tests.runtime.children import PATIENCE

ACTORS: Final = ("router", "tun", "peers", "messagebox", "status", "rpc")
SECRET: Final = bytes(range(1, 33))
SHORT_SILENCE: Final = 4.0
"""Seconds without a heartbeat, of which there is one each second, until an actor counts as hung."""

Start = Callable[..., "Node"]


class Node:
    """A node that runs, and systemd's end of its notifications."""

    def __init__(self, folder: Path, orders: dict[str, Any], environment: dict[str, str]) -> None:
        self.folder = folder
        self.run = folder / "run" / orders["instance"]
        self._log = folder / f"log-{orders['instance']}-{time.monotonic_ns()}"
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify = folder / f"notify-{orders['instance']}"
        notify.unlink(missing_ok=True)
        self._manager.bind(str(notify))
        self._asker = Asker(self.run)
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.runtime.node", json.dumps(orders)],
                cwd=Path(__file__).parents[2],
                env={
                    **os.environ,
                    "RUNTIME_DIRECTORY": str(folder / "run"),
                    "NOTIFY_SOCKET": str(notify),
                    **environment,
                },
                stdout=log,
                stderr=log,
            )

    @property
    def pid(self) -> int:
        """The supervisor's."""
        return self.process.pid

    def log(self) -> str:
        """Everything that it wrote."""
        return self._log.read_text(encoding="utf-8")

    def wait_for_log(self, words: str) -> None:
        """Until it wrote these."""
        wait_until(f"{words!r} in the log", lambda: words in self.log(), PATIENCE)

    def notified(self, assignment: str, within: float = PATIENCE) -> float:
        """Waits until systemd heard of this; when, in monotonic seconds."""
        deadline = time.monotonic() + within
        while select.select([self._manager], [], [], max(0.0, deadline - time.monotonic()))[0]:
            if assignment in self._manager.recv(4096).decode().split("\n"):
                return time.monotonic()
        raise AssertionError(f"systemd never heard {assignment}; the log says:\n{self.log()}")

    def actors(self) -> dict[str, ActorRow]:
        """What the supervisor says of its processes, asked through any actor that lives."""
        for actor in ("router", "peers", "tun"):
            with contextlib.suppress(NoAnswer):
                parts = self._asker.ask(actor, AskActors(self._asker.token()), 3.0)
                return {row.name: row for part in parts for row in part.actors}
        raise AssertionError(f"nobody says which actors there are; the log says:\n{self.log()}")

    def wait_for(self, name: str, wanted: Callable[[ActorRow], bool]) -> ActorRow:
        """Until an actor is as wanted."""

        def probe() -> ActorRow | None:
            row = self.actors().get(name)
            return row if row is not None and wanted(row) else None

        return wait_until(f"{name} is as wanted", probe, PATIENCE)

    def wait_until_all_are_ready(self) -> dict[str, ActorRow]:
        """Until every actor of a node serves."""

        def probe() -> dict[str, ActorRow] | None:
            rows = self.actors()
            return rows if all(name in rows and rows[name].ready for name in ACTORS) else None

        return wait_until("all actors are ready", probe, PATIENCE)

    def ended(self) -> int:
        """Waits for its end; the exit code."""
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        """Ends it, whatever it is doing."""
        self.process.kill()
        self.process.wait()
        self._manager.close()
        self._asker.close()


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts nodes, which have a folder and a key in common; in the end prints what each of them wrote."""
    folder = Path(tempfile.mkdtemp(prefix="st-"))
    (folder / "run").mkdir()
    (folder / "key").write_bytes(SECRET)
    (folder / "key").chmod(0o600)
    nodes: list[Node] = []

    def begin(environment: dict[str, str] | None = None, **orders: Any) -> Node:
        # Ports that the system chooses: nobody connects to them here.
        given = {"port": 0, "api_port": 0, "instance": "node", "key_file": str(folder / "key")}
        node = Node(folder, {**given, **orders}, environment or {})
        nodes.append(node)
        return node

    yield begin
    for node in nodes:
        node.close()
        print(node.log())
    shutil.rmtree(folder, ignore_errors=True)


def _lives(pid: int) -> bool:
    """Whether a process does anything any more; who waits for its parent's attention does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


def _cpu_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _kill_and_wait(node: Node, name: str, number: int = signal.SIGKILL) -> ActorRow:
    """Kills an actor and waits for its successor to serve."""
    before = node.actors()[name]
    os.kill(before.pid, number)
    return node.wait_for(name, lambda row: row.ready and row.pid != before.pid)


# --- towards systemd --------------------------------------------------------------------------------------------------


def test_systemd_hears_ready_once_the_node_serves(start: Start) -> None:
    node = start()
    node.notified("READY=1")
    rows = node.wait_until_all_are_ready()
    assert set(rows) == {"supervisor", *ACTORS}
    assert {row.restarts for row in rows.values()} == {0}
    assert rows["supervisor"].pid == node.pid
    node.notified("STATUS=0 links")


def test_watchdog_is_fed_three_times_per_period(start: Start) -> None:
    node = start({"WATCHDOG_USEC": "900000"})
    node.notified("READY=1")
    begin = node.notified("WATCHDOG=1")
    for _ in range(3):
        last = node.notified("WATCHDOG=1")
    assert last - begin < 0.9 + PATIENCE / 10


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_node_that_is_told_to_stop_is_gone_at_once_and_leaves_nothing(start: Start, number: signal.Signals) -> None:
    node = start()
    node.notified("READY=1")
    rows = node.wait_until_all_are_ready()
    begin = time.monotonic()
    os.kill(node.pid, number)
    node.notified("STOPPING=1")
    assert node.ended() == 0
    assert time.monotonic() - begin < 2.0
    assert [row.name for row in rows.values() if _lives(row.pid)] == []
    assert not node.run.exists()
    assert f"stopping: {number.name}" in node.log()
    assert "Traceback" not in node.log()


def test_node_with_a_hung_actor_stops_in_time(start: Start) -> None:
    node = start()
    rows = node.wait_until_all_are_ready()
    os.kill(rows["router"].pid, signal.SIGSTOP)
    begin = time.monotonic()
    node.process.terminate()
    assert node.ended() == 0
    assert time.monotonic() - begin < 3.0
    assert [row.name for row in rows.values() if _lives(row.pid)] == []


def test_node_that_stops_while_it_starts_leaves_nothing(start: Start) -> None:
    node = start()
    wait_until("the runtime folder is there", node.run.exists, PATIENCE)
    node.process.terminate()
    # Before its handlers stand it may die of the signal itself; its folder is then cleaned by the next start.
    code = node.ended()
    assert code in (0, -signal.SIGTERM)
    if code == 0:
        assert not node.run.exists()


# --- what dies comes back ---------------------------------------------------------------------------------------------


def test_killed_actor_is_restarted_at_once_however_often(start: Start) -> None:
    node = start()
    node.wait_until_all_are_ready()
    for name in ACTORS:
        for times in range(1, 5):
            assert _kill_and_wait(node, name).restarts == times
    restarts = re.findall(r'message="(\w+) was killed by SIGKILL; restarted" pause=([\d.]+)', node.log())
    assert restarts == [(name, "0.0") for name in ACTORS for _ in range(4)]
    assert _lives(node.pid)


def test_all_actors_killed_in_one_moment_are_back(start: Start) -> None:
    node = start()
    before = node.wait_until_all_are_ready()
    for name in ACTORS:
        os.kill(before[name].pid, signal.SIGKILL)

    def all_are_new() -> bool:
        after = node.wait_until_all_are_ready()
        return all(after[name].pid != before[name].pid for name in ACTORS)

    wait_until("all actors are new", all_are_new, PATIENCE)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (bytes(range(2, 34)), "holds another key than when this node started"),
        (None, "is gone: put it back, or restart the node"),
        (b"short", "holds 5 bytes, a key has 32"),
    ],
    ids=["replaced", "gone", "short"],
)
def test_restarted_tun_takes_no_key_but_the_one_of_this_node(start: Start, content: bytes | None, words: str) -> None:
    node = start()
    rows = node.wait_until_all_are_ready()
    key_file = node.folder / "key"
    if content is None:
        key_file.unlink()
    else:
        key_file.write_bytes(content)
    os.kill(rows["tun"].pid, signal.SIGKILL)
    node.wait_for_log(words)
    line = next(line for line in node.log().splitlines() if words in line)
    assert "level=error" in line
    assert str(key_file) in line
    key_file.write_bytes(SECRET)
    node.wait_for("tun", lambda row: row.ready and row.pid != rows["tun"].pid)
    assert "Traceback" not in node.log()


def test_death_by_a_signal_without_a_name_is_a_death_like_any_other(start: Start) -> None:
    node = start()
    node.wait_until_all_are_ready()
    _kill_and_wait(node, "router", signal.SIGRTMIN + 1)
    node.wait_for_log(f"router was killed by signal {signal.SIGRTMIN + 1}; restarted")


def test_hung_actor_is_killed_and_restarted_and_nobody_else(start: Start) -> None:
    node = start(silent_seconds=SHORT_SILENCE)
    before = node.wait_until_all_are_ready()
    os.kill(before["peers"].pid, signal.SIGSTOP)
    after = node.wait_for("peers", lambda row: row.ready and row.pid != before["peers"].pid)
    assert after.restarts == 1
    assert "peers hangs: no heartbeat for" in node.log()
    rows = node.actors()
    assert [name for name in ACTORS if rows[name].restarts] == ["peers"]


def test_actor_that_pauses_for_a_moment_is_left_alone(start: Start) -> None:
    node = start()
    rows = node.wait_until_all_are_ready()
    os.kill(rows["tun"].pid, signal.SIGSTOP)
    assert node.actors()["tun"].pid == rows["tun"].pid
    os.kill(rows["tun"].pid, signal.SIGCONT)
    before = rows["tun"].cpu_seconds
    assert node.wait_for("tun", lambda row: row.cpu_seconds > before).pid == rows["tun"].pid


def test_actor_that_never_gets_ready_backs_off_and_is_given_up_and_the_rest_serves(start: Start) -> None:
    node = start(broken="status", how="dies", give_up_after=4)
    node.notified("READY=1")
    node.wait_for_log("status ended with code 1, again and again before it was ready: given up; the rest goes on")
    pauses = re.findall(r'message="status ended with code 1; restarted" pause=([\d.]+)', node.log())
    assert pauses == ["0.1", "0.2", "0.4"]
    assert node.log().count("RuntimeError: broken on purpose") == 4
    rows = node.actors()
    assert not rows["status"].ready
    assert [name for name in ("router", "tun", "peers") if not rows[name].ready or rows[name].restarts] == []


@pytest.mark.parametrize("name", ["router", "tun", "peers"])
def test_node_that_can_not_start_an_actor_that_it_needs_ends_with_one_reason(start: Start, name: str) -> None:
    node = start(broken=name, how="dies", give_up_after=3)
    assert node.ended() == 1
    words = f"{name} ended with code 1, again and again before it was ready: the node can't do its work without it"
    assert [words in line for line in node.log().splitlines() if "level=error" in line] == [True]
    assert not node.run.exists()
    with pytest.raises(AssertionError, match="systemd never heard READY=1"):
        node.notified("READY=1", within=0.0)


def test_node_that_loses_an_actor_that_it_needs_for_good_ends_with_its_reason(start: Start) -> None:
    node = start(broken="peers", how="serves once", give_up_after=3)
    node.notified("READY=1")
    os.kill(node.actors()["peers"].pid, signal.SIGKILL)
    node.notified("STOPPING=1")
    assert node.ended() == 1
    node.wait_for_log("peers ended with code 1, again and again before it was ready: the node can't do its work")
    assert not node.run.exists()


def test_actor_that_hangs_before_it_is_ready_is_killed_and_given_up(start: Start) -> None:
    node = start(broken="status", how="never ready", start_seconds=0.5, give_up_after=2)
    node.notified("READY=1")
    node.wait_for_log("status is not ready after")
    node.wait_for_log("given up; the rest goes on")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("says nonsense", "status sent a TableEpoch, which is none of its business: killed"),
        ("ready twice", "status sent a Ready, which is none of its business: killed"),
        ("dies with garbage on its lips", "status sent what is no frame: "),
        ("no room", "status cannot be started: Resource temporarily unavailable"),
    ],
)
def test_misbehaving_actor_costs_itself_only(start: Start, how: str, words: str) -> None:
    node = start(broken="status", how=how, give_up_after=3)
    node.notified("READY=1")
    node.wait_for_log(words)
    rows = node.actors()
    assert [name for name in ("router", "tun", "peers") if not rows[name].ready or rows[name].restarts] == []
    node.process.terminate()
    assert node.ended() == 0
    assert "supervisor.py" not in node.log()


def test_actor_that_floods_the_supervisor_does_not_make_others_look_hung(start: Start) -> None:
    node = start(broken="status", how="asks and never listens", silent_seconds=SHORT_SILENCE)
    node.notified("READY=1")
    before = node.wait_until_all_are_ready()
    # Heartbeats of the others get through: their processor time moves.
    for name in ("router", "tun", "peers"):
        node.wait_for(name, lambda row, name=name: row.cpu_seconds > before[name].cpu_seconds)  # type: ignore[misc]
    rows = node.actors()
    assert [name for name in ("router", "tun", "peers") if rows[name].restarts] == []
    assert rows["supervisor"].pss_kib < 200_000


@pytest.mark.parametrize("name", ["status", "rpc"])
def test_actor_is_ready_when_it_has_imported_all_that_it_serves_with(start: Start, name: str) -> None:
    # While a slow machine imports no heart beats: who says ready before is killed as hung.
    node = start(broken=name, how="shows late imports")
    ready = node.wait_for(name, lambda row: row.ready)
    later = node.wait_for(name, lambda row: row.cpu_seconds > ready.cpu_seconds)
    # A codec may come later, which is a file of a few lines.
    assert later.queues["late_imports"] < 10


def test_children_end_with_a_killed_supervisor(start: Start) -> None:
    node = start()
    rows = node.wait_until_all_are_ready()
    node.process.kill()
    node.ended()
    begin = time.monotonic()
    wait_until("all children are gone", lambda: not any(_lives(rows[name].pid) for name in ACTORS), PATIENCE)
    assert time.monotonic() - begin < 1.0


def test_next_start_cleans_up_after_a_killed_one(start: Start) -> None:
    first = start()
    first.wait_until_all_are_ready()
    first.process.kill()
    first.ended()
    left_over = {entry.name for entry in first.run.iterdir()}
    assert "router" in left_over
    (first.run / "link-7").touch()
    second = start()
    second.wait_until_all_are_ready()
    assert not (second.run / "link-7").exists()
    assert "Traceback" not in second.log()


def test_supervisor_sleeps_when_nothing_happens_also_after_deaths(start: Start) -> None:
    node = start()
    node.wait_until_all_are_ready()
    for name in ACTORS:
        _kill_and_wait(node, name)
    before, begin = _cpu_seconds(node.pid), time.monotonic()
    time.sleep(2.0)
    assert _cpu_seconds(node.pid) - before < 0.1 * (time.monotonic() - begin)


def test_actors_sleep_when_nothing_happens(start: Start) -> None:
    node = start()
    rows = node.wait_until_all_are_ready()
    pids = [rows[name].pid for name in ACTORS]
    before, begin = sum(map(_cpu_seconds, pids)), time.monotonic()
    time.sleep(1.5)
    assert sum(map(_cpu_seconds, pids)) - before < 0.2 * (time.monotonic() - begin)


# --- a node that can't start ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_node_that_is_stopped_while_its_set_up_hangs_ends_at_once_and_leaves_nothing(
    start: Start, number: signal.Signals
) -> None:
    node, child = _hanging_in_its_set_up(start)
    begin = time.monotonic()
    os.kill(node.pid, number)
    assert node.ended() == 0
    assert time.monotonic() - begin < 3.0
    assert not _lives(child)
    assert not node.run.exists()
    assert f"stopping: {number.name}" in node.log()
    assert "Traceback" not in node.log()


def test_set_up_that_hangs_ends_the_start_with_a_reason(start: Start) -> None:
    node, child = _hanging_in_its_set_up(start, set_up_seconds=1.0)
    assert node.ended() == 1
    assert "the set-up process hangs: it said nothing for 1 s; look whether the key file" in node.log()
    assert "Traceback" not in node.log()
    assert not _lives(child)
    assert not node.run.exists()


def _hanging_in_its_set_up(start: Start, **orders: Any) -> tuple[Node, int]:
    """A node that waits for its key, and the pid of the process that does."""
    with tempfile.TemporaryDirectory() as folder:
        os.mkfifo(f"{folder}/key")
        node = start(key_file=f"{folder}/key", **orders)
        children = Path(f"/proc/{node.pid}/task/{node.pid}/children")
        child = int(wait_until("the set-up process is there", children.read_text, PATIENCE).split()[0])
        # With this title it does nothing that takes time before it opens the key.
        stat = Path(f"/proc/{child}/stat")
        wait_until("it waits for its key", lambda: "(septate: setup) S" in stat.read_text(encoding="ascii"), PATIENCE)
    return node, child


def test_second_node_of_the_same_name_is_refused_and_the_first_goes_on(start: Start) -> None:
    first = start()
    before = first.wait_until_all_are_ready()
    second = start()
    assert second.ended() == 1
    assert "an instance 'node' runs already" in second.log()
    rows = first.actors()
    assert {name: rows[name].pid for name in ACTORS} == {name: before[name].pid for name in ACTORS}


def test_bad_key_file_is_said_and_nothing_is_left(start: Start) -> None:
    node = start(key_file="/dev/null")
    assert node.ended() == 1
    assert "/dev/null" in node.log()
    assert "holds 0 bytes, a key has 32" in node.log()
    assert "Traceback" not in node.log()
    assert not node.run.exists()


@pytest.mark.parametrize(
    ("taken", "words"),
    [("port", "this node only dials"), ("api_port", "this node runs without it")],
)
def test_port_that_is_taken_is_said_and_the_node_goes_on(start: Start, taken: str, words: str) -> None:
    with socket.socket(socket.AF_INET6) as other:
        other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        other.bind(("::", 0))
        other.listen()
        node = start(**{taken: other.getsockname()[1]})
        node.notified("READY=1")
        assert words in node.log()
        rows = node.actors()
        assert ("status" in rows) == (taken == "port")
