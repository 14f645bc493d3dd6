"""Cutting streams: recorded bytes in any split, malformed input, and memory that never grows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.mycelium import tlv
from protocol.mycelium.framing import (
    DATA_HEADER,
    DEFAULT_CAPACITY,
    FEWEST_IN_ROW,
    KIND_CONTROL,
    KIND_DATA,
    MAX_PACKET,
    FramingError,
    StreamDecoder,
    kind_of_datagram,
    read_data_header,
    split_control,
    write_data_header,
)
from protocol.mycelium.tlv import ControlError
from protocol.prefix import parse_address
from tests.unit import wire_factory as factory

WIRE = factory.vectors("wire.json")
RECORDED = factory.vectors("wire_recorded.json")
STREAM = bytes.fromhex(WIRE["stream"]["bytes"])
FRAMES = [bytes.fromhex(frame) for frame in WIRE["stream"]["frames"]]
SMALLEST = 2 * MAX_PACKET

MALFORMED_GIVES: dict[str, tuple[list[str], str | None]] = {
    "control: nothing wrong": (["Hello"], None),
    "packet version 2": ([], "3.1"),
    "packet version 0": ([], "3.1"),
    "packet type 2": ([], "3.1"),
    "packet reserved set (control)": (["Hello"], None),
    "magic 43": (["ignored"], None),
    "babel version 2": (["ignored"], None),
    "unknown TLV 11 (4 bytes)": (["ignored"], None),
    "unknown TLV 11 empty": (["ignored"], None),
    "TLV 0xff 200 bytes": (["ignored"], None),
    "Pad1": (["ignored"], None),
    "PadN(2)": (["ignored"], None),
    "Ack": (["ignored"], None),
    "Router-Id": (["ignored"], None),
    "NextHop": (["ignored"], None),
    "body length 0, then a Hello TLV anyway": ([], "3.5"),
    "body length 0, nothing else": ([], "3.5"),
    "body length 1, type 4": ([], "3.5"),
    "body length 1, type 11": ([], "3.5"),
    "body length 0, then unknown type": ([], "3.5"),
    "Hello + sub-TLV (TLV length 10)": (["Hello", "ignored"], None),
    "two Hellos in one body": (["Hello", "ignored"], None),
    "TLV length field wrong (99), body right": ([], "3.5"),
    "TLV length 0, body right": ([], "3.5"),
    "Hello truncated (4 bytes)": ([], "3.5"),
    "Hello truncated, another Hello behind in one write": ([], "3.5"),
    "Update truncated (20 bytes)": ([], "3.5"),
    "Hello body length 0xffff": ([], None),
    "Hello body length 40": ([], None),
    "Update AE2 plen 129": ([], "4.0"),
    "Update AE1 plen 33": ([], "4.0"),
    "Update AE3 plen 64": (["ignored"], None),
    "Update AE3 plen 10": ([], "4.0"),
    "Update AE0 plen 0": (["ignored"], None),
    "Update AE0 plen 64": ([], "4.0"),
    "Update AE4": (["ignored"], None),
    "IHU AE4": (["ignored"], None),
    "IHU AE4 TLV length 2": ([], "3.5"),
    "IHU AE2 16 bytes": (["Ihu"], None),
    "IHU interval 0": (["Ihu"], None),
    "Seqno Request hop 0": (["ignored"], None),
    "Seqno Request AE0 plen 8": ([], "4.0"),
    "Route Request wildcard plen 64 + prefix": (["RouteRequest", "ignored"], None),
    "Route Request wildcard plen 64, no prefix": (["RouteRequest"], None),
    "Route Request plen 129": ([], "4.0"),
    "Route Request AE4": (["ignored"], None),
    "garbage 64 random-like bytes": ([], "3.1"),
    "4 header bytes only": ([], None),
    "data packet half sent": ([], None),
    "data to ::, garbage": (["data"], None),
    "update for ::/0": (["ignored"], None),
    "2 good Hellos then version 9": (["Hello", "Hello"], "3.1"),
    "rr ::/0": (["ignored"], None),
    "control before": (["Hello"], None),
    "IPv4 Route Request 10.0.0.0/24": (["ignored"], None),
    "first Route Request after": (["RouteRequest"], None),
    "bad-packet-version": ([], "3.1"),
    "bad-packet-type": ([], "3.1"),
    "packet-reserved-set": (["Hello"], None),
    "bad-babel-magic": (["ignored"], None),
    "bad-babel-version": (["ignored"], None),
    "unknown-tlv": (["ignored"], None),
    "pad1-tlv": (["ignored"], None),
    "zero-length-babel-body": ([], "3.5"),
    "two-tlvs-in-one-body": (["Hello", "ignored"], None),
    "hello-with-subtlv": (["Hello", "ignored"], None),
    "hello-truncated": ([], "3.5"),
    "update-plen-129": ([], "4.0"),
    "update-unknown-ae": (["ignored"], None),
    "seqno-request-hop-count-0": (["ignored"], None),
    "route-request-ipv4": (["ignored"], None),
    "route-request-ipv6-default": (["ignored"], None),
}
MALFORMED_CASES = [(entry["case"], entry["sent"]) for entry in RECORDED["malformed"]] + [
    (entry["name"], entry["bytes"]) for entry in WIRE["malformed"]
]


def feed(decoder: StreamDecoder, piece: bytes) -> list[bytes]:
    """Packets that complete when `piece` arrives, however little room the decoder offers at a time."""
    packets: list[bytes] = []
    while piece:
        room = decoder.writable()
        assert len(room) > 0
        count = min(len(room), len(piece))
        room[:count] = piece[:count]
        decoder.received(count)
        piece = piece[count:]
        while cut := decoder.cut():
            for kind, start, end, count in cut:
                size = (end - start) // count
                for at in range(start, end, size):
                    packet = bytes(decoder.view[at : at + size])
                    assert packet[1] == kind
                    packets.append(packet)
    return packets


def feed_all(pieces: Iterable[bytes], capacity: int = SMALLEST) -> list[bytes]:
    decoder = StreamDecoder(capacity)
    return [packet for piece in pieces for packet in feed(decoder, piece)]


def outcome(stream: bytes) -> tuple[list[str], str | None]:
    """Names of the TLVs (or "data", "ignored") in `stream`, and the section of the error that ends it."""
    decoder, seen = StreamDecoder(SMALLEST), []
    room = decoder.writable()
    room[: len(stream)] = stream
    decoder.received(len(stream))
    try:
        while cut := decoder.cut():
            for kind, start, end, count in cut:
                if kind == KIND_DATA:
                    seen += ["data"] * count
                    continue
                decoded = tlv.decode(decoder.view[start:end])
                seen.extend(type(found).__name__ for found in decoded.tlvs)
                seen.extend(["ignored"] * decoded.ignored)
    except (FramingError, ControlError) as error:
        return seen, error.section
    return seen, None


class TestDataHeader:
    @pytest.mark.parametrize("entry", WIRE["data_frames"], ids=lambda entry: entry["name"])
    def test_header_reads_as_in_the_vector_and_writes_its_bytes(self, entry: dict[str, Any]) -> None:
        frame = bytes.fromhex(entry["frame"])
        source, destination = parse_address(entry["src"]), parse_address(entry["dst"])
        raw_length = len(frame) - DATA_HEADER
        assert read_data_header(frame) == (raw_length, entry["hop_limit"], source, destination)
        out = bytearray(b"\xee" * 44)
        write_data_header(out, 2, raw_length, entry["hop_limit"], source, destination)
        assert out == b"\xee\xee" + factory.data(bytes(raw_length), hop_limit=entry["hop_limit"])[:40] + b"\xee\xee"

    def test_largest_length_and_hop_limit_do_not_touch_their_neighbours(self) -> None:
        out = bytearray(40)
        write_data_header(memoryview(out), 0, 65535, 255, factory.ALICE, factory.BOB)
        assert out == factory.data(bytes(65535), hop_limit=255)[:40]
        assert read_data_header(b"x" + out, 1) == (65535, 255, factory.ALICE, factory.BOB)


class TestCutting:
    def test_stream_of_the_vector_is_cut_into_its_frames(self) -> None:
        assert feed_all([STREAM]) == FRAMES

    @pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 41, 97])
    def test_pieces_of_one_size_give_the_same_packets(self, step: int) -> None:
        assert feed_all(STREAM[at : at + step] for at in range(0, len(STREAM), step)) == FRAMES

    @pytest.mark.parametrize("at", range(len(STREAM) + 1))
    def test_split_at_every_offset_gives_the_same_packets(self, at: int) -> None:
        assert feed_all([STREAM[:at], STREAM[at:]]) == FRAMES

    @pytest.mark.parametrize("conversation", RECORDED["conversations"], ids=lambda entry: entry["name"])
    def test_recorded_stream_of_the_reference_is_cut_at_its_packets(self, conversation: dict[str, Any]) -> None:
        packets = [bytes.fromhex(packet) for direction, packet in conversation["packets"] if direction == "in"]
        assert feed_all([b"".join(packets)]) == packets

    sized_packets = st.one_of(
        st.builds(factory.hello, st.integers(0, 0xFFFF)),
        st.builds(lambda size: factory.data(bytes(size)), st.integers(0, 200) | st.integers(65000, 65535)),
        st.builds(lambda size: factory.control(bytes(size)), st.integers(0, 300) | st.integers(65000, 65535)),
    )

    @given(st.lists(sized_packets, max_size=12), st.data())
    def test_any_split_of_any_stream_gives_the_same_packets(self, packets: list[bytes], draw: st.DataObject) -> None:
        stream = b"".join(packets)
        cuts = sorted(draw.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
        pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
        assert feed_all(pieces) == packets

    def test_incomplete_packet_waits_and_is_accounted(self) -> None:
        decoder = StreamDecoder()
        assert feed(decoder, FRAMES[0] + FRAMES[1][:-1]) == [FRAMES[0]]
        assert decoder.buffered == len(FRAMES[1]) - 1
        assert feed(decoder, FRAMES[1][-1:]) == [FRAMES[1]]
        assert decoder.buffered == 0

    def test_offsets_stay_valid_until_the_next_writable(self) -> None:
        decoder = StreamDecoder()
        decoder.writable()[: len(STREAM)] = STREAM
        decoder.received(len(STREAM))
        offsets = decoder.cut()
        assert decoder.cut() == []
        assert [bytes(decoder.view[start:end]) for _, start, end, _ in offsets] == FRAMES
        assert [kind for kind, _, _, _ in offsets] == [KIND_CONTROL] * 4 + [
            KIND_DATA,
            KIND_CONTROL,
            KIND_DATA,
            KIND_CONTROL,
        ]


class TestRows:
    """Data packets that are alike are found together; what is found is the same."""

    @given(
        st.lists(
            st.tuples(st.integers(1, 40), st.sampled_from([0, 3, 90]), st.sampled_from([63, 64]), st.booleans()),
            min_size=1,
            max_size=6,
        ),
        st.integers(0, 50),
    )
    def test_rows_hold_the_packets_that_were_sent(self, groups: list[tuple[int, int, int, bool]], rest: int) -> None:
        sent: list[bytes] = []
        for count, size, hop_limit, turned in groups:
            ends = {"source": factory.BOB, "destination": factory.ALICE} if turned else {}
            sent += [factory.data(bytes((n,)) * size, hop_limit=hop_limit, **ends) for n in range(count)]
        stream = b"".join(sent) + factory.data(bytes(100))[:rest]
        decoder = StreamDecoder()
        decoder.writable()[: len(stream)] = stream
        decoder.received(len(stream))
        found: list[bytes] = []
        for _, start, end, count in decoder.cut():
            assert count == 1 or count >= FEWEST_IN_ROW
            size = (end - start) // count
            row = [bytes(decoder.view[at : at + size]) for at in range(start, end, size)]
            assert len({(packet[5:40], len(packet)) for packet in row}) == 1
            found += row
        assert found == sent
        assert decoder.buffered == rest

    def test_row_begins_and_ends_where_a_packet_differs(self) -> None:
        alike = [factory.data(b"x" * 9)] * 30
        stream = b"".join([factory.hello(), *alike, factory.data(b"x" * 10), *alike[:20], factory.data(b"y")])
        decoder = StreamDecoder()
        decoder.writable()[: len(stream)] = stream
        decoder.received(len(stream))
        assert [count for _, _, _, count in decoder.cut()] == [1, 30, 1, 20, 1]

    def test_reserved_bytes_make_no_difference(self) -> None:
        packet = bytearray(factory.data(b"x" * 9))
        stream = bytearray()
        for index in range(FEWEST_IN_ROW):
            packet[2], packet[3], packet[4] = index, 7, 255 - index
            stream += packet
        decoder = StreamDecoder()
        decoder.writable()[: len(stream)] = stream
        decoder.received(len(stream))
        assert [count for _, _, _, count in decoder.cut()] == [FEWEST_IN_ROW]


class TestMemory:
    def test_memory_is_fixed_and_room_never_runs_out(self) -> None:
        decoder = StreamDecoder(SMALLEST)
        largest = factory.data(bytes(65535))
        for packet in [largest, factory.hello(), largest[:5000]] + [largest[5000:] + largest[:5000]] * 5:
            assert len(decoder.writable()) > 0
            feed(decoder, packet)
            assert len(decoder.view) == SMALLEST
        assert decoder.buffered == 5000

    def test_room_is_at_least_one_largest_packet_after_cutting(self) -> None:
        decoder = StreamDecoder(SMALLEST)
        feed(decoder, factory.data(bytes(65535)) + factory.data(bytes(65535))[:-1])
        assert decoder.buffered == MAX_PACKET - 1
        assert len(decoder.writable()) >= MAX_PACKET

    def test_little_rest_is_not_moved_while_there_is_room_behind_it(self) -> None:
        decoder = StreamDecoder(DEFAULT_CAPACITY)
        feed(decoder, factory.hello() + factory.hello()[:3])
        room = decoder.writable()
        assert len(room) == DEFAULT_CAPACITY - len(factory.hello()) - 3

    def test_memory_may_be_handed_in(self) -> None:
        memory = memoryview(bytearray(SMALLEST))
        decoder = StreamDecoder(memory=memory)
        assert feed(decoder, FRAMES[0]) == [FRAMES[0]]
        assert bytes(memory[: len(FRAMES[0])]) == FRAMES[0]

    def test_memory_for_less_than_two_largest_packets_is_refused(self) -> None:
        with pytest.raises(ValueError, match="too few"):
            StreamDecoder(SMALLEST - 1)

    def test_more_than_the_room_cannot_have_been_received(self) -> None:
        decoder = StreamDecoder()
        for count in (DEFAULT_CAPACITY + 1, -1):
            with pytest.raises(ValueError, match="room"):
                decoder.received(count)


class TestHandingOver:
    """A decoder in one slot ends in mid-packet, and one in another slot goes on."""

    def test_rest_is_what_arrived_and_is_not_cut_yet(self) -> None:
        decoder = StreamDecoder()
        feed(decoder, FRAMES[0] + FRAMES[1][:-1])
        assert decoder.rest() == FRAMES[1][:-1]
        feed(decoder, FRAMES[1][-1:])
        assert not decoder.rest()

    def test_room_is_what_lies_behind_what_arrived(self) -> None:
        decoder = StreamDecoder(SMALLEST)
        assert decoder.room == SMALLEST
        feed(decoder, FRAMES[0] + FRAMES[1][:-1])
        assert decoder.room == SMALLEST - len(FRAMES[0]) - len(FRAMES[1]) + 1

    @pytest.mark.parametrize("at", range(0, len(STREAM), 7))
    def test_successor_in_other_memory_cuts_the_same_packets(self, at: int) -> None:
        before, after = StreamDecoder(SMALLEST), StreamDecoder(SMALLEST)
        packets = feed(before, STREAM[:at])
        after.resume(before.rest())
        before.view[:] = bytes(SMALLEST)
        assert packets + feed(after, STREAM[at:]) == FRAMES

    def test_whole_packets_of_a_rest_are_cut_before_anything_arrives(self) -> None:
        decoder = StreamDecoder()
        decoder.resume(memoryview(FRAMES[0] + FRAMES[1] + FRAMES[2][:3]))
        assert [bytes(decoder.view[start:end]) for _, start, end, _ in decoder.cut()] == FRAMES[:2]
        assert decoder.rest() == FRAMES[2][:3]

    def test_rest_that_fills_the_memory_has_room_behind_it_once_it_is_cut(self) -> None:
        decoder, packet = StreamDecoder(SMALLEST), factory.data(bytes(1000))
        decoder.resume(memoryview((packet * (SMALLEST // len(packet) + 1))[:SMALLEST]))
        assert decoder.room == 0
        assert sum(count for _, _, _, count in decoder.cut()) == SMALLEST // len(packet)
        assert len(decoder.writable()) >= MAX_PACKET


class TestOutOfStep:
    def test_good_packets_before_a_bad_header_come_first(self) -> None:
        decoder = StreamDecoder()
        stream = factory.hello(1) + factory.hello(2) + b"\x09" + factory.hello()
        decoder.writable()[: len(stream)] = stream
        decoder.received(len(stream))
        assert len(decoder.cut()) == 2
        with pytest.raises(FramingError, match="packet version 9"):
            decoder.cut()

    def test_bad_header_is_seen_as_soon_as_its_four_bytes_are_there(self) -> None:
        with pytest.raises(FramingError, match="packet type 2"):
            feed_all([b"\x01\x02\x00", b"\x00"])

    @pytest.mark.parametrize(("case", "sent"), MALFORMED_CASES, ids=[case for case, _ in MALFORMED_CASES])
    def test_malformed_input_gives_what_the_table_says(self, case: str, sent: str) -> None:
        assert outcome(bytes.fromhex(sent)) == MALFORMED_GIVES[case]

    def test_table_has_no_case_that_was_never_sent(self) -> None:
        assert set(MALFORMED_GIVES) == {case for case, _ in MALFORMED_CASES}
        assert len(RECORDED["malformed"]) == 56

    @given(st.sampled_from(RECORDED["malformed"]))
    def test_link_goes_on_after_what_is_ignored(self, entry: dict[str, Any]) -> None:
        seen, error = MALFORMED_GIVES[entry["case"]]
        if error is None and seen:
            assert outcome(bytes.fromhex(entry["sent"]) + factory.hello()) == ([*seen, "Hello"], None)

    @given(st.data())
    def test_any_bit_flips_give_packets_and_at_most_one_error(self, draw: st.DataObject) -> None:
        stream = bytearray(STREAM)
        for bit in draw.draw(st.lists(st.integers(0, len(stream) * 8 - 1), min_size=1, max_size=12)):
            stream[bit // 8] ^= 1 << bit % 8
        outcome(bytes(stream))

    @given(st.binary(max_size=2000))
    def test_any_bytes_give_packets_and_at_most_one_error(self, stream: bytes) -> None:
        outcome(stream)


class TestDatagrams:
    def test_datagram_that_is_one_packet_has_its_kind(self) -> None:
        assert kind_of_datagram(factory.data(b"abc")) == KIND_DATA
        assert kind_of_datagram(memoryview(factory.hello())) == KIND_CONTROL

    @pytest.mark.parametrize(
        "datagram",
        [
            b"",
            b"\x01\x00\0\0",
            factory.data(b"abc") + b"x",
            factory.data(b"abc")[:-1],
            factory.hello() * 2,
            b"\x02" * 50,
        ],
        ids=["empty", "header", "surplus", "cut", "two", "version"],
    )
    def test_datagram_that_is_not_exactly_one_packet_is_refused(self, datagram: bytes) -> None:
        with pytest.raises(FramingError):
            kind_of_datagram(datagram)


class TestSplittingControl:
    def test_packets_behind_each_other_come_apart(self) -> None:
        packets = [factory.hello(), factory.update(), factory.ihu()]
        assert [bytes(packet) for packet in split_control(b"".join(packets))] == packets

    @pytest.mark.parametrize(
        ("packets", "reason"),
        [
            (factory.hello() + factory.update()[:-1], "are there"),
            (factory.hello() + b"\x01\x01", "are there"),
            (factory.hello() + factory.data(b"abc"), "a data packet"),
            (b"\x02" * 16, "version 2"),
        ],
        ids=["torn", "header torn", "data", "version"],
    )
    def test_anything_but_whole_control_packets_is_refused(self, packets: bytes, reason: str) -> None:
        with pytest.raises(FramingError, match=reason):
            list(split_control(packets))
