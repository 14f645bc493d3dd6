"""Killing the processes that move packets, one after the other at random moments, and what must be left of them.

A connection is closed where its process dies twice at the same place of its stream, so the next victim waits until the
last one's successor serves, and a moment longer for the packet that was torn.
"""

from __future__ import annotations

import ipaddress
import json
import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.lab.flow import FlowReport, start_receiver, start_sender
from tests.lab.namespaces import LabError, stop_process
from tests.lab.nodes import SeptateNode
from tests.lab.waiting import wait_until
from tests.namespaces.processes import Process, kill_process, processes_of, wait_for_successor

HOT_ROLES: Final = ("tun", "link")
SHORTEST_PAUSE_SECONDS: Final = 0.05
LONGEST_PAUSE_SECONDS: Final = 0.25
FLOW_END_SECONDS: Final = 60.0
QUIET_SECONDS: Final = 20.0
"""An idle node has given everything back after a few seconds."""
FIGURES_SECONDS: Final = 1.5
"""The oldest that the figures of a process are, and a little more."""
MOST_FLOW_BYTES: Final = 1 << 42


class Chaos:
    """Kills hot processes of some nodes. The same seed chooses the same roles and pauses."""

    def __init__(self, nodes: Sequence[SeptateNode], seed: int, roles: Sequence[str] = HOT_ROLES) -> None:
        self._nodes = tuple(nodes)
        self._roles = tuple(roles)
        self._dice = random.Random(seed)
        self.killed = 0

    def kill_one(self) -> Process:
        """Kills one of them and waits for its successor; returns the dead."""
        node = self._dice.choice(self._nodes)
        role = self._dice.choice(self._roles)
        victims = wait_until(
            f"{node}: a {role} to kill",
            lambda: [process for process in processes_of(node) if process.role == role and process.ready],
            QUIET_SECONDS,
        )
        victim = self._dice.choice(sorted(victims, key=lambda process: process.name))
        kill_process(node, victim)
        self.killed += 1
        wait_for_successor(node, victim)
        return victim

    def pause(self) -> None:
        """A random time between the birth of one and the death of the next."""
        time.sleep(self._dice.uniform(SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS))


class FullRateFlow:
    """One TCP connection from one node's host to another's, as fast as it goes until told to finish."""

    def __init__(self, source: SeptateNode, destination: SeptateNode) -> None:
        self._receiver = start_receiver(destination.namespace)
        self._sender = start_sender(source.namespace, destination.address, self._receiver.port, MOST_FLOW_BYTES)

    def finish(self) -> tuple[FlowReport, FlowReport]:
        """Ends the flow when all is there; what was sent, and what arrived. Raises LabError where it broke."""
        try:
            self._sender.send_signal(signal.SIGTERM)
            arrived = self._receiver.finish(FLOW_END_SECONDS)
            output = self._sender.communicate(timeout=FLOW_END_SECONDS)[0]
            if self._sender.returncode != 0:
                raise LabError(f"the sender of the flow failed with code {self._sender.returncode}")
        finally:
            self.kill()
        return FlowReport(**json.loads(output)), arrived

    def kill(self) -> None:
        """Ends it in disorder."""
        self._receiver.kill()
        stop_process(self._sender)


def connections_of(node: SeptateNode) -> frozenset[str]:
    """The connections that lead to other nodes, with addresses and ports, as the table of routes shows them."""
    routes = node.api.get("/api/v1/admin/routes/selected") or []
    own = ipaddress.IPv6Interface(f"{node.address}/64").network
    return frozenset(route["nextHop"] for route in routes if ipaddress.IPv6Network(route["subnet"]) != own)


def slots_in_use(node: SeptateNode) -> dict[str, int]:
    """Slots of each process's arena that it fills or somebody reads."""
    return {process.name: process.queues.get("arena_slots", 0) for process in processes_of(node)}


def lost_slots(node: SeptateNode) -> dict[str, int]:
    """Waits until an idle node is at rest; what is in use even then, which nobody will ever give back."""
    # So that every figure is younger than what it tells of.
    time.sleep(FIGURES_SECONDS)
    deadline = time.monotonic() + QUIET_SECONDS
    while in_use := {name: used for name, used in slots_in_use(node).items() if used}:
        if time.monotonic() > deadline:
            return in_use
        time.sleep(0.2)
    return {}


def arena_bytes(node: SeptateNode) -> int:
    """Memory of all arenas of a node, those of the dead included that are still kept."""
    total = 0
    folder = Path(f"/proc/{supervisor_of(node)}/fd")
    seen = set()
    for entry in folder.iterdir():
        try:
            if "septate-arena" in os.fspath(entry.readlink()):
                found = entry.stat()
                if found.st_ino not in seen:
                    seen.add(found.st_ino)
                    total += found.st_blocks * 512
        except FileNotFoundError:
            continue
    return total


def memory_besides_files(node: SeptateNode) -> dict[str, int]:
    """Bytes that each process of a node takes, besides pages of files: those have other users, who come and go."""
    found = {}
    for process in processes_of(node):
        try:
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        sizes = [line for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:"))]
        found[process.name] = sum(int(line.split()[1]) * 1024 for line in sizes)
    return found


def supervisor_of(node: SeptateNode) -> int:
    """The process id of the node's supervisor."""
    (found,) = [process.pid for process in processes_of(node) if process.role == "supervisor"]
    return found


def faults_in_the_log(node: SeptateNode) -> list[str]:
    """Lines that no kill explains: a process that died by itself, a lane closed over nonsense, a connection lost."""
    signs = ("Traceback", "sent nonsense", "no successor can go on", "given up", "sent garbage", "connection lost")
    lines = node.log_path.read_text(errors="replace").splitlines()
    return [line for line in lines if any(sign in line for sign in signs)]
