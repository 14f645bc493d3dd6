"""Questions to name servers, and what is made of replies: those that are right, and those that are anything else."""

from __future__ import annotations

import contextlib
import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.dns import DnsError, Inquiry, in_hosts_file, name_servers

SIX, FOUR = 0x1234, 0x5678
AAAA, CNAME, A = 28, 5, 1
NAME = b"\x04peer\x07example\x00"
HERE = b"\xc0\x0c"
"""A pointer to the name of the question."""


def inquiry() -> Inquiry:
    return Inquiry("Peer.example", (SIX, FOUR))


def record(owner: bytes, kind: int, data: bytes, group: int = 1) -> bytes:
    return owner + struct.pack("!HHIH", kind, group, 60, len(data)) + data


def reply(
    number: int, kind: int, *records: bytes, flags: int = 0x8180, name: bytes = NAME, questions: int = 1
) -> bytes:
    head = struct.pack("!HHHHHH", number, flags, questions, len(records), 0, 0)
    return head + name + struct.pack("!HH", kind, 1) + b"".join(records)


def four(text: str) -> bytes:
    return record(HERE, A, ip_address(text).packed)


def texts(asked: Inquiry) -> list[list[str]]:
    return [[str(address) for address in family] for family in asked.addresses]


def test_both_families_are_asked_for_as_the_rfc_says() -> None:
    first, second = inquiry().questions
    # Number, recursion desired, one question, one additional record: EDNS with 1232 bytes.
    assert first.hex() == "12340100000100000000" + "0001" + NAME.hex() + "001c0001" + "00002904d0000000000000"
    assert second.hex() == "56780100000100000000" + "0001" + NAME.hex() + "00010001" + "00002904d0000000000000"


def test_same_random_number_twice_still_makes_two_questions() -> None:
    numbers = {question[:2] for question in Inquiry("peer", (7, 7)).questions}
    assert len(numbers) == 2


def test_addresses_come_by_family_when_both_are_answered() -> None:
    asked = inquiry()
    asked.receive(reply(FOUR, A, four("192.0.2.1"), four("192.0.2.2")))
    assert not asked.is_done
    assert texts(asked) == [["192.0.2.1", "192.0.2.2"]]
    asked.receive(reply(SIX, AAAA, record(HERE, AAAA, ip_address("2001:db8::1").packed)))
    assert asked.is_done
    assert texts(asked) == [["2001:db8::1"], ["192.0.2.1", "192.0.2.2"]]


def test_aliases_are_followed_and_strangers_in_a_reply_are_not() -> None:
    asked = inquiry()
    end, other = b"\x03end\x00", b"\x05other\x00"
    data = (
        record(b"\x04PEER\x07Example\x00", CNAME, b"\x03mid\x00"),
        record(b"\x03mid\x00", CNAME, end),
        record(end, A, ip_address("192.0.2.9").packed),
        record(other, A, ip_address("198.51.100.1").packed),
        record(HERE, A, b"\x01\x02\x03"),
        record(HERE, A, ip_address("198.51.100.2").packed, group=3),
    )
    asked.receive(reply(FOUR, A, *data))
    assert texts(asked) == [["192.0.2.9"]]


def test_aliases_in_a_circle_lead_nowhere() -> None:
    asked = inquiry()
    asked.receive(reply(FOUR, A, record(HERE, CNAME, b"\x01a\x00"), record(b"\x01a\x00", CNAME, HERE)))
    assert asked.addresses == []


def test_unknown_name_ends_it_and_a_server_in_trouble_does_not() -> None:
    unknown, failed, short = inquiry(), inquiry(), inquiry()
    unknown.receive(reply(SIX, AAAA, flags=0x8183))
    assert (unknown.is_done, unknown.no_such_name, unknown.failure) == (True, True, "knows no such name")
    failed.receive(reply(SIX, AAAA, flags=0x8182))
    assert (failed.is_done, failed.failure) == (False, "failed")
    short.receive(reply(SIX, AAAA, flags=0x8380))
    assert short.failure == "has an answer that fits no datagram"
    short.receive(reply(FOUR, A, four("192.0.2.1"), flags=0x8380))
    assert texts(short) == [["192.0.2.1"]]
    nothing = inquiry()
    nothing.receive(reply(SIX, AAAA))
    nothing.receive(reply(FOUR, A))
    assert (nothing.is_done, nothing.failure, nothing.addresses) == (True, "", [])


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (b"", "ends too early"),
        (reply(FOUR, A)[:11], "ends too early"),
        (reply(FOUR, A)[:-1], "ends too early"),
        (reply(FOUR, A, four("192.0.2.1"))[:-1], "ends too early"),
        (reply(0x9999, A), "another question"),
        (reply(FOUR, AAAA), "another question"),
        (reply(FOUR, A, flags=0x0180), "another question"),
        (reply(FOUR, A, questions=0), "another question"),
        (reply(FOUR, A, name=b"\x05other\x00"), "another question"),
        (reply(FOUR, A, name=b"\xc0\x0c"), "leads nowhere"),
        (reply(FOUR, A, name=b"\xff\xff"), "leads nowhere"),
        (reply(FOUR, A, name=b"\x40" + bytes(70)), "too long"),
        (reply(FOUR, A, name=(b"\x3f" + b"a" * 63) * 5 + b"\x00"), "too long"),
        (reply(FOUR, A, record(b"\xc0\x40", A, bytes(4))), "leads nowhere"),
    ],
)
def test_datagram_that_is_no_reply_is_an_error_and_counts_for_nothing(datagram: bytes, reason: str) -> None:
    asked = inquiry()
    with pytest.raises(DnsError, match=reason):
        asked.receive(datagram)
    assert (asked.addresses, asked.is_done) == ([], False)


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_a_reply_or_the_one_error(data: bytes, is_ours: bool) -> None:
    asked = inquiry()
    good = reply(FOUR, A, four("192.0.2.1"))
    with contextlib.suppress(DnsError):
        asked.receive(good[: len(data) % len(good)] + data if is_ours else data)


@pytest.mark.parametrize("host", ["", ".", "a..b", "a" * 64, ".".join(["a" * 63] * 4), "peer."])
def test_name_that_no_question_has_room_for_is_refused(host: str) -> None:
    with pytest.raises(DnsError, match="no host name"):
        _ = Inquiry(host, (1, 2)).questions


def test_files_say_whom_to_ask_and_what_need_not_be_asked() -> None:
    servers = "# nameserver 192.0.2.9\nnameserver 192.0.2.1\nsearch a\nnameserver ::1 x\nnameserver\nnameserver bad\n"
    assert [str(each) for each in name_servers(servers)] == ["192.0.2.1", "::1"]
    assert len(name_servers("nameserver 192.0.2.1\n" * 9)) == 3
    hosts = "192.0.2.1 Peer.Example other # peer2\n::1 peer.example\nbad peer.example\npeer.example 192.0.2.7\n"
    assert [str(each) for each in in_hosts_file(hosts, "peer.example")] == ["192.0.2.1", "::1"]
    assert in_hosts_file(hosts, "peer2") == []
