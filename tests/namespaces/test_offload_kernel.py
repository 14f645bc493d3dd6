"""Offload against a real kernel: what a TUN device hands over, cut and merged, must arrive whole through another."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import random
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from protocol.offload.coalesce import Buffer, Coalescer
from protocol.offload.complete import complete_checksum
from protocol.offload.segment import segment
from protocol.offload.trailer import append_trailer, split_trailer
from protocol.offload.vnet import GSO_NONE, HEADER_LENGTH, VnetHeader
from tests.lab.namespaces import NAMESPACE_FOLDER, TUN_DEVICE, Lab, Namespace, available
from tests.unit.ip_packets import tcp, udp

pytestmark = pytest.mark.namespaces

TUNSETIFF: Final = 0x400454CA
TUNSETOFFLOAD: Final = 0x400454D0
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x1, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_USO4, TUN_F_USO6 = 0x01, 0x02, 0x04, 0x20, 0x40
CLONE_NEWNET: Final = 0x40000000
UDP_SEGMENT: Final = 103

MTU: Final = 1342
NEAR, FAR = "fd77:7::1", "fd77:7::2"
PORT: Final = 5201
DEADLINE: Final = 30.0
PROBE: Final = b"are you there?"
STREAM: Final = random.Random(7).randbytes(8 << 20)

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class Tun:
    """A TUN device; `offload` says whether it speaks of super-packets."""

    descriptor: int
    offload: bool
    super_packets: int = 0
    merged: int = 0
    _buffer: bytearray = field(default_factory=lambda: bytearray(HEADER_LENGTH + 65_535))

    def read(self) -> tuple[VnetHeader, memoryview] | None:
        """The next packet; None when there is none now."""
        start = HEADER_LENGTH if self.offload else 0
        try:
            length = os.readv(self.descriptor, [self._buffer])
        except BlockingIOError:
            return None
        header = VnetHeader.parse(self._buffer) if self.offload else VnetHeader()
        self.super_packets += header.gso_type != GSO_NONE
        return header, memoryview(self._buffer)[start:length]

    def write(self, buffers: list[Buffer]) -> None:
        """Writes a virtio header and its packet; a device without offload gets plain packets alone."""
        header = VnetHeader.parse(bytes(buffers[0]))
        self.merged += header.gso_type != GSO_NONE
        if not self.offload:
            assert header == VnetHeader()
            buffers = buffers[1:]
        os.writev(self.descriptor, buffers)


def open_tun(lab: Lab, namespace: Namespace, name: str, *, offload: bool) -> Tun:
    """A TUN device inside the namespace, up, without addresses."""

    def enter_and_open() -> int:
        entry = os.open(NAMESPACE_FOLDER / namespace.name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _libc.setns(entry, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"cannot enter namespace {namespace.name}")
        finally:
            os.close(entry)
        return os.open(TUN_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    with ThreadPoolExecutor(max_workers=1) as visitor:
        descriptor = visitor.submit(enter_and_open).result()
    lab.on_exit(lambda: os.close(descriptor))
    flags = IFF_TUN | IFF_NO_PI | (IFF_VNET_HDR if offload else 0)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    if offload:
        fcntl.ioctl(descriptor, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_USO4 | TUN_F_USO6)
    namespace.ip("link", "set", name, "mtu", str(MTU), "up")
    return Tun(descriptor, offload)


@dataclass(frozen=True, slots=True)
class Pair:
    """near — far: two hosts, each behind a TUN device of its own."""

    near: Namespace
    far: Namespace
    near_tun: Tun
    far_tun: Tun


@pytest.fixture
def lab() -> Iterator[Lab]:
    missing = available()
    if missing is not None:
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with Lab() as lab:
        yield lab


@pytest.fixture
def make_pair(lab: Lab) -> Callable[[bool], Pair]:
    """Makes a pair whose far device has offload or not; the near one always has."""

    def make(far_offload: bool) -> Pair:
        near, far = lab.namespace("near"), lab.namespace("far")
        near_tun = open_tun(lab, near, "tun0", offload=True)
        far_tun = open_tun(lab, far, "tun0", offload=far_offload)
        near.ip("address", "add", f"{NEAR}/64", "dev", "tun0", "nodad")
        far.ip("address", "add", f"{FAR}/64", "dev", "tun0", "nodad")
        return Pair(near, far, near_tun, far_tun)

    return make


def packets_of(header: VnetHeader, packet: memoryview) -> list[memoryview]:
    """What a super-packet is cut into, or the packet with its checksum completed."""
    if header.gso_type == GSO_NONE:
        complete_checksum(packet, header)
        return [memoryview(bytes(packet))]
    out = memoryview(bytearray(1 << 18))
    return [out[at : at + length] for at, length in segment(packet, header, out, 44, 28)]


def forward_cut_and_merged(source: Tun, target: Tun) -> None:
    """Carries all that waits over as packets of ordinary size, merged again where the target takes that."""
    coalescer = Coalescer(udp=True)
    for _ in range(16):
        arrived = source.read()
        if arrived is None:
            break
        for packet in packets_of(*arrived):
            assert len(packet) <= MTU
            if target.offload:
                coalescer.add(packet)
            else:
                target.write([VnetHeader().pack(), packet])
    for write in coalescer.take():
        target.write(write)
    assert coalescer.bad_checksums == 0


def forward_whole(source: Tun, target: Tun) -> None:
    """Carries super-packets over with an E2 trailer."""
    arrived = source.read()
    if arrived is None:
        return
    header, packet = arrived
    if header.gso_type == GSO_NONE:
        complete_checksum(packet, header)
        target.write([VnetHeader().pack(), packet])
        return
    body = memoryview(bytearray(bytes(packet) + bytes(HEADER_LENGTH)))
    whole, read = split_trailer(body[: append_trailer(body, len(packet), header)])
    target.write([read.pack(), whole])


Forward = Callable[[Tun, Tun], None]


def receive_datagrams(receiver: socket.socket, count: int) -> list[bytes]:
    """The next `count` datagrams that are no probes."""
    found: list[bytes] = []
    while len(found) < count:
        datagram = receiver.recv(65_535)
        if datagram != PROBE:
            found.append(datagram)
    return found


def carry_until(done: Sequence[Future[Any]], pair: Pair, forward: Forward, patience: float | None = None) -> None:
    """Carries packets both ways until all of `done` are, or for so many seconds."""
    poll = select.poll()
    ways = {
        pair.near_tun.descriptor: (pair.near_tun, pair.far_tun),
        pair.far_tun.descriptor: (pair.far_tun, pair.near_tun),
    }
    for descriptor in ways:
        poll.register(descriptor, select.POLLIN)
    deadline = time.monotonic() + (patience or DEADLINE)
    while not all(future.done() for future in done):
        if patience is not None and time.monotonic() > deadline:
            return
        assert time.monotonic() < deadline, "the packets did not arrive"
        for descriptor, _ in poll.poll(20):
            forward(*ways[descriptor])


def digest_of_stream(pair: Pair, forward: Forward) -> str:
    """Sends STREAM from near to far over TCP; SHA-256 of what arrived."""

    def receive() -> str:
        digest = hashlib.sha256()
        with listener.accept()[0] as connection:
            connection.settimeout(DEADLINE)
            while chunk := connection.recv(1 << 16):
                digest.update(chunk)
        return digest.hexdigest()

    def send() -> str:
        client.connect((FAR, PORT))
        client.sendall(STREAM)
        client.shutdown(socket.SHUT_WR)
        return ""

    with (
        pair.far.socket(socket.AF_INET6, socket.SOCK_STREAM) as listener,
        pair.near.socket(socket.AF_INET6, socket.SOCK_STREAM) as client,
        ThreadPoolExecutor(max_workers=2) as hosts,
    ):
        listener.settimeout(DEADLINE)
        client.settimeout(DEADLINE)
        listener.bind(("::", PORT))
        listener.listen()
        received, sent = hosts.submit(receive), hosts.submit(send)
        carry_until([received, sent], pair, forward)
        sent.result()
        return received.result()


def checksum_errors(namespace: Namespace) -> int:
    """TCP and UDP packets that the namespace's kernel dropped for their checksum."""
    tcp_names, tcp_values = (
        line.split()
        for line in namespace.run(["cat", "/proc/net/snmp"]).stdout.decode().splitlines()
        if line.startswith("Tcp:")
    )
    udp_lines = namespace.run(["cat", "/proc/net/snmp6"]).stdout.decode().splitlines()
    udp_figures = dict(line.split() for line in udp_lines)
    return int(tcp_values[tcp_names.index("InCsumErrors")]) + int(udp_figures["Udp6InCsumErrors"])


def test_stream_cut_and_merged_arrives_whole(make_pair: Callable[[bool], Pair]) -> None:
    pair = make_pair(True)
    assert digest_of_stream(pair, forward_cut_and_merged) == hashlib.sha256(STREAM).hexdigest()
    assert pair.near_tun.super_packets > 50
    assert pair.far_tun.merged > 50
    assert checksum_errors(pair.far) == 0


def test_stream_cut_for_a_kernel_that_verifies_every_packet_arrives_whole(make_pair: Callable[[bool], Pair]) -> None:
    pair = make_pair(False)
    assert digest_of_stream(pair, forward_cut_and_merged) == hashlib.sha256(STREAM).hexdigest()
    assert pair.near_tun.super_packets > 50
    assert checksum_errors(pair.far) == 0


def test_stream_of_super_packets_with_trailers_arrives_whole(make_pair: Callable[[bool], Pair]) -> None:
    pair = make_pair(True)
    assert digest_of_stream(pair, forward_whole) == hashlib.sha256(STREAM).hexdigest()
    assert pair.far_tun.merged > 50


@pytest.mark.parametrize("far_offload", [True, False])
def test_datagrams_keep_their_boundaries(make_pair: Callable[[bool], Pair], far_offload: bool) -> None:
    pair = make_pair(far_offload)
    payload = STREAM[:10_500]
    with (
        pair.far.socket(socket.AF_INET6, socket.SOCK_DGRAM) as receiver,
        pair.near.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender,
        ThreadPoolExecutor(max_workers=1) as host,
    ):
        receiver.settimeout(DEADLINE)
        receiver.bind(("::", PORT))
        # A device that has just been brought up may lose the first packet of all, and nobody sends a datagram again.
        probe = host.submit(receiver.recv, 65_535)
        while not probe.done():
            sender.sendto(PROBE, (FAR, PORT))
            carry_until([probe], pair, forward_cut_and_merged, patience=0.5)
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1000)
        sender.sendto(payload, (FAR, PORT))
        received = host.submit(receive_datagrams, receiver, 11)
        carry_until([received], pair, forward_cut_and_merged)
        assert received.result() == [payload[at : at + 1000] for at in range(0, 10_500, 1000)]
    assert pair.near_tun.super_packets == 1
    assert pair.far_tun.merged == (1 if far_offload else 0)
    assert checksum_errors(pair.far) == 0


@pytest.mark.parametrize(
    "packets",
    [
        [tcp(STREAM[at : at + 1270], sequence=at) for at in range(0, 9001, 1270)],
        [udp(STREAM[at : at + 999]) for at in range(0, 9990, 999)],
    ],
    ids=["tcp", "udp"],
)
def test_merged_packet_that_the_kernel_forwards_leaves_as_it_came(lab: Lab, packets: list[bytes]) -> None:
    router = lab.namespace("router")
    router.run(["sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding"])
    entrance = open_tun(lab, router, "tun0", offload=True)
    way_out = open_tun(lab, router, "tun1", offload=False)
    router.ip("route", "add", "400::/7", "dev", "tun1")
    coalescer = Coalescer(udp=True)
    for packet in packets:
        coalescer.add(memoryview(packet))
    for write in coalescer.take():
        entrance.write(write)
    assert entrance.merged == 1

    poll = select.poll()
    poll.register(way_out.descriptor, select.POLLIN)
    left: list[bytes] = []
    while len(left) < len(packets):
        assert poll.poll(DEADLINE * 1000), f"{len(left)} of {len(packets)} packets were forwarded"
        arrived = way_out.read()
        if arrived is not None and bytes(arrived[1][8:40]) == packets[0][8:40]:
            left.append(bytes(arrived[1]))
    assert left == [packet[:7] + b"\x3f" + packet[8:] for packet in packets]
