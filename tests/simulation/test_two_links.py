"""Two links to one neighbour: good ones don't take turns, and one that comes back is used again when its cost is known."""

from __future__ import annotations

import random

import pytest

from tests.simulation.network import Network, Node, Wire

HOUR = 3600.0


def used(node: Node, other: Node) -> Wire:
    """The wire that packets from `node` to its neighbour take now."""
    link = node.table[other.prefix].link
    assert link is not None
    return node.links[link][0]


def uses(network: Network, node: Node, other: Node, seconds: float, jitter: float = 0.0) -> list[tuple[float, Wire]]:
    """Lets time pass, each second with other delays; when which wire was taken into use, the first one included."""
    source = random.Random(5)
    base = {wire: wire.delay for wire, _, _ in node.links.values()}
    begin = network.now
    found = [(0.0, used(node, other))]
    while network.now < begin + seconds:
        for wire, delay in base.items():
            wire.delay = delay + source.uniform(0, jitter)
        network.packet(node, other)
        network.run(1.0)
        wire = used(node, other)
        if wire is not found[-1][1]:
            found.append((network.now - begin, wire))
    return found


@pytest.mark.parametrize("second", [0.010, 0.012, 0.014])
def test_two_good_links_with_jitter_do_not_take_turns(second: float) -> None:
    network = Network()
    near, far = network.add("near"), network.add("far")
    for delay in (0.010, second):
        network.connect(near, far, delay=delay)
    network.run(HOUR)
    for node, other in ((near, far), (far, near)):
        assert len(uses(network, node, other, 2 * HOUR, jitter=0.004)) <= 2


@pytest.mark.parametrize(("slow", "minutes"), [(0.040, 15.0), (0.200, 10.0)])
def test_good_link_that_comes_back_is_used_again(slow: float, minutes: float) -> None:
    network = Network()
    near, far = network.add("near"), network.add("far")
    good, bad = network.connect(near, far, delay=0.0005), network.connect(near, far, delay=slow)
    network.run(HOUR)
    assert used(near, far) is good
    network.cut(good)
    assert used(near, far) is bad
    network.run(60.0)
    back = network.connect(near, far, delay=0.0005)
    assert used(near, far) is bad
    changes = uses(network, near, far, HOUR)
    print(slow, changes)
    assert [wire for _, wire in changes] == [bad, back]
    assert changes[1][0] <= minutes * 60
