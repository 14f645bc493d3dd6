"""The inbound allow-list: rules as people write them, headers, the host's own flows, and what the gate lets in."""

from __future__ import annotations

import struct
from collections import Counter
from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.admission import flows as flow_table
from protocol.admission.flows import CLOSING_SECONDS, FLOWS_BYTES, MAX_FLOWS, TCP_SECONDS, FlowTable
from protocol.admission.gate import MAX_DECIDED, SETTLE_SECONDS, Gate, RuleExists, TooManyRules
from protocol.admission.headers import HeaderError, find_upper
from protocol.admission.rules import MAX_RULES, Rule, RuleError, parse_rules
from protocol.mycelium.identity import address_of

HOST = IPv6Address("410::1").packed
FRIEND_KEY = bytes(range(32))
FRIEND = address_of(FRIEND_KEY)
STRANGER_KEY = bytes(32)
STRANGER = IPv6Address("5ff::77").packed
TCP, UDP, ICMP = 6, 17, 58
SYN, ACK, FIN, RST = 0x02, 0x10, 0x01, 0x04


def packet(source: bytes, destination: bytes, protocol: int, body: bytes, *, hops: int = 60) -> memoryview:
    """An IPv6 packet, made here and nowhere else."""
    return memoryview(struct.pack("!IHBB", 6 << 28, len(body), protocol, hops) + source + destination + body)


def tcp(source: bytes, destination: bytes, ports: tuple[int, int], flags: int = ACK, hops: int = 60) -> memoryview:
    body = struct.pack("!HHIIBBHHH", *ports, 1, 1, 5 << 4, flags, 1000, 0, 0)
    return packet(source, destination, TCP, body, hops=hops)


def udp(source: bytes, destination: bytes, ports: tuple[int, int]) -> memoryview:
    return packet(source, destination, UDP, struct.pack("!HHHH", *ports, 9, 0) + b"x")


def echo(source: bytes, destination: bytes, kind: int, identifier: int = 7) -> memoryview:
    return packet(source, destination, ICMP, struct.pack("!BBHHH", kind, 0, 0, identifier, 1))


def error_about(source: bytes, destination: bytes, about: memoryview, kind: int = 2) -> memoryview:
    return packet(source, destination, ICMP, struct.pack("!BBHI", kind, 0, 0, 1280) + bytes(about))


def fragment(
    source: bytes, destination: bytes, offset: int, more: bool, body: bytes, identification: int
) -> memoryview:
    header = struct.pack("!BBHI", UDP, 0, offset << 3 | more, identification)
    return packet(source, destination, 44, header + body)


class Door:
    """A gate with its counters, a key for each address, and a clock."""

    def __init__(self, *rules: str, memory: bytearray | None = None) -> None:
        self.counters: Counter[str] = Counter()
        self.memory = memory if memory is not None else bytearray(FLOWS_BYTES)
        self.now = 1000.0
        self.flows = FlowTable(memoryview(self.memory), self.now)
        self.gate = Gate(self.flows, self.counters)
        for rule in rules:
            self.gate.add(Rule.parse(rule), self.now, configured=True, running=False)

    def lets_in(self, arrived: memoryview) -> bool:
        key = FRIEND_KEY if bytes(arrived[8:24]) == FRIEND else STRANGER_KEY
        return self.gate.admits(arrived, key, self.now)

    def host_sends(self, sent: memoryview) -> None:
        self.gate.sent(sent, self.now)


# --- rules ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ("any", "any"),
        ("400::/7", "any"),
        ("NONE", "none"),
        ("  any   TCP/80,22 ", "any tcp/22,80"),
        ("5ea::1", "5ea::1/128"),
        ("5ea:4578::ff/32 udp", "5ea:4578::/32 udp"),
        ("any tcp/5-9,8-12,13", "any tcp/5-13"),
        ("any icmp", "any icmp"),
        ("any 58", "any icmp"),
        ("any 47", "any 47"),
        ("any any", "any"),
        (FRIEND_KEY.hex().upper() + " tcp/22", FRIEND_KEY.hex() + " tcp/22"),
    ],
)
def test_rule_is_written_in_one_way_whatever_it_was_read_from(written: str, means: str) -> None:
    assert str(Rule.parse(written)) == means
    assert Rule.parse(means) == Rule.parse(written)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is no rule"),
        ("any tcp 22", "is no rule"),
        ("somebody", "is no source"),
        ("2001:db8::/32", "outside the overlay"),
        ("192.0.2.1", "is no source"),
        ("5ea::1%3", "is no source"),
        ("any tpc/22", "is no protocol"),
        ("any 256", "is no protocol"),
        ("any icmp/3", "has no ports"),
        ("any any/22", "has no ports"),
        ("any tcp/", "is no port"),
        ("any tcp/70000", "is no port"),
        ("any tcp/9-5", "runs backwards; write 5-9"),
        ("any tcp/" + ",".join(map(str, range(0, 70, 2))), "at most 32"),
    ],
)
def test_text_that_is_no_rule_is_refused_with_the_way_out(text: str, reason: str) -> None:
    with pytest.raises(RuleError, match=reason):
        Rule.parse(text)


def test_same_rule_written_twice_counts_once_and_too_many_are_refused() -> None:
    assert len(parse_rules(["any tcp/22,80", "any tcp/80,22"])) == 1
    with pytest.raises(RuleError, match=f"at most {MAX_RULES}"):
        parse_rules(f"any tcp/{port}" for port in range(MAX_RULES + 1))


@given(st.text(max_size=40))
def test_any_text_is_a_rule_or_the_one_error(text: str) -> None:
    try:
        rule = Rule.parse(text)
    except RuleError:
        return
    assert Rule.parse(str(rule)) == rule


# --- headers ----------------------------------------------------------------------------------------------------------


def test_transport_header_is_found_behind_extensions() -> None:
    options = bytes((43, 0)) + bytes(6)
    routing = bytes((44, 1)) + bytes(14)
    atomic = struct.pack("!BBHI", 51, 0, 0, 5)
    authentication = bytes((UDP, 4)) + bytes(22)
    found = find_upper(packet(FRIEND, HOST, 0, options + routing + atomic + authentication + bytes(8)))
    assert (found.protocol, found.offset, found.later) == (UDP, 40 + 8 + 16 + 8 + 24, False)


@pytest.mark.parametrize(
    ("protocol", "body"),
    [(0, b""), (0, bytes((TCP, 9, 0, 0))), (44, bytes(7)), (TCP, bytes(3)), (ICMP, bytes(7)), (51, bytes((TCP, 200)))],
)
def test_headers_that_lead_past_the_end_are_refused(protocol: int, body: bytes) -> None:
    with pytest.raises(HeaderError):
        find_upper(packet(FRIEND, HOST, protocol, body))


def test_chain_of_extensions_has_a_bound() -> None:
    with pytest.raises(HeaderError, match="more than 8"):
        find_upper(packet(FRIEND, HOST, 60, bytes((60, 0)) * 1 + bytes(6) + (bytes((60, 0)) + bytes(6)) * 40))


@given(st.binary(min_size=40, max_size=120))
def test_any_packet_has_a_transport_header_inside_it_or_the_one_error(data: bytes) -> None:
    try:
        found = find_upper(memoryview(data))
    except HeaderError:
        return
    assert 40 <= found.offset <= len(data)


# --- the host's flows -------------------------------------------------------------------------------------------------


def _key(number: int, protocol: int = TCP) -> bytes:
    return bytes((protocol,)) + number.to_bytes(36, "big")


def test_flow_is_forgotten_after_its_silence_and_not_before() -> None:
    table = FlowTable(memoryview(bytearray(FLOWS_BYTES)), 0.0)
    table.open(_key(1), 0.0)
    table.expire(TCP_SECONDS)
    assert len(table) == 1
    table.expire(TCP_SECONDS + 1)
    assert len(table) == 0


def test_successor_finds_the_flows_again_and_no_torn_one() -> None:
    memory = bytearray(FLOWS_BYTES)
    table = FlowTable(memoryview(memory), 0.0)
    kept, gone, torn = (table.open(_key(number), 0.0) for number in (1, 2, 3))
    table._remove(gone)
    memory[torn.slot * flow_table.SLOT_BYTES] = 0
    successor = FlowTable(memoryview(memory), 50.0)
    assert successor.get(kept.key) is not None
    assert len(successor) == 1
    for number in range(10, 10 + MAX_FLOWS):
        successor.open(_key(number), 51.0)
    assert len(successor) == MAX_FLOWS


def test_full_table_gives_up_a_flow_that_nobody_uses() -> None:
    table = FlowTable(memoryview(bytearray(FLOWS_BYTES)), 0.0)
    flows = [table.open(_key(number), 0.0) for number in range(MAX_FLOWS)]
    for flow in flows[:10]:
        flow.last = 5.0
    table.open(_key(MAX_FLOWS), 6.0)
    assert table.evicted == 1
    assert all(table.get(flow.key) for flow in flows[:10])
    assert table.get(flows[10].key) is None


def test_table_where_every_flow_is_used_still_has_room() -> None:
    table = FlowTable(memoryview(bytearray(FLOWS_BYTES)), 0.0)
    for number in range(MAX_FLOWS):
        table.open(_key(number), 0.0).last = 1.0
    for number in range(MAX_FLOWS, MAX_FLOWS + 100):
        table.open(_key(number), 2.0)
    assert len(table) == MAX_FLOWS


# --- the gate ---------------------------------------------------------------------------------------------------------


def test_rule_lets_in_its_ports_and_no_other() -> None:
    door = Door("any tcp/22")
    assert door.lets_in(tcp(STRANGER, HOST, (5000, 22), SYN))
    assert not door.lets_in(tcp(STRANGER, HOST, (5000, 23), SYN))
    assert not door.lets_in(udp(STRANGER, HOST, (5000, 22)))
    assert door.counters["dropped.not_allowed"] == 2
    assert door.gate.passages[0].packets == 1


def test_rule_for_a_key_lets_in_that_key_alone() -> None:
    door = Door(FRIEND_KEY.hex())
    assert door.gate.admits(tcp(FRIEND, HOST, (1, 2), SYN), FRIEND_KEY, 0.0)
    door.gate.forget_decisions()
    # Somebody ground a key whose hash begins like the friend's.
    assert not door.gate.admits(tcp(FRIEND, HOST, (1, 2), SYN), STRANGER_KEY, 0.0)


def test_none_lets_nobody_in_but_replies() -> None:
    door = Door("none")
    assert not door.lets_in(udp(STRANGER, HOST, (53, 4000)))
    door.host_sends(udp(HOST, STRANGER, (4000, 53)))
    assert door.lets_in(udp(STRANGER, HOST, (53, 4000)))
    assert not door.lets_in(udp(STRANGER, HOST, (53, 4001)))
    assert not door.lets_in(udp(FRIEND, HOST, (53, 4000)))


def test_echo_reply_comes_in_for_an_echo_request_of_the_host() -> None:
    door = Door("none")
    assert not door.lets_in(echo(STRANGER, HOST, 129))
    door.host_sends(echo(HOST, STRANGER, 128))
    assert door.lets_in(echo(STRANGER, HOST, 129))
    assert not door.lets_in(echo(STRANGER, HOST, 129, identifier=8))
    assert not door.lets_in(echo(STRANGER, HOST, 128))


def test_error_comes_in_that_is_about_a_packet_of_the_host() -> None:
    door = Door("any tcp/22")
    asked, answered = tcp(HOST, FRIEND, (4000, 80), SYN), tcp(HOST, FRIEND, (22, 5000))
    never = tcp(HOST, FRIEND, (4001, 80), SYN)
    door.host_sends(asked)
    router = IPv6Address("500::9").packed
    assert door.lets_in(error_about(router, HOST, asked))
    assert door.lets_in(error_about(router, HOST, answered)), "what the host answers to those that may come in"
    assert not door.lets_in(error_about(router, HOST, never))
    assert not door.lets_in(error_about(router, HOST, tcp(STRANGER, FRIEND, (4000, 80))))
    assert not door.lets_in(error_about(router, HOST, memoryview(bytes(asked[:20]))))


def test_reply_to_a_flow_survives_a_changed_hop_limit() -> None:
    door = Door("none")
    door.host_sends(tcp(HOST, FRIEND, (4000, 80), SYN))
    assert door.lets_in(tcp(FRIEND, HOST, (80, 4000), hops=60))
    assert door.lets_in(tcp(FRIEND, HOST, (80, 4000), hops=57))


def test_flow_that_the_host_closed_is_forgotten_sooner() -> None:
    door = Door("none")
    door.host_sends(tcp(HOST, FRIEND, (4000, 80), SYN))
    door.host_sends(tcp(HOST, FRIEND, (4000, 80), FIN | ACK))
    assert door.lets_in(tcp(FRIEND, HOST, (80, 4000)))
    door.now += CLOSING_SECONDS + 1
    door.gate.expire(door.now)
    assert not door.lets_in(tcp(FRIEND, HOST, (80, 4000)))


def test_removed_rule_keeps_new_ones_out_and_the_last_one_opens_the_door() -> None:
    door = Door("any tcp/22", "any tcp/23")
    assert door.lets_in(tcp(FRIEND, HOST, (1000, 22), SYN))
    door.gate.remove(Rule.parse("any tcp/22"))
    assert not door.lets_in(tcp(FRIEND, HOST, (1000, 22), SYN))
    door.gate.remove(Rule.parse("any tcp/23"))
    assert not door.gate.active
    assert door.gate.own_flows == 0


def test_rule_twice_or_one_too_many_is_refused() -> None:
    door = Door(*(f"any tcp/{port}" for port in range(MAX_RULES)))
    with pytest.raises(RuleExists):
        door.gate.add(Rule.parse("any tcp/5"), 0.0, configured=False)
    with pytest.raises(TooManyRules):
        door.gate.add(Rule.parse("any udp"), 0.0, configured=False)
    with pytest.raises(KeyError):
        door.gate.remove(Rule.parse("any icmp"))


def test_connections_that_stand_when_the_first_rule_comes_go_on_for_a_while() -> None:
    door = Door()
    door.gate.add(Rule.parse("none"), door.now, configured=False)
    assert door.lets_in(tcp(FRIEND, HOST, (80, 4000)))
    assert not door.lets_in(tcp(FRIEND, HOST, (80, 4000), SYN)), "nobody opens one in that time"
    assert not door.lets_in(udp(FRIEND, HOST, (80, 4000)))
    door.now += SETTLE_SECONDS
    assert not door.lets_in(tcp(FRIEND, HOST, (80, 4000)))


def test_rules_that_a_successor_starts_with_have_no_such_time() -> None:
    assert not Door("none").lets_in(tcp(FRIEND, HOST, (80, 4000)))


def test_fragments_follow_their_first_one() -> None:
    door = Door("any udp/53")
    head = struct.pack("!HHHH", 4000, 53, 3000, 0) + bytes(64)
    assert not door.lets_in(fragment(FRIEND, HOST, 9, False, bytes(50), 1)), "its first one did not come yet"
    assert door.lets_in(fragment(FRIEND, HOST, 0, True, head, 1))
    assert door.lets_in(fragment(FRIEND, HOST, 9, True, bytes(72), 1))
    assert not door.lets_in(fragment(FRIEND, HOST, 9, True, bytes(72), 2))
    assert not door.lets_in(fragment(FRIEND, HOST, 0, True, struct.pack("!HHHH", 4000, 54, 3000, 0), 3))
    assert not door.lets_in(fragment(FRIEND, HOST, 9, False, bytes(72), 3))
    door.now += 61
    door.gate.expire(door.now)
    assert not door.lets_in(fragment(FRIEND, HOST, 18, False, bytes(10), 1))


def test_host_that_sends_fragments_gets_its_replies() -> None:
    door = Door("none")
    door.host_sends(fragment(HOST, FRIEND, 0, True, struct.pack("!HHHH", 4000, 53, 3000, 0), 1))
    door.host_sends(fragment(HOST, FRIEND, 1, False, bytes(8), 1))
    assert door.lets_in(udp(FRIEND, HOST, (53, 4000)))
    assert door.gate.own_flows == 1


def test_packet_without_ports_matches_rules_without_ports() -> None:
    door = Door("any 47", "any tcp/1-65535")
    assert door.lets_in(packet(FRIEND, HOST, 47, b""))
    assert not door.lets_in(packet(FRIEND, HOST, 50, b"seal"))


def test_headers_that_lead_nowhere_are_counted_apart() -> None:
    door = Door("any")
    assert not door.lets_in(packet(FRIEND, HOST, 0, b""))
    assert door.counters == {"dropped.bad_headers": 1}


def test_answers_of_the_host_to_those_let_in_take_no_room_in_the_table() -> None:
    door = Door("any tcp/22")
    door.host_sends(tcp(HOST, FRIEND, (22, 5000)))
    assert door.gate.own_flows == 0
    door.host_sends(tcp(HOST, FRIEND, (23, 5000)))
    assert door.gate.own_flows == 1


def test_flow_that_made_room_is_let_in_again_with_the_next_packet_of_the_host() -> None:
    door = Door("none")
    first = tcp(HOST, FRIEND, (4000, 80), SYN)
    door.host_sends(first)
    for number in range(MAX_FLOWS):
        door.host_sends(udp(HOST, STRANGER, (number & 0xFFFF, 1 + (number >> 16))))
    assert not door.lets_in(tcp(FRIEND, HOST, (80, 4000)))
    assert door.counters["flows.evicted"] == 1
    door.host_sends(first)
    assert door.lets_in(tcp(FRIEND, HOST, (80, 4000)))


def test_more_flows_than_are_remembered_at_once_are_all_let_in() -> None:
    door = Door("any")
    for number in range(MAX_DECIDED + 100):
        assert door.lets_in(udp(STRANGER, HOST, (number & 0xFFFF, 1 + (number >> 16))))
    assert door.gate.passages[0].packets == MAX_DECIDED + 100


@given(st.binary(min_size=40, max_size=160))
def test_any_packet_is_decided(data: bytes) -> None:
    door = Door("5ff::/16 tcp/22")
    door.host_sends(memoryview(data))
    assert door.lets_in(memoryview(data)) in (True, False)
