"""What the coalescer merges and what it leaves alone; merged packets are taken apart again one by one."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.offload.coalesce import Buffer, Coalescer
from protocol.offload.segment import segment
from protocol.offload.vnet import VnetHeader, check_super_packet
from tests.unit.ip_packets import ACK, CWR, ECE, FIN, PSH, RST, SYN, TIMESTAMPS, URG, cut, ipv6, tcp, udp


def coalesce(packets: list[bytes], *, with_udp: bool = True) -> list[tuple[VnetHeader, bytes]]:
    return written(Coalescer(udp=with_udp), packets)


def written(coalescer: Coalescer, packets: list[bytes]) -> list[tuple[VnetHeader, bytes]]:
    for packet in packets:
        coalescer.add(memoryview(packet))
    return [split(write) for write in coalescer.take()]


def split(write: list[Buffer]) -> tuple[VnetHeader, bytes]:
    header, *pieces = write
    assert len(header) == 10
    return VnetHeader.parse(header), b"".join(pieces)


def taken_apart(writes: list[tuple[VnetHeader, bytes]]) -> list[bytes]:
    """The packets that a kernel makes of what was written."""
    packets: list[bytes] = []
    for header, packet in writes:
        if header == VnetHeader():
            packets.append(packet)
        else:
            assert check_super_packet(packet, header) == header.hdr_len
            packets += cut(packet, header.gso_size)
    return packets


def stream(*payloads: bytes, start: int = 1000, source_port: int = 40_000) -> list[bytes]:
    packets = []
    for payload in payloads:
        packets.append(tcp(payload, sequence=start, source_port=source_port))
        start += len(payload)
    return packets


def test_contiguous_segments_become_one_super_packet() -> None:
    packets = stream(b"a" * 100, b"b" * 100, b"c" * 50)
    whole = tcp(b"a" * 100 + b"b" * 100 + b"c" * 50, partial=True)
    assert coalesce(packets) == [(VnetHeader(1, 4, 60, 100, 40, 16), whole)]


def test_datagrams_become_one_super_packet() -> None:
    whole = udp(b"a" * 101 + b"b" * 101 + b"c" * 50, partial=True)
    packets = [udp(b"a" * 101), udp(b"b" * 101), udp(b"c" * 50)]
    assert coalesce(packets) == [(VnetHeader(1, 5, 48, 101, 40, 6), whole)]


def test_datagrams_stay_alone_on_a_device_without_udp_offload() -> None:
    packets = [udp(b"a" * 100), udp(b"b" * 100)]
    assert coalesce(packets, with_udp=False) == [(VnetHeader(), packet) for packet in packets]


@given(st.integers(1, 9000), st.integers(8, 1500), st.sampled_from([b"", TIMESTAMPS]), st.sampled_from([0, PSH]))
def test_super_packet_cut_and_merged_is_the_same(length: int, size: int, options: bytes, push: int) -> None:
    packet = tcp((b"septate!" * 1125)[:length], sequence=2**32 - 5, flags=ACK | push, options=options, partial=True)
    out = memoryview(bytearray(1 << 18))
    pieces = [bytes(out[at : at + n]) for at, n in segment(packet, VnetHeader(1, 4, 60, size, 40, 16), out, 44, 28)]
    writes = coalesce(pieces)
    assert taken_apart(writes) == pieces
    if 1 < len(pieces) <= 128:
        assert [merged for _, merged in writes] == [packet]


@pytest.mark.parametrize(
    "second",
    [
        tcp(b"b" * 100, sequence=1101),
        tcp(b"b" * 100, sequence=1099),
        tcp(b"b" * 101, sequence=1100),
        tcp(b"b" * 100, sequence=1100, acknowledged=78),
        tcp(b"b" * 100, sequence=1100, window=503),
        tcp(b"b" * 100, sequence=1100, options=TIMESTAMPS),
        tcp(b"b" * 100, sequence=1100, hop_limit=63),
        tcp(b"b" * 100, sequence=1100, traffic_class=3),
        tcp(b"b" * 100, sequence=1100, flow_label=1),
        tcp(b"b" * 100, sequence=1100, urgent=1),
        tcp(b"b" * 100, sequence=1100, reserved=1),
        tcp(b"b" * 100, sequence=1100, source_port=40_001),
        tcp(b"", sequence=1100),
        *(tcp(b"b" * 100, sequence=1100, flags=ACK | flag) for flag in (FIN, SYN, RST, URG, ECE, CWR)),
        tcp(b"b" * 100, sequence=1100, flags=PSH),
        tcp(b"b" * 100, sequence=1100) + b"\0",
        tcp(b"b" * 100, sequence=1100)[:-1],
        udp(b"b" * 100),
    ],
)
def test_packet_that_does_not_continue_the_one_before_is_not_merged(second: bytes) -> None:
    packets = [tcp(b"a" * 100), second]
    assert coalesce(packets) == [(VnetHeader(), packet) for packet in packets]


@pytest.mark.parametrize(
    "second",
    [
        udp(b"b" * 101),
        udp(b""),
        udp(b"b" * 100, hop_limit=63),
        udp(b"b" * 100)[:46] + b"\0\0" + b"b" * 100,
        udp(b"b" * 100) + b"\0",
        udp(b"b" * 100)[:44] + b"\0\1" + udp(b"b" * 100)[46:],
    ],
)
def test_datagram_that_does_not_fit_the_one_before_is_not_merged(second: bytes) -> None:
    packets = [udp(b"a" * 100), second]
    assert coalesce(packets) == [(VnetHeader(), packet) for packet in packets]


def test_different_options_of_equal_length_are_not_merged() -> None:
    packets = [tcp(b"a" * 100, options=TIMESTAMPS), tcp(b"b" * 100, sequence=1100, options=TIMESTAMPS[:-1] + b"\0")]
    assert len(coalesce(packets)) == 2


def test_congestion_echo_on_every_segment_is_merged() -> None:
    packets = [tcp(b"a" * 100, flags=ACK | ECE), tcp(b"b" * 100, sequence=1100, flags=ACK | ECE)]
    assert [packet for _, packet in coalesce(packets)] == [tcp(b"a" * 100 + b"b" * 100, flags=ACK | ECE, partial=True)]


def test_push_ends_a_super_packet_and_is_kept() -> None:
    first, second, third = stream(b"a" * 100, b"b" * 100, b"c" * 100)
    second = tcp(b"b" * 100, sequence=1100, flags=ACK | PSH)
    merged = tcp(b"a" * 100 + b"b" * 100, flags=ACK | PSH, partial=True)
    assert [packet for _, packet in coalesce([first, second, third])] == [merged, third]


def test_segment_with_push_starts_no_run() -> None:
    packets = [tcp(b"a" * 100, flags=ACK | PSH), tcp(b"b" * 100, sequence=1100)]
    assert [packet for _, packet in coalesce(packets)] == packets


def test_shorter_segment_ends_a_super_packet() -> None:
    packets = stream(b"a" * 100, b"b" * 99, b"c" * 99)
    assert [header.gso_size for header, _ in coalesce(packets)] == [100, 0]


def test_segments_too_small_for_the_kernel_stay_alone() -> None:
    packets = stream(b"a" * 7, b"b" * 7)
    assert [packet for _, packet in coalesce(packets)] == packets


def test_super_packet_stays_within_65535_bytes() -> None:
    packets = stream(*[bytes(1270)] * 60)
    writes = coalesce(packets)
    assert [len(packet) for _, packet in writes] == [60 + 51 * 1270, 60 + 9 * 1270]
    assert taken_apart(writes) == packets


def test_super_packet_has_at_most_128_segments() -> None:
    packets = [udp(bytes([number])) for number in range(130)]
    assert [len(packet) for _, packet in coalesce(packets)] == [48 + 128, 48 + 2]


def test_flows_that_arrive_interleaved_are_merged_each() -> None:
    left = stream(b"a" * 100, b"b" * 100)
    right = stream(b"c" * 90, b"d" * 90, source_port=40_001)
    writes = coalesce([left[0], right[0], udp(b"e"), left[1], right[1], udp(b"f")])
    assert [header.gso_type for header, _ in writes] == [4, 4, 5]
    assert taken_apart(writes) == left + right + [udp(b"e"), udp(b"f")]


def test_pure_acknowledgement_is_not_overtaken_by_later_data() -> None:
    first, second, third = stream(b"a" * 100, b"b" * 100, b"c" * 100)
    acknowledgement = tcp(b"", sequence=1100, acknowledged=99)
    assert taken_apart(coalesce([first, acknowledgement, second, third])) == [first, acknowledgement, second, third]


def test_segment_that_stands_alone_is_not_overtaken_by_what_continues_its_predecessor() -> None:
    packets = [tcp(b"a" * 100), tcp(b"x" * 100, sequence=5000, flags=ACK | PSH), tcp(b"b" * 100, sequence=1100)]
    assert [packet for _, packet in coalesce(packets)] == packets


@pytest.mark.parametrize("next_header", [0, 43, 44, 51, 60, 135])
def test_packet_with_extension_headers_is_not_overtaken(next_header: int) -> None:
    first, second = stream(b"a" * 100, b"b" * 100)
    hidden = ipv6(next_header, bytes(60))
    assert [packet for _, packet in coalesce([first, hidden, second])] == [first, hidden, second]


def test_packet_of_another_protocol_lets_a_flow_grow() -> None:
    first, second = stream(b"a" * 100, b"b" * 100)
    ping = ipv6(58, bytes(16))
    assert [header.gso_type for header, _ in coalesce([first, ping, second])] == [4, 0]


@pytest.mark.parametrize("at", [56, 60, 159])
@pytest.mark.parametrize("broken", [0, 1, 2])
def test_run_with_a_wrong_checksum_is_left_for_the_kernel_to_sort_out(broken: int, at: int) -> None:
    packets = stream(b"a" * 100, b"b" * 100, b"c" * 100)
    damaged = bytearray(packets[broken])
    damaged[at] ^= 0x10
    packets[broken] = bytes(damaged)
    coalescer = Coalescer(udp=True)
    assert written(coalescer, packets) == [(VnetHeader(), packet) for packet in packets]
    assert (coalescer.bad_checksums, coalescer.merged) == (1, 0)


def test_odd_segments_with_right_checksums_are_merged() -> None:
    packets = stream(b"abc" * 33, bytes(range(99)), b"z")
    assert [header.gso_size for header, _ in coalesce(packets)] == [99]


def test_merged_packets_are_counted() -> None:
    coalescer = Coalescer(udp=True)
    written(coalescer, [*stream(b"a" * 100, b"b" * 100), udp(b"alone")])
    assert (coalescer.merged, coalescer.bad_checksums) == (2, 0)


def test_rounds_do_not_know_of_each_other() -> None:
    coalescer = Coalescer(udp=True)
    first, second = stream(b"a" * 100, b"b" * 100)
    assert written(coalescer, [first]) == [(VnetHeader(), first)]
    assert written(coalescer, [second]) == [(VnetHeader(), second)]
    assert coalescer.take() == []


mostly = st.sampled_from([True] * 9 + [False])


@st.composite
def traffic(draw: st.DrawFn) -> list[bytes]:
    """Flows that mostly go on as they began."""
    packets: list[bytes] = []
    sequences = [2**32 - 300, 5000, 5000]
    size = draw(st.integers(1, 120))
    for _ in range(draw(st.integers(1, 30))):
        flow = draw(st.integers(0, 2))
        payload = draw(st.binary(min_size=size, max_size=size) if draw(mostly) else st.binary(max_size=120))
        if flow == 2:
            packets.append(udp(payload))
            continue
        flags = ACK if draw(mostly) else draw(st.integers(0, 255))
        acknowledged = 7 if draw(mostly) else 8
        packets.append(
            tcp(
                payload,
                sequence=sequences[flow],
                source_port=flow,
                flags=flags,
                acknowledged=acknowledged,
                traffic_class=0 if draw(mostly) else 3,
            )
        )
        sequences[flow] += len(payload) if draw(mostly) else 1
    return packets


def by_flow(packets: list[bytes]) -> dict[bytes, list[bytes]]:
    flows = defaultdict(list)
    for packet in packets:
        flows[packet[6:7] + packet[8:44]].append(packet)
    return flows


@given(traffic())
def test_every_flow_comes_out_with_the_same_packets_in_the_same_order(packets: list[bytes]) -> None:
    writes = coalesce(packets)
    assert by_flow(taken_apart(writes)) == by_flow(packets)
    assert all(len(packet) <= 65_535 for _, packet in writes)


@given(traffic(), st.data())
def test_damaged_packets_are_neither_lost_nor_changed(packets: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(packets) - 1))
    damaged = bytearray(packets[index])
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    packets[index] = bytes(damaged)
    assert sorted(taken_apart(coalesce(packets))) == sorted(packets)


@given(st.lists(st.binary(max_size=80) | st.binary(max_size=80).map(lambda tail: tcp(b"")[:54] + tail)))
def test_any_bytes_come_out_as_they_are(packets: list[bytes]) -> None:
    assert [packet for _, packet in coalesce(packets)] == packets


# --- rows of equal length ---------------------------------------------------------------------------------------------

PAYLOAD = 40
SHAPES = (
    *({"flags": ACK | flag} for flag in (0, PSH, ECE, PSH | ECE, FIN, SYN, RST, CWR)),
    *({"window": 7}, {"acknowledged": 5}, {"urgent": 1}, {"hop_limit": 63}, {"traffic_class": 3}, {"flow_label": 1}),
    *(
        {"source_port": 40_001},
        {"reserved": 1},
        {"skip": 1},
        {"skip": 2**32 - PAYLOAD},
        {"damaged": 1},
        {"udp": 1},
        {"wide": 1},
    ),
    *({"offset": 0}, {"offset": 0x40}, {"offset": 0xF0}),
)


def row(shapes: list[int], *, options: bytes = b"", start: int = 2**32 - 5 * PAYLOAD) -> list[bytes]:
    """Packets of one length; each number is that of a shape in which one differs from a plain stream, or beyond."""
    packets, sequence = [], start
    for number, index in enumerate(shapes):
        shape = dict(SHAPES[index]) if index < len(SHAPES) else {}
        payload = bytes((number + at) & 0xFF for at in range(PAYLOAD))
        sequence = (sequence + shape.pop("skip", 0)) % 2**32
        damaged, offset = shape.pop("damaged", 0), shape.pop("offset", None)
        if shape.pop("wide", 0):
            packets.append(tcp(payload[12:], sequence=sequence, options=options + TIMESTAMPS))
        elif shape.pop("udp", 0):
            packets.append(udp(payload + bytes(12 + len(options))))
        else:
            packets.append(tcp(payload, sequence=sequence, options=options, **shape))
        if offset is not None:
            packets[-1] = packets[-1][:52] + bytes((offset,)) + packets[-1][53:]
        if damaged:
            packets[-1] = packets[-1][:-1] + bytes((packets[-1][-1] ^ 1,))
        sequence = (sequence + PAYLOAD) % 2**32
    return packets


def datagrams(shapes: list[int]) -> list[bytes]:
    """Datagrams of one length, some of them of another flow, without a checksum, with another hop limit, or TCP."""
    variants = (
        udp(b"d" * PAYLOAD, hop_limit=9),
        udp(b"d" * PAYLOAD)[:46] + b"\0\0" + b"d" * PAYLOAD,
        udp(b"d" * PAYLOAD)[:44] + b"\0\1" + udp(b"d" * PAYLOAD)[46:],
        tcp(b"d" * (PAYLOAD - 12)),
        ipv6(58, b"d" * (PAYLOAD + 8)),
        ipv6(44, b"d" * (PAYLOAD + 8)),
    )
    return [variants[index] if index < len(variants) else udp(bytes((index,)) * PAYLOAD) for index in shapes]


def assert_row_is_as_one_by_one(before: list[bytes], packets: list[bytes], behind: list[bytes], with_udp: bool) -> None:
    rows = b"".join(b"skip" + packet for packet in packets)
    together, apart = Coalescer(udp=with_udp), Coalescer(udp=with_udp)
    for packet in before:
        together.add(memoryview(packet))
    together.add_row(memoryview(rows), len(packets[0]) + 4, 4)
    assert written(together, behind) == written(apart, before + packets + behind)
    assert (together.merged, together.bad_checksums) == (apart.merged, apart.bad_checksums)


PLAIN = len(SHAPES)


@given(
    st.lists(st.integers(0, PLAIN) | st.just(PLAIN), min_size=1, max_size=40),
    st.sampled_from([b"", TIMESTAMPS]),
    st.integers(0, 3),
    st.booleans(),
)
def test_row_of_segments_comes_out_as_if_added_one_by_one(
    shapes: list[int], options: bytes, cut_at: int, with_udp: bool
) -> None:
    packets = row(shapes + [PLAIN] * 5, options=options)
    middle = packets[cut_at:-2]
    assert_row_is_as_one_by_one(packets[:cut_at], middle, packets[-2:], with_udp)


@given(st.lists(st.integers(0, 8) | st.just(9), min_size=1, max_size=40), st.booleans())
def test_row_of_datagrams_comes_out_as_if_added_one_by_one(shapes: list[int], with_udp: bool) -> None:
    packets = datagrams(shapes)
    assert_row_is_as_one_by_one([udp(b"d" * PAYLOAD)], packets, [udp(b"d" * 7)], with_udp)


@pytest.mark.parametrize("before", [0, 1, 100])
def test_row_longer_than_a_super_packet_makes_several(before: int) -> None:
    packets = row([PLAIN] * 700)
    assert_row_is_as_one_by_one(packets[:before], packets[before:600], packets[600:], with_udp=True)


def test_segments_with_longer_headers_than_the_first_of_a_row_are_measured_by_their_own() -> None:
    wide = next(index for index, shape in enumerate(SHAPES) if "wide" in shape)
    packets = row([PLAIN, wide, wide, wide, PLAIN])
    assert_row_is_as_one_by_one([], packets, [], with_udp=True)


def test_what_follows_of_another_transport_is_measured_by_its_own() -> None:
    other = next(index for index, shape in enumerate(SHAPES) if "udp" in shape)
    packets = row([other, PLAIN, PLAIN, PLAIN, other, other])
    assert_row_is_as_one_by_one([], packets, [], with_udp=True)
