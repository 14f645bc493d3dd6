"""Two links to one neighbour: good ones don't take turns, and a better one that comes back is soon used again."""

from __future__ import annotations

import random

import pytest

from protocol.mycelium.tlv import Hello
from tests.simulation.network import Network, Node, Wire

HOUR = 3600.0
SOON = 45.0


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


@pytest.mark.parametrize("slow", [0.020, 0.040, 0.200])
def test_good_link_that_comes_back_is_soon_used_again_for_all_that_it_leads_to(slow: float) -> None:
    network = Network()
    near, far, beyond = network.add("near"), network.add("far"), network.add("beyond")
    network.connect(far, beyond)
    good, bad = network.connect(near, far, delay=0.0005), network.connect(near, far, delay=slow)
    network.run(HOUR)
    assert used(near, far) is good
    network.cut(good)
    assert used(near, far) is bad
    pairs = [(near, far), (near, beyond)]
    network.talk(pairs, 60.0)
    back = network.connect(near, far, delay=0.0005)
    network.talk(pairs, 2.0)
    assert [used(near, other) for _, other in pairs] == [bad, bad]
    network.talk(pairs, SOON)
    assert [used(near, other) for _, other in pairs] == [back, back]
    assert uses(network, near, far, HOUR) == [(0.0, back)]


def test_links_are_measured_often_only_while_they_are_new_and_two() -> None:
    network = Network()
    near, far = network.add("near"), network.add("far")
    network.connect(near, far, delay=0.010)
    network.record = True
    network.run(60.0)

    def hellos() -> int:
        count = sum(isinstance(tlv, Hello) for _, _, tlv in near.sent)
        near.sent.clear()
        return count

    assert hellos() == 3
    network.connect(near, far, delay=0.012)
    network.run(60.0)
    # Of the older link 38 samples were missing, of the newer one 41; and 20 s have their Hellos anyway.
    assert 70 <= hellos() <= 86
    network.run(60.0)
    assert hellos() == 6
