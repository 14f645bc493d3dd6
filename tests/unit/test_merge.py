"""Datagrams merged before they are sealed, against what segmentation makes of them again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.offload.merge import LARGEST, UNFINISHED, DatagramRun
from protocol.offload.vnet import check_super_packet
from tests.unit.ip_packets import checksum_is_right, cut, tcp, udp, with_checksum

MEMORY = 1 << 18
GAP = 82
"""Trailer, tag, nonce and headers: what lies between a run and the packet that is read behind it."""


def merged(packets: list[bytes]) -> tuple[bytes, list[bytes], int]:
    """The super-packet of as many of `packets` as follow the first, those that were left, and its gso_size."""
    memory = memoryview(bytearray(MEMORY))
    memory[: len(packets[0])] = packets[0]
    assert DatagramRun.fits(memory[: len(packets[0])], UNFINISHED)
    run = DatagramRun(memory, 0, len(packets[0]))
    for index, packet in enumerate(packets[1:], 1):
        at = run.end + GAP
        memory[at : at + len(packet)] = packet
        if not run.append(at, len(packet), UNFINISHED):
            return _finish(run, memory), packets[index:], len(packets[0]) - 48
    return _finish(run, memory), [], len(packets[0]) - 48


def _finish(run: DatagramRun, memory: memoryview) -> bytes:
    if run.count > 1:
        header = run.finish()
        assert check_super_packet(memory[run.start : run.end], header) == 48
    return bytes(memory[run.start : run.end])


@given(st.integers(1, 1300), st.integers(2, 60), st.integers(0, 255))
def test_segmentation_gives_back_the_datagrams(size: int, count: int, seed: int) -> None:
    count = min(count, (LARGEST - 48) // size)
    payloads = [bytes((seed + index) & 0xFF for _ in range(size)) for index in range(count)]
    packet, left, gso_size = merged([udp(payload, partial=True) for payload in payloads])
    assert left == []
    assert list(cut(packet, gso_size)) == [udp(payload) for payload in payloads]
    assert all(map(checksum_is_right, cut(packet, gso_size)))


@pytest.mark.parametrize(
    "other",
    [
        udp(b"x" * 100, partial=True, source_port=7),
        udp(b"x" * 100, partial=True, hop_limit=9),
        udp(b"x" * 100, partial=True, flow_label=5),
        udp(b"x" * 99, partial=True),
        udp(b"x" * 101, partial=True),
        tcp(b"x" * 88, partial=True),
    ],
    ids=["flow", "hop limit", "flow label", "shorter", "longer", "TCP"],
)
def test_another_kind_of_packet_is_not_taken(other: bytes) -> None:
    first = udp(b"y" * 100, partial=True)
    packet, left, _ = merged([first, other])
    assert (packet, left) == (first, [other])


def test_no_more_datagrams_than_the_kernel_cuts_again() -> None:
    packets = [udp(bytes([index]), partial=True) for index in range(200)]
    packet, left, _ = merged(packets)
    assert len(list(cut(packet, 1))) == 128
    assert len(left) == 72


def test_no_more_bytes_than_a_super_packet_has() -> None:
    packets = [udp(bytes([index]) * 1200, partial=True) for index in range(100)]
    packet, left, _ = merged(packets)
    assert len(packet) <= LARGEST < len(packet) + 1200
    assert len(left) == 100 - (len(packet) - 48) // 1200


@pytest.mark.parametrize(
    ("packet", "header"),
    [
        (udp(b"", partial=True), UNFINISHED),
        (tcp(b"x" * 100, partial=True), UNFINISHED),
        (udp(b"x" * 100), bytes(10)),
        (udp(b"x" * 100, partial=True)[:-1], UNFINISHED),
        (with_checksum(udp(b"x" * 100)[:44] + b"\0\x09" + udp(b"x" * 100)[46:], partial=True), UNFINISHED),
        (bytes(20), UNFINISHED),
    ],
    ids=["no payload", "TCP", "finished checksum", "cut short", "UDP length differs", "no packet"],
)
def test_what_is_no_plain_datagram_begins_no_run(packet: bytes, header: bytes) -> None:
    assert not DatagramRun.fits(memoryview(packet), header)
