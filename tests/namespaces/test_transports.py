"""Nodes joined by each transport: their hosts reach each other, and a TCP flow arrives as it was sent."""

from __future__ import annotations

from typing import Final

import pytest

from tests.lab.flow import transfer
from tests.lab.namespaces import Lab
from tests.lab.nodes import SeptateNode
from tests.lab.ping import ping, ping_until_reply
from tests.lab.waiting import wait_until
from tests.namespaces.networks import REACH_TIMEOUT
from tests.namespaces.processes import find_process, kill_process

pytestmark = [pytest.mark.namespaces]

FLOW_BYTES: Final = 20_000_000
AT_ONCE_SECONDS: Final = 1.5


def reach_each_other(one: SeptateNode, other: SeptateNode) -> None:
    ping_until_reply(one.namespace, other.address, REACH_TIMEOUT)
    ping_until_reply(other.namespace, one.address, REACH_TIMEOUT)


def carry_flows(one: SeptateNode, other: SeptateNode) -> None:
    """Both ways, and the bytes are those that were sent."""
    for source, target in ((one, other), (other, one)):
        sent, arrived = transfer(source.namespace, target.namespace, target.address, FLOW_BYTES)
        assert sent.sha256 == arrived.sha256


def next_hops(node: SeptateNode) -> list[str]:
    """Of the selected routes, as the API tells them."""
    return [route["nextHop"] for route in node.api.get("/api/v1/admin/routes/selected")]


# --- Unix sockets -----------------------------------------------------------------------------------------------------


@pytest.fixture
def by_unix(lab: Lab) -> tuple[SeptateNode, SeptateNode]:
    """Two nodes without any network between them; the second dials the socket of the first."""
    path = lab.folder / "peer.sock"
    listener = SeptateNode(lab, lab.namespace("listens"), options=["--unix-listen", str(path)]).start()
    listener.wait_until_up()
    dialler = SeptateNode(lab, lab.namespace("dials"), peers=[f"unix://{path}"]).start()
    dialler.wait_until_up()
    reach_each_other(dialler, listener)
    return listener, dialler


def test_unix_socket_joins_nodes_without_a_network(by_unix: tuple[SeptateNode, SeptateNode]) -> None:
    listener, dialler = by_unix
    path = listener.lab.folder / "peer.sock"
    carry_flows(dialler, listener)
    (guest,) = listener.api.get("/api/v1/admin/peers")
    (host,) = dialler.api.get("/api/v1/admin/peers")
    assert guest["endpoint"] == {"proto": "unix", "addr": {"unix": f"{path}#1"}}
    assert host["endpoint"] == {"proto": "unix", "addr": {"unix": str(path)}}
    assert next_hops(dialler) == [f"UNIX {path}"]
    assert path.stat().st_mode & 0o777 == 0o660


def test_unix_link_is_made_again_when_its_process_is_killed(by_unix: tuple[SeptateNode, SeptateNode]) -> None:
    listener, dialler = by_unix
    kill_process(listener, find_process(listener, "link"))
    reach_each_other(dialler, listener)
    assert ping(dialler.namespace, listener.address).lost == 0


def test_killed_node_is_noticed_at_once_and_its_socket_gives_way_to_its_successor(
    by_unix: tuple[SeptateNode, SeptateNode],
) -> None:
    listener, dialler = by_unix
    listener.kill()
    wait_until("the dialler notices", lambda: dialler.count_links() == 0, AT_ONCE_SECONDS)
    listener.start().wait_until_up()
    reach_each_other(dialler, listener)


# --- vsock ------------------------------------------------------------------------------------------------------------


def test_vsock_that_leads_nowhere_is_named_and_the_rest_of_the_node_goes_on(lab: Lab) -> None:
    place = lab.namespace("alone")
    # A machine that doesn't exist. Without vsock in the kernel the listener is not there either.
    node = SeptateNode(lab, place, peers=["vsock://4000000000:9651"], options=["--vsock-listen-port", "31998"]).start()
    node.wait_until_up()

    def reason() -> str:
        (row,) = node.api.get("/api/v1/septate/peers")
        return str(row["reason"])

    named = wait_until("the reason", reason, 15.0)
    assert named.startswith(
        ("cannot open a socket (vsock): ", "Connection ", "No such device", "No route", "Network is")
    )
    assert place.run([node.program, "peers", "list"]).returncode == 0
