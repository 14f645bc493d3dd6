"""Random networks under random trouble: no loop at any instant, and everyone reaches everyone when it is over."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.simulation.network import Network, Node, Wire


def random_network(seed: int, count: int, more_wires: int) -> tuple[Network, list[Node], list[Wire]]:
    """A connected random graph with wires of different delays and costs; nothing has been run yet."""
    network = Network(seed)
    source = network.random
    nodes = [network.add(f"node {number}") for number in range(count)]
    pairs = [(nodes[number], source.choice(nodes[:number])) for number in range(1, count)]
    pairs += [tuple(source.sample(nodes, 2)) for _ in range(more_wires)]  # type: ignore[misc]
    wires = [
        network.connect(a, b, delay=source.uniform(0.001, 0.08), cost=source.choice([5, 10, 15, 100])) for a, b in pairs
    ]
    return network, nodes, wires


def sample_pairs(source: random.Random, nodes: list[Node], count: int) -> list[tuple[Node, Node]]:
    return [tuple(source.sample(nodes, 2)) for _ in range(count)]  # type: ignore[misc]


def assert_connected_pairs_reach(network: Network, pairs: list[tuple[Node, Node]]) -> None:
    for source, destination in pairs:
        if destination in network.component(source):
            told = network.reaches(source, destination) or network.story(destination.prefix)
            assert told is True, f"{source} does not reach {destination}\n{told}"


@pytest.mark.parametrize("seed", range(2))
def test_sixty_nodes_converge(seed: int) -> None:
    network, nodes, _ = random_network(seed, 60, 30)

    network.run(5.0)

    assert_connected_pairs_reach(network, [(a, b) for a in nodes for b in nodes if a is not b])


@pytest.mark.parametrize("seed", range(3))
def test_forty_nodes_survive_cuts_joins_and_crashes(seed: int) -> None:
    network, nodes, wires = random_network(100 + seed, 40, 30)
    source = network.random
    network.run(5.0)
    talkers = sample_pairs(source, nodes, 30)

    for _ in range(30):
        trouble(network, nodes, wires)
        network.talk(talkers, source.choice([0.0, 0.2, 1.0, 7.0, 25.0]), every=0.2)
    network.talk(talkers, 90.0, every=2.0)

    assert_connected_pairs_reach(network, talkers)


def trouble(network: Network, nodes: list[Node], wires: list[Wire]) -> None:
    """One thing that goes wrong, or gets better."""
    source = network.random
    match source.randrange(6):
        case 0 | 1:
            network.cut(wires.pop(source.randrange(len(wires))))
        case 2:
            network.cut(wires.pop(source.randrange(len(wires))), noticed=False)
        case 3 | 4:
            a, b = source.sample(nodes, 2)
            wires.append(network.connect(a, b, delay=source.uniform(0.001, 0.3), cost=source.choice([5, 15, 400])))
        case 5:
            network.crash_router(source.choice([node for node in nodes if node.running]), source.uniform(0.01, 0.5))


@pytest.mark.parametrize("seed", range(3))
def test_loops_around_a_restarted_node_do_not_last(seed: int) -> None:
    network, nodes, _ = random_network(200 + seed, 25, 20)
    network.run(5.0)
    network.check_loops = False

    for _ in range(3):
        restarted = network.random.choice(nodes)
        network.restart(restarted)
        network.run(5.0)
        assert_connected_pairs_reach(network, [(node, restarted) for node in nodes if node is not restarted])


steps = st.lists(
    st.tuples(
        st.sampled_from(["cut", "silence", "join", "crash", "wait", "talk"]), st.integers(0, 63), st.integers(0, 63)
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=25, deadline=None)
@given(count=st.integers(3, 8), more=st.integers(0, 6), seed=st.integers(0, 999), plan=steps)
def test_no_plan_of_trouble_makes_a_loop_or_a_lasting_gap(
    count: int, more: int, seed: int, plan: list[tuple[str, int, int]]
) -> None:
    network, nodes, wires = random_network(seed, count, more)
    everyone = [(a, b) for a in nodes for b in nodes if a is not b]
    for what, first, second in plan:
        a, b = nodes[first % count], nodes[second % count]
        if what == "cut" and wires:
            network.cut(wires.pop(first % len(wires)))
        elif what == "silence" and wires:
            network.cut(wires.pop(first % len(wires)), noticed=False)
        elif what == "join" and a is not b:
            wires.append(network.connect(a, b, delay=(second + 1) / 200, cost=5 + 10 * first))
        elif what == "crash" and a.running:
            network.crash_router(a, (second + 1) / 100)
        elif what == "wait":
            network.run(second / 4)
        elif what == "talk" and a is not b:
            network.packet(a, b)

    network.talk(everyone, 150.0, every=2.0)

    assert_connected_pairs_reach(network, everyone)


def test_three_hundred_nodes_converge_and_heal() -> None:
    network, nodes, wires = random_network(7, 300, 25)
    source = network.random
    network.run(5.0)
    pairs = sample_pairs(source, nodes, 400)
    assert_connected_pairs_reach(network, pairs)

    for wire in source.sample(wires, 4):
        network.cut(wire)
    network.talk(pairs, 8.0, every=2.0)

    assert_connected_pairs_reach(network, pairs)


def test_control_traffic_settles() -> None:
    network, _, _ = random_network(3, 40, 20)
    # Until double wires are measured, and between the Hellos of all.
    network.run(65.0)
    settled = network.packets

    network.run(9.0)

    assert network.packets == settled


def test_costs_stay_those_of_the_wires() -> None:
    network, _, wires = random_network(11, 12, 8)

    network.run(1500.0)

    for wire in wires:
        for node, link in wire.ends:
            expected = 2000 * wire.delay
            assert abs(node.router.smoothed_rtt(link) - expected) <= 12  # type: ignore[operator]
