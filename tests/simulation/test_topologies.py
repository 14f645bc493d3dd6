"""Small networks whose outcome is known: lines, rings, starvation, retraction, restarts, crashes."""

from __future__ import annotations

from itertools import pairwise

import pytest

from protocol.frames import RouteState
from protocol.mycelium.routing.events import RouteChanged
from protocol.mycelium.tlv import SeqnoRequest, Update
from tests.simulation.network import INFINITE, LoopError, Network, Node, UnfeasibleError, Wire


def line(network: Network, count: int, delay: float = 0.01) -> tuple[list[Node], list[Wire]]:
    nodes = [network.add(f"node {number}") for number in range(count)]
    wires = [network.connect(a, b, delay=delay) for a, b in pairwise(nodes)]
    return nodes, wires


def ring(network: Network, count: int) -> tuple[list[Node], list[Wire]]:
    nodes, wires = line(network, count)
    wires.append(network.connect(nodes[-1], nodes[0]))
    return nodes, wires


def all_pairs(nodes: list[Node]) -> list[tuple[Node, Node]]:
    return [(a, b) for a in nodes for b in nodes if a is not b]


def assert_all_reach_all(network: Network, nodes: list[Node]) -> None:
    missing = [(a, b) for a, b in all_pairs(nodes) if not network.reaches(a, b)]
    assert missing == []


def test_four_nodes_in_a_line_reach_each_other() -> None:
    network = Network(over_the_wire=True)
    nodes, _ = line(network, 4)

    network.run(1.0)

    assert_all_reach_all(network, nodes)
    assert [node.name for node in network.way(nodes[0], nodes[3])] == ["node 0", "node 1", "node 2", "node 3"]


def test_a_ring_takes_the_shorter_way_round() -> None:
    network = Network()
    nodes, _ = ring(network, 7)

    network.run(1.0)

    for distance in range(1, 4):
        assert len(network.way(nodes[0], nodes[distance])) == distance + 1
        assert len(network.way(nodes[0], nodes[-distance])) == distance + 1


def test_a_ring_with_a_cut_heals() -> None:
    network = Network()
    nodes, wires = ring(network, 6)
    network.run(30.0)

    network.cut(wires[0])
    network.talk(all_pairs(nodes), 10.0)

    assert_all_reach_all(network, nodes)
    assert len(network.way(nodes[0], nodes[1])) == 6


def test_a_ring_with_a_silent_cut_heals_when_the_silence_is_noticed() -> None:
    network = Network()
    nodes, wires = ring(network, 5)
    network.run(61.0)

    network.cut(wires[0], noticed=False)
    network.talk(all_pairs(nodes), 75.0)

    assert_all_reach_all(network, nodes)


def test_a_node_that_leaves_is_retracted_everywhere_without_counting_to_infinity() -> None:
    network = Network()
    nodes, _ = ring(network, 6)
    leaver = network.add("leaver")
    wire = network.connect(leaver, nodes[0])
    network.run(30.0)
    before = network.packets

    network.cut(wire)
    network.run(7.0)

    assert all(node.state(leaver.prefix) is RouteState.FORGOTTEN for node in nodes)
    assert network.packets - before < 60


def test_starvation_is_healed_by_a_seqno_request() -> None:
    network = Network()
    origin, near, far = network.add("origin"), network.add("near"), network.add("far")
    network.record = True
    direct = network.connect(near, origin, cost=10)
    network.connect(far, origin, cost=5000)
    network.connect(near, far, cost=10)
    network.run(10.0)
    assert [node.name for node in network.way(near, origin)] == ["near", "origin"]

    network.cut(direct)
    network.run(1.0)

    assert [node.name for node in network.way(near, origin)] == ["near", "far", "origin"]
    assert any(isinstance(tlv, SeqnoRequest) for _, _, tlv in near.sent)
    assert origin.router.seqno == 1


def test_starvation_far_from_the_origin_is_healed_through_relays() -> None:
    network = Network()
    origin = network.add("origin")
    relays = [network.add(f"relay {number}") for number in range(4)]
    starved = network.add("starved")
    for a, b in zip([origin, *relays], relays, strict=False):
        network.connect(a, b, cost=2000)
    network.connect(relays[-1], starved, cost=10)
    shortcut = network.connect(origin, starved, cost=10)
    network.run(10.0)

    network.cut(shortcut)
    network.talk([(starved, origin)], 10.0)

    assert len(network.way(starved, origin)) == 6


def test_a_restarted_node_is_reached_under_its_new_router_id() -> None:
    network = Network()
    nodes, _ = ring(network, 5)
    network.run(61.0)
    network.check_loops = False  # two origins of one prefix: loops can't be excluded, only short (RFC 8966 2.6)

    network.restart(nodes[0])
    network.run(3.0)

    assert_all_reach_all(network, nodes)
    assert {node.table[nodes[0].prefix].state for node in nodes[1:]} == {RouteState.SELECTED}


def test_a_crashed_router_is_noticed_by_nobody() -> None:
    network = Network()
    nodes, _ = line(network, 4)
    network.run(45.0)
    middle = nodes[1]
    before = dict(middle.table)
    router_id = middle.router.router_id
    network.record = True

    network.crash_router(middle)
    for _ in range(50):
        network.run(0.1)
        assert_all_reach_all(network, nodes)
        assert middle.table == before

    assert middle.router.router_id == router_id
    retractions = [
        tlv for node in nodes for _, _, tlv in node.sent if isinstance(tlv, Update) and tlv.metric == INFINITE
    ]
    assert retractions == []


def test_a_link_lost_while_the_router_was_dead_is_found_out_by_its_successor() -> None:
    network = Network()
    nodes, wires = ring(network, 5)
    network.run(45.0)

    network.crash_router(nodes[0])
    network.cut(wires[0])
    network.talk(all_pairs(nodes), 10.0)

    assert_all_reach_all(network, nodes)


def test_routers_of_neighbours_that_crash_together_find_their_routes_again() -> None:
    network = Network()
    nodes, _ = ring(network, 6)
    network.run(45.0)

    network.crash_router(nodes[0])
    network.crash_router(nodes[1])
    network.run(10.0)
    network.talk(all_pairs(nodes), 5.0)

    assert_all_reach_all(network, nodes)


def test_an_idle_route_expires_and_is_found_again_on_demand() -> None:
    network = Network()
    nodes, _ = line(network, 5)
    network.run(1200.0)
    assert nodes[0].state(nodes[4].prefix) is RouteState.FORGOTTEN

    network.packet(nodes[0], nodes[4])
    network.run(1.0)

    assert network.reaches(nodes[0], nodes[4])


def test_a_route_with_traffic_never_stalls() -> None:
    network = Network()
    nodes, _ = line(network, 5)
    network.run(10.0)

    for _ in range(500):
        assert network.packet(nodes[0], nodes[4])
        assert network.packet(nodes[4], nodes[0])
        network.run(5.0)


def test_a_route_with_a_packet_every_forty_seconds_never_stalls() -> None:
    network = Network()
    nodes, _ = line(network, 4)
    network.run(10.0)

    for _ in range(60):
        assert network.packet(nodes[0], nodes[3])
        network.run(40.0)


def test_a_node_that_joins_later_reaches_everyone_at_once() -> None:
    network = Network()
    nodes, _ = ring(network, 5)
    network.run(30.0)

    joined = network.add("joined")
    network.connect(joined, nodes[2])
    network.run(0.2)

    assert all(network.reaches(joined, node) for node in nodes)
    assert all(network.reaches(node, joined) for node in nodes)


def test_a_prefix_lost_everywhere_is_found_by_waiting_packets_when_its_owner_returns() -> None:
    network = Network()
    nodes, _ = line(network, 4)
    owner = network.add("owner")
    wire = network.connect(nodes[3], owner)
    network.run(30.0)
    network.cut(wire)
    network.run(0.5)
    network.packet(nodes[0], owner)
    network.run(2.0)

    network.connect(nodes[3], owner)
    network.run(0.5)

    assert network.reaches(nodes[0], owner)


def test_a_loop_would_be_noticed() -> None:
    network = Network()
    nodes, _ = ring(network, 3)
    network.run(1.0)
    target, a, b = nodes
    toward_b = a.table[b.prefix]
    toward_a = b.table[a.prefix]

    network._change(a, _redirected(toward_b, target))
    with pytest.raises(LoopError, match="loop for node 0: node 2 → node 1 → node 2"):
        network._change(b, _redirected(toward_a, target))


def test_an_unfeasible_selection_would_be_noticed() -> None:
    network = Network()
    nodes, _ = line(network, 3)
    network.run(1.0)
    change = nodes[1].table[nodes[0].prefix]
    nodes[1].announced[nodes[0].prefix, nodes[0].router.router_id] = (0, 0, network.now)

    with pytest.raises(UnfeasibleError, match="node 1 selected seqno 0 metric 0"):
        network._change(nodes[1], change)


def _redirected(change: RouteChanged, owner: Node) -> RouteChanged:
    return RouteChanged(owner.prefix, change.state, change.link, owner.public_key, clean=False)
