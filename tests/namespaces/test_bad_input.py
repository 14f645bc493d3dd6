"""What a peer that sends garbage, floods or nothing at all costs: its own link, a counter, a log line, and no more."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from bench.accounting import memory_of
from tests.lab.namespaces import Lab, Namespace
from tests.lab.nodes import LISTEN_PORT, SeptateNode
from tests.lab.ping import Pinger, PingReport, ping, ping_until_reply
from tests.lab.waiting import wait_until
from tests.namespaces.networks import REACH_TIMEOUT
from tests.namespaces.processes import counted, find_process, wait_for_counter
from tests.namespaces.raw_peer import RawPeer
from tests.unit import wire_factory as factory

pytestmark = pytest.mark.namespaces

PING_INTERVAL: Final = 0.02
FLOOD: Final = 100_000
FLOOD_MEMORY: Final = 16 << 20
SILENT_CONNECTIONS: Final = 1000
DRIBBLES: Final = 20
LARGEST: Final = 0xFFFF

CLOSES: Final = frozenset(
    {
        # The recorded cases.
        "packet version 2",
        "packet version 0",
        "packet type 2",
        "body length 0, nothing else",
        "body length 0, then a Hello TLV anyway",
        "body length 0, then unknown type",
        "body length 1, type 4",
        "body length 1, type 11",
        "TLV length field wrong (99), body right",
        "TLV length 0, body right",
        "Hello truncated (4 bytes)",
        "Hello truncated, another Hello behind in one write",
        "Update truncated (20 bytes)",
        "Update AE2 plen 129",
        "Update AE1 plen 33",
        "Update AE3 plen 10",
        "Update AE0 plen 64",
        "IHU AE4 TLV length 2",
        "Seqno Request AE0 plen 8",
        "Route Request plen 129",
        "garbage 64 random-like bytes",
        "2 good Hellos then version 9",
        # The computed ones.
        "bad-packet-version",
        "bad-packet-type",
        "zero-length-babel-body",
        "hello-truncated",
        "update-plen-129",
    }
)
"""After these a peer can't be trusted to be in step (wire spec 3.5, recommendation)."""
WAITS: Final = frozenset(
    {"Hello body length 0xffff", "Hello body length 40", "4 header bytes only", "data packet half sent"}
)
"""These are the beginning of a packet whose rest never comes."""


@dataclass(frozen=True, slots=True)
class Network:
    """near – relay, and a place from which strangers connect to the relay."""

    lab: Lab
    near: SeptateNode
    relay: SeptateNode
    outside: Namespace
    door: str
    """The relay's address as the strangers see it."""


@dataclass(frozen=True, slots=True)
class Reaction:
    """What one malformed input did: to its connection, and to the relay's log."""

    closed: bool
    answers: bool
    logged: bool


@dataclass(frozen=True, slots=True)
class Barrage:
    """Every malformed input, one connection each, while a ping ran over another link."""

    reactions: dict[str, Reaction]
    garbage_counted: int
    seen: PingReport


def malformed_inputs() -> dict[str, bytes]:
    """The recorded and the computed inputs of the vectors, by name."""
    recorded: list[dict[str, Any]] = factory.vectors("wire_recorded.json")["malformed"]
    computed: list[dict[str, Any]] = factory.vectors("wire.json")["malformed"]
    cases = {entry["case"]: entry["sent"] for entry in recorded} | {entry["name"]: entry["bytes"] for entry in computed}
    return {case: bytes.fromhex(sent) for case, sent in cases.items()}


@pytest.fixture(scope="module")
def network(module_lab: Lab) -> Network:
    left, middle, outside = (module_lab.namespace(label) for label in ("near", "relay", "outside"))
    inner, outer = module_lab.wire(left, middle), module_lab.wire(outside, middle)
    relay = SeptateNode(module_lab, middle).start()
    near = SeptateNode(module_lab, left, peers=[relay.endpoint(inner.right_address)]).start()
    relay.wait_until_up()
    near.wait_until_up()
    ping_until_reply(left, relay.address, REACH_TIMEOUT)
    return Network(module_lab, near, relay, outside, outer.right_address)


@contextlib.contextmanager
def steady_ping(network: Network) -> Iterator[list[PingReport]]:
    """A ping from near to the relay for as long as the context lasts; its report is in the list at the end."""
    pinger = Pinger(network.near.namespace, network.relay.address, interval=PING_INTERVAL)
    reports: list[PingReport] = []
    try:
        pinger.wait_first_reply(REACH_TIMEOUT)
        yield reports
        reports.append(pinger.stop())
    finally:
        pinger.kill()


@pytest.fixture(scope="module")
def barrage(network: Network) -> Barrage:
    before = counted(network.relay, "supervisor", "gone_links.wire.garbage")
    inputs = malformed_inputs()
    with steady_ping(network) as reports:
        reactions = {case: send_malformed(network, case, sent) for case, sent in inputs.items()}
    expected = before + len(CLOSES & inputs.keys())
    counts = wait_for_counter(network.relay, "supervisor", "gone_links.wire.garbage", expected) - before
    return Barrage(reactions, counts, reports[0])


def send_malformed(network: Network, case: str, sent: bytes) -> Reaction:
    """Sends one input on a link that was good until then, and sees whether the link still answers."""
    with RawPeer(network.outside, network.door) as peer:
        peer.say_hello()
        peer.send(sent)
        if case in WAITS:
            return Reaction(closed=False, answers=False, logged=False)
        answers = peer.still_answers()
        return Reaction(peer.closed, answers, peer.closed and wait_for_log(network.relay, peer))


def wait_for_log(node: SeptateNode, peer: RawPeer) -> bool:
    """Whether the node's log has a line about garbage that names this peer and a reason."""
    port = peer.endpoint.rpartition(":")[2]

    def found() -> bool:
        lines = node.log_path.read_text(errors="replace").splitlines()
        return any("the peer sent garbage" in line and f":{port}" in line and "reason=" in line for line in lines)

    return wait_until("a line about garbage", found, 5.0)


def test_garbage_closes_the_link_it_came_over(barrage: Barrage) -> None:
    assert {case for case, reaction in barrage.reactions.items() if reaction.closed} == CLOSES


def test_link_goes_on_after_input_that_can_be_skipped(barrage: Barrage) -> None:
    skipped = barrage.reactions.keys() - CLOSES - WAITS
    assert {case for case in skipped if not barrage.reactions[case].answers} == set()


def test_log_names_peer_and_reason_of_each_closed_link(barrage: Barrage) -> None:
    assert {case for case, reaction in barrage.reactions.items() if reaction.logged} == CLOSES


def test_every_closed_link_is_counted(barrage: Barrage) -> None:
    assert barrage.garbage_counted == len(CLOSES)


def test_ping_over_another_link_loses_nothing_under_garbage(barrage: Barrage) -> None:
    assert barrage.seen.lost == 0


def test_first_bytes_that_are_no_packet_are_refused_with_a_counter_and_a_line(network: Network) -> None:
    with RawPeer(network.outside, network.door) as peer:
        peer.send(b"GET / HTTP/1.1\r\n\r\n")
        answers = peer.still_answers()
        wait_for_counter(network.relay, "peers", "accepts.garbage")
    line = [line for line in network.relay.log_path.read_text().splitlines() if "first packet has version 71" in line]
    assert not answers
    assert peer.endpoint.rpartition(":")[2] in line[0]


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(factory.route_request(1, 24, bytes((10, 0, 0))), id="IPv4 Route Request"),
        pytest.param(factory.route_request(2, 0, b""), id="Route Request for ::/0"),
        pytest.param(factory.update(1, 24, bytes((10, 0, 0))), id="IPv4 Update"),
        pytest.param(factory.update(2, 0, b""), id="Update for ::/0"),
        pytest.param(factory.control(factory.tlv(11, b"abcd")), id="unknown TLV"),
    ],
)
def test_what_names_nothing_in_the_overlay_costs_a_counter(network: Network, packet: bytes) -> None:
    with RawPeer(network.outside, network.door) as peer:
        peer.say_hello()
        before = counted(network.relay, "link", "control.ignored")
        peer.send(packet)
        assert peer.still_answers()
        wait_for_counter(network.relay, "link", "control.ignored", before + 1)
    assert ping(network.near.namespace, network.relay.address).lost == 0


def test_bits_behind_a_prefix_are_cleared(network: Network) -> None:
    with RawPeer(network.outside, network.door) as peer:
        peer.announce()
        own = peer.wait_for_update(relay_subnet(network))
        # A /65 with a bit past its end aborts a reference node (wire spec Q29); ours answers with the /64 around it.
        peer.send(factory.route_request(2, 65, own.prefix + b"\xff"))
        assert peer.wait_for_update(relay_subnet(network)) == own


def relay_subnet(network: Network) -> bytes:
    """The relay's /64, 8 bytes."""
    return socket.inet_pton(socket.AF_INET6, network.relay.address)[:8]


def test_largest_lengths_are_not_allocated(network: Network) -> None:
    claims = {
        "control": struct.pack("!BBHBBH", 1, 1, 0, 42, 3, LARGEST) + bytes(60_000),
        "data": factory.data(bytes(LARGEST))[:60_000],
    }
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(RawPeer(network.outside, network.door)) for _ in range(2 * len(claims))]
        for peer in peers:
            peer.say_hello()
        before = memory_of(network.relay.process_id).total
        for peer, claim in zip(peers, [*claims.values()] * 2, strict=True):
            peer.send(claim)
        wait_for_counter(network.relay, "link", "octets.received", len(peers) * 60_000)
        grown = memory_of(network.relay.process_id).total - before
    assert grown < len(peers) * (1 << 20)


@pytest.mark.parametrize("unknown", ["destinations", "sources"])
def test_flood_of_a_peer_for_unknown_nodes_costs_little_memory(network: Network, unknown: str) -> None:
    relay = socket.inet_pton(socket.AF_INET6, network.relay.address)
    with RawPeer(network.outside, network.door) as peer:
        peer.announce()
        peer.say_hello()
        with steady_ping(network) as reports:
            growth = Growth(network.relay)
            for start in range(0, FLOOD, 5000):
                strangers = [stranger(number) for number in range(start, start + 5000)]
                if unknown == "destinations":
                    packets = [factory.data(bytes(64), source=peer.address, destination=one) for one in strangers]
                else:
                    packets = [factory.data(bytes(64), source=one, destination=relay) for one in strangers]
                peer.send(b"".join(packets))
                growth.look()
            assert peer.still_answers(30.0)
            growth.look()
    assert growth.most <= FLOOD_MEMORY
    assert reports[0].longest_gap() < 2.0


def stranger(number: int) -> bytes:
    """An address in the /64 number `number` of a part of the overlay where nobody lives."""
    return struct.pack("!II", 0x05000000, number) + bytes(7) + b"\x01"


def test_flood_of_the_host_for_unknown_destinations_costs_little_memory(network: Network) -> None:
    with steady_ping(network) as reports, network.relay.namespace.socket(socket.AF_INET6, socket.SOCK_DGRAM) as host:
        growth = Growth(network.relay)
        for number in range(FLOOD):
            with contextlib.suppress(OSError):
                # The kernel hands us the errors about earlier ones here.
                host.sendto(bytes(64), (socket.inet_ntop(socket.AF_INET6, stranger(number)), 4242))
            if number % 5000 == 0:
                growth.look()
        ping(network.near.namespace, network.relay.address)
        growth.look()
    assert growth.most <= FLOOD_MEMORY
    assert reports[0].longest_gap() < 2.0


class Growth:
    """How much more memory a node takes than at the beginning."""

    def __init__(self, node: SeptateNode) -> None:
        self._node = node
        self._before = memory_of(node.process_id).total
        self.most = 0

    def look(self) -> None:
        """Measures once more."""
        self.most = max(self.most, memory_of(self._node.process_id).total - self._before)


def test_flood_of_unknown_control_packets_costs_little_memory(network: Network) -> None:
    with RawPeer(network.outside, network.door) as peer:
        peer.say_hello()
        counts = counted(network.relay, "link", "control.ignored")
        with steady_ping(network) as reports:
            before = memory_of(network.relay.process_id).total
            for _ in range(FLOOD // 5000):
                peer.send(factory.control(factory.tlv(200, b"abcd")) * 5000)
            assert peer.still_answers(30.0)
            grown = memory_of(network.relay.process_id).total - before
        wait_for_counter(network.relay, "link", "control.ignored", counts + FLOOD)
    print(f"{grown >> 10} KiB more, ping lost {reports[0].lost} of {reports[0].sent}")
    assert grown <= FLOOD_MEMORY
    assert reports[0].lost == 0


def test_new_peer_gets_in_past_a_thousand_half_open_connections(network: Network) -> None:
    before = memory_of(network.relay.process_id).total
    with contextlib.ExitStack() as stack:
        for _ in range(SILENT_CONNECTIONS):
            connection = stack.enter_context(network.outside.socket(socket.AF_INET, socket.SOCK_STREAM))
            connection.settimeout(10)
            connection.connect((network.door, LISTEN_PORT))
            # Less than the header of a packet.
            connection.send(b"\x01\x01\x00")
        with RawPeer(network.outside, network.door) as peer:
            assert peer.still_answers(10.0)
        grown = memory_of(network.relay.process_id).total - before
        held = len(list(Path(f"/proc/{find_process(network.relay, 'peers').pid}/fd").iterdir()))
    print(f"{grown >> 10} KiB more, {held} descriptors")
    # Those that wait, and what the process has anyway.
    assert held <= 256 + 50
    assert grown <= FLOOD_MEMORY


def test_new_peer_gets_in_past_peers_that_dribble_their_packets(network: Network) -> None:
    packet = factory.update()
    with contextlib.ExitStack() as stack:
        dribbling = [stack.enter_context(RawPeer(network.outside, network.door)) for _ in range(DRIBBLES)]
        before = memory_of(network.relay.process_id).total
        for offset in range(len(packet) // 2):
            for peer in dribbling:
                peer.send(packet[offset : offset + 1])
        with RawPeer(network.outside, network.door) as peer:
            assert peer.still_answers(20.0)
        grown = memory_of(network.relay.process_id).total - before
    print(f"{grown // DRIBBLES >> 10} KiB per link")
    # What a link costs, 8 MiB and a little, and not more for its slowness.
    assert grown <= DRIBBLES * (9 << 20)
    assert ping(network.near.namespace, network.relay.address).lost == 0
