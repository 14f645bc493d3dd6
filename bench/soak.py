"""The soak: a TCP flow at full rate for minutes or hours while processes that move packets are killed.

`python -m bench.soak --minutes 10 --kill-every 5`, with `--relay` through a third node, with `--roles link
--kills 1000` until so many links were killed. Prints the rate before and during, and from time to time the memory of
every process. Exit code 1 when a slot of an arena is lost, memory grows by more than a tenth, a connection between
nodes is not the same any more, a byte is wrong, or a log tells of a fault; 2 when the soak can't run. Needs root, or to
be allowed to make a user namespace and to open /dev/net/tun in it.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.lab import namespaces
from tests.lab.namespaces import Lab, LabError
from tests.lab.nodes import TUN_NAME, SeptateNode
from tests.lab.sandbox import enter_if_unprivileged
from tests.lab.waiting import WaitError
from tests.namespaces.chaos import (
    HOT_ROLES,
    Chaos,
    FullRateFlow,
    arena_bytes,
    connections_of,
    faults_in_the_log,
    lost_slots,
    memory_besides_files,
)
from tests.namespaces.networks import build_line, build_pair

QUIET_SECONDS: Final = 5.0
LOOK_SECONDS: Final = 60.0
FEWEST_LOOKS: Final = 4
MOST_GROWTH: Final = 0.10
MEBI: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Look:
    """One look at everything: bytes that the receiving host had got, and memory by node and process."""

    at: float
    received: int
    memory: dict[str, dict[str, int]]
    arenas: dict[str, int]

    def total(self, node: str) -> int:
        """Bytes of memory of a whole node, what lies in its arenas included once."""
        return sum(self.memory[node].values())


@dataclass(slots=True)
class Soak:
    """A network, its flow, and what is wrong with it so far."""

    nodes: tuple[SeptateNode, ...]
    chaos: Chaos
    kill_every: float
    dice: random.Random
    looks: list[Look] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)

    def run(self, seconds: float, kills: int) -> None:
        """Runs the flow for so long after a quiet beginning, or until so many were killed."""
        before = {node.name: connections_of(node) for node in self.nodes}
        flow = FullRateFlow(self.nodes[0], self.nodes[-1])
        try:
            quiet = self._rate_of_a_quiet_time()
            print(f"before: {quiet / 1e9:.2f} Gbit/s; connections {sorted(set().union(*before.values()))}", flush=True)
            self._look()
            begin = time.monotonic()
            every = min(LOOK_SECONDS, seconds / FEWEST_LOOKS)
            while (passed := time.monotonic() - begin) < seconds and self.chaos.killed < kills:
                self._kill_until(begin + min(seconds, (passed // every + 1) * every), kills)
                self._look()
                self._print_look(self.looks[-2], self.looks[-1])
            during = _rate(self.looks[0], self.looks[-1])
            print(f"during: {during / 1e9:.2f} Gbit/s, {during / quiet:.0%} of before; {self.chaos.killed} killed")
            sent, arrived = flow.finish()
        finally:
            flow.kill()
        if (sent.bytes, sent.sha256) != (arrived.bytes, arrived.sha256):
            self.findings.append(f"{sent.bytes} bytes were sent, {arrived.bytes} others arrived")
        self._judge(before)

    def _rate_of_a_quiet_time(self) -> float:
        first = self._received()
        time.sleep(QUIET_SECONDS)
        return (self._received() - first) * 8 / QUIET_SECONDS

    def _kill_until(self, until: float, kills: int) -> None:
        while time.monotonic() < until and self.chaos.killed < kills:
            pause = self.kill_every * self.dice.uniform(0.5, 1.5)
            time.sleep(max(0.0, min(pause, until - time.monotonic())))
            if time.monotonic() < until:
                self.chaos.kill_one()

    def _received(self) -> int:
        done = self.nodes[-1].namespace.run(["ip", "-json", "-stats", "link", "show", "dev", TUN_NAME])
        return int(json.loads(done.stdout)[0]["stats64"]["rx"]["bytes"])

    def _look(self) -> None:
        memory = {node.name: memory_besides_files(node) for node in self.nodes}
        arenas = {node.name: arena_bytes(node) for node in self.nodes}
        self.looks.append(Look(time.monotonic(), self._received(), memory, arenas))

    def _print_look(self, before: Look, now: Look) -> None:
        print(f"after {now.at - self.looks[0].at:.0f} s: {_rate(before, now) / 1e9:.2f} Gbit/s")
        for node in self.nodes:
            sizes = ", ".join(f"{name} {size / MEBI:.1f}" for name, size in sorted(now.memory[node.name].items()))
            arenas = now.arenas[node.name] / MEBI
            print(f"  {node.name}: {now.total(node.name) / MEBI:.1f} MiB ({sizes}); arenas {arenas:.1f}", flush=True)

    def _judge(self, before: dict[str, frozenset[str]]) -> None:
        # The first look is at processes that nobody has killed yet: their successors share less with the supervisor.
        first, last = self.looks[1], self.looks[-1]
        for node in self.nodes:
            name = node.name
            growth = last.total(name) / first.total(name) - 1
            print(f"{name}: memory grew by {growth:+.1%}")
            if growth > MOST_GROWTH:
                self.findings.append(f"{name}: memory grew by {growth:.1%}")
            if lost := lost_slots(node):
                self.findings.append(f"{name}: slots that nobody gives back: {lost}")
            if (after := connections_of(node)) != before[name]:
                self.findings.append(f"{name}: connections were {sorted(before[name])}, are {sorted(after)}")
            self.findings += [f"{name} wrote: {line}" for line in faults_in_the_log(node)]


def _rate(first: Look, last: Look) -> float:
    return (last.received - first.received) * 8 / (last.at - first.at)


def soak(given: argparse.Namespace) -> int:
    """Builds the network, soaks it, and tells what was found."""
    with Lab() as lab:
        if given.relay:
            line = build_line(lab)
            nodes: tuple[SeptateNode, ...] = (line.near, line.relay, line.far)
        else:
            nodes = build_pair(lab)
        chaos = Chaos(nodes, given.seed, given.roles.split(","))
        soaking = Soak(nodes, chaos, given.kill_every, random.Random(given.seed))
        soaking.run(given.minutes * 60, given.kills)
    for finding in soaking.findings:
        print(finding)
    print("nothing was lost" if not soaking.findings else f"{len(soaking.findings)} findings")
    return 1 if soaking.findings else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    given_arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description="Kill packet processes under full load.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--kill-every", type=float, default=5.0, metavar="SECONDS", help="on average")
    parser.add_argument("--kills", type=int, default=sys.maxsize, help="end after so many")
    parser.add_argument("--roles", default=",".join(HOT_ROLES), help="which processes to kill, default %(default)s")
    parser.add_argument("--relay", action="store_true", help="send through a third node")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 1 << 32))
    given = parser.parse_args(given_arguments)
    enter_if_unprivileged("bench.soak", given_arguments)
    missing = namespaces.available() or SeptateNode.missing()
    if missing is not None:
        print(f"the soak cannot run: {missing}", file=sys.stderr)
        return 2
    print(f"seed {given.seed}", flush=True)
    try:
        return soak(given)
    except (LabError, WaitError) as error:
        print(f"the soak failed: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
