"""How long trouble lasts: until a dead link is noticed, until packets flow again, the gap where there is another."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from bench.contenders import REACH_TIMEOUT
from bench.links.meeting import NAMES, Choice, Meeting, kind_of
from bench.measure_recovery import kill_all
from tests.lab.namespaces import Lab, LabError, Switch
from tests.lab.nodes import Node
from tests.lab.ping import Pinger, ping_until_reply
from tests.lab.waiting import WaitError, wait_until

PING_INTERVAL: Final = 0.01
PATIENCE: Final = 70.0
"""Longer than anybody's own time-out."""
AFTERWARDS: Final = 1.0
UNTOUCHED: Final = 0.2
"""A gap that a busy machine makes by itself."""


@dataclass(frozen=True, slots=True)
class Joined:
    """Two nodes on one switch or two; the first dials the second on each."""

    near: Node
    far: Node
    switches: tuple[Switch, ...]
    addresses: tuple[str, ...]
    """Of the first."""

    def in_use(self) -> Switch:
        """The switch that carries most of what the near node sends."""
        before = [self._sent(switch) for switch in self.switches]
        time.sleep(0.5)
        after = [self._sent(switch) for switch in self.switches]
        busiest = max(range(len(before)), key=lambda at: after[at] - before[at])
        return self.switches[busiest]

    def _sent(self, switch: Switch) -> int:
        counter = f"/sys/class/net/{switch.device()}/statistics/tx_packets"
        return int(self.near.namespace.run(["cat", counter]).stdout)


@dataclass(frozen=True, slots=True)
class Trouble:
    """What happens on one network, and how it is cured."""

    name: str
    make: Callable[[Joined, Switch], object]
    cure: Callable[[Joined, Switch], object]
    beside_another: bool
    """Whether another link can help."""


def _change_address(joined: Joined, switch: Switch) -> None:
    old = joined.addresses[joined.switches.index(switch)]
    subnet, _, host = old.rpartition(".")
    namespace = joined.near.namespace
    namespace.ip("address", "del", f"{old}/24", "dev", switch.device())
    namespace.ip("address", "add", f"{subnet}.{int(host) + 100}/24", "dev", switch.device())


TROUBLES: Final = (
    Trouble("peer killed", lambda joined, _: kill_all(joined.far), lambda joined, _: joined.far.start(), False),
    Trouble(
        "cable cut in silence",
        lambda joined, switch: switch.unplug(joined.far.namespace),
        lambda joined, switch: switch.plug(joined.far.namespace),
        True,
    ),
    Trouble(
        "own interface down",
        lambda joined, switch: joined.near.namespace.ip("link", "set", switch.device(), "down"),
        lambda joined, switch: joined.near.namespace.ip("link", "set", switch.device(), "up"),
        True,
    ),
    Trouble("own address changed", _change_address, lambda *_: None, False),
)


def report(choice: Choice) -> None:
    """Prints seconds: with one link until it is noticed and from the cure to the first reply; with two the gap."""
    print(f"{'transport':<10} {'nodes':<10} {'what happens':<22} {'noticed':>8} {'healed':>8} {'gap of two':>10}")
    for letter, transport in choice.kinds():
        if transport == "unix":
            # It has no cable, no interface and no address.
            continue
        for trouble in TROUBLES:
            row = f"{transport:<10} {NAMES[letter]:<10} {trouble.name:<22} "
            try:
                noticed, healed = _with_one(letter, transport, trouble)
                gap = _with_two(letter, transport, trouble) if trouble.beside_another else None
                print(row + " ".join(_words(value) for value in (noticed, healed, gap)), flush=True)
            except (LabError, WaitError) as error:
                print(f"{row}failed: {str(error).splitlines()[0]}", flush=True)


def _words(seconds: float | None) -> str:
    if seconds is None:
        return f"{'–':>8}"
    return f"{f'over {PATIENCE:.0f}' if math.isinf(seconds) else f'{seconds:.2f}':>8}"


def _with_one(letter: str, transport: str, trouble: Trouble) -> tuple[float | None, float]:
    """Seconds until noticed, None where it was cured before; and from the cure to the first reply."""
    with _joined(letter, transport, 1) as joined:
        (switch,) = joined.switches
        pinger = Pinger(joined.near.namespace, joined.far.address, interval=PING_INTERVAL)
        try:
            pinger.wait_first_reply(REACH_TIMEOUT)
            begin = time.monotonic()
            trouble.make(joined, switch)
            noticed: float | None = None
            if trouble.make is not _change_address:
                noticed = _seconds_until(lambda: joined.near.count_links() == 0, begin)
                begin = time.monotonic()
                trouble.cure(joined, switch)
            ping_until_reply(joined.near.namespace, joined.far.address, PATIENCE)
            time.sleep(AFTERWARDS)
            echoes = pinger.stop().echoes
        finally:
            pinger.kill()
        replies = [echo.arrived - begin for echo in echoes if echo.sent >= begin and echo.arrived is not None]
        return noticed, min(replies, default=math.inf)


def _with_two(letter: str, transport: str, trouble: Trouble) -> float:
    """The longest time without a reply, when the network in use has the trouble."""
    with _joined(letter, transport, 2) as joined:
        pinger = Pinger(joined.near.namespace, joined.far.address, interval=PING_INTERVAL)
        try:
            pinger.wait_first_reply(REACH_TIMEOUT)
            switch = joined.in_use()
            trouble.make(joined, switch)
            # What was on its way may still arrive.
            time.sleep(UNTOUCHED)
            ping_until_reply(joined.near.namespace, joined.far.address, PATIENCE)
            time.sleep(AFTERWARDS)
            return pinger.stop().longest_gap()
        finally:
            pinger.kill()


def _seconds_until(probe: Callable[[], bool], begin: float) -> float:
    try:
        wait_until("noticed", probe, PATIENCE)
    except WaitError:
        return math.inf
    return time.monotonic() - begin


@contextmanager
def _joined(letter: str, transport: str, count: int) -> Iterator[Joined]:
    with Lab() as lab:
        left, right = lab.namespace("near"), lab.namespace("far")
        meeting = Meeting(lab, transport)
        switches = tuple(lab.switch() for _ in range(count))
        near_addresses = tuple(switch.join(left) for switch in switches)
        endpoints = [meeting.endpoint(switch.join(right)) for switch in switches]
        kind = kind_of(letter, transport)
        far = kind(lab, right, options=meeting.listening).start()
        far.wait_until_up()
        near = kind(lab, left, peers=endpoints, options=meeting.options).start()
        near.wait_until_up()
        near.wait_for_links(count)
        ping_until_reply(left, far.address, REACH_TIMEOUT)
        yield Joined(near, far, switches, near_addresses)
