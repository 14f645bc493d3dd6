"""Nodes joined by vsock, where a kernel connects its machine to itself by it; what is said where no peer is there."""

from __future__ import annotations

import secrets

import pytest

from tests.lab.flow import transfer
from tests.lab.namespaces import Lab
from tests.lab.nodes import SeptateNode
from tests.lab.ping import ping_until_reply
from tests.lab.vsock import LOOPBACK, reaches_itself
from tests.lab.waiting import wait_until
from tests.namespaces.networks import REACH_TIMEOUT

pytestmark = pytest.mark.namespaces

NOBODY = 4294967294
"""A CID that no machine here has."""
FLOW_BYTES = 20_000_000


if reaches_itself():

    def test_vsock_joins_nodes_and_carries_flows(lab: Lab) -> None:
        # Its ports are those of the machine, not of a namespace.
        port = secrets.randbelow(10_000) + 20_000
        listener = SeptateNode(lab, lab.namespace("listens"), options=["--vsock-listen-port", str(port)]).start()
        listener.wait_until_up()
        dialler = SeptateNode(lab, lab.namespace("dials"), peers=[f"vsock://{LOOPBACK}:{port}"]).start()
        dialler.wait_until_up()
        ping_until_reply(dialler.namespace, listener.address, REACH_TIMEOUT)
        ping_until_reply(listener.namespace, dialler.address, REACH_TIMEOUT)
        for source, target in ((dialler, listener), (listener, dialler)):
            sent, arrived = transfer(source.namespace, target.namespace, target.address, FLOW_BYTES)
            assert sent.sha256 == arrived.sha256
        (route,) = dialler.api.get("/api/v1/admin/routes/selected")
        assert route["nextHop"].startswith("VSOCK ")
        assert route["nextHop"].endswith(f"<-> {LOOPBACK}:{port}")


def test_vsock_peer_that_can_not_be_reached_is_named_and_the_node_runs(lab: Lab) -> None:
    peer = f"vsock://{NOBODY}:9651"
    node = SeptateNode(lab, lab.namespace("alone"), peers=[peer]).start()
    node.wait_until_up()
    said = f"cannot connect; will go on trying peer={peer} reason="
    wait_until("a line about the peer", lambda: said in node.log_path.read_text(), 15.0)
    (row,) = node.api.get("/api/v1/admin/peers")
    assert row["endpoint"] == {"proto": "vsock", "addr": {"vsock": {"cid": NOBODY, "port": 9651}}}
    assert row["connectionState"] != "alive"
