"""The inbound allow-list on real TUN devices: who reaches the host, who does not, and what a kill changes."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from tests.lab.flow import start_receiver, start_sender, transfer
from tests.lab.namespaces import Lab, Namespace, stop_process
from tests.lab.nodes import SeptateNode
from tests.lab.ping import Pinger, ping_until_reply
from tests.lab.waiting import wait_until
from tests.namespaces.networks import REACH_TIMEOUT, Line, build_line
from tests.namespaces.processes import find_process, kill_process, wait_for_successor

pytestmark = pytest.mark.namespaces

FLOW_BYTES = 4_000_000
LONG_FLOW_BYTES = 150_000_000
RULES = "/api/v1/septate/allow"


@pytest.fixture(scope="module")
def line(module_lab: Lab) -> Line:
    # Pings may come to the far end; nobody may come to the relay, through which everything goes.
    return build_line(module_lab, relay_options=("--allow", "none"), far_options=("--allow", "any icmp"))


@contextlib.contextmanager
def rule(node: SeptateNode, text: str) -> Iterator[None]:
    """A rule that holds for a while."""
    assert node.api.request("POST", RULES, {"rule": text})[0] == 204
    try:
        yield
    finally:
        assert node.api.request("DELETE", f"{RULES}/{quote(text, safe='')}")[0] == 204


def connects(source: Namespace, address: str, port: int, timeout: float = 1.0) -> bool:
    """Whether a TCP connection is accepted; one that nobody answers costs the whole timeout."""
    with source.socket(socket.AF_INET6, socket.SOCK_STREAM) as stream:
        stream.settimeout(timeout)
        try:
            stream.connect((address, port))
        except TimeoutError:
            return False
        return True


def refused(node: SeptateNode) -> int:
    return int(node.api.get(RULES)["refusedPackets"])


def test_what_a_rule_lets_in_comes_in_and_nothing_else_does(line: Line) -> None:
    receiver = start_receiver(line.far.namespace)
    before = refused(line.far)
    try:
        assert not connects(line.near.namespace, line.far.address, receiver.port)
    finally:
        receiver.kill()
    assert refused(line.far) > before
    (listed,) = line.far.api.get(RULES)["rules"]
    assert (listed["rule"], listed["origin"]) == ("any icmp", "configured")
    assert listed["packets"] > 0


def test_replies_to_the_hosts_own_flows_come_in(line: Line) -> None:
    sent, arrived = transfer(line.far.namespace, line.near.namespace, line.near.address, FLOW_BYTES)
    assert sent.sha256 == arrived.sha256


def test_relay_that_lets_nobody_in_still_carries_what_is_for_others(line: Line) -> None:
    with pytest.raises(Exception, match="no reply"):
        ping_until_reply(line.near.namespace, line.relay.address, 2.0)
    report = Pinger(line.near.namespace, line.far.address, interval=0.01, count=50).finish()
    assert report.lost == 0


def test_rule_added_while_the_node_runs_lets_in_at_once_and_removed_keeps_out(line: Line) -> None:
    subnet = line.near.address.rsplit(":", 4)[0] + "::/64"
    text = f"{subnet} tcp/1-65535"
    with rule(line.far, text):
        sent, arrived = transfer(line.near.namespace, line.far.namespace, line.far.address, FLOW_BYTES)
        assert sent.sha256 == arrived.sha256
        counted = {row["rule"]: row["bytes"] for row in line.far.api.get(RULES)["rules"]}
        assert sum(counted.values()) > FLOW_BYTES
    receiver = start_receiver(line.far.namespace)
    try:
        assert not connects(line.near.namespace, line.far.address, receiver.port)
    finally:
        receiver.kill()


def test_killed_tun_leaves_rules_and_flows_to_its_successor(line: Line) -> None:
    # The far end downloads: while tun is away it is near that has something to say first.
    receiver = start_receiver(line.near.namespace)
    with rule(line.far, "any udp/5000"):
        sender = start_sender(line.far.namespace, line.near.address, receiver.port, LONG_FLOW_BYTES)
        try:
            wait_until("the flow stands", lambda: line.far.api.get(RULES)["ownFlows"], REACH_TIMEOUT)
            killed = find_process(line.far, "tun")
            kill_process(line.far, killed)
            wait_for_successor(line.far, killed)
            arrived = receiver.finish()
            output = sender.communicate(timeout=30)[0]
        finally:
            receiver.kill()
            stop_process(sender)
        assert json.loads(output)["sha256"] == arrived.sha256
        found = line.far.api.get(RULES)
        assert found["ownFlows"] >= 1
        assert [row["rule"] for row in found["rules"]] == ["any icmp", "any udp/5000"]
        ping_until_reply(line.near.namespace, line.far.address, REACH_TIMEOUT)


def test_command_line_lists_adds_and_removes(line: Line) -> None:
    def ask(*words: str) -> str:
        done = line.near.namespace.run([line.near.program, "allow", *words])
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode() + done.stderr.decode()

    assert "everybody may come in" in ask("list")
    ask("add", "any", "tcp/22,80")
    assert "any tcp/22,80" in ask("list")
    (listed,) = json.loads(ask("list", "--json"))["rules"]
    assert listed["lastUsed"] is None
    assert "everybody may come in now" in ask("remove", "any", "tcp/80,22")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "text"),
    [
        ("POST", RULES, {"rule": "any tpc"}, 400, "is no protocol"),
        ("POST", RULES, {"rule": "any icmp"}, 409, "is there already"),
        ("POST", RULES, {"role": "any icmp"}, 422, "'rule'"),
        ("DELETE", f"{RULES}/any%20udp", None, 404, "there is no rule"),
        ("DELETE", f"{RULES}/any%20udp%2Fx", None, 400, "is no port"),
    ],
)
def test_wrong_change_is_refused_with_its_reason(
    line: Line, method: str, path: str, body: object, status: int, text: str
) -> None:
    answered, content = line.far.api.request(method, path, body)
    assert (answered, text in content.decode()) == (status, True)
