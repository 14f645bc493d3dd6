"""What the listener does with each kind of datagram: whom it forwards, answers, asks to come again, lets in."""

from __future__ import annotations

from typing import Final

import pytest

from protocol.quic.door import MOST_OPENING, MOST_OPENING_DATAGRAMS, RANDOM_BYTES, Door, Drop, Forward, Opening, Reply
from protocol.quic.headers import read_header
from protocol.quic.tokens import LIFETIME_SECONDS, make_token, original_id

KEY: Final = bytes(range(16))
CLIENT: Final = b"192.0.2.1:4433"
FIRST_ID: Final = bytes.fromhex("1122334455667788")
OURS: Final = b"\x07" * 8
RANDOM: Final = bytes(range(100, 100 + RANDOM_BYTES))


def initial(destination: bytes = FIRST_ID, token: bytes = b"", version: int = 1, size: int = 1200) -> bytes:
    """A client's first packet, as far as a listener looks."""
    head = b"\xc0" + version.to_bytes(4, "big") + bytes((len(destination),)) + destination + b"\x04abcd"
    return (head + (0x4000 | len(token)).to_bytes(2, "big") + token).ljust(size, b"\0")


def short(destination: bytes = OURS, size: int = 100) -> bytes:
    return (b"\x40" + destination).ljust(size, b"\0")


def see(door: Door, datagram: bytes, client: bytes = CLIENT, now: float = 1.0, busy: bool = False) -> object:
    return door.receive(datagram, client, now, RANDOM, busy=busy)


def retried(door: Door, now: float = 1.0) -> tuple[bytes, bytes]:
    """The token and the connection id that a busy listener gives to a client."""
    reply = see(door, initial(), now=now, busy=True)
    assert isinstance(reply, Reply)
    answer = read_header(reply.datagram)
    assert answer is not None
    head = 1 + 4 + 1 + len(answer.destination) + 1 + len(answer.source)
    return reply.datagram[head:-16], answer.source


def test_first_packet_asks_for_a_link() -> None:
    assert see(Door(KEY), initial()) == Opening(FIRST_ID, b"")


def test_busy_listener_asks_to_come_again_and_knows_who_did() -> None:
    door = Door(KEY)
    token, source = retried(door)
    assert see(door, initial(source, token), now=2.0, busy=True) == Opening(FIRST_ID, source)


@pytest.mark.parametrize("what", ["client", "id", "age", "byte", "key"])
def test_token_of_another_counts_as_none(what: str) -> None:
    door = Door(KEY)
    token, source = retried(door)
    client, now = CLIENT, 2.0
    if what == "client":
        client = b"192.0.2.2:4433"
    elif what == "id":
        source = bytes(8)
    elif what == "age":
        now = 1.1 + LIFETIME_SECONDS
    elif what == "byte":
        token = token[:-1] + bytes((token[-1] ^ 1,))
    else:
        door = Door(bytes(16))
    found = see(door, initial(source, token), client, now, busy=True)
    assert isinstance(found, Reply)
    assert found.counter == "quic.retries"


@pytest.mark.parametrize("token", [b"", b"short", bytes(11), bytes(12), bytes(60)])
def test_token_of_any_form_does_no_harm(token: bytes) -> None:
    assert original_id(KEY, token, CLIENT, FIRST_ID, 1.0) is None


def test_token_from_the_future_counts_as_none() -> None:
    token = make_token(KEY, bytes(12), CLIENT, OURS, FIRST_ID, now=5.0)
    assert original_id(KEY, token, CLIENT, OURS, 4.0) is None


def test_other_version_is_answered_with_ours_and_no_smaller_packet_is() -> None:
    found = see(Door(KEY), initial(version=0x0A0A0A0A))
    assert isinstance(found, Reply)
    assert found.counter == "quic.versions_negotiated"
    assert see(Door(KEY), initial(version=0x0A0A0A0A, size=1199)) == Drop("quic.garbage")


@pytest.mark.parametrize(
    "datagram",
    [b"", b"\0" * 1200, initial(size=1199), initial(bytes(7)), b"\xe0" + initial()[1:]],
    ids=["empty", "no packet", "too small", "id too short", "a handshake packet"],
)
def test_garbage_is_counted_and_answered_with_nothing(datagram: bytes) -> None:
    assert see(Door(KEY), datagram) == Drop("quic.garbage")


def test_packets_go_to_the_link_whose_id_they_bear() -> None:
    door = Door(KEY)
    door.link_has(5, [OURS, b"\x08" * 8], b"")
    assert see(door, short()) == Forward(5)
    door.link_has(5, [b"\x08" * 8], b"")
    assert see(door, short()) == Drop("quic.unknown")
    assert see(door, short(b"\x08" * 8)) == Forward(5)


def test_what_comes_while_the_link_is_made_waits_for_it() -> None:
    door = Door(KEY)
    key = door.begin(initial(), CLIENT, 1.0)
    assert key is not None
    for _ in range(MOST_OPENING_DATAGRAMS + 3):
        assert see(door, initial()) == Drop("quic.opening")
    assert door.begun(key) == (initial(),) * MOST_OPENING_DATAGRAMS
    assert (door.begun(key), door.opening) == ((), 0)


def test_only_so_many_are_opening_and_none_for_ever() -> None:
    door = Door(KEY)
    for number in range(MOST_OPENING):
        assert door.begin(initial(), str(number).encode(), 1.0) is not None
    assert door.begin(initial(), b"one more", 1.0) is None
    door.expire(20.0)
    assert door.opening == 0


def test_peer_of_a_link_that_is_gone_is_told_so() -> None:
    door = Door(KEY)
    door.link_has(5, [OURS], bytes(range(16)))
    door.link_gone(5)
    found = see(door, short())
    assert isinstance(found, Reply)
    assert found.datagram.endswith(bytes(range(16)))
    assert see(door, short(size=42)) == Drop("quic.unknown")


def test_peer_of_a_link_that_is_gone_can_be_told_before_it_asks() -> None:
    door = Door(KEY)
    door.link_has(5, [OURS], bytes(range(16)))
    told = door.farewell(door.link_gone(5), RANDOM)
    assert told is not None
    assert told.datagram.endswith(bytes(range(16)))
    assert door.farewell(door.link_gone(5), RANDOM) is None


def test_link_that_never_was_may_be_gone() -> None:
    door = Door(KEY)
    door.link_gone(5)
    assert see(door, short()) == Drop("quic.unknown")


def test_most_recent_of_many_gone_links_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocol.quic.door.MOST_FORGOTTEN", 2)
    door = Door(KEY)
    for link in (1, 2, 3):
        door.link_has(link, [bytes((link,)) * 8], bytes(16))
        door.link_gone(link)
    assert see(door, short(b"\x01" * 8)) == Drop("quic.unknown")
    assert isinstance(see(door, short(b"\x03" * 8)), Reply)
