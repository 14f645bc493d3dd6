"""Who may connect, over each transport: who may not is turned away before anything is spent on him, and counted."""

from __future__ import annotations

import contextlib
import random
import secrets
import socket
from pathlib import Path
from typing import Any, Final

import pytest

from bench.accounting import memory_of
from tests.lab.namespaces import Lab, Namespace
from tests.lab.nodes import LISTEN_PORT, Node, SeptateNode
from tests.lab.ping import ping_until_reply
from tests.lab.waiting import wait_until
from tests.namespaces.networks import REACH_TIMEOUT
from tests.namespaces.processes import counted, find_process, processes_of, wait_for_counter

pytestmark = pytest.mark.namespaces

OURS: Final = "/api/v1/septate/peers"
VERSIONS: Final = (b"\0\0\0\1", b"\x1a\x2a\x3a\x4a")
"""QUIC's first, and one that would be answered with a list of versions."""
HALF_OPEN: Final = 1000
MEMORY: Final = 9 * (14 << 20)
"""For eight handshakes of one stranger and the link of the friend, each in a process of its own."""
DESCRIPTORS: Final = 400
"""Of the process that accepts: 256 silent connections and what it has anyway."""
BEGINNING_OF_A_RECORD: Final = bytes.fromhex("1603010200") + bytes(16)
"""Of 512 bytes, which never come."""


def network(lab: Lab) -> tuple[str, ...]:
    """The options of a private network."""
    words = lab.folder / "network"
    words.write_bytes(secrets.token_bytes(32))
    return ("--network-name", "ours", "--network-key-file", str(words))


def state_of(node: Node) -> tuple[str, str]:
    assert isinstance(node, SeptateNode)
    rows: list[dict[str, Any]] = node.api.get(OURS) or [{"state": "", "reason": ""}]
    return rows[0]["state"], rows[0]["reason"]


def first_packet(version: bytes) -> bytes:
    """What a QUIC client would begin with, as far as it can be told without its keys."""
    ids = b"\x08" + secrets.token_bytes(8) + b"\x08" + secrets.token_bytes(8)
    return (b"\xc0" + version + ids + b"\0\x44\x9e").ljust(1200, b"\xaa")


@pytest.mark.parametrize(("kind", "rule"), [("quic", "deny"), ("tls", "allow")])
def test_caller_who_may_not_come_is_turned_away_and_another_is_let_in(lab: Lab, kind: str, rule: str) -> None:
    strict, unwanted, welcome = (lab.namespace(label) for label in ("strict", "unwanted", "welcome"))
    bad, good = lab.wire(unwanted, strict), lab.wire(welcome, strict)
    private = network(lab) if kind == "tls" else ()
    which = ("--deny-peer", f"{bad.left_address}/32") if rule == "deny" else ("--allow-peer", f"{good.left_address}/24")
    listener = SeptateNode(lab, strict, options=(*private, *which)).start()
    listener.wait_until_up()
    refused = SeptateNode(lab, unwanted, peers=[f"{kind}://{bad.right_address}:{LISTEN_PORT}"], options=private).start()
    friend = SeptateNode(lab, welcome, peers=[f"{kind}://{good.right_address}:{LISTEN_PORT}"], options=private).start()
    refused.wait_until_up()
    friend.wait_until_up()
    ping_until_reply(welcome, listener.address, REACH_TIMEOUT)
    wait_for_counter(listener, "peers", "accepts.not_allowed")
    assert [row["neighbour"] for row in listener.api.get(OURS)] == [friend.address]
    assert state_of(refused)[0] != "alive"
    # No handshake, no process, no word.
    assert len([actor for actor in listener.actors() if actor.role == "link"]) == 1
    assert counted(listener, "peers", "accepts.refused") == 0
    if kind == "quic":
        with unwanted.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.connect((bad.right_address, LISTEN_PORT))
            before = counted(listener, "peers", "accepts.not_allowed")
            for version in VERSIONS:
                stranger.send(first_packet(version))
            wait_for_counter(listener, "peers", "accepts.not_allowed", before + len(VERSIONS))
            stranger.setblocking(False)
            with pytest.raises(BlockingIOError):
                stranger.recv(2048)
        assert counted(listener, "peers", "quic.versions_negotiated") == 0


def descriptors(node: SeptateNode, role: str) -> int:
    """How many the node's process of this role has open."""
    return len(list((Path("/proc") / str(find_process(node, role).pid) / "fd").iterdir()))


def connect(place: Namespace, address: str) -> socket.socket:
    """A TCP connection of this process out of a namespace."""
    made = place.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.settimeout(10)
    made.connect((address, LISTEN_PORT))
    return made


def test_half_open_handshakes_cost_little_and_keep_nobody_out(lab: Lab) -> None:
    place, outside, near = (lab.namespace(label) for label in ("listens", "outside", "near"))
    wire, honest = lab.wire(outside, place), lab.wire(near, place)
    private = network(lab)
    listener = SeptateNode(lab, place, options=private).start()
    listener.wait_until_up()
    find_process(listener, "peers")
    before = memory_of(listener.process_id).total
    with contextlib.ExitStack() as held:
        for _ in range(HALF_OPEN):
            held.enter_context(connect(outside, wire.right_address)).send(BEGINNING_OF_A_RECORD)
        dialler = SeptateNode(lab, near, peers=[f"tls://{honest.right_address}:{LISTEN_PORT}"], options=private).start()
        dialler.wait_until_up()
        dialler.wait_for_links(1, timeout=20.0)
        grown = memory_of(listener.process_id).total - before
        open_now = descriptors(listener, "peers")
        waiting = max(process.queues.get("silent_connections", 0) for process in processes_of(listener))
    print(f"{grown >> 10} KiB more, {open_now} descriptors, {waiting} silent")
    assert grown <= MEMORY
    assert open_now <= DESCRIPTORS
    assert waiting <= 256
    listener.stop()


def test_garbage_in_tls_clothes_is_refused_counted_and_costs_nobody_else(lab: Lab) -> None:
    place, outside, near = (lab.namespace(label) for label in ("listens", "outside", "near"))
    wire, honest = lab.wire(outside, place), lab.wire(near, place)
    private = network(lab)
    listener = SeptateNode(lab, place, options=private).start()
    dialler = SeptateNode(lab, near, peers=[f"tls://{honest.right_address}:{LISTEN_PORT}"], options=private).start()
    for node in (listener, dialler):
        node.wait_until_up()
    ping_until_reply(near, listener.address, REACH_TIMEOUT)
    source = random.Random(7)
    kinds = (
        b"\x16\x03\x01" + source.randbytes(60_000),
        b"\x16\x03\x03\x00\x04\x01\x00\x00\x00",
        b"\x16\x03\x01\xff\xff" + bytes(0xFFFF),
        b"\x16\x03\x01\x00\x05" + source.randbytes(5),
        b"\x16\x03\x00\x00\x00" * 100,
    )
    for garbage in kinds:
        with connect(outside, wire.right_address) as stranger:
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                stranger.sendall(garbage)
            with contextlib.suppress(ConnectionResetError):
                while stranger.recv(65536):
                    pass
    assert wait_for_counter(listener, "peers", "accepts.refused", len(kinds)) == len(kinds)
    lines = [line for line in listener.log_path.read_text().splitlines() if "refused" in line and "reason=" in line]
    assert len(lines) == len(kinds)
    assert state_of(dialler)[0] == "alive"
    wait_until("one link is left", lambda: len([each for each in listener.actors() if each.role == "link"]) == 1, 10.0)
