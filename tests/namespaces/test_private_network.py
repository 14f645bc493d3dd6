"""Private networks: nodes with the same name and key reach each other, and nobody else gets in."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final

import pytest

from tests.lab.flow import transfer
from tests.lab.namespaces import Lab
from tests.lab.nodes import LISTEN_PORT, MyceliumNode, Node, PrivateMyceliumNode, SeptateNode
from tests.lab.ping import ping_until_reply
from tests.lab.waiting import wait_until
from tests.namespaces.networks import REACH_TIMEOUT

pytestmark = [pytest.mark.namespaces]

FLOW_BYTES: Final = 20_000_000
NAME: Final = "garden of föhn"
PATIENCE: Final = 20.0

Join = Callable[..., Node]


@pytest.fixture
def join(lab: Lab) -> Join:
    """Starts a node in its own namespace, in a private network by default, wired to the one it dials."""
    key = secrets.token_bytes(32)

    def start(
        kind: type[Node],
        label: str,
        dials: Node | None = None,
        *,
        name: str = NAME,
        key: bytes = key,
        proto: str = "tls",
    ) -> Node:
        place = lab.namespace(label)
        key_file = lab.folder / f"{label}.key"
        key_file.write_bytes(key)
        options = ["--network-name", name, "--network-key-file", str(key_file)] if name else []
        peers = []
        if dials is not None:
            wire = lab.wire(place, dials.namespace)
            peers = [f"{proto}://{wire.right_address}:{LISTEN_PORT}"]
        node = kind(lab, place, peers=peers, options=options).start()
        node.wait_until_up()
        return node

    return start


def reach_each_other(one: Node, other: Node) -> None:
    ping_until_reply(one.namespace, other.address, REACH_TIMEOUT)
    ping_until_reply(other.namespace, one.address, REACH_TIMEOUT)


def carry_flows(one: Node, other: Node) -> None:
    for source, target in ((one, other), (other, one)):
        sent, arrived = transfer(source.namespace, target.namespace, target.address, FLOW_BYTES)
        assert sent.sha256 == arrived.sha256


def wait_for_line(node: Node, *words: str) -> str:
    """The first line of its log with all of these words."""

    def found() -> str | None:
        lines = node.log_path.read_text(errors="replace").splitlines()
        return next((line for line in lines if all(word in line for word in words)), None)

    line: str = wait_until(f"{node}: a line with {words}", found, PATIENCE)
    return line


def test_nodes_of_a_private_network_carry_flows(join: Join) -> None:
    listener = join(SeptateNode, "listens")
    dialler = join(SeptateNode, "dials", listener)
    reach_each_other(dialler, listener)
    carry_flows(dialler, listener)
    assert isinstance(listener, SeptateNode)
    (guest,) = listener.api.get("/api/v1/admin/peers")
    (route,) = listener.api.get("/api/v1/admin/routes/selected")
    assert guest["endpoint"]["proto"] == "tls"
    assert route["nextHop"].startswith("TLS ")


@pytest.mark.mycelium
@pytest.mark.parametrize(
    ("listens", "dials"),
    [
        pytest.param(PrivateMyceliumNode, SeptateNode, id="Septate dials"),
        pytest.param(SeptateNode, PrivateMyceliumNode, id="Mycelium dials"),
    ],
)
def test_septate_and_mycelium_share_a_private_network(join: Join, listens: type[Node], dials: type[Node]) -> None:
    missing = PrivateMyceliumNode.missing()
    if missing is not None:
        pytest.skip(missing)
    listener = join(listens, "listens")
    dialler = join(dials, "dials", listener, proto="tcp")
    reach_each_other(dialler, listener)
    carry_flows(dialler, listener)


@pytest.mark.parametrize(
    ("changed", "listener_says", "dialler_says"),
    [
        ({"name": "another"}, "its network is 'another', ours is", "does not know this network's name"),
        ({"key": bytes(32)}, "its network key is another", "its network key is another"),
        ({"name": "", "proto": "tcp"}, "it speaks no TLS", ""),
    ],
    ids=["name", "key", "public"],
)
def test_node_of_another_network_is_refused_with_one_clear_line_on_both_sides(
    join: Join, changed: dict[str, str | bytes], listener_says: str, dialler_says: str
) -> None:
    listener = join(SeptateNode, "listens")
    dialler = join(SeptateNode, "dials", listener, **changed)
    wait_for_line(listener, "refused", listener_says)
    if dialler_says:
        wait_for_line(dialler, "cannot connect; will go on trying", dialler_says)
    assert listener.count_links() == 0


def test_private_node_dials_no_public_one(join: Join) -> None:
    listener = join(SeptateNode, "listens", name="")
    dialler = join(SeptateNode, "dials", listener)
    wait_for_line(dialler, "cannot connect; will go on trying", "is it in a private network?")
    assert listener.count_links() == 0


@pytest.mark.mycelium
def test_public_mycelium_is_refused(join: Join) -> None:
    missing = MyceliumNode.missing()
    if missing is not None:
        pytest.skip(missing)
    listener = join(SeptateNode, "listens")
    join(MyceliumNode, "dials", listener, name="", proto="tcp")
    wait_for_line(listener, "refused", "it speaks no TLS")
    assert listener.count_links() == 0
