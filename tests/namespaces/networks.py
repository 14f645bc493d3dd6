"""Networks of Septate nodes that tests in namespaces share: a pair, a line of three, a ring of any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tests.lab.namespaces import Lab, Wire
from tests.lab.nodes import SeptateNode
from tests.lab.ping import ping_until_reply

REACH_TIMEOUT: Final = 30.0


def build_pair(lab: Lab) -> tuple[SeptateNode, SeptateNode]:
    """Two nodes, the first of which dials the second, that reach each other."""
    left, right = lab.namespace("near"), lab.namespace("far")
    wire = lab.wire(left, right)
    far = SeptateNode(lab, right).start()
    near = SeptateNode(lab, left, peers=[far.endpoint(wire.right_address)]).start()
    near.wait_until_up()
    far.wait_until_up()
    ping_until_reply(left, far.address, REACH_TIMEOUT)
    ping_until_reply(right, near.address, REACH_TIMEOUT)
    return near, far


@dataclass(frozen=True, slots=True)
class Line:
    """near – relay – far; both ends dial the relay."""

    lab: Lab
    near: SeptateNode
    relay: SeptateNode
    far: SeptateNode
    near_wire: Wire
    """From near (left) to relay (right)."""
    far_wire: Wire
    """From relay (left) to far (right)."""

    def wait_until_connected(self) -> None:
        """Waits until both ends reach each other."""
        ping_until_reply(self.near.namespace, self.far.address, REACH_TIMEOUT)
        ping_until_reply(self.far.namespace, self.near.address, REACH_TIMEOUT)


def build_line(lab: Lab, *, relay_options: Sequence[str] = (), far_options: Sequence[str] = ()) -> Line:
    """Starts a line and waits until its ends reach each other."""
    left, middle, right = (lab.namespace(label) for label in ("near", "relay", "far"))
    near_wire, far_wire = lab.wire(left, middle), lab.wire(middle, right)
    relay = SeptateNode(lab, middle, options=relay_options).start()
    near = SeptateNode(lab, left, peers=[relay.endpoint(near_wire.right_address)]).start()
    far = SeptateNode(lab, right, peers=[relay.endpoint(far_wire.left_address)], options=far_options).start()
    for node in (relay, near, far):
        node.wait_until_up()
    line = Line(lab, near, relay, far, near_wire, far_wire)
    line.wait_until_connected()
    return line


@dataclass(frozen=True, slots=True)
class Ring:
    """Nodes in a circle: `wires[n]` joins node n, which dials, and node n + 1, which is dialled."""

    lab: Lab
    nodes: tuple[SeptateNode, ...]
    wires: tuple[Wire, ...]


def build_ring(lab: Lab, size: int) -> Ring:
    """Starts a ring and waits until every node has both its links."""
    places = [lab.namespace(f"ring{number}") for number in range(size)]
    wires = tuple(lab.wire(places[number], places[(number + 1) % size]) for number in range(size))
    nodes = tuple(
        SeptateNode(lab, place, peers=[f"tcp://{wire.right_address}:9651"]).start()
        for place, wire in zip(places, wires, strict=True)
    )
    for node in nodes:
        node.wait_until_up()
    for node in nodes:
        node.wait_for_links(2)
    return Ring(lab, nodes, wires)
