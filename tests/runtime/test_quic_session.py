"""Two QUIC sessions in memory: what they tell each other, what they refuse, and what goes in a datagram."""

from __future__ import annotations

from typing import Final

import pytest

from actors.link.transports.quic_session import BORNE_SECONDS, Happened, Identity, QuicSession, QuicSessionError
from actors.runtime.udp import Address
from protocol.quic.headers import read_header
from protocol.quic.transport_parameters import replace_parameters

CLIENT: Final[Address] = ("2001:db8::1", 1111, 0, 0)
ELSEWHERE: Final[Address] = ("2001:db8::1", 2222, 0, 0)
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
        self.client_address = CLIENT
        self.carries = {True: 65_535, False: 65_535}
        """Bytes of the largest datagram that arrives, of the client's and of the server's."""

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
                self.deliver(True, datagram)
            for datagram, _ in self.server.transmit(self.now):
                self.sizes.add(len(datagram))
                self.deliver(False, datagram)
            self._listen()
            self.now += 0.01
            for session in (self.client, self.server):
                deadline = session.deadline()
                if deadline is not None and deadline <= self.now:
                    session.on_time(self.now)

    def deliver(self, by_client: bool, datagram: bytes) -> None:
        """Carries a datagram to the other end, unless the path is too small for it."""
        if len(datagram) > self.carries[by_client]:
            return
        session, sender = (self.server, self.client_address) if by_client else (self.client, SERVER)
        session.receive(datagram, len(datagram), sender, self.now)

    def greet(self) -> None:
        """Has the client open the stream."""
        self.client.send_stream(memoryview(b"hello"))
        self.exchange()
        self.heard[False].stream = b""

    def ask(self, by_client: bool, size: int) -> int:
        """Asks the path; returns the size of the datagram that was sent."""
        session = self.client if by_client else self.server
        question = session.question(size, self.now)
        assert question is not None
        self.deliver(by_client, question[0])
        return len(question[0])

    def _listen(self) -> None:
        for is_client, session in ((True, self.client), (False, self.server)):
            new, old = session.happened(), self.heard[is_client]
            old.handshake |= new.handshake
            old.stream += new.stream
            old.datagrams += new.datagrams
            old.answered += new.answered
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
    # For a moment it may be for a reason that passes.
    pair.client.transmit(pair.now)
    with pytest.raises(QuicSessionError, match="QUIC failed"):
        pair.client.transmit(pair.now + 2 * BORNE_SECONDS)


def test_server_that_may_not_send_a_whole_packet_to_a_new_address_yet_goes_on_when_it_may(pair: Pair) -> None:
    pair.greet()
    pair.client.send_datagram(b"from elsewhere")
    for datagram, _ in pair.client.transmit(pair.now):
        pair.server.receive(datagram, len(datagram), ELSEWHERE, pair.now)
    # Three times what came from there is less than this.
    pair.server.send_datagram(bytes(1300))
    assert pair.server.transmit(pair.now) == []
    pair.client_address = ELSEWHERE
    for _ in range(3):
        pair.client.send_datagram(bytes(1000))
        pair.exchange(2)
    assert [len(data) for data in pair.heard[True].datagrams] == [1300]
    assert pair.server.remote == ELSEWHERE


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


@pytest.mark.parametrize("by_client", [True, False])
def test_question_has_its_size_and_is_answered_where_the_path_carries_it(pair: Pair, by_client: bool) -> None:
    pair.carries[by_client] = 1400
    for size in (1452, 1400, 1200):
        assert pair.ask(by_client, size) == size
        pair.exchange()
    assert pair.heard[by_client].answered == (1400, 1200)
    assert (pair.heard[True].closed, pair.heard[False].closed) == (None, None)


@pytest.mark.parametrize("by_client", [True, False])
def test_capped_session_makes_small_datagrams_and_sends_again_in_small_ones_what_was_lost(
    pair: Pair, by_client: bool
) -> None:
    pair.greet()
    session = pair.client if by_client else pair.server
    data = bytes(range(256)) * 100
    pair.carries[by_client] = 1280
    session.send_stream(memoryview(data))
    pair.exchange(3)
    assert pair.heard[not by_client].stream == b""
    session.cap(1280)
    assert session.datagram_limit <= 1280 - 32
    session.send_datagram(bytes(session.datagram_limit))
    pair.exchange(200)
    assert pair.heard[not by_client].stream == data
    assert len(pair.heard[not by_client].datagrams) == 1
    assert (pair.heard[True].closed, pair.heard[False].closed) == (None, None)


def test_losses_show_when_large_datagrams_are_swallowed(pair: Pair) -> None:
    pair.greet()
    before = pair.server.losses
    pair.carries[False] = 1280
    pair.server.send_stream(memoryview(bytes(20_000)))
    pair.exchange(30)
    assert pair.server.losses > before


@pytest.mark.parametrize("by_client", [True, False])
@pytest.mark.parametrize("updates", [0, 1, 2, 3])
def test_last_will_ends_the_connection_at_the_other_end(pair: Pair, by_client: bool, updates: int) -> None:
    session, other = (pair.client, pair.server) if by_client else (pair.server, pair.client)
    pair.greet()
    will = session.last_will()
    for _ in range(updates):
        # Nobody but a test asks for one on our side: in the field the reference does, and qh3 follows.
        other._quic.request_key_update()
        other.send_stream(memoryview(b"sealed with new keys"))
        pair.exchange()
        session.send_stream(memoryview(b"likewise"))
        pair.exchange()
        will = session.last_will()
    assert will is not None
    pair.deliver(by_client, will)
    pair.exchange()
    assert pair.heard[not by_client].closed == "the peer closed the connection"


def test_last_will_is_told_once(pair: Pair) -> None:
    assert pair.client.last_will() is not None
    pair.client.send_stream(memoryview(bytes(50_000)))
    pair.exchange()
    assert pair.client.last_will() is None


def test_server_takes_no_datagram_before_its_handshake() -> None:
    server = QuicSession.accept(IDENTITY, bytes(8), b"", 1452)
    assert (server.datagram_limit, server.room) == (0, 0)
    server.receive(bytes(1200), 1200, CLIENT, 1.0)
    assert server.transmit(1.0) == []


def test_transport_parameters_are_ours_where_they_have_to_be() -> None:
    made = replace_parameters(bytes.fromhex(RECORDED_PARAMETERS + "7127" + "02" + "4064"))
    # 1452 bytes of payload, five streams, none of one direction; the rest as it was, less a browser's own.
    assert made.hex() == "01048000ea600408ffffffffffffffff" + "030245ac" + "080105" + "090100"


@pytest.mark.parametrize("asker", ["client", "server"])
def test_ping_is_under_way_until_the_peer_acknowledges_it(pair: Pair, asker: str) -> None:
    pair.exchange()
    asks = pair.client if asker == "client" else pair.server
    assert asks.in_flight == 0
    asks.ping()
    lost = asks.transmit(pair.now)
    assert len(lost) == 1
    assert asks.in_flight > 0
    # It is asked again after a while, and answered.
    pair.now += 5.0
    asks.on_time(pair.now)
    pair.exchange()
    assert asks.in_flight == 0
