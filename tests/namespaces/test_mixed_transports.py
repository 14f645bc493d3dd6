"""Lines of Septate and the reference program whose links speak different transports, dialled from either side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pytest

from tests.lab.flow import transfer
from tests.lab.namespaces import Lab, Wire
from tests.lab.nodes import LISTEN_PORT, TUN_NAME, MyceliumNode, Node, SeptateNode
from tests.lab.ping import ping, ping_until_reply
from tests.namespaces.networks import REACH_TIMEOUT

pytestmark = [pytest.mark.namespaces, pytest.mark.mycelium]

FLOW_BYTES: Final = 10_000_000
OUR_MTU: Final = "1342"
"""What a reference node's QUIC link carries; its own is 1400, and its link dies of a full packet."""
S, M = SeptateNode, MyceliumNode


@dataclass(frozen=True, slots=True)
class Plan:
    """Three nodes in line and what is spoken between them."""

    kinds: tuple[type[Node], type[Node], type[Node]]
    transports: tuple[str, str]


PLANS: Final = [
    pytest.param(Plan((S, M, S), ("quic", "tcp")), id="S-quic-M-tcp-S"),
    pytest.param(Plan((M, S, M), ("quic", "tcp")), id="M-quic-S-tcp-M"),
    pytest.param(Plan((M, S, S), ("quic", "unix")), id="M-quic-S-unix-S"),
]


def build(lab: Lab, plan: Plan, relay_dials: bool) -> tuple[Node, Node]:
    """Starts the line; returns its ends once they reach each other."""
    left, middle, right = (lab.namespace(label) for label in ("left", "relay", "right"))
    wires = (lab.wire(left, middle), lab.wire(middle, right))
    path = f"{lab.folder}/relay.sock"

    def endpoint(place: int, of_relay: bool) -> str:
        wire: Wire = wires[place]
        if plan.transports[place] == "unix":
            return f"unix://{path}"
        address = wire.right_address if of_relay == (place == 0) else wire.left_address
        return f"{plan.transports[place]}://{address}:{LISTEN_PORT}"

    listening = ("--unix-listen", path) if "unix" in plan.transports else ()

    def peers_of_end(place: int) -> list[str]:
        return [] if relay_dials else [endpoint(place, of_relay=True)]

    one = plan.kinds[0](lab, left, peers=peers_of_end(0))
    other = plan.kinds[2](lab, right, peers=peers_of_end(1), options=listening if relay_dials else ())
    dialled = [endpoint(place, of_relay=False) for place in (0, 1)] if relay_dials else []
    relay = plan.kinds[1](lab, middle, peers=dialled, options=() if relay_dials else listening)
    for node in (one, other, relay) if relay_dials else (relay, one, other):
        node.start().wait_until_up()
    for node in (one, other):
        if isinstance(node, MyceliumNode):
            node.namespace.ip("link", "set", TUN_NAME, "mtu", OUR_MTU)
    ping_until_reply(one.namespace, other.address, REACH_TIMEOUT)
    ping_until_reply(other.namespace, one.address, REACH_TIMEOUT)
    return one, other


@pytest.mark.parametrize("relay_dials", [False, True], ids=["the ends dial", "the relay dials"])
@pytest.mark.parametrize("plan", PLANS)
def test_streams_and_pings_cross_a_relay_between_transports(lab: Lab, plan: Plan, relay_dials: bool) -> None:
    missing = MyceliumNode.missing()
    if missing is not None:
        pytest.skip(missing)
    one, other = build(lab, plan, relay_dials)
    lost = (ping(one.namespace, other.address).lost, ping(other.namespace, one.address).lost)
    flows = [
        transfer(source.namespace, target.namespace, target.address, FLOW_BYTES)
        for source, target in ((one, other), (other, one))
    ]
    assert lost == (0, 0)
    assert [sent.sha256 for sent, _ in flows] == [arrived.sha256 for _, arrived in flows]
