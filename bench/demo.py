"""The demonstration: kill every actor of a relay under a 10 ms ping, and see what a user would have noticed.

`make demo`, or `python -m bench.demo`. Three nodes in line, A – B – C, in network namespaces of this machine; nothing
leaves it. Needs root, or to be allowed to make a user namespace and to open /dev/net/tun in it. Exit code 0 when every
target is met, 1 when one is missed, 2 when the demonstration can't run. Under a minute in all.
"""

import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench.accounting import tree_of
from tests.lab import namespaces
from tests.lab.namespaces import Lab, LabError, Namespace
from tests.lab.nodes import Actor, SeptateNode
from tests.lab.ping import Pinger, ping_until_reply
from tests.lab.sandbox import enter_if_unprivileged
from tests.lab.trace import trace
from tests.lab.waiting import WaitError, wait_until

PING_INTERVAL: Final = 0.01
QUIET_SECONDS: Final = 0.3
WATCH_SECONDS: Final = 1.2
REACH_TIMEOUT: Final = 20.0
RETURN_TIMEOUT: Final = 5.0


@dataclass(frozen=True, slots=True)
class Trial:
    """One actor of B to kill, and what a user may notice at most.

    `title_part` tells two actors of a role apart. `onto_relay` pings B itself instead of C: B's tun isn't on the way
    from A to C.
    """

    name: str
    role: str
    title_part: str = ""
    onto_relay: bool = False
    max_lost: int | None = None
    max_gap_seconds: float | None = None

    def target(self) -> str:
        """The promise, in words."""
        if self.max_gap_seconds is not None:
            return f"≤ {self.max_gap_seconds * 1e3:.0f} ms"
        return f"{self.max_lost} lost"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the ping saw of one kill: packets lost, and the longest time without a reply."""

    trial: Trial
    sent: int
    lost: int
    gap_seconds: float

    @property
    def met(self) -> bool:
        """Whether the promise was kept."""
        if self.trial.max_lost is not None and self.lost > self.trial.max_lost:
            return False
        return self.trial.max_gap_seconds is None or self.gap_seconds <= self.trial.max_gap_seconds


@dataclass(frozen=True, slots=True)
class Network:
    """A – B – C."""

    near: SeptateNode
    relay: SeptateNode
    far: SeptateNode
    near_underlay: str
    far_underlay: str

    def trials(self) -> list[Trial]:
        """Every actor of B in turn."""
        return [
            Trial("router", "router", max_lost=0),
            Trial("peers", "peers", max_lost=0),
            Trial("status", "status", max_lost=0),
            Trial("tun", "tun", onto_relay=True, max_gap_seconds=0.150),
            Trial("link to A", "link", title_part=self.near_underlay, max_gap_seconds=0.300),
            Trial("link to C", "link", title_part=self.far_underlay, max_gap_seconds=0.300),
        ]


def build(lab: Lab) -> Network:
    """Starts the three nodes and waits until A reaches C."""
    left, middle, right = (lab.namespace(label) for label in ("A", "B", "C"))
    first, second = lab.wire(left, middle), lab.wire(middle, right)
    relay = SeptateNode(lab, middle).start()
    relay.wait_until_up()
    near = SeptateNode(lab, left, peers=[relay.endpoint(first.right_address)]).start()
    far = SeptateNode(lab, right, peers=[relay.endpoint(second.left_address)]).start()
    near.wait_until_up()
    far.wait_until_up()
    ping_until_reply(left, far.address, REACH_TIMEOUT)
    ping_until_reply(right, near.address, REACH_TIMEOUT)
    return Network(near, relay, far, first.left_address, second.right_address)


def find_actor(relay: SeptateNode, trial: Trial) -> Actor | None:
    """The running actor that the trial is about."""
    for actor in relay.actors():
        if actor.role == trial.role and trial.title_part in actor.title:
            return actor
    return None


def kill(relay: SeptateNode, actor: Actor) -> float:
    """Kills the actor by SIGKILL; returns when. Refuses to touch a process that isn't the node's."""
    if actor.process_id not in tree_of(relay.process_id):
        raise LabError(f"{relay}: actor {actor.name} is said to be process {actor.process_id}, which isn't the node's")
    now = time.monotonic()
    os.kill(actor.process_id, signal.SIGKILL)
    return now


def run_trial(network: Network, trial: Trial) -> Outcome:
    """Pings, kills, watches, and makes sure that the actor came back."""
    relay = network.relay
    victim = find_actor(relay, trial)
    if victim is None:
        raise LabError(f"{relay} has no actor {trial.name}; it lists {[a.title for a in relay.actors()]}")
    destination = relay.address if trial.onto_relay else network.far.address
    pinger = Pinger(network.near.namespace, destination, interval=PING_INTERVAL)
    pinger.wait_first_reply(REACH_TIMEOUT)
    time.sleep(QUIET_SECONDS)
    killed = kill(relay, victim)
    time.sleep(WATCH_SECONDS)
    ping_until_reply(network.near.namespace, destination, REACH_TIMEOUT)
    seen = pinger.stop().between(killed - 2 * PING_INTERVAL, math.inf)

    def replaced() -> bool:
        successor = find_actor(relay, trial)
        return successor is not None and successor.process_id != victim.process_id

    wait_until(f"{relay}: a successor of {trial.name}", replaced, RETURN_TIMEOUT, interval=0.2)
    return Outcome(trial, seen.sent, seen.lost, seen.longest_gap())


def print_hops(origin: Namespace, network: Network) -> None:
    """The way from A to C as the tracer sees it."""
    print(f"\nhops from A to C ({network.far.address}):")
    for hop in trace(origin, network.far.address):
        if hop.rtt is None:
            print(f"  {hop.hop_limit}  no answer")
        else:
            print(f"  {hop.hop_limit}  {hop.source}  {hop.rtt * 1e3:.2f} ms")


def print_outcomes(outcomes: Sequence[Outcome]) -> None:
    """The table."""
    print(f"\n{'actor of B killed':<18} {'ping':<7} {'packets lost':>12} {'ms until healed':>16}  {'target':<9} met")
    for outcome in outcomes:
        way = "A → B" if outcome.trial.onto_relay else "A → C"
        lost = f"{outcome.lost} of {outcome.sent}"
        gap = f"{outcome.gap_seconds * 1e3:.0f}" if math.isfinite(outcome.gap_seconds) else "never"
        met = "yes" if outcome.met else "NO"
        print(f"{outcome.trial.name:<18} {way:<7} {lost:>12} {gap:>16}  {outcome.trial.target():<9} {met}")
    print("\nms until healed: the longest time without a reply; about 10 when nothing was to be healed.")


def demonstrate() -> int:
    """Builds the network, shows the way, kills, and judges."""
    begin = time.monotonic()
    with Lab() as lab:
        network = build(lab)
        print(f"A {network.near.address}\nB {network.relay.address}\nC {network.far.address}")
        print(f"A reaches C through B, {time.monotonic() - begin:.1f} s after the first node was started")
        print_hops(network.near.namespace, network)
        outcomes = [run_trial(network, trial) for trial in network.trials()]
    print_outcomes(outcomes)
    print(f"{time.monotonic() - begin:.0f} s in all")
    return 0 if all(outcome.met for outcome in outcomes) else 1


def main() -> int:
    """The command line, which takes nothing."""
    enter_if_unprivileged("bench.demo", sys.argv[1:])
    missing = namespaces.available() or SeptateNode.missing()
    if missing is not None:
        print(f"the demonstration cannot run: {missing}", file=sys.stderr)
        return 2
    try:
        return demonstrate()
    except (LabError, WaitError) as error:
        print(f"the demonstration failed: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
