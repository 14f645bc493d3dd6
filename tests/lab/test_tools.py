"""The laboratory's tools against the kernel: three namespaces in line, the middle one a plain IPv6 router."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.lab import namespaces
from tests.lab.flow import start_receiver, start_sender, transfer
from tests.lab.namespaces import Lab, LabError, Namespace, Wire
from tests.lab.ping import Pinger, ping, ping_until_reply
from tests.lab.trace import trace
from tests.lab.waiting import WaitError, wait_until

pytestmark = pytest.mark.namespaces

NEAR_ROUTER = "fd77:1::2"
FAR = "fd77:2::1"
NOBODY = "fd77:3::1"


@dataclass(frozen=True, slots=True)
class Line:
    """left — middle — right."""

    left: Namespace
    right: Namespace
    first: Wire


@pytest.fixture(scope="module")
def line() -> Iterator[Line]:
    """Three namespaces in line with addresses, and routes through the middle."""
    missing = namespaces.available()
    if missing is not None:
        pytest.skip(missing)
    with Lab() as lab:
        left, middle, right = (lab.namespace(label) for label in ("left", "middle", "right"))
        first, second = lab.wire(left, middle), lab.wire(middle, right)
        for namespace, device, address in (
            (left, first.left_device, "fd77:1::1"),
            (middle, first.right_device, NEAR_ROUTER),
            (middle, second.left_device, "fd77:2::2"),
            (right, second.right_device, FAR),
        ):
            namespace.ip("address", "add", f"{address}/64", "dev", device, "nodad")
        left.ip("route", "add", "default", "via", NEAR_ROUTER)
        right.ip("route", "add", "default", "via", "fd77:2::2")
        middle.run(["sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding"])
        ping_until_reply(left, FAR, 10)
        yield Line(left, right, first)


def test_every_echo_to_a_healthy_neighbour_is_answered(line: Line) -> None:
    report = ping(line.left, FAR, count=20, interval=0.005)
    assert (report.sent, report.lost, report.duplicates) == (20, 0, 0)
    assert 0 < report.average() < 1


def test_an_icmp_error_is_reported_with_its_source(line: Line) -> None:
    report = ping(line.left, NOBODY, count=2)
    assert report.received == 0
    assert {(error.kind, error.code, error.source) for error in report.errors} == {(1, 0, NEAR_ROUTER)}


def test_a_request_that_the_kernel_refuses_is_counted_by_reason(line: Line) -> None:
    line.right.ip("route", "replace", "unreachable", "fd77:4::/64")
    assert ping(line.right, "fd77:4::1", count=2).send_failures == {"EHOSTUNREACH": 2}


def test_a_cut_wire_is_seen_as_a_gap(line: Line) -> None:
    pinger = Pinger(line.left, FAR, interval=0.005)
    pinger.wait_first_reply(5)
    line.first.cut()
    line.first.mend()
    line.left.ip("address", "replace", "fd77:1::1/64", "dev", line.first.left_device, "nodad")
    line.left.ip("route", "replace", "default", "via", NEAR_ROUTER)
    ping_until_reply(line.left, FAR, 10)
    report = pinger.stop()
    assert report.lost > 0
    assert report.longest_gap() > 1.5 * 0.005


def test_the_tracer_shows_the_router_then_the_destination(line: Line) -> None:
    assert [(hop.source, hop.kind) for hop in trace(line.left, FAR)] == [(NEAR_ROUTER, 3), (FAR, 129)]


def test_a_ping_in_vain_says_what_it_met(line: Line) -> None:
    with pytest.raises(LabError, match=f"type 1 code 0 from {NEAR_ROUTER}"):
        ping_until_reply(line.left, NOBODY, 0.2)


def test_a_tcp_flow_arrives_whole(line: Line) -> None:
    sent, arrived = transfer(line.left, line.right, FAR, 3_000_001)
    assert (arrived.bytes, arrived.sha256) == (3_000_001, sent.sha256)


def test_a_udp_flow_is_counted_in_datagrams(line: Line) -> None:
    receiver = start_receiver(line.right, udp=True)
    sender = start_sender(line.left, FAR, receiver.port, 10_000, udp=True, size=1000, rate=2000)
    arrived = receiver.finish(20)
    sender.communicate(timeout=20)
    assert (arrived.datagrams, arrived.bytes) == (10, 10_000)


def test_nothing_is_left_of_a_closed_laboratory() -> None:
    missing = namespaces.available()
    if missing is not None:
        pytest.skip(missing)
    with Lab() as lab:
        name = lab.namespace("gone").name
        process = lab.namespace("too").start(["sleep", "60"])
        assert (namespaces.NAMESPACE_FOLDER / name).exists()
    assert not (namespaces.NAMESPACE_FOLDER / name).exists()
    assert process.returncode is not None
    assert not lab.folder.exists()


def test_waiting_in_vain_names_what_was_waited_for() -> None:
    with pytest.raises(WaitError, match="the tide: not within 0 s"):
        wait_until("the tide", lambda: None, 0)
