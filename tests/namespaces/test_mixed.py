"""Septate and the reference program in one network: neither can tell the other from its own kind."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import pytest

from tests.lab.flow import transfer
from tests.lab.namespaces import Lab
from tests.lab.nodes import MyceliumNode, Node, SeptateNode
from tests.lab.ping import Pinger, ping, ping_until_reply
from tests.namespaces.networks import REACH_TIMEOUT
from tests.namespaces.processes import find_process, kill_process, wait_for_successor

pytestmark = [pytest.mark.namespaces, pytest.mark.mycelium]

FLOW_BYTES: Final = 20_000_000
RESTART_SECONDS: Final = 20.0
"""The reference tries a lost peer every 5 s; the rest is starting a program and finding the route."""
IHU_SECONDS: Final = 65.0
"""A reference node gives up a peer that sends no IHU for 43 s, and looks every 10 s (wire spec 7.5)."""


@dataclass(frozen=True, slots=True)
class Chain:
    """Nodes in line; every one dials its left neighbour."""

    nodes: tuple[Node, ...]

    @property
    def ends(self) -> tuple[Node, Node]:
        """The first and the last."""
        return self.nodes[0], self.nodes[-1]

    def wait_until_connected(self, timeout: float = REACH_TIMEOUT) -> None:
        """Waits until both ends reach each other."""
        one, other = self.ends
        ping_until_reply(one.namespace, other.address, timeout)
        ping_until_reply(other.namespace, one.address, timeout)


def build_chain(lab: Lab, kinds: tuple[type[Node], ...]) -> Chain:
    """Starts nodes of these kinds in line and waits until the ends reach each other."""
    missing = MyceliumNode.missing()
    if missing is not None:
        pytest.skip(missing)
    nodes: list[Node] = []
    for number, kind in enumerate(kinds):
        place = lab.namespace(f"n{number}")
        peers = []
        if nodes:
            wire = lab.wire(nodes[-1].namespace, place)
            peers = [nodes[-1].endpoint(wire.left_address)]
        nodes.append(kind(lab, place, peers=peers).start())
        nodes[-1].wait_until_up()
    chain = Chain(tuple(nodes))
    chain.wait_until_connected()
    return chain


DIALLED_BY: Final = [
    pytest.param((MyceliumNode, SeptateNode), id="Septate dials"),
    pytest.param((SeptateNode, MyceliumNode), id="Mycelium dials"),
]
RELAYED_BY: Final = [
    pytest.param((MyceliumNode, SeptateNode, MyceliumNode), id="Septate relays"),
    pytest.param((SeptateNode, MyceliumNode, SeptateNode), id="Mycelium relays"),
]


@pytest.mark.parametrize("kinds", [*DIALLED_BY, *RELAYED_BY])
def test_both_ends_ping_each_other_and_streams_arrive_unchanged(lab: Lab, kinds: tuple[type[Node], ...]) -> None:
    one, other = build_chain(lab, kinds).ends
    lost = (ping(one.namespace, other.address).lost, ping(other.namespace, one.address).lost)
    there = transfer(one.namespace, other.namespace, other.address, FLOW_BYTES)
    back = transfer(other.namespace, one.namespace, one.address, FLOW_BYTES)
    assert lost == (0, 0)
    assert [sent.sha256 for sent, _ in (there, back)] == [arrived.sha256 for _, arrived in (there, back)]


@pytest.mark.parametrize("restarted", [0, 1], ids=["the dialled side", "the dialling side"])
@pytest.mark.parametrize("kinds", DIALLED_BY)
def test_either_side_is_reached_again_after_its_restart(
    lab: Lab, kinds: tuple[type[Node], ...], restarted: int
) -> None:
    chain = build_chain(lab, kinds)
    chain.nodes[restarted].stop()
    chain.nodes[restarted].start()
    chain.wait_until_connected(RESTART_SECONDS)


def test_reference_peer_notices_nothing_of_a_killed_link_process(lab: Lab) -> None:
    chain = build_chain(lab, (MyceliumNode, SeptateNode))
    reference, septate = chain.nodes
    assert isinstance(reference, MyceliumNode)
    assert isinstance(septate, SeptateNode)
    (before,) = reference.api.get("/api/v1/admin/peers")
    victim = find_process(septate, "link")
    kill_process(septate, victim)
    wait_for_successor(septate, victim)
    chain.wait_until_connected()
    (after,) = reference.api.get("/api/v1/admin/peers")
    assert after["endpoint"] == before["endpoint"]
    assert after["discovered"] >= before["discovered"]


def test_nodes_stay_peered_for_longer_than_a_silent_peer_is_kept(lab: Lab) -> None:
    one, other = build_chain(lab, (MyceliumNode, SeptateNode, MyceliumNode)).ends
    pinger = Pinger(one.namespace, other.address, interval=0.2)
    pinger.wait_first_reply(REACH_TIMEOUT)
    time.sleep(IHU_SECONDS)
    report = pinger.stop()
    assert report.lost == 0
