"""The nodes in the laboratory: three of a kind in line reach each other and go when told."""

import pytest

from tests.lab import namespaces
from tests.lab.namespaces import Lab
from tests.lab.nodes import MyceliumNode, Node, SeptateNode, YggdrasilNode
from tests.lab.ping import ping_until_reply

pytestmark = pytest.mark.namespaces


@pytest.mark.parametrize("kind", [SeptateNode, pytest.param(MyceliumNode, marks=pytest.mark.mycelium), YggdrasilNode])
def test_three_nodes_in_line_reach_each_other(kind: type[Node]) -> None:
    missing = namespaces.available() or kind.missing()
    if missing is not None:
        pytest.skip(missing)
    with Lab() as lab:
        left, middle, right = (lab.namespace(label) for label in ("left", "middle", "right"))
        first, second = lab.wire(left, middle), lab.wire(middle, right)
        relay = kind(lab, middle).start()
        relay.wait_until_up()
        ends = [
            kind(lab, left, peers=[relay.endpoint(first.right_address)]).start(),
            kind(lab, right, peers=[relay.endpoint(second.left_address)]).start(),
        ]
        for end in ends:
            end.wait_until_up()
        relay.wait_for_links(2)
        ping_until_reply(left, ends[1].address, 20)
        assert [node.stop() for node in (*ends, relay)] == [0, 0, 0]


def test_septate_lists_its_actors() -> None:
    missing = namespaces.available() or SeptateNode.missing()
    if missing is not None:
        pytest.skip(missing)
    with Lab() as lab:
        node = SeptateNode(lab, lab.namespace("alone")).start()
        node.wait_until_up()
        assert {"tun", "router", "peers", "status"} <= {actor.role for actor in node.actors()}
