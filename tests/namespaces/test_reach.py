"""Who reaches whom: neighbours, through relays, on demand, and with every byte intact."""

from __future__ import annotations

import ipaddress
import random
import socket
from typing import Final

import pytest

from tests.lab.flow import transfer
from tests.lab.namespaces import Lab
from tests.lab.nodes import SeptateNode
from tests.lab.ping import FINAL_WAIT, Pinger, ping, ping_until_reply
from tests.lab.waiting import wait_until
from tests.namespaces.networks import REACH_TIMEOUT, Line, build_line
from tests.namespaces.processes import wait_for_counter
from tests.namespaces.raw_peer import RawPeer, echo_reply

pytestmark = pytest.mark.namespaces

MANY_ROUTES: Final = 3000
FLOW_BYTES: Final = 50_000_000
ODD_SIZES: Final = (0, 1, 7, 8, 63, 500, 1231, 1232, 1233, 1293, 1294, 1295, 2000, 4097, 9001, 30_011)
"""Around the quote limit of 1232, the largest payload in one packet (1294 of MTU 1342), and fragmented."""


@pytest.fixture(scope="module")
def line(module_lab: Lab) -> Line:
    return build_line(module_lab)


def test_two_neighbours_ping_each_other(line: Line) -> None:
    there = ping(line.near.namespace, line.relay.address)
    back = ping(line.relay.namespace, line.near.address)
    assert (there.lost, back.lost) == (0, 0)


def test_ends_of_a_line_ping_each_other_through_the_relay(line: Line) -> None:
    there = ping(line.near.namespace, line.far.address)
    back = ping(line.far.namespace, line.near.address)
    assert (there.lost, back.lost) == (0, 0)


def test_largest_packet_of_the_device_passes_a_relay(line: Line) -> None:
    assert ping(line.near.namespace, line.far.address, size=1342 - 40 - 8).lost == 0


def test_fifty_megabytes_of_tcp_through_a_relay_arrive_unchanged(line: Line) -> None:
    sent, arrived = transfer(line.near.namespace, line.far.namespace, line.far.address, FLOW_BYTES)
    assert (arrived.bytes, arrived.sha256) == (FLOW_BYTES, sent.sha256)


def test_udp_datagrams_of_odd_sizes_keep_their_boundaries(line: Line) -> None:
    sender = line.near.namespace.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    receiver = line.far.namespace.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    source = random.Random(3)
    sent, arrived = [], []
    with sender, receiver:
        receiver.bind(("::", 0))
        receiver.settimeout(10)
        sender.connect((line.far.address, receiver.getsockname()[1]))
        for _ in range(4):
            # A burst at a time: the kernel merges what lies together, and a receiver that reads loses nothing.
            burst = [source.randbytes(size) for size in source.sample(ODD_SIZES, len(ODD_SIZES))]
            for datagram in burst:
                sender.send(datagram)
            arrived += [receiver.recv(65_536) for _ in burst]
            sent += burst
    assert arrived == sent


def test_datagrams_of_one_size_are_merged_on_the_way_and_arrive_as_they_were_sent(line: Line) -> None:
    sender = line.near.namespace.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    receiver = line.far.namespace.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    source = random.Random(5)
    with sender, receiver:
        receiver.bind(("::", 0))
        receiver.settimeout(10)
        sender.connect((line.far.address, receiver.getsockname()[1]))
        for size in (1, 64, 500, 1294) * 4:
            burst = [source.randbytes(size) for _ in range(60)]
            for datagram in burst:
                sender.send(datagram)
            assert [receiver.recv(65_535) for _ in burst] == burst
    wait_for_counter(line.near, "tun", "merged.datagrams", at_least=2)


def test_nodes_that_dial_each_other_still_ping(lab: Lab) -> None:
    left, right = lab.namespace("left"), lab.namespace("right")
    wire = lab.wire(left, right)
    nodes = [
        SeptateNode(lab, left, peers=[f"tcp://{wire.right_address}:9651"]).start(),
        SeptateNode(lab, right, peers=[f"tcp://{wire.left_address}:9651"]).start(),
    ]
    for node in nodes:
        node.wait_until_up()
        node.wait_for_links(2)
    ping_until_reply(left, nodes[1].address, REACH_TIMEOUT)
    assert (ping(left, nodes[1].address).lost, ping(right, nodes[0].address).lost) == (0, 0)


def test_first_packet_to_an_unannounced_destination_three_hops_away_is_answered(line: Line) -> None:
    stranger_place = line.lab.namespace("stranger")
    wire = line.lab.wire(stranger_place, line.far.namespace)
    with RawPeer(stranger_place, wire.right_address) as stranger:
        stranger.ask_for_everything()
        near_address = ipaddress.IPv6Address(line.near.address).packed
        near_key = stranger.wait_for_update(near_address[:8]).router_id[:32]
        pinger = Pinger(line.near.namespace, stranger.address_text, count=1)
        asked = stranger.wait_for_route_request(stranger.address[:8])
        stranger.announce()
        request = stranger.wait_for_data()
        reply = echo_reply(stranger.unseal(near_key, request))
        stranger.send(stranger.seal(near_key, reply, near_address))
        report = pinger.finish(FINAL_WAIT + 10)
    assert (asked.body[0], report.received, report.errors) == (2, 1, ())


def test_large_table_told_at_once_reaches_a_node_behind_the_relay_whole(line: Line) -> None:
    place = line.lab.namespace("teller")
    wire = line.lab.wire(place, line.relay.namespace)
    with RawPeer(place, wire.right_address) as teller:
        teller.say_hello()
        teller.announce_foreign(MANY_ROUTES)
        wait_until("all routes at the far end of the line", lambda: count_routes(line.near) >= MANY_ROUTES, 20.0)
    wait_until("no route left when the teller is gone", lambda: count_routes(line.near) < MANY_ROUTES, 20.0)


def count_routes(node: SeptateNode) -> int:
    """How many routes the node has selected."""
    return len(node.api.get("/api/v1/admin/routes/selected") or [])
