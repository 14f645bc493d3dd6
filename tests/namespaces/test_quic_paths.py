"""Paths of QUIC connections that change under them: addresses, and the size that they carry, said or not."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import pytest

from actors.link.transports.qh3_inside import MOST_PATHS
from tests.lab.flow import FlowReport, start_receiver, start_sender
from tests.lab.namespaces import Lab, Switch, Wire, stop_process
from tests.lab.nat import Nat
from tests.lab.nodes import LISTEN_PORT, TUN_NAME, MyceliumNode, Node, SeptateNode
from tests.lab.ping import ping_until_reply
from tests.lab.waiting import wait_until
from tests.namespaces.networks import REACH_TIMEOUT
from tests.namespaces.test_quic import Joined, carry_flows, counters, join, reach_each_other

pytestmark = [pytest.mark.namespaces]

PATIENCE: Final = 20.0
LONG_FLOW_BYTES: Final = 60_000_000
AT_ONCE_SECONDS: Final = 5.0
SWALLOWS_ABOVE: Final = 1320
"""Bytes of IP packet."""
WHO: Final = [
    pytest.param(SeptateNode, SeptateNode, id="Septate dials Septate"),
    pytest.param(SeptateNode, MyceliumNode, id="Septate dials Mycelium", marks=pytest.mark.mycelium),
]


def skip_unless_here(*kinds: type[Node]) -> None:
    for kind in kinds:
        missing = kind.missing()
        if missing is not None:
            pytest.skip(missing)


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


def happen_under_a_flow(event: Callable[[], None], source: Node, target: Node) -> None:
    """`event` happens while a stream is on its way, which arrives as it was sent."""
    receiver = start_receiver(target.namespace)
    begin = octets_to_host(target)
    sender = start_sender(source.namespace, target.address, receiver.port, LONG_FLOW_BYTES)
    try:
        wait_until("a flow", lambda: octets_to_host(target) > begin + LONG_FLOW_BYTES // 10, PATIENCE, 0.005)
        event()
        assert octets_to_host(target) < begin + LONG_FLOW_BYTES
        arrived = receiver.finish(PATIENCE)
        sent = FlowReport(**json.loads(sender.communicate(timeout=PATIENCE)[0]))
    finally:
        receiver.kill()
        stop_process(sender)
    assert (arrived.bytes, arrived.sha256) == (sent.bytes, sent.sha256)


def octets_to_host(node: Node) -> int:
    """Bytes that the node wrote to its TUN device."""
    done = node.namespace.run(["ip", "-j", "-s", "link", "show", TUN_NAME])
    return int(json.loads(done.stdout)[0]["stats64"]["rx"]["bytes"])


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dials", "listens"), WHO)
def test_flow_goes_on_while_its_dialler_gets_another_address(lab: Lab, dials: type[Node], listens: type[Node]) -> None:
    skip_unless_here(dials, listens)
    joined = join(lab, dials, listens)
    dialler, wire = joined.dialler, joined.wire
    subnet, _, host = wire.left_address.rpartition(".")

    def change() -> None:
        dialler.namespace.ip("addr", "del", f"{wire.left_address}/24", "dev", wire.left_device)
        dialler.namespace.ip("addr", "add", f"{subnet}.{int(host) + 1}/24", "dev", wire.left_device)

    happen_under_a_flow(change, dialler, joined.listener)
    assert only_connection(joined)
    carry_flows(dialler, joined.listener)
    assert only_connection(joined)


class Behind(NamedTuple):
    """A dialler behind a machine that translates its address."""

    joined: Joined
    nat: Nat


@contextlib.contextmanager
def join_behind_nat(lab: Lab, dials: type[Node], listens: type[Node]) -> Iterator[Behind]:
    near, middle, far = (lab.namespace(label) for label in ("dials", "nat", "listens"))
    inner, outer = lab.wire(near, middle), lab.wire(middle, far)
    listener = listens(lab, far).start()
    listener.wait_until_up()
    with Nat(middle, inner.right_address, (outer.right_address, LISTEN_PORT)) as nat:
        dialler = dials(lab, near, peers=[f"quic://{inner.right_address}:{LISTEN_PORT}"]).start()
        dialler.wait_until_up()
        reach_each_other(dialler, listener)
        yield Behind(Joined(lab, dialler, listener, outer), nat)


@pytest.mark.parametrize(("dials", "listens"), WHO)
def test_flows_go_on_while_a_nat_forgets_its_port(lab: Lab, dials: type[Node], listens: type[Node]) -> None:
    skip_unless_here(dials, listens)
    with join_behind_nat(lab, dials, listens) as behind:
        dialler, listener = behind.joined.dialler, behind.joined.listener
        happen_under_a_flow(behind.nat.forget, dialler, listener)
        happen_under_a_flow(behind.nat.forget, listener, dialler)
        assert only_connection(behind.joined)


@pytest.mark.mycelium
def test_reference_node_that_dialled_is_followed_to_its_new_port(lab: Lab) -> None:
    # Without a flow: after some losses its own link dies of the next full packet (wire spec 5.6).
    skip_unless_here(MyceliumNode)
    with join_behind_nat(lab, MyceliumNode, SeptateNode) as behind:
        dialler, listener = behind.joined.dialler, ours(behind.joined.listener)
        behind.nat.forget()
        ping_until_reply(dialler.namespace, listener.address, AT_ONCE_SECONDS)
        ping_until_reply(listener.namespace, dialler.address, AT_ONCE_SECONDS)
        wait_until("it is followed", functools.partial(follows, listener, 1), PATIENCE)
        assert only_connection(behind.joined)


def follows(node: SeptateNode, times: int) -> bool:
    return counters(node)["quic.followed"] == times


def test_connection_whose_address_changes_too_often_ends_at_once_and_is_dialled_again(lab: Lab) -> None:
    with join_behind_nat(lab, SeptateNode, SeptateNode) as behind:
        dialler, listener = ours(behind.joined.dialler), ours(behind.joined.listener)
        for number in range(1, MOST_PATHS):
            behind.nat.forget()
            ping_until_reply(dialler.namespace, listener.address, REACH_TIMEOUT)
            wait_until("it is followed", functools.partial(follows, listener, number), PATIENCE)
        assert only_connection(behind.joined)
        behind.nat.forget()
        ping_until_reply(dialler.namespace, listener.address, AT_ONCE_SECONDS)
        wait_until("a second connection", lambda: counters(dialler)["dials.connected"] == 2, PATIENCE)


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
