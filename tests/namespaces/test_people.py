"""What people see of a running node: its processes, its peers, its routes, and packets as they pass."""

from __future__ import annotations

import ipaddress
import json
import re
import subprocess
import time
from typing import Any, Final

import pytest

from bench.accounting import tree_of
from tests.lab.namespaces import Lab
from tests.lab.nodes import SeptateNode
from tests.lab.ping import Pinger
from tests.namespaces.networks import Line, build_line
from tests.namespaces.processes import find_process, kill_process, wait_for_successor

pytestmark = pytest.mark.namespaces

TAPPED: Final = 8
TAP_TIMEOUT: Final = 20.0
PING_BODY: Final = 40 + 8 + 56
SEALED: Final = PING_BODY + 32
"""Inner header, tag and nonce come on top (wire spec 2.2)."""


@pytest.fixture(scope="module")
def line(module_lab: Lab) -> Line:
    return build_line(module_lab)


def ask(node: SeptateNode, *arguments: str) -> str:
    """What the program says when asked about this node."""
    done = node.namespace.run([node.program, *arguments])
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def subnet(node: SeptateNode) -> str:
    """The node's /64."""
    return str(ipaddress.IPv6Network((node.address, 64), strict=False))


def test_actors_lists_every_process_of_the_node(line: Line) -> None:
    listed = json.loads(ask(line.relay, "actors", "--json", "--instance", line.relay.instance))
    assert sorted(row["pid"] for row in listed) == sorted(tree_of(line.relay.process_id))
    assert sorted(row["role"] for row in listed) == [
        *("link", "link", "messagebox", "peers", "router", "rpc", "status", "supervisor", "tun")
    ]


def test_actors_counts_restarts(line: Line) -> None:
    router = find_process(line.relay, "router")
    kill_process(line.relay, router)
    wait_for_successor(line.relay, router)
    text = ask(line.relay, "actors", "--instance", line.relay.instance)
    (row,) = [[cell.strip() for cell in row.split("|")] for row in text.splitlines() if "| router" in row]
    assert int(row[5]) == router.restarts + 1


def test_peers_list_shows_who_is_connected(line: Line) -> None:
    (listed,) = json.loads(ask(line.near, "peers", "list", "--json"))
    assert listed["endpoint"] == {"proto": "tcp", "addr": {"socket": f"{line.near_wire.right_address}:9651"}}
    assert (listed["type"], listed["connectionState"]) == ("static", "alive")


def test_peers_list_of_the_dialled_side_shows_guests(line: Line) -> None:
    listed: list[dict[str, Any]] = json.loads(ask(line.relay, "peers", "list", "--json"))
    guests = {
        entry["endpoint"]["addr"]["socket"].rpartition(":")[0].removeprefix("[::ffff:").rstrip("]") for entry in listed
    }
    assert {entry["type"] for entry in listed} == {"inbound"}
    assert guests == {line.near_wire.left_address, line.far_wire.right_address}


def test_peers_list_counts_what_went_over_the_link(line: Line) -> None:
    (before,) = json.loads(ask(line.near, "peers", "list", "--json"))
    Pinger(line.near.namespace, line.far.address, interval=0.01, count=100, size=1000).finish()
    deadline = time.monotonic() + TAP_TIMEOUT
    while time.monotonic() < deadline:
        (after,) = json.loads(ask(line.near, "peers", "list", "--json"))
        if after["txBytes"] - before["txBytes"] > 100_000 and after["rxBytes"] - before["rxBytes"] > 100_000:
            return
    pytest.fail(f"100 pings of 1000 bytes, and the counts went from {before} to {after}")


def test_routes_selected_shows_the_way_to_the_far_end(line: Line) -> None:
    routes = {entry["subnet"]: entry for entry in json.loads(ask(line.near, "routes", "selected", "--json"))}
    assert set(routes) == {subnet(line.relay), subnet(line.far)}
    assert routes[subnet(line.relay)]["metric"] == 0
    assert routes[subnet(line.far)]["metric"] > 0
    assert routes[subnet(line.far)]["nextHop"].endswith(f"{line.near_wire.right_address}:9651")


def test_routes_queried_shows_what_is_being_asked_for(line: Line) -> None:
    pinger = Pinger(line.near.namespace, "400:1:2:3::1", count=1)
    listed = json.loads(ask(line.near, "routes", "queried", "--json"))
    pinger.kill()
    assert [entry["subnet"] for entry in listed] == ["400:1:2:3::/64"]


def test_tap_shows_relayed_packets_as_they_come_and_leave(line: Line) -> None:
    tap = line.relay.namespace.start(
        [
            *(line.relay.program, "tap", "--instance", line.relay.instance),
            *("--count", str(TAPPED), "--match", line.far.address),
        ]
    )
    pinger = Pinger(line.near.namespace, line.far.address, interval=0.05)
    try:
        output = tap.communicate(timeout=TAP_TIMEOUT)[0].decode()
    except subprocess.TimeoutExpired:
        pytest.fail(f"fewer than {TAPPED} packets within {TAP_TIMEOUT:g} s of pinging")
    finally:
        pinger.kill()
    rows = output.splitlines()
    pattern = re.compile(r"[\d:.]+ link-\d+ (in |out) (\S+) > (\S+) hop limit (\d+) length (\d+)")
    seen = [found.groups() for row in rows if (found := pattern.fullmatch(row))]
    assert len(seen) == len(rows) == TAPPED
    assert {(one[1], one[2]) for one in seen} == {
        (line.near.address, line.far.address),
        (line.far.address, line.near.address),
    }
    # The first link takes one from the host's 64, the relay one more.
    assert {(one[0].strip(), int(one[3])) for one in seen} == {("in", 63), ("out", 62)}
    assert {int(one[4]) for one in seen} == {SEALED}


def test_tap_of_one_link_shows_that_link_only(line: Line) -> None:
    name = find_process(line.relay, "link", line.near_wire.left_address).name
    tap = line.relay.namespace.start(
        [line.relay.program, "tap", "--instance", line.relay.instance, "--link", name, "--count", "4"]
    )
    pinger = Pinger(line.near.namespace, line.far.address, interval=0.05)
    try:
        output = tap.communicate(timeout=TAP_TIMEOUT)[0].decode()
    finally:
        pinger.kill()
    assert {row.split()[1] for row in output.splitlines()} == {name}
