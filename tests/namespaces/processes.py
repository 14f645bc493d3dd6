"""The processes of a node under test: finding them, killing one, waiting for the one that follows."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import Any, Final

from bench.accounting import tree_of
from tests.lab.namespaces import LabError
from tests.lab.nodes import SeptateNode
from tests.lab.waiting import wait_until

RETURN_TIMEOUT: Final = 20.0


@dataclass(frozen=True, slots=True)
class Process:
    """One process of a node, as the node's API lists it."""

    name: str
    role: str
    title: str
    pid: int
    ready: bool
    age: float
    restarts: int
    queues: dict[str, int]
    counters: dict[str, int]


def processes_of(node: SeptateNode) -> list[Process]:
    """All of them; empty while the node's API doesn't answer."""
    rows: list[dict[str, Any]] = node.api.get("/api/v1/septate/actors") or []
    return [
        Process(
            row["name"],
            row["role"],
            row["title"],
            row["pid"],
            row["ready"],
            row["ageSeconds"],
            row["restarts"],
            row["queues"],
            row["counters"],
        )
        for row in rows
    ]


def find_process(node: SeptateNode, role: str, title_part: str = "", *, age: float = 0.0) -> Process:
    """Waits for a ready process of this role, at least `age` seconds old; `title_part` tells two links apart."""

    def find() -> Process | None:
        for process in processes_of(node):
            if process.role == role and title_part in process.title and process.ready and process.age >= age:
                return process
        return None

    return wait_until(f"{node}: a process {role} {title_part}", find, RETURN_TIMEOUT)


def kill_process(node: SeptateNode, process: Process) -> float:
    """Kills it by SIGKILL and returns when. Refuses to touch a process that isn't the node's."""
    if process.pid not in tree_of(node.process_id):
        raise LabError(f"{node}: {process.name} is said to be process {process.pid}, which isn't the node's")
    now = time.monotonic()
    os.kill(process.pid, signal.SIGKILL)
    return now


def wait_for_successor(node: SeptateNode, killed: Process) -> Process:
    """Waits until another process does what the killed one did."""

    def find() -> Process | None:
        for process in processes_of(node):
            same = process.role == killed.role and (killed.role != "link" or process.title == killed.title)
            if same and process.ready and process.pid != killed.pid:
                return process
        return None

    return wait_until(f"{node}: a successor of {killed.name}", find, RETURN_TIMEOUT)


def wait_for_counter(node: SeptateNode, role: str, counter: str, at_least: int = 1) -> int:
    """Waits until the processes of a role have counted so much in all; figures arrive once a second."""

    def count() -> int | None:
        total = counted(node, role, counter)
        return total if total >= at_least else None

    return wait_until(f"{node}: {role} counts {at_least} {counter}", count, 10.0, interval=0.1)


def counted(node: SeptateNode, role: str, counter: str) -> int:
    """What the processes of a role have counted under this name, as of their last heartbeats."""
    return sum(process.counters.get(counter, 0) for process in processes_of(node) if process.role == role)
