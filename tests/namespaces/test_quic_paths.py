"""Paths of QUIC connections that change under them: addresses, and the size that they carry, said or not."""

from __future__ import annotations

from typing import Final

import pytest

from tests.lab.namespaces import Lab, Switch, Wire
from tests.lab.nodes import LISTEN_PORT, Node, SeptateNode
from tests.lab.ping import ping_until_reply
from tests.lab.waiting import wait_until
from tests.namespaces.networks import REACH_TIMEOUT
from tests.namespaces.test_quic import Joined, carry_flows, counters, join, reach_each_other

pytestmark = [pytest.mark.namespaces]

PATIENCE: Final = 20.0
SWALLOWS_ABOVE: Final = 1320
"""Bytes of IP packet."""


def set_mtu(wire: Wire, octets: int) -> None:
    wire.left.ip("link", "set", wire.left_device, "mtu", str(octets))
    wire.right.ip("link", "set", wire.right_device, "mtu", str(octets))


@pytest.fixture
def pair(lab: Lab) -> Joined:
    return join(lab, SeptateNode, SeptateNode)


def ours(node: Node) -> SeptateNode:
    assert isinstance(node, SeptateNode)
    return node


def only_connection(joined: Joined) -> bool:
    """Whether those of the two that are ours have had one connection all the time."""
    found = [counters(node) for node in (joined.dialler, joined.listener) if isinstance(node, SeptateNode)]
    return all(seen["dials.connected"] + seen["accepts.connected"] == 1 for seen in found)


# --- addresses --------------------------------------------------------------------------------------------------------


def test_connection_survives_a_new_address_of_its_dialler(pair: Joined) -> None:
    dialler, listener = pair.dialler, pair.listener
    assert isinstance(dialler, SeptateNode)
    assert isinstance(listener, SeptateNode)
    old = pair.wire.left_address
    subnet, _, host = old.rpartition(".")
    device = pair.wire.left_device
    dialler.namespace.ip("addr", "del", f"{old}/24", "dev", device)
    dialler.namespace.ip("addr", "add", f"{subnet}.{int(host) + 1}/24", "dev", device)
    ping_until_reply(dialler.namespace, listener.address, REACH_TIMEOUT)
    wait_until("the listener's link follows", lambda: counters(listener)["quic.followed"], PATIENCE)
    carry_flows(dialler, listener)
    # One connection all the time.
    assert counters(dialler)["dials.connected"] == 1
    assert counters(listener)["accepts.connected"] == 1


# --- sizes that the kernel knows --------------------------------------------------------------------------------------


def test_path_of_small_datagrams_carries_full_packets(lab: Lab) -> None:
    near, far = lab.namespace("dials"), lab.namespace("listens")
    wire = lab.wire(near, far)
    set_mtu(wire, 1400)
    listener = SeptateNode(lab, far).start()
    listener.wait_until_up()
    dialler = SeptateNode(lab, near, peers=[f"quic://{wire.right_address}:{LISTEN_PORT}"]).start()
    dialler.wait_until_up()
    reach_each_other(dialler, listener)
    carry_flows(dialler, listener)
    assert counters(dialler)["dials.connected"] == 1


def test_connection_goes_on_when_its_path_becomes_smaller(pair: Joined) -> None:
    dialler = pair.dialler
    assert isinstance(dialler, SeptateNode)
    carry_flows(dialler, pair.listener)
    set_mtu(pair.wire, 1320)
    carry_flows(dialler, pair.listener)
    assert counters(dialler)["dials.connected"] == 1


# --- sizes that nobody tells ------------------------------------------------------------------------------------------


def join_over(switch: Switch, lab: Lab, dials: type[Node], listens: type[Node]) -> Joined:
    """Starts two nodes on a switch and waits until their hosts reach each other."""
    near, far = lab.namespace("dials"), lab.namespace("listens")
    left, right = switch.join(near), switch.join(far)
    listener = listens(lab, far).start()
    listener.wait_until_up()
    dialler = dials(lab, near, peers=[f"quic://{right}:{LISTEN_PORT}"]).start()
    dialler.wait_until_up()
    reach_each_other(dialler, listener)
    device = switch.device()
    return Joined(lab, dialler, listener, Wire(near, far, device, device, (left,), (right,)))


def test_path_that_swallows_large_datagrams_from_the_beginning_carries_full_packets(lab: Lab) -> None:
    switch = lab.switch()
    switch.carry_at_most(SWALLOWS_ABOVE)
    joined = join_over(switch, lab, SeptateNode, SeptateNode)
    carry_flows(joined.dialler, joined.listener)
    assert only_connection(joined)
    assert counters(ours(joined.listener))["quic.path_smaller"] == 1


def test_path_that_begins_to_swallow_large_datagrams_goes_on_carrying_full_packets(lab: Lab) -> None:
    switch = lab.switch()
    joined = join_over(switch, lab, SeptateNode, SeptateNode)
    carry_flows(joined.dialler, joined.listener)
    switch.carry_at_most(SWALLOWS_ABOVE)
    carry_flows(joined.dialler, joined.listener)
    assert only_connection(joined)
    for node in (joined.dialler, joined.listener):
        assert counters(ours(node))["quic.path_smaller"] == 1
