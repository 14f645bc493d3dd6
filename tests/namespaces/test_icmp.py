"""What a host is told when its packet can't arrive: ICMPv6 errors as a socket of the host sees them."""

from __future__ import annotations

import errno
import ipaddress
import select
import socket
import struct
import time
from typing import Final, NamedTuple

import pytest

from tests.lab.icmpv6 import DESTINATION_UNREACHABLE, ECHO_REPLY, TIME_EXCEEDED
from tests.lab.namespaces import Lab, Namespace
from tests.lab.ping import ping
from tests.lab.trace import Hop, trace
from tests.namespaces.networks import Line, build_line

pytestmark = pytest.mark.namespaces

NO_ROUTE, ADDRESS_UNREACHABLE, SOURCE_POLICY = 0, 3, 5
QUERY_SECONDS: Final = 15.0
"""Wire spec 7.9."""
RESEND_SECONDS: Final = 1.0
MTU: Final = 1342
UDP_HEADERS: Final = 48
ORIGIN_ICMP6: Final = 3
"""SO_EE_ORIGIN_ICMP6 of linux/errqueue.h."""
IPV6_RECVERR, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO = 25, 23, 2
"""linux/in6.h"""
_EXTENDED_ERROR: Final = struct.Struct("=IBBBxII")


class SocketError(NamedTuple):
    """What the error queue of a socket says: who sent which ICMPv6 error."""

    kind: int
    code: int
    offender: str


@pytest.fixture(scope="module")
def line(module_lab: Lab) -> Line:
    return build_line(module_lab)


@pytest.fixture(scope="module")
def hops(line: Line) -> list[Hop]:
    return trace(line.near.namespace, line.far.address)


def subnet_address(address: str) -> str:
    """The address of a node's /64, from which it reports as a relay (wire spec 7.14)."""
    return str(ipaddress.IPv6Address(ipaddress.IPv6Address(address).packed[:8] + bytes(8)))


def udp_error(namespace: Namespace, source: str | None, destination: str, timeout: float = 10.0) -> SocketError:
    """Sends UDP datagrams, one a second, and returns the first ICMPv6 error that the kernel hands to the socket."""
    with namespace.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        probe.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
        if source is not None:
            probe.bind((source, 0))
        poller = select.poll()
        poller.register(probe, 0)
        deadline = time.monotonic() + timeout
        probe.sendto(b"anybody there?", (destination, 4242))
        while not poller.poll(RESEND_SECONDS * 1000):
            assert time.monotonic() < deadline, f"no ICMPv6 error within {timeout:g} s"
            probe.sendto(b"anybody there?", (destination, 4242))
        _, ancillary, _, _ = probe.recvmsg(2048, 512, socket.MSG_ERRQUEUE)
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IPV6, IPV6_RECVERR):
            _, origin, icmp_type, icmp_code, _, _ = _EXTENDED_ERROR.unpack_from(data)
            assert origin == ORIGIN_ICMP6
            offender = data[_EXTENDED_ERROR.size + 8 : _EXTENDED_ERROR.size + 24]
            return SocketError(icmp_type, icmp_code, str(ipaddress.IPv6Address(offender)))
    raise AssertionError(f"an error queue without an extended error: {ancillary}")


def test_unknown_address_is_answered_with_no_route_when_the_query_ends(line: Line) -> None:
    begin = time.monotonic()
    error = udp_error(line.near.namespace, None, "400::1:2:3", QUERY_SECONDS + 5)
    assert (error.kind, error.code) == (DESTINATION_UNREACHABLE, NO_ROUTE)
    assert time.monotonic() - begin >= QUERY_SECONDS - 0.5


def test_hop_limit_of_one_is_answered_by_the_own_node(hops: list[Hop], line: Line) -> None:
    assert (hops[0].kind, hops[0].source) == (TIME_EXCEEDED, line.near.address)


def test_hop_limit_that_ends_at_a_relay_is_reported_out_of_band(hops: list[Hop], line: Line) -> None:
    assert (hops[1].kind, hops[1].source) == (TIME_EXCEEDED, subnet_address(line.relay.address))


def test_destination_itself_reports_a_hop_limit_below_two(hops: list[Hop], line: Line) -> None:
    assert [(hop.kind, hop.source) for hop in hops[2:]] == [
        (TIME_EXCEEDED, subnet_address(line.far.address)),
        (ECHO_REPLY, line.far.address),
    ]


def test_other_address_of_the_own_subnet_is_unreachable(line: Line) -> None:
    neighbour = str(ipaddress.IPv6Address(subnet_address(line.near.address)) + 1)
    error = udp_error(line.near.namespace, None, neighbour)
    assert error == (DESTINATION_UNREACHABLE, ADDRESS_UNREACHABLE, line.near.address)


def test_source_outside_the_overlay_fails_the_source_policy(line: Line) -> None:
    line.near.namespace.ip("address", "add", "fd00:77::1/128", "dev", "lo", "nodad")
    error = udp_error(line.near.namespace, "fd00:77::1", line.far.address)
    assert error == (DESTINATION_UNREACHABLE, SOURCE_POLICY, line.near.address)


def test_packet_above_the_mtu_is_refused_by_the_kernel(line: Line) -> None:
    with line.near.namespace.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        probe.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO)
        assert probe.sendto(bytes(MTU - UDP_HEADERS), (line.far.address, 4242)) == MTU - UDP_HEADERS
        with pytest.raises(OSError) as refused:
            probe.sendto(bytes(MTU - UDP_HEADERS + 1), (line.far.address, 4242))
    assert refused.value.errno == errno.EMSGSIZE


def test_closed_port_is_reported_by_the_far_host(line: Line) -> None:
    error = udp_error(line.near.namespace, None, line.far.address)
    assert error == (DESTINATION_UNREACHABLE, 4, line.far.address)


def test_oversize_echo_is_answered_in_fragments(line: Line) -> None:
    assert ping(line.near.namespace, line.far.address, size=3000).lost == 0
