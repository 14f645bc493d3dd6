"""A node that meets itself, or the same neighbour twice: recognised, ended politely or kept, and never flapping."""

from __future__ import annotations

from typing import Any, Final

import pytest

from tests.lab.namespaces import Lab
from tests.lab.nodes import LISTEN_PORT, SeptateNode
from tests.lab.ping import ping, ping_until_reply
from tests.lab.waiting import wait_until
from tests.namespaces.networks import REACH_TIMEOUT
from tests.namespaces.processes import counted, wait_for_counter
from tests.namespaces.proxies import proxies, relay

pytestmark = pytest.mark.namespaces

OURS: Final = "/api/v1/septate/peers"
SOON: Final = 15.0
ITSELF: Final = "it leads to this node itself"


class Looking(SeptateNode):
    """A node that looks for neighbours."""

    def command(self) -> list[str]:
        return [word for word in super().command() if word != "--disable-peer-discovery"]


def rows(node: SeptateNode) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = node.api.get(OURS) or []
    return found


def alive(node: SeptateNode) -> list[dict[str, Any]]:
    return [row for row in rows(node) if row["state"] == "alive"]


def test_every_way_of_a_node_to_itself_is_seen_and_ended(lab: Lab) -> None:
    place, outside = lab.namespace("near"), lab.namespace("far")
    wire = lab.wire(place, outside)
    far = SeptateNode(lab, outside).start()
    far.wait_until_up()
    path = lab.folder / "self.sock"
    # By loopback, by an address of its own, over either transport, through a Unix socket, through a proxy elsewhere, as
    # by the far side of a NAT; then by its overlay address, which is an address of its own, too.
    ways = [
        f"tcp://127.0.0.1:{LISTEN_PORT}",
        f"tcp://{wire.left_address}:{LISTEN_PORT}",
        f"tcp://[::1]:{LISTEN_PORT}",
        f"quic://127.0.0.1:{LISTEN_PORT}",
        f"quic://{wire.left_address}:{LISTEN_PORT}",
        f"unix://{path}",
    ]
    through = f"socks://{wire.right_address}:1080/node.test:{LISTEN_PORT}"
    options = ("--unix-listen", str(path), "--named-peer", through)
    good = far.endpoint(wire.right_address)
    with proxies(outside, {1080: relay(outside, wire.left_address, [])}, address=wire.right_address):
        node = SeptateNode(lab, place, peers=[good, *ways], options=options).start()
        own = f"tcp://[{node.wait_until_up()}]:{LISTEN_PORT}"
        assert place.run([node.program, "peers", "add", own]).returncode == 0
        selves = {*ways, through, own}

        def all_seen() -> bool:
            return {row["endpoint"] for row in rows(node) if ITSELF in row["reason"]} == selves

        wait_until("it sees each", all_seen, SOON)
        wait_until("no guest is left", lambda: {row["endpoint"] for row in rows(node)} == {good, *selves}, SOON)
        # Once each: they rest for minutes. The good one is as it was.
        assert wait_for_counter(node, "peers", "dials.connected", len(selves) + 1) == len(selves) + 1
        assert [row["endpoint"] for row in alive(node)] == [good]
        assert ping(place, far.address).lost == 0
        node.stop()


def test_node_that_hears_its_own_beacon_on_two_interfaces_does_not_dial_itself(lab: Lab) -> None:
    place = lab.namespace("both")
    # Both ends of a wire in one namespace: each interface hears what the other sends.
    wire = lab.wire(place, lab.namespace("unused"))
    wire.right.ip("link", "set", wire.right_device, "netns", place.name, "name", "loop1")
    place.ip("link", "set", "loop1", "up")
    node = Looking(lab, place).start()
    node.wait_until_up()
    wait_for_counter(node, "peers", "discovery.own")
    assert rows(node) == []
    assert counted(node, "peers", "dials.started") == 0
    node.stop()


def test_neighbour_has_as_many_links_as_were_dialled_from_either_side_and_none_is_ended(lab: Lab) -> None:
    left, right = lab.namespace("left"), lab.namespace("right")
    wire = lab.wire(left, right, addresses=2)
    # Under two addresses, over two transports, and at the same time from the other side.
    to_right = [f"{kind}://{address}:{LISTEN_PORT}" for kind in ("tcp", "quic") for address in wire.right_addresses]
    to_left = [f"{kind}://{wire.left_address}:{LISTEN_PORT}" for kind in ("tcp", "quic")]
    first, second = SeptateNode(lab, left, peers=to_right), SeptateNode(lab, right, peers=to_left)
    for node in (first, second):
        node.start()
    ping_until_reply(left, second.wait_until_up(), REACH_TIMEOUT)
    for node, other, dialled, guests in ((first, second, 4, 2), (second, first, 2, 4)):
        wanted = ["configured"] * dialled + ["inbound"] * guests

        def all_there(node: SeptateNode = node, other: SeptateNode = other, wanted: list[str] = wanted) -> bool:
            found = [row["origin"] for row in alive(node) if row["neighbour"] == other.address]
            return sorted(found) == wanted

        wait_until(f"{node}: all links", all_there, SOON)
    assert (ping(left, second.address).lost, ping(right, first.address).lost) == (0, 0)
    # All the time the same ones.
    for node, dialled, guests in ((first, 4, 2), (second, 2, 4)):
        assert wait_for_counter(node, "peers", "dials.connected", dialled) == dialled
        assert wait_for_counter(node, "peers", "accepts.connected", guests) == guests
    rows_in_use = [row for row in alive(first) if row["prefixes"]]
    assert len(rows_in_use) == 1
    assert rows_in_use[0]["why"].startswith("in use: ")
