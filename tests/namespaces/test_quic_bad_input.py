"""What a peer costs that shakes hands over QUIC and then sends garbage: its own link, a counter, and a line."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

import pytest

from actors.link.transports.quic_session import STREAM, Happened, QuicSession
from tests.lab.namespaces import Lab, Namespace
from tests.lab.nodes import LISTEN_PORT, SeptateNode
from tests.lab.waiting import wait_until
from tests.namespaces.test_quic import counters
from tests.unit import wire_factory as factory

pytestmark = pytest.mark.namespaces

PATIENCE: Final = 10.0
FLOOD: Final = 100
STAYS_SECONDS: Final = 1.5
"""A link that was to be closed is by then."""


class RawQuicPeer:
    """One connection that says what it is told to."""

    def __init__(self, namespace: Namespace, address: str) -> None:
        self._socket = namespace.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect((address, LISTEN_PORT))
        self._socket.settimeout(0.01)
        self._session = QuicSession.dial((address, LISTEN_PORT), time.monotonic())
        self.heard = Happened()

    @property
    def port(self) -> int:
        """By which the node's log names us."""
        return int(self._socket.getsockname()[1])

    def close(self) -> None:
        """Without a word."""
        self._socket.close()

    def open(self) -> None:
        """Shakes hands, and says what makes it a link."""
        wait_until("the handshake", lambda: self.turn().handshake, PATIENCE, 0)
        self._session.send_stream(memoryview(factory.hello()))
        wait_until("the first words of the node", lambda: self.turn().stream, PATIENCE, 0)

    def say(self, *datagrams: bytes, stream: Sequence[bytes] = (), end: bool = False) -> None:
        """Sends these in DATAGRAM frames, those, each in its own packet, on the stream, and its end, if so told."""
        for datagram in datagrams:
            self._session.send_datagram(datagram)
        for part in stream:
            self._session.send_stream(memoryview(part))
            self.turn()
        if end:
            self._session._quic.send_stream_data(STREAM, b"", end_stream=True)
        self.turn()

    def flood(self, first: bytes) -> None:
        """Sends what begins like a packet and is none of the connection."""
        for _ in range(FLOOD):
            self._socket.send(first + secrets.token_bytes(1200))

    def turn(self) -> Happened:
        """Sends what is due and reads what came, in a hundredth of a second; returns all that has happened so far."""
        session, now = self._session, time.monotonic()
        deadline = session.deadline()
        if deadline is not None and deadline <= now:
            session.on_time(now)
        for datagram, _ in session.transmit(now):
            self._socket.send(datagram)
        try:
            data, sender = self._socket.recvfrom(65_535)
            session.receive(data, len(data), sender, time.monotonic())
        except TimeoutError:
            pass
        new, old = session.happened(), self.heard
        old.handshake |= new.handshake
        old.stream += new.stream
        old.stream_ended |= new.stream_ended
        old.closed = old.closed or new.closed
        return old

    def is_closed(self) -> bool:
        """Whether the node ended the connection."""
        return self.turn().closed is not None


@dataclass(frozen=True, slots=True)
class Scene:
    """A node and a place to call it from."""

    node: SeptateNode
    place: Namespace
    address: str

    @contextmanager
    def peer(self) -> Iterator[RawQuicPeer]:
        made = RawQuicPeer(self.place, self.address)
        try:
            made.open()
            yield made
        finally:
            made.close()


@pytest.fixture(scope="module")
def scene(module_lab: Lab) -> Scene:
    here, there = module_lab.namespace("peer"), module_lab.namespace("node")
    wire = module_lab.wire(here, there)
    node = SeptateNode(module_lab, there).start()
    node.wait_until_up()
    return Scene(node, here, wire.right_address)


CLOSES: Final[dict[str, Callable[[RawQuicPeer], None]]] = {
    "empty datagram": lambda peer: peer.say(b""),
    "datagram with half a packet": lambda peer: peer.say(factory.data(bytes(100))[:60]),
    "datagram with another version": lambda peer: peer.say(b"\x02" + factory.data(bytes(100))[1:]),
    "datagram with an unknown type": lambda peer: peer.say(b"\x01\x07" + bytes(80)),
    "stream with another version": lambda peer: peer.say(stream=(b"\x02\0\0\0" + bytes(80),)),
    "stream with a packet and then garbage": lambda peer: peer.say(stream=(factory.hello(), b"\xff" * 40)),
    "control packet that contradicts its length": lambda peer: peer.say(
        stream=(factory.control(factory.tlv(4, bytes(2), length=6)),)
    ),
}
STAYS: Final[dict[str, Callable[[RawQuicPeer], None]]] = {
    "hello in a datagram": lambda peer: peer.say(factory.hello()),
    "garbage behind the packet of a datagram": lambda peer: peer.say(factory.hello() + b"\xff" * 500),
    "header in two parts": lambda peer: peer.say(stream=(factory.hello()[:5], factory.hello()[5:])),
    "packets of other keys": lambda peer: peer.flood(b"\x41"),
    "first packets of nobody": lambda peer: peer.flood(b"\xc0\0\0\0\x01\x08"),
    "packets of another version": lambda peer: peer.flood(b"\xc0\x1a\x2a\x3a\x4a\x08"),
}


def test_garbage_of_a_peer_closes_its_link_with_a_counter_and_a_line(scene: Scene) -> None:
    ports = {}
    with scene.peer() as bystander:
        for what, say in CLOSES.items():
            with scene.peer() as peer:
                say(peer)
                wait_until(f"the end after {what}", peer.is_closed, PATIENCE, 0)
                ports[what] = peer.port
            bystander.turn()
        count = len(CLOSES)
        wait_until("a count", lambda: counters(scene.node)["gone_links.wire.garbage"] == count, PATIENCE)
        log = [line for line in scene.node.log_path.read_text().splitlines() if "it sent garbage" in line]
        assert [what for what, port in ports.items() if not any(f":{port}" in line for line in log)] == []
        assert not bystander.is_closed()


def test_link_goes_on_after_what_can_be_skipped(scene: Scene) -> None:
    with ExitStack() as opened:
        peers = {what: opened.enter_context(scene.peer()) for what in STAYS}
        for what, peer in peers.items():
            STAYS[what](peer)
        deadline = time.monotonic() + STAYS_SECONDS
        while time.monotonic() < deadline:
            assert [what for what, peer in peers.items() if peer.is_closed()] == []


def test_end_of_the_stream_is_the_end_of_the_link(scene: Scene) -> None:
    with scene.peer() as peer:
        peer.say(end=True)
        wait_until("the end", peer.is_closed, PATIENCE, 0)
