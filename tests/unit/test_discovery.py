"""Link-local discovery against recorded beacons: what is believed, whom to dial, when to speak (wire spec 6.4)."""

from __future__ import annotations

import json
from ipaddress import IPv6Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.mycelium.discovery import (
    ANSWER_SECONDS,
    BEACON_SECONDS,
    MOST_PER_INTERFACE,
    PATIENCE_SECONDS,
    Neighbourhood,
    Verdict,
    pack_beacon,
    parse_beacon,
)
from protocol.mycelium.endpoint import Protocol

RECORDED = json.loads(Path(__file__).parents[1].joinpath("vectors/discovery_recorded.json").read_text())["beacons"]
MIDDLE_KEY = b"\x80" * 32
SOURCE = IPv6Address("fe80::7").packed


def router_id(key: bytes) -> bytes:
    return key + bytes(2) + b"random"


def beacon(key: bytes, port: int = 9651) -> bytes:
    """Made here and nowhere else."""
    return b"mycelium" + port.to_bytes(2, "big") + router_id(key)


def looking(*interfaces: int, protocol: Protocol = Protocol.TCP) -> Neighbourhood:
    made = Neighbourhood(router_id(MIDDLE_KEY), protocol)
    made.look_on(interfaces or (3,), 0.0)
    return made


def test_beacon_is_that_of_the_recordings() -> None:
    theirs, ours = RECORDED
    found = parse_beacon(bytes.fromhex(theirs["payload"]))
    assert found is not None
    assert found[0] == theirs["tcp_port"]
    assert pack_beacon(ours["tcp_port"], bytes.fromhex(ours["router_id"])).hex() == ours["payload"]


@pytest.mark.parametrize(
    ("data", "source", "interface", "connected", "verdict"),
    [
        (beacon(b"\xff" * 32), SOURCE, 3, False, Verdict.NEW),
        (beacon(b"\xff" * 32) + b"more", SOURCE, 3, False, Verdict.NEW),
        (beacon(b"\xff" * 32), IPv6Address("2001:db8::1").packed, 3, False, Verdict.NOT_LOCAL),
        (beacon(b"\xff" * 32), IPv6Address("fe80:0:0:1::1").packed, 3, False, Verdict.NOT_LOCAL),
        (beacon(b"\xff" * 32), SOURCE, 4, False, Verdict.ELSEWHERE),
        (beacon(b"\xff" * 32), SOURCE, 3, True, Verdict.KNOWN),
        (beacon(MIDDLE_KEY), SOURCE, 3, False, Verdict.OWN),
        (beacon(b"\xff" * 32)[:-1], SOURCE, 3, False, Verdict.MALFORMED),
        (beacon(b"\xff" * 32, port=0), SOURCE, 3, False, Verdict.MALFORMED),
        (b"yggdrasil" + bytes(41), SOURCE, 3, False, Verdict.MALFORMED),
        (b"", SOURCE, 3, False, Verdict.MALFORMED),
    ],
)
def test_datagram_has_its_verdict(
    data: bytes, source: bytes, interface: int, connected: bool, verdict: Verdict
) -> None:
    assert looking().heard(data, source, interface, connected, 1.0) is verdict


def test_of_two_that_hear_each_other_the_one_with_the_smaller_key_dials_at_once() -> None:
    smaller = looking()
    smaller.heard(beacon(b"\xff" * 32), SOURCE, 3, False, 1.0)
    assert smaller.take_dials(1.0) == ["tcp://[fe80::7%3]:9651"]
    assert smaller.take_dials(9.0) == []
    larger = looking()
    larger.heard(beacon(b"\x01" * 32), SOURCE, 3, False, 1.0)
    assert larger.take_dials(1.0 + PATIENCE_SECONDS - 0.1) == []
    assert larger.take_dials(1.0 + PATIENCE_SECONDS) == ["tcp://[fe80::7%3]:9651"]


def test_neighbour_of_a_private_network_is_dialled_over_tls() -> None:
    neighbourhood = looking(protocol=Protocol.TLS)
    neighbourhood.heard(beacon(b"\xff" * 32, port=7), SOURCE, 3, False, 1.0)
    assert neighbourhood.take_dials(1.0) == ["tls://[fe80::7%3]:7"]


def test_neighbour_that_is_heard_on_two_interfaces_is_dialled_once() -> None:
    neighbourhood = looking(3, 4)
    assert neighbourhood.heard(beacon(b"\xff" * 32), SOURCE, 3, False, 1.0) is Verdict.NEW
    assert neighbourhood.heard(beacon(b"\xff" * 32), SOURCE, 4, False, 1.0) is Verdict.KNOWN
    neighbourhood.forget("tcp://[fe80::7%3]:9651")
    assert neighbourhood.heard(beacon(b"\xff" * 32), SOURCE, 4, False, 2.0) is Verdict.NEW


def test_interface_has_a_cap_that_forgetting_gives_back() -> None:
    neighbourhood = looking(3, 4)
    for number in range(MOST_PER_INTERFACE):
        assert neighbourhood.heard(beacon(bytes((number,)) * 32), SOURCE, 3, False, 1.0) is Verdict.NEW
    assert neighbourhood.heard(beacon(b"\xff" * 32), SOURCE, 3, False, 1.0) is Verdict.TOO_MANY
    assert neighbourhood.heard(beacon(b"\xff" * 32), SOURCE, 4, False, 1.0) is Verdict.NEW
    neighbourhood.look_on([4], 2.0)
    assert len(neighbourhood) == 1
    neighbourhood.look_on([3, 4], 2.0)
    assert neighbourhood.heard(beacon(b"\xfe" * 32), SOURCE, 3, False, 2.0) is Verdict.NEW


def test_beacon_is_sent_at_once_each_minute_and_when_an_unknown_one_is_heard() -> None:
    neighbourhood = looking()
    assert neighbourhood.take_beacons(0.0) == [3]
    assert neighbourhood.take_beacons(BEACON_SECONDS - 1) == []
    assert neighbourhood.next_deadline() == BEACON_SECONDS
    assert neighbourhood.take_beacons(BEACON_SECONDS) == [3]
    neighbourhood.heard(beacon(b"\xff" * 32), SOURCE, 3, False, BEACON_SECONDS + 10)
    assert neighbourhood.take_beacons(BEACON_SECONDS + 10) == [3]
    neighbourhood.heard(beacon(b"\xfe" * 32), SOURCE, 3, False, BEACON_SECONDS + 10.1)
    assert neighbourhood.take_beacons(BEACON_SECONDS + 10.1) == [], "at most one a second"
    assert neighbourhood.take_beacons(BEACON_SECONDS + 10 + ANSWER_SECONDS) == [3]


def test_interface_that_comes_has_a_beacon_and_one_that_goes_takes_its_neighbours_along() -> None:
    neighbourhood = looking()
    neighbourhood.take_beacons(0.0)
    neighbourhood.heard(beacon(b"\xff" * 32), SOURCE, 3, False, 1.0)
    neighbourhood.take_dials(1.0)
    new, lost = neighbourhood.look_on([5], 2.0)
    assert (new, lost) == ([5], ["tcp://[fe80::7%3]:9651"])
    assert neighbourhood.take_beacons(2.0) == [5]
    assert neighbourhood.interfaces == {5}


@given(st.binary(max_size=80), st.binary(min_size=16, max_size=16), st.booleans())
def test_any_datagram_has_a_verdict(data: bytes, source: bytes, magic: bool) -> None:
    neighbourhood = looking()
    verdict = neighbourhood.heard((b"mycelium" if magic else b"") + data, source, 3, False, 1.0)
    assert (verdict is Verdict.NEW) == bool(neighbourhood.take_dials(100.0))
