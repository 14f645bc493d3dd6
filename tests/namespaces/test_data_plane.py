"""Arenas, lanes and connections of whole nodes: nothing leaks and nothing breaks, however often hot processes die.

DATA_PLANE_KILLS and DATA_PLANE_SEED in the environment choose a longer run, and one that was seen to fail.
"""

from __future__ import annotations

import ipaddress
import os
import random
from collections.abc import Sequence
from typing import Final

import pytest

from tests.lab.flow import transfer
from tests.lab.namespaces import Lab
from tests.lab.nodes import SeptateNode
from tests.lab.ping import Pinger, ping_until_reply
from tests.lab.waiting import wait_until
from tests.namespaces.chaos import (
    Chaos,
    FullRateFlow,
    arena_bytes,
    connections_of,
    faults_in_the_log,
    lost_slots,
    memory_besides_files,
)
from tests.namespaces.networks import REACH_TIMEOUT, build_line, build_pair
from tests.namespaces.processes import processes_of, wait_for_counter
from tests.namespaces.raw_peer import RawPeer
from tests.unit import wire_factory as factory

pytestmark = pytest.mark.namespaces

KILLS: Final = int(os.environ.get("DATA_PLANE_KILLS", "30"))
LONGEST_TEST_SECONDS: Final = max(120, 3 * KILLS)
BURST_BYTES: Final = 300_000_000
BURST_TIMEOUT: Final = 90.0
GIVEN_BACK_SECONDS: Final = 30.0
"""Idle slots are given back after ten seconds at the most, arenas of the dead after as many."""
FEW_BYTES: Final = 8 << 20
CONTROL_BYTES: Final = 512 << 10
"""Two slots, which a Hello now and then keeps warm."""
LARGE_PACKETS: Final = 64


def seed() -> int:
    """Printed, so that a failure can be repeated as far as its moments go."""
    chosen = int(os.environ.get("DATA_PLANE_SEED", 0)) or random.SystemRandom().randrange(1, 1 << 32)
    print(f"DATA_PLANE_SEED={chosen}")
    return chosen


def kill_under_a_flow(
    ends: tuple[SeptateNode, SeptateNode], all_nodes: Sequence[SeptateNode], chaos: Chaos
) -> tuple[float, dict[str, frozenset[str]]]:
    """Kills so often while the first end sends to the second; rate in bit/s, and each node's connections after it."""
    flow = FullRateFlow(*ends)
    try:
        for _ in range(KILLS):
            chaos.pause()
            chaos.kill_one()
        sent, arrived = flow.finish()
    finally:
        flow.kill()
    print(f"{chaos.killed} killed, {arrived.bits_per_second / 1e6:.0f} Mbit/s meanwhile")
    assert (arrived.bytes, arrived.sha256) == (sent.bytes, sent.sha256)
    return arrived.bits_per_second, {node.name: connections_of(node) for node in all_nodes}


@pytest.mark.timeout(LONGEST_TEST_SECONDS)
def test_kills_of_tun_and_links_lose_no_slot_no_byte_and_no_connection(lab: Lab) -> None:
    near, far = build_pair(lab)
    before = {node.name: connections_of(node) for node in (near, far)}
    assert all(before.values())
    _, after = kill_under_a_flow((near, far), (near, far), Chaos((near, far), seed()))
    assert after == before
    for node in (near, far):
        assert lost_slots(node) == {}
        assert faults_in_the_log(node) == []
    ping_until_reply(near.namespace, far.address, REACH_TIMEOUT)


@pytest.mark.timeout(LONGEST_TEST_SECONDS)
def test_kills_of_a_relays_links_lose_no_slot_no_byte_and_no_connection(lab: Lab) -> None:
    line = build_line(lab)
    nodes = (line.near, line.relay, line.far)
    before = {node.name: connections_of(node) for node in nodes}
    assert len(before[line.relay.name]) == 2
    _, after = kill_under_a_flow((line.near, line.far), nodes, Chaos([line.relay], seed(), ["link"]))
    assert after == before
    for node in nodes:
        assert lost_slots(node) == {}
        assert faults_in_the_log(node) == []


def test_peer_whose_stream_turns_to_garbage_costs_its_own_link_only(lab: Lab) -> None:
    near, relay = build_pair(lab)
    outside = lab.namespace("outside")
    door = lab.wire(outside, relay.namespace)
    pinger = Pinger(near.namespace, relay.address, interval=0.02)
    pinger.wait_first_reply(REACH_TIMEOUT)
    kept = {process.name: process.pid for process in processes_of(relay)}
    connections = connections_of(near)
    for cut in range(3):
        with RawPeer(outside, door.right_address) as peer:
            peer.announce()
            peer.say_hello()
            # Large runs, some of which tun and the other link have in hand when the stream ends.
            for destination in (relay.address, near.address):
                peer.send(data_for(peer, destination) * LARGE_PACKETS)
            peer.send(data_for(peer, near.address)[: 1000 * cut] + b"\x09" * 65_536)
            with pytest.raises(AssertionError, match="connection closed"):
                peer.wait_for("the end", lambda _packet: None)
    wait_for_counter(relay, "supervisor", "gone_links.wire.garbage", 3)
    seen = pinger.stop()
    assert {process.name: process.pid for process in processes_of(relay)} == kept
    assert connections_of(near) == connections
    assert seen.longest_gap() < 1.0
    for node in (near, relay):
        assert lost_slots(node) == {}
        assert [line for line in faults_in_the_log(node) if "sent garbage" not in line] == []


def data_for(peer: RawPeer, destination: str) -> bytes:
    """A large data packet that nobody can open."""
    return factory.data(bytes(20_000), source=peer.address, destination=packed(destination))


def packed(address: str) -> bytes:
    """The 16 bytes of an address."""
    return ipaddress.IPv6Address(address).packed


def test_idle_node_gives_the_memory_of_a_burst_back(lab: Lab) -> None:
    near, far = build_pair(lab)
    # Modules that are needed late, and whatever else only the first packets cost.
    transfer(near.namespace, far.namespace, far.address, 1_000_000)
    before = {node.name: sum(memory_besides_files(node).values()) for node in (near, far)}
    sent, arrived = transfer(near.namespace, far.namespace, far.address, BURST_BYTES, timeout=BURST_TIMEOUT)
    assert arrived.sha256 == sent.sha256
    used = sum(arena_bytes(node) for node in (near, far))
    for node in (near, far):
        wait_for_empty_arenas(node)
        grown = sum(memory_besides_files(node).values()) - before[node.name]
        print(f"{node}: {grown >> 10} KiB more than before")
        assert grown <= FEW_BYTES
    print(f"arenas of both right after: {used >> 10} KiB")
    assert used > 2 * CONTROL_BYTES


def wait_for_empty_arenas(node: SeptateNode) -> None:
    """Waits until no memory of the node's arenas is in use but for the control packets of these seconds."""
    wait_until(f"{node}: empty arenas", lambda: arena_bytes(node) <= CONTROL_BYTES, GIVEN_BACK_SECONDS, 0.5)
