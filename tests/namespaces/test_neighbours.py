"""Neighbours that find each other, several links to one neighbour, and a node that meets itself."""

from __future__ import annotations

import random
import socket
import struct
from typing import Any

import pytest

from protocol.mycelium.discovery import BEACON_BYTES
from tests.lab.flow import start_receiver, start_sender
from tests.lab.namespaces import Lab, Namespace, Switch, stop_process
from tests.lab.nodes import MyceliumNode, SeptateNode, _HttpNode
from tests.lab.ping import Pinger, ping_until_reply
from tests.lab.waiting import wait_until
from tests.namespaces.networks import REACH_TIMEOUT
from tests.namespaces.processes import processes_of

pytestmark = pytest.mark.namespaces

OURS = "/api/v1/septate/peers"
FLOW_BYTES = 150_000_000
FUZZED = 200
BURST = 100
FOUND_SECONDS = 25.0
"""Duplicate address detection, a beacon, the reference's round of 5 s."""


class Looking(SeptateNode):
    """A node that looks for neighbours."""

    def command(self) -> list[str]:
        return [word for word in super().command() if word != "--disable-peer-discovery"]


class LookingMycelium(MyceliumNode):
    """Likewise of the reference."""

    def command(self) -> list[str]:
        return [word for word in super().command() if word != "--disable-peer-discovery"]


def listed(node: SeptateNode) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = node.api.get(OURS) or []
    return found


def counter(node: SeptateNode, name: str) -> int:
    return sum(process.counters.get(name, 0) for process in processes_of(node) if process.role == "peers")


def link_local(namespace: Namespace, switch: Switch) -> None:
    """Waits until the interface on the switch has its link-local address."""

    def there() -> bool:
        done = namespace.run(["ip", "-6", "-o", "address", "show", "dev", switch.device(), "scope", "link"])
        return b"fe80" in done.stdout and b"tentative" not in done.stdout

    wait_until(f"{namespace.label} has a link-local address", there, 10.0)


def test_two_nodes_find_each_other_and_one_of_them_dials(lab: Lab) -> None:
    left, right = lab.namespace("left"), lab.namespace("right")
    switch = lab.switch()
    switch.join(left)
    switch.join(right)
    link_local(left, switch)
    link_local(right, switch)
    first, second = Looking(lab, left).start(), Looking(lab, right).start()
    ping_until_reply(left, second.wait_until_up(), REACH_TIMEOUT)
    origins = sorted(entry["origin"] for node in (first, second) for entry in listed(node))
    assert origins == ["discovered", "inbound"]
    (dialler,) = [node for node in (first, second) if listed(node)[0]["origin"] == "discovered"]
    assert (dialler.api.get("/api/v1/admin/peers") or [])[0]["type"] == "linkLocalDiscovery"
    # It vanishes, and is forgotten after its third failure.
    other = second if dialler is first else first
    other.stop()
    wait_until("the neighbour is forgotten", lambda: not listed(dialler), 20.0)
    other.start()
    wait_until("it is found again", lambda: listed(dialler) and listed(dialler)[0]["state"] == "alive", FOUND_SECONDS)
    # An interface that goes takes its neighbours along at once.
    dialler.namespace.ip("link", "set", switch.device(), "down")
    wait_until("nobody is left", lambda: not listed(dialler), 5.0)


@pytest.mark.mycelium
@pytest.mark.skipif(MyceliumNode.missing() is not None, reason=str(MyceliumNode.missing()))
def test_reference_and_we_find_each_other(lab: Lab) -> None:
    left, right = lab.namespace("left"), lab.namespace("right")
    switch = lab.switch()
    switch.join(left)
    switch.join(right)
    link_local(left, switch)
    link_local(right, switch)
    theirs: _HttpNode = LookingMycelium(lab, right).start()
    theirs.wait_until_up()
    ours = Looking(lab, left).start()
    ours.wait_until_up()

    def kinds(node: _HttpNode) -> set[str]:
        return {
            peer["type"] for peer in node.api.get("/api/v1/admin/peers") or [] if peer["connectionState"] == "alive"
        }

    wait_until("the reference dialled us", lambda: "linkLocalDiscovery" in kinds(theirs), FOUND_SECONDS)
    ping_until_reply(left, theirs.address, REACH_TIMEOUT)


def test_beacons_that_are_none_are_counted_and_a_flood_of_them_is_bounded(lab: Lab) -> None:
    left, right = lab.namespace("left"), lab.namespace("right")
    switch = lab.switch()
    switch.join(left)
    switch.join(right)
    link_local(left, switch)
    link_local(right, switch)
    node = Looking(lab, left).start()
    node.wait_until_up()
    wait_until("it looks for neighbours", lambda: counter(node, "discovery.sent"), 10.0)
    index = int(right.run(["cat", f"/sys/class/net/{switch.device()}/ifindex"]).stdout)
    with right.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
        group = ("ff02::cafe", 9650, 0, index)
        for number in range(100):
            sender.sendto(b"mycelium" + struct.pack("!H", 9651) + bytes((number,)) * 32 + bytes(8), group)
        source = random.Random(11)
        for number in range(FUZZED):
            # The right beginning of what is too short, and wrong ones of any length up to twice that of a beacon.
            beginning, most = ((b"mycelium", BEACON_BYTES), (b"mycelion", 101), (b"", 101))[number % 3]
            sender.sendto((beginning + source.randbytes(100))[: number % most], group)
            if number % BURST == BURST - 1:
                # No more at a time than the socket has room for.
                count = number + 1
                wait_until("they are counted", lambda count=count: counter(node, "discovery.malformed") == count, 10.0)
    assert counter(node, "discovery.malformed") == FUZZED
    assert counter(node, "discovery.new") == 16
    assert counter(node, "discovery.too_many") == 84
    wait_until("those that don't exist are forgotten", lambda: not listed(node), 30.0)


def test_flow_goes_on_when_the_better_of_two_links_goes(lab: Lab) -> None:
    left, right = lab.namespace("near"), lab.namespace("far")
    wires = [lab.wire(left, right), lab.wire(left, right)]
    far = SeptateNode(lab, right).start()
    near = SeptateNode(lab, left, peers=[far.endpoint(wire.right_address) for wire in wires]).start()
    near.wait_until_up()
    far.wait_until_up()
    ping_until_reply(left, far.address, REACH_TIMEOUT)
    near.wait_for_links(2)

    def both_told() -> list[dict[str, Any]]:
        rows = listed(near)
        return rows if len(rows) == 2 and all(row["neighbour"] == far.address for row in rows) else []

    rows = wait_until("both links are known to lead to the same node", both_told, 10.0)
    assert sorted(row["prefixes"] for row in rows) == [0, 1]
    (used,) = [row for row in rows if row["prefixes"]]
    assert used["why"].startswith("in use: ")
    (waiting,) = [row for row in rows if not row["prefixes"]]
    assert waiting["why"].startswith("waits, at ")

    receiver = start_receiver(right)
    sender = start_sender(left, far.address, receiver.port, FLOW_BYTES)
    pinger = Pinger(left, far.address, interval=0.02, count=400)
    try:
        wait_until("the flow moves", lambda: counter(near, "dials.connected") >= 2, 5.0)
        cut = next(wire for wire in wires if wire.right_address in used["endpoint"])
        cut.cut()
        wait_until("the other link is used", lambda: [r for r in listed(near) if r["prefixes"] and r is not used], 5.0)
        arrived = receiver.finish()
        sender.communicate(timeout=30)
    finally:
        report = pinger.stop()
        receiver.kill()
        stop_process(sender)
    assert arrived.bytes == FLOW_BYTES
    assert report.longest_gap() < 2.0


def test_node_that_dials_itself_sees_it_and_stops(lab: Lab) -> None:
    place = lab.namespace("alone")
    node = SeptateNode(lab, place, peers=["tcp://127.0.0.1:9651"]).start()
    node.wait_until_up()

    def told() -> bool:
        return any("leads to this node itself" in row["reason"] for row in listed(node))

    wait_until("it says so", told, 10.0)
    dials = counter(node, "dials.connected")
    assert dials <= 2
    (row,) = listed(node)
    assert row["state"] == "dead"


def test_peer_by_name_is_added_and_removed_while_the_node_runs(lab: Lab) -> None:
    place = lab.namespace("alone")
    node = SeptateNode(lab, place).start()
    node.wait_until_up()

    def ask(*words: str) -> str:
        done = place.run([node.program, "peers", *words])
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    ask("add", "tcp://localhost:1")
    assert "tcp://localhost:1" in ask("links")
    assert node.api.request("POST", "/api/v1/admin/peers", {"endpoint": "tcp://localhost:1"})[0] == 400
    ask("remove", "tcp://localhost:1")
    assert listed(node) == []
