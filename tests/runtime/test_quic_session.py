"""Two QUIC sessions in memory: what they tell each other, what they refuse, and what goes in a datagram."""

from __future__ import annotations

from typing import Final

import pytest

from actors.link.transports.quic_session import Happened, Identity, QuicSession, QuicSessionError, replace_parameters
from actors.runtime.udp import Address
from protocol.quic.headers import read_header

CLIENT: Final[Address] = ("2001:db8::1", 1111, 0, 0)
SERVER: Final[Address] = ("2001:db8::2", 9651, 0, 0)
IDENTITY: Final = Identity.make("a.test")
RECORDED_PARAMETERS: Final = "01048000ea600408ffffffffffffffff080105"
"""Idle time-out, data and streams of a reference node."""


class Pair:
    """A client and a server, and a network between them that loses nothing."""

    def __init__(self, largest: int = 1452) -> None:
        self.now = 100.0
        self.client = QuicSession.dial(SERVER, self.now)
        self._largest = largest
        self._server: QuicSession | None = None
        self.heard = {True: Happened(), False: Happened()}
        self.sizes: set[int] = set()

    @property
    def server(self) -> QuicSession:
        assert self._server is not None
        return self._server

    def exchange(self, rounds: int = 12) -> None:
        for _ in range(rounds):
            for datagram, _ in self.client.transmit(self.now):
                if self._server is None:
                    header = read_header(datagram)
                    assert header is not None
                    self._server = QuicSession.accept(IDENTITY, header.destination, b"", self._largest)
                self.server.receive(datagram, len(datagram), CLIENT, self.now)
            for datagram, _ in self.server.transmit(self.now):
                self.sizes.add(len(datagram))
                self.client.receive(datagram, len(datagram), SERVER, self.now)
            self._listen()
            self.now += 0.01

    def _listen(self) -> None:
        for is_client, session in ((True, self.client), (False, self.server)):
            new, old = session.happened(), self.heard[is_client]
            old.handshake |= new.handshake
            old.stream += new.stream
            old.datagrams += new.datagrams
            old.closed = old.closed or new.closed


@pytest.fixture
def pair() -> Pair:
    made = Pair()
    made.exchange()
    return made


def test_both_ends_shake_hands(pair: Pair) -> None:
    assert (pair.heard[True].handshake, pair.heard[False].handshake) == (True, True)
    assert pair.heard[True].closed is None


def test_stream_carries_bytes_both_ways(pair: Pair) -> None:
    pair.client.send_stream(memoryview(b"from the client"))
    pair.exchange()
    pair.server.send_stream(memoryview(b"from the server"))
    pair.exchange()
    assert (pair.heard[False].stream, pair.heard[True].stream) == (b"from the client", b"from the server")


def test_largest_datagram_is_one_that_no_reference_node_dies_of(pair: Pair) -> None:
    # A data packet with a body of 1342 has 1414 bytes (wire spec 5.5).
    assert 1414 <= pair.server.datagram_limit <= 1420
    assert 1414 <= pair.client.datagram_limit <= 1420
    for session in (pair.client, pair.server):
        session.send_datagram(bytes(session.datagram_limit))
    pair.exchange()
    assert [len(data) for data in pair.heard[True].datagrams] == [pair.server.datagram_limit]
    assert max(pair.sizes) <= 1452


def test_small_path_makes_small_datagrams() -> None:
    pair = Pair(largest=1280)
    pair.exchange()
    assert pair.server.datagram_limit <= 1280 - 32


def test_room_ends_with_the_congestion_window(pair: Pair) -> None:
    room = pair.client.room
    assert room > 0
    while pair.client.room > 0:
        pair.client.send_datagram(bytes(1200))
        pair.client.transmit(pair.now)
    assert pair.client.room > -2000


def test_datagram_that_is_too_large_is_an_error_that_names_itself(pair: Pair) -> None:
    pair.client.send_datagram(bytes(1500))
    with pytest.raises(QuicSessionError, match="QUIC failed"):
        pair.client.transmit(pair.now)


def test_peer_hears_of_the_end(pair: Pair) -> None:
    pair.client.close()
    pair.exchange()
    assert pair.heard[False].closed == "the peer closed the connection"


def test_packets_that_are_none_change_nothing(pair: Pair) -> None:
    for garbage in (b"", b"\x40" + bytes(100), bytes(1200), b"\xff" * 1200):
        pair.server.receive(garbage, max(1, len(garbage)), CLIENT, pair.now)
    pair.client.send_stream(memoryview(b"still there"))
    pair.exchange()
    assert pair.heard[False].stream == b"still there"


def test_server_takes_no_datagram_before_its_handshake() -> None:
    server = QuicSession.accept(IDENTITY, bytes(8), b"", 1452)
    assert (server.datagram_limit, server.room) == (0, 0)
    server.receive(bytes(1200), 1200, CLIENT, 1.0)
    assert server.transmit(1.0) == []


def test_transport_parameters_are_ours_where_they_have_to_be() -> None:
    made = replace_parameters(bytes.fromhex(RECORDED_PARAMETERS + "7127" + "02" + "4064"))
    # 1452 bytes of payload, five streams, none of one direction; the rest as it was, less a browser's own.
    assert made.hex() == "01048000ea600408ffffffffffffffff" + "030245ac" + "080105" + "090100"
