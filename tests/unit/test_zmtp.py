"""ZMTP: bytes recorded from libzmq, in any split, malformed input, and memory that never grows."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.zmtp import MAX_COMMAND, MAX_PONGS, SocketType, ZmtpConnection, ZmtpError
from tests.unit.recorded import load

RECORDED = {name: bytes.fromhex(data) for name, data in load("zmtp_recorded.json")["bytes"].items()}
LARGEST = 1000
"""The limit of the connections under test, in bytes: the largest recorded message has just this size."""
SENT = [b"", b"a", b"x" * 255, b"y" * 256, b"z" * 1000, b"last"]
"""What the recorded DEALER was asked to send."""


# --- a factory of its own ---------------------------------------------------------------------------------------------


def greeting(*, version: tuple[int, int] = (3, 1), mechanism: bytes = b"NULL", padding: bytes = bytes(8)) -> bytes:
    return b"\xff" + padding + b"\x7f" + bytes(version) + mechanism.ljust(20, b"\0") + bytes(32)


def command(name: bytes, data: bytes = b"") -> bytes:
    body = bytes([len(name)]) + name + data
    return (bytes([4, len(body)]) if len(body) < 256 else b"\x06" + struct.pack("!Q", len(body))) + body


def prop(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + struct.pack("!I", len(value)) + value


def ready(socket_type: bytes = b"DEALER", identity: bytes = b"link-1") -> bytes:
    return command(b"READY", prop(b"Socket-Type", socket_type) + prop(b"Identity", identity))


def message(body: bytes) -> bytes:
    return (bytes([0, len(body)]) if len(body) < 256 else b"\x02" + struct.pack("!Q", len(body))) + body


Make = Callable[[], ZmtpConnection]


def router() -> ZmtpConnection:
    return ZmtpConnection(SocketType.ROUTER, b"tun", max_message=LARGEST)


def dealer() -> ZmtpConnection:
    return ZmtpConnection(SocketType.DEALER, b"link-1", max_message=LARGEST)


def ready_router() -> ZmtpConnection:
    """One whose handshake is over and whose own first bytes are sent."""
    connection = router()
    assert connection.receive(greeting() + ready()) == []
    connection.outgoing()
    return connection


def feed(connection: ZmtpConnection, pieces: Sequence[bytes]) -> tuple[list[bytes], str | None]:
    """The messages in front of the first error, and that error's reason."""
    messages: list[bytes] = []
    for piece in pieces:
        try:
            messages += connection.receive(piece)
        except ZmtpError as error:
            return messages, error.reason
    return messages, None


def split(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


# --- what we say ------------------------------------------------------------------------------------------------------


def test_first_bytes_are_those_that_libzmq_sends_but_for_the_padding() -> None:
    ours = dealer().outgoing()
    recorded = RECORDED["DEALER link-1"]
    assert ours[:1] + ours[9:] == recorded[:1] + recorded[9:]
    assert ours[1:9] == bytes(8)


def test_a_router_says_that_it_is_one() -> None:
    assert router().outgoing() == greeting() + ready(b"ROUTER", b"tun")


def test_the_first_bytes_are_given_once() -> None:
    connection = router()
    connection.outgoing()
    assert connection.outgoing() == b""


def test_ready_with_the_longest_identity_is_a_long_command() -> None:
    identity = b"i" * 255
    connection = ZmtpConnection(SocketType.DEALER, identity, max_message=LARGEST)
    assert connection.outgoing() == greeting() + ready(b"DEALER", identity)
    assert connection.outgoing() == b""
    other = router()
    other.receive(greeting() + ready(b"DEALER", identity))
    assert other.peer_identity == identity


@pytest.mark.parametrize("identity", [b"i" * 256, b"\0name"])
def test_an_identity_that_the_specification_forbids_is_refused(identity: bytes) -> None:
    with pytest.raises(ValueError, match="identity"):
        ZmtpConnection(SocketType.DEALER, identity, max_message=LARGEST)


def test_a_limit_below_a_short_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="254 bytes"):
        ZmtpConnection(SocketType.DEALER, b"", max_message=254)


@pytest.mark.parametrize("body", SENT, ids=len)
def test_a_header_is_the_one_that_libzmq_writes(body: bytes) -> None:
    assert ready_router().frame_header(len(body)) + body in RECORDED["DEALER messages"]


@pytest.mark.parametrize(("peer", "make"), [("REQ", router), ("REP", dealer)])
def test_a_message_to_one_that_expects_a_delimiter_has_one(peer: str, make: Make) -> None:
    connection = make()
    connection.receive(RECORDED[peer])
    assert connection.frame_header(8) + b"question" == RECORDED["REQ question"]


# --- handshake --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "name", "identity"),
    [
        (router, "DEALER link-1", b"link-1"),
        (router, "DEALER without identity", b""),
        (router, "REQ", b""),
        (router, "ROUTER tun", b"tun"),
        (dealer, "ROUTER tun", b"tun"),
        (dealer, "ROUTER without identity", b""),
        (dealer, "REP", b""),
        (dealer, "DEALER link-1", b"link-1"),
    ],
)
def test_a_recorded_peer_is_ready_under_its_identity(make: Make, name: str, identity: bytes) -> None:
    connection = make()
    assert not connection.ready
    assert connection.receive(RECORDED[name]) == []
    assert connection.ready
    assert connection.peer_identity == identity


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (router, "REP"),
        (router, "PULL"),
        (router, "SUB"),
        (dealer, "REQ"),
        (dealer, "PULL"),
        (dealer, "SUB"),
    ],
)
def test_a_socket_of_another_pattern_is_refused(make: Make, name: str) -> None:
    connection = make()
    with pytest.raises(ZmtpError, match=f"'{name}' can't talk to a"):
        connection.receive(RECORDED[name])
    assert not connection.ready


def test_padding_and_a_later_version_are_not_looked_at() -> None:
    connection = router()
    connection.receive(greeting(version=(4, 7), padding=b"whatever") + ready())
    assert connection.ready


def test_names_of_properties_may_have_any_case_and_unknown_ones_are_skipped() -> None:
    connection = router()
    properties = prop(b"X-Colour", b"red") + prop(b"SOCKET-type", b"REQ") + prop(b"identity", b"me")
    connection.receive(greeting() + command(b"READY", properties))
    assert connection.peer_identity == b"me"
    assert connection.frame_header(0) == b"\x01\x00\x00\x00"


def test_a_peer_that_names_no_socket_type_is_taken_as_it_is() -> None:
    connection = router()
    connection.receive(greeting() + command(b"READY"))
    assert connection.ready
    assert connection.frame_header(5) == b"\x00\x05"


@pytest.mark.parametrize(
    ("garbage", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", "not ZeroMQ"),
        (b"\x00", "not ZeroMQ"),
        (b"\xff" + bytes(9), "not ZeroMQ"),
        (greeting(version=(2, 0))[:11], "before 3.0"),
        (greeting(mechanism=b"CURVE"), "mechanism 'CURVE'"),
        (greeting(mechanism=b"NULLS"), "mechanism 'NULLS'"),
    ],
)
def test_a_greeting_that_is_none_is_refused_as_soon_as_it_shows(garbage: bytes, reason: str) -> None:
    with pytest.raises(ZmtpError, match=reason):
        router().receive(garbage)


@pytest.mark.parametrize(
    ("garbage", "reason"),
    [
        (message(b"early"), "a message where READY belongs"),
        (b"\x02" + struct.pack("!Q", 300), "a message where READY belongs"),
        (b"\x01\x00", "a message where READY belongs"),
        (command(b"PING", bytes(2)), "'PING' where READY belongs"),
        (command(b"ERROR", b"\x03no!"), "refuses: 'no!'"),
        (command(b"READY", b"\x0bSocket-Type\x00\x00\x00"), "no name or no value"),
        (command(b"READY", prop(b"", b"value")), "no name or no value"),
        (command(b"READY", b"\xffshort"), "no name or no value"),
        (command(b"READY", b"\x01a" + struct.pack("!I", 5) + b"four"), "goes on behind its end"),
        (command(b"READY", b"\x01a\xff\xff\xff\xff"), "goes on behind its end"),
        (ready(identity=b"\0me"), "identity"),
        (ready(identity=b"i" * 256), "identity"),
        (ready(socket_type=b""), "'' can't talk"),
    ],
)
def test_a_handshake_that_breaks_the_rules_ends_the_connection(garbage: bytes, reason: str) -> None:
    connection = router()
    connection.receive(greeting())
    with pytest.raises(ZmtpError, match=reason):
        connection.receive(garbage)
    assert not connection.ready


# --- traffic ----------------------------------------------------------------------------------------------------------


def test_recorded_messages_arrive_as_they_were_sent() -> None:
    connection = router()
    assert connection.receive(RECORDED["DEALER link-1"] + RECORDED["DEALER messages"]) == SENT


@pytest.mark.parametrize(
    ("make", "peer", "traffic", "expected"),
    [
        (router, "REQ", "REQ question", b"question"),
        (router, "DEALER without identity", "DEALER delimited", b"behind a delimiter"),
        (dealer, "ROUTER without identity", "ROUTER answer", b"answer"),
    ],
)
def test_an_empty_part_in_front_is_skipped(make: Make, peer: str, traffic: str, expected: bytes) -> None:
    assert make().receive(RECORDED[peer] + RECORDED[traffic]) == [expected]


def test_a_message_of_two_parts_is_refused() -> None:
    with pytest.raises(ZmtpError, match="several parts"):
        ready_router().receive(RECORDED["DEALER two parts"])


@pytest.mark.parametrize(
    ("garbage", "reason"),
    [
        (b"\x08\x00", "reserved bits in flags 0x08"),
        (b"\x80\x00", "reserved bits"),
        (b"\x05\x00", "a command of several frames"),
        (b"\x03" + struct.pack("!Q", 1), "several parts"),
        (b"\x02" + struct.pack("!Q", LARGEST + 1), f"a message of {LARGEST + 1} bytes"),
        (b"\x02" + b"\xff" * 8, "at most 1000"),
        (b"\x06" + struct.pack("!Q", MAX_COMMAND + 1), f"a command of {MAX_COMMAND + 1} bytes"),
        (b"\x04\x00", "without a name"),
        (b"\x04\x01\x00", "without a name"),
        (b"\x04\x02\x05P", "without a name"),
        (b"\x04\x04\x03A-B", "without a name"),
        (ready(), "a second READY"),
        (command(b"ERROR", b"\x04over"), "refuses: 'over'"),
        (command(b"PING", b"\x00"), "PING"),
        (command(b"PING", bytes(2 + 17)), "PING"),
    ],
)
def test_traffic_that_breaks_the_rules_ends_the_connection(garbage: bytes, reason: str) -> None:
    connection = ready_router()
    with pytest.raises(ZmtpError, match=reason) as first:
        connection.receive(message(b"before") + garbage)
    with pytest.raises(ZmtpError) as second:
        connection.receive(message(b"after"))
    assert second.value is first.value


def test_a_long_frame_around_few_bytes_is_read_too() -> None:
    assert ready_router().receive(b"\x02" + struct.pack("!Q", 3) + b"abc" + message(b"d")) == [b"abc", b"d"]


def test_a_message_behind_ready_in_the_same_bytes_is_read() -> None:
    assert router().receive(greeting() + ready() + message(b"at once")) == [b"at once"]


# --- commands ---------------------------------------------------------------------------------------------------------


def test_ping_is_answered_with_its_context_as_libzmq_answers() -> None:
    connection = ready_router()
    connection.receive(command(b"PING", b"\x00\x0acont"))
    assert connection.outgoing() == RECORDED["PONG cont"]


def test_a_recorded_ping_is_answered() -> None:
    connection = router()
    connection.receive(RECORDED["DEALER that pings"])
    assert connection.outgoing() == greeting() + ready(b"ROUTER", b"tun") + command(b"PONG")


def test_the_longest_context_is_echoed() -> None:
    connection = ready_router()
    connection.receive(command(b"PING", bytes(2) + b"sixteen octets !"))
    assert connection.outgoing() == command(b"PONG", b"sixteen octets !")


def test_endless_pings_are_answered_a_bounded_number_of_times_until_answers_are_sent() -> None:
    connection = ready_router()
    connection.receive(command(b"PING", bytes(2)) * (3 * MAX_PONGS))
    assert connection.outgoing() == command(b"PONG") * MAX_PONGS
    connection.receive(command(b"PING", bytes(2)))
    assert connection.outgoing() == command(b"PONG")


@pytest.mark.parametrize("name", [b"PONG", b"SUBSCRIBE", b"CANCEL", b"JOIN", b"Unheard"])
def test_other_commands_mean_nothing(name: bytes) -> None:
    connection = ready_router()
    assert connection.receive(command(name, b"data") + message(b"next")) == [b"next"]
    assert connection.outgoing() == b""


# --- any split, any garbage -------------------------------------------------------------------------------------------

STREAM = RECORDED["DEALER link-1"] + RECORDED["DEALER messages"] + command(b"PING", bytes(2)) + message(b"end")


@given(st.lists(st.integers(min_value=0, max_value=len(STREAM))))
def test_a_stream_gives_the_same_messages_in_any_split(cuts: list[int]) -> None:
    connection = router()
    messages, error = feed(connection, split(STREAM, cuts))
    assert (messages, error) == ([*SENT, b"end"], None)
    assert connection.outgoing().endswith(command(b"PONG"))


def test_a_stream_gives_the_same_messages_byte_by_byte() -> None:
    assert feed(router(), [STREAM[at : at + 1] for at in range(len(STREAM))]) == ([*SENT, b"end"], None)


@given(st.lists(st.binary(max_size=400)))
def test_any_messages_survive_any_split(bodies: list[bytes]) -> None:
    connection = router()
    data = greeting() + ready() + b"".join(message(body) for body in bodies)
    assert feed(connection, split(data, [len(data) // 3, len(data) // 2])) == (bodies, None)


@given(st.binary(max_size=300), st.lists(st.integers(min_value=0, max_value=300)))
def test_garbage_gives_messages_or_one_error_and_the_split_does_not_decide(garbage: bytes, cuts: list[int]) -> None:
    prefix = greeting() + ready()
    whole, whole_error = feed(router(), [prefix, garbage])
    parts, parts_error = feed(router(), [prefix, *split(garbage, cuts)])
    assert parts_error == whole_error
    # Messages that arrive together with garbage are lost; those that came before it are not.
    assert parts == whole or whole_error is not None
    assert all(len(body) <= LARGEST for body in parts)


@given(
    st.integers(min_value=0, max_value=8 * len(STREAM) - 1), st.lists(st.integers(min_value=0, max_value=len(STREAM)))
)
def test_a_flipped_bit_gives_messages_or_one_error(bit: int, cuts: list[int]) -> None:
    flipped = bytearray(STREAM)
    flipped[bit // 8] ^= 1 << bit % 8
    messages, _ = feed(router(), split(bytes(flipped), cuts))
    assert len(messages) <= len(STREAM) // 2


@given(st.binary(max_size=200))
def test_garbage_instead_of_a_greeting_is_an_error_or_not_yet_a_greeting(garbage: bytes) -> None:
    messages, error = feed(router(), [garbage])
    assert messages == []
    assert error is not None or len(garbage) < 64 or garbage[:1] == b"\xff"


def test_a_message_that_never_ends_is_kept_only_up_to_the_limit() -> None:
    connection = ready_router()
    connection.receive(b"\x02" + struct.pack("!Q", LARGEST))
    for _ in range(LARGEST - 1):
        assert connection.receive(b"x") == []
    assert connection.receive(b"x") == [b"x" * LARGEST]
