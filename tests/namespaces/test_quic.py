"""Nodes joined by QUIC: full packets arrive, a process may die, a flood keeps nobody out."""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
from collections import Counter
from dataclasses import dataclass
from typing import Final

import pytest

from tests.lab.flow import transfer
from tests.lab.namespaces import Lab, Wire
from tests.lab.nodes import LISTEN_PORT, MyceliumNode, Node, SeptateNode
from tests.lab.ping import ping, ping_until_reply
from tests.lab.waiting import wait_until
from tests.namespaces.networks import REACH_TIMEOUT
from tests.namespaces.processes import find_process, kill_process

pytestmark = [pytest.mark.namespaces]

FLOW_BYTES: Final = 20_000_000
AT_ONCE_SECONDS: Final = 5.0
FLOOD: Final = 3000
FLOODING_PORTS: Final = 50


def reach_each_other(one: Node, other: Node) -> None:
    ping_until_reply(one.namespace, other.address, REACH_TIMEOUT)
    ping_until_reply(other.namespace, one.address, REACH_TIMEOUT)


def carry_flows(one: Node, other: Node) -> None:
    for source, target in ((one, other), (other, one)):
        sent, arrived = transfer(source.namespace, target.namespace, target.address, FLOW_BYTES)
        assert sent.sha256 == arrived.sha256


def counters(node: SeptateNode) -> Counter[str]:
    """Of all its processes together."""
    done = node.namespace.run([node.program, "actors", "--json", "--instance", node.instance])
    total: Counter[str] = Counter()
    for row in json.loads(done.stdout):
        total.update(row["counters"])
    return total


@dataclass(frozen=True, slots=True)
class Joined:
    """Two nodes; `dialler` dialled `listener` over QUIC."""

    lab: Lab
    dialler: Node
    listener: Node
    wire: Wire


def join(lab: Lab, dials: type[Node], listens: type[Node]) -> Joined:
    """Starts both and waits until their hosts reach each other."""
    near, far = lab.namespace("dials"), lab.namespace("listens")
    wire = lab.wire(near, far)
    listener = listens(lab, far).start()
    listener.wait_until_up()
    dialler = dials(lab, near, peers=[f"quic://{wire.right_address}:{LISTEN_PORT}"]).start()
    dialler.wait_until_up()
    reach_each_other(dialler, listener)
    return Joined(lab, dialler, listener, wire)


@pytest.fixture
def pair(lab: Lab) -> Joined:
    return join(lab, SeptateNode, SeptateNode)


def test_quic_link_carries_flows_and_is_named_as_the_reference_names_it(pair: Joined) -> None:
    carry_flows(pair.dialler, pair.listener)
    assert isinstance(pair.dialler, SeptateNode)
    assert isinstance(pair.listener, SeptateNode)
    (peer,) = pair.dialler.api.get("/api/v1/admin/peers")
    (guest,) = pair.listener.api.get("/api/v1/admin/peers")
    (route,) = pair.dialler.api.get("/api/v1/admin/routes/selected")
    assert (peer["endpoint"]["proto"], guest["endpoint"]["proto"]) == ("quic", "quic")
    assert route["nextHop"] == f"QUIC -> [::ffff:{pair.wire.right_address}]:{LISTEN_PORT}"
    assert counters(pair.dialler)["quic.failed"] == 0


@pytest.mark.mycelium
@pytest.mark.parametrize(
    ("dials", "listens"),
    [
        pytest.param(SeptateNode, MyceliumNode, id="Septate dials"),
        pytest.param(MyceliumNode, SeptateNode, id="Mycelium dials"),
    ],
)
def test_flows_with_a_reference_node_arrive_and_the_link_lives_on(
    lab: Lab, dials: type[Node], listens: type[Node]
) -> None:
    missing = MyceliumNode.missing()
    if missing is not None:
        pytest.skip(missing)
    joined = join(lab, dials, listens)
    carry_flows(joined.dialler, joined.listener)
    septate = joined.dialler if isinstance(joined.dialler, SeptateNode) else joined.listener
    assert isinstance(septate, SeptateNode)
    seen = counters(septate)
    assert (seen["dials.connected"] + seen["accepts.connected"], seen["quic.failed"]) == (1, 0)


@pytest.mark.parametrize("side", ["dialler", "listener"])
def test_link_is_there_again_when_a_process_of_either_side_is_killed(pair: Joined, side: str) -> None:
    victim: SeptateNode = getattr(pair, side)
    kill_process(victim, find_process(victim, "link"))
    reach_each_other(pair.dialler, pair.listener)
    assert ping(pair.dialler.namespace, pair.listener.address).lost == 0


@pytest.mark.mycelium
def test_reference_node_hears_at_once_that_a_process_was_killed(lab: Lab) -> None:
    missing = MyceliumNode.missing()
    if missing is not None:
        pytest.skip(missing)
    joined = join(lab, SeptateNode, MyceliumNode)
    assert isinstance(joined.dialler, SeptateNode)
    for _ in range(2):
        kill_process(joined.dialler, find_process(joined.dialler, "link"))
        # It would find out by itself after 40 to 50 s, and until then its answers go to the connection that is gone.
        ping_until_reply(joined.dialler.namespace, joined.listener.address, AT_ONCE_SECONDS)


def test_flood_of_first_packets_keeps_nobody_out(lab: Lab) -> None:
    listener = SeptateNode(lab, lab.namespace("listens")).start()
    listener.wait_until_up()
    stranger = lab.namespace("stranger")
    wire = lab.wire(stranger, listener.namespace)
    with contextlib.ExitStack() as opened:
        # What comes from the port of a stranger who has been let in is his link's, which hears no first packets.
        flood = [
            opened.enter_context(stranger.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(FLOODING_PORTS)
        ]

        def retries_after_a_flood() -> int | None:
            for number in range(FLOOD):
                # What a client would begin with, as far as it can be told without its keys.
                ids = b"\x08" + secrets.token_bytes(8) + b"\x08" + secrets.token_bytes(8)
                first = b"\xc0\0\0\0\x01" + ids + b"\0\x44\x9e"
                flood[number % FLOODING_PORTS].sendto(first.ljust(1200, b"\xaa"), (wire.right_address, LISTEN_PORT))
            return counters(listener)["quic.retries"] or None

        # The first packets over a fresh wire may be lost, and figures are up to a second old.
        wait_until("strangers are asked to come again", retries_after_a_flood, 15.0, interval=1.0)
    near = lab.namespace("dials")
    honest = lab.wire(near, listener.namespace)
    dialler = SeptateNode(lab, near, peers=[f"quic://{honest.right_address}:{LISTEN_PORT}"]).start()
    dialler.wait_until_up()
    reach_each_other(dialler, listener)
    assert len([actor for actor in listener.actors() if actor.role == "link"]) < 20
