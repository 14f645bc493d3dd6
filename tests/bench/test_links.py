"""The bench of links: what a peer of the crowd says, byte by byte, and who is measured over what."""

from __future__ import annotations

import socket
import struct

import pytest
from blake3 import blake3

from bench.links.crowd import IHU, Peer
from bench.links.meeting import Choice, refusal


@pytest.fixture
def ends() -> tuple[Peer, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.settimeout(5)
    return Peer(ours), theirs


def close(ends: tuple[Peer, socket.socket]) -> None:
    ends[0].connection.close()
    ends[1].close()


def test_peer_of_the_crowd_begins_with_its_update_and_a_hello(ends: tuple[Peer, socket.socket]) -> None:
    peer, node = ends
    peer.begin()
    said = node.recv(1000)
    # Wire spec section 9, bytes A and D.
    assert said[:22].hex() == "010100002a03003c083a0200400075300000" + "0000" + said[20:22].hex()
    prefix, router_id = said[20:28], said[28:68]
    address = bytearray(blake3(router_id[:32]).digest()[:8])
    address[0] = 0x04 | address[0].bit_count() % 2
    assert prefix == bytes(address)
    assert said[68:].hex() == "010100002a030008" + "04068000000007d0"
    close(ends)


def test_peer_of_the_crowd_answers_hellos_and_requests_for_its_routes_however_they_are_cut(
    ends: tuple[Peer, socket.socket],
) -> None:
    peer, node = ends
    assert IHU.hex() == "010100002a0300080506000003f71770"
    memory = memoryview(bytearray(4096))
    hello = bytes.fromhex("010100002a03000804068000000007d0")
    wildcard = bytes.fromhex("010100002a0300050903000000")
    data = b"\x01\0\0\0\0" + struct.pack("!H", 5) + bytes(33) + b"12345"
    for byte in hello + data + wildcard + IHU:
        node.send(bytes([byte]))
        assert peer.read(memory)
    assert peer.answered
    assert node.recv(1000) == IHU + peer.update
    node.close()
    assert not peer.read(memory)
    close(ends)


@pytest.mark.parametrize(("pair", "transport"), [("sm", "unix"), ("yy", "quic"), ("sy", "tcp")])
def test_pair_that_can_not_meet_is_refused_with_a_reason(pair: str, transport: str) -> None:
    assert refusal(pair, transport)


def test_only_contenders_that_are_wanted_are_measured() -> None:
    assert Choice(("tcp", "unix"), ("ss", "mm"), 1).kinds()[0] == ("s", "tcp")
    assert Choice(("tcp", "unix"), (), 1).kinds() == []
