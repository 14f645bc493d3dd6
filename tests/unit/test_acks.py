"""Acknowledgements that the next one makes superfluous, and those that nothing may replace."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.offload.acks import UNFINISHED, AckRun
from protocol.offload.complete import complete_checksum
from protocol.offload.vnet import VnetHeader
from tests.unit.ip_packets import ACK, ECE, FIN, PSH, SYN, TIMESTAMPS, checksum_is_right, tcp, udp

SACK = bytes.fromhex("0101050a000003e8000007d0")
GAP = 72


def ack(
    acknowledged: int = 1000, *, window: int = 502, source_port: int = 40_000, options: bytes = TIMESTAMPS
) -> bytes:
    return tcp(
        b"",
        acknowledged=acknowledged % 2**32,
        window=window,
        source_port=source_port,
        options=options,
        partial=True,
    )


def filtered(first: bytes, *others: bytes) -> tuple[bytes, list[bytes]]:
    """What is left of the first and those that took its place, and the packets that it did not give way to."""
    memory = memoryview(bytearray(4096))
    memory[: len(first)] = first
    assert AckRun.fits(memory[: len(first)], UNFINISHED)
    run, refused = AckRun(memory, 0, len(first)), []
    for other in others:
        at = run.end + GAP
        memory[at : at + len(other)] = other
        if not run.append(at, len(other), UNFINISHED):
            refused.append(other)
    assert run.left_out == len(others) - len(refused)
    return bytes(memory[run.start : run.end]), refused


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 2**31 - 1), min_size=1, max_size=8))
def test_an_acknowledgement_gives_way_to_a_later_one_across_the_wrap(first: int, steps: list[int]) -> None:
    packets = [ack(first)]
    for step in steps:
        first += step
        packets.append(ack(first, window=step & 0xFFFF))
    left, refused = filtered(*packets)
    assert (left, refused) == (packets[-1], [])


def test_what_is_left_has_a_right_checksum_once_it_is_completed() -> None:
    left, _ = filtered(ack(1000), ack(2000, window=7))
    packet = bytearray(left)
    complete_checksum(memoryview(packet), VnetHeader.parse(UNFINISHED))
    assert checksum_is_right(bytes(packet))
    assert packet == tcp(b"", acknowledged=2000, window=7, options=TIMESTAMPS)


@pytest.mark.parametrize(
    "other",
    [
        ack(1000),
        ack(1000, window=9),
        ack(999),
        ack(2000, source_port=7),
        ack(2000, options=b""),
        ack(2000, options=SACK),
        tcp(b"x", acknowledged=2000, options=TIMESTAMPS, partial=True),
        tcp(b"", acknowledged=2000, options=TIMESTAMPS, hop_limit=9, partial=True),
        tcp(b"", acknowledged=2000, options=TIMESTAMPS, traffic_class=1, partial=True),
        tcp(b"", acknowledged=2000, options=TIMESTAMPS, flags=ACK | ECE, partial=True),
        tcp(b"", acknowledged=2000, options=TIMESTAMPS, flags=ACK | FIN, partial=True),
    ],
    ids=[
        "duplicate",
        "window update",
        "older",
        "other flow",
        "other options",
        "SACK",
        "payload",
        "hop limit",
        "ECN",
        "ECE",
        "FIN",
    ],
)
def test_an_acknowledgement_does_not_give_way_to(other: bytes) -> None:
    assert filtered(ack(1000), other) == (ack(1000), [other])


@pytest.mark.parametrize(
    ("packet", "header"),
    [
        (ack(options=SACK), UNFINISHED),
        (tcp(b"x", partial=True), UNFINISHED),
        (tcp(b"", flags=ACK | PSH, partial=True), UNFINISHED),
        (tcp(b"", flags=SYN | ACK, partial=True), UNFINISHED),
        (tcp(b"", options=bytes(40), partial=True), UNFINISHED),
        (tcp(b""), bytes(10)),
        (ack()[:-1], UNFINISHED),
        (udp(b"x" * 12, partial=True), UNFINISHED),
        (bytes(70), UNFINISHED),
        (bytes(9), UNFINISHED),
    ],
    ids=["SACK", "payload", "PSH", "SYN", "options", "finished checksum", "cut short", "UDP", "zeros", "no packet"],
)
def test_what_is_more_than_an_acknowledgement_begins_no_run(packet: bytes, header: bytes) -> None:
    assert not AckRun.fits(memoryview(packet), header)
