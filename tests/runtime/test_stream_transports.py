"""Transports that are plain streams within one machine: what they are called, what they cost, and that bytes pass."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from actors.link.transports import TRANSPORTS, Setup
from protocol.mycelium.endpoint import Endpoint, Protocol


class Named(socket.socket):
    """A connected Unix socket that goes by the names of a vsock one: most kernels join no machine to itself by that."""

    def getsockname(self) -> tuple[int, int]:
        return 3, 1025

    def getpeername(self) -> tuple[int, int]:
        return 2, 9651


@pytest.fixture
def ends() -> Iterator[tuple[Named, socket.socket]]:
    ours, theirs = socket.socketpair()
    named = Named(fileno=ours.detach())
    yield named, theirs
    named.close()
    theirs.close()


def setup_of(connection: socket.socket, endpoint: str) -> Setup:
    nothing: Any = None
    return Setup(
        runtime=nothing,
        owner=nothing,
        connection=connection,
        endpoint=Endpoint.parse(endpoint),
        outbound=True,
        number=1,
        opening=b"",
        public_key=bytes(32),
        network=None,
        tell_peers=nothing,
    )


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [("vsock://2:9651", "VSOCK 3:1025 <-> 2:9651"), ("unix:///run/peer.sock", "UNIX /run/peer.sock")],
)
def test_stream_within_the_machine_has_its_name_its_cost_and_carries_bytes_both_ways(
    ends: tuple[Named, socket.socket], endpoint: str, name: str
) -> None:
    ours, theirs = ends
    setup = setup_of(ours, endpoint)
    transport = TRANSPORTS[setup.endpoint.protocol]()(setup)
    assert (transport.name, transport.static_cost, transport.opened) == (name, 5, True)
    assert transport.send([b"to the peer, ", memoryview(b"in two buffers")]) == 27
    assert theirs.recv(100) == b"to the peer, in two buffers"
    theirs.send(b"and back")
    memory = bytearray(100)
    assert transport.receive_into(memoryview(memory)) == 8
    assert memory[:8] == b"and back"
    with pytest.raises(BlockingIOError):
        transport.receive_into(memoryview(memory))
    theirs.close()
    assert transport.receive_into(memoryview(memory)) == 0


def test_connection_of_such_a_stream_ends_with_its_process() -> None:
    assert not any(TRANSPORTS[protocol]().resumable for protocol in (Protocol.UNIX, Protocol.VSOCK))
