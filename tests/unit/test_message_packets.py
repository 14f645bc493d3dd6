"""Message packets against the vectors, against packets made by hand, and against anything at all."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.mycelium.messages.chunking import CHUNK_BYTES, ChunkPlan, expected_chunks, highest_index
from protocol.mycelium.messages.packets import (
    Aborted,
    Chunk,
    ChunkAck,
    Done,
    DoneAck,
    Echo,
    Init,
    InitAck,
    MessageError,
    Packet,
    Read,
    ReadAck,
    decode,
    digest_of,
)
from tests.unit import message_factory as factory
from tests.unit.message_factory import ID

VECTORS = factory.vectors("messages.json")
KINDS: dict[str, type[Any]] = {
    "init": Init,
    "init_ack": InitAck,
    "chunk": Chunk,
    "chunk_ack": ChunkAck,
    "done": Done,
    "done_ack": DoneAck,
    "read": Read,
    "read_ack": ReadAck,
    "aborted": Aborted,
}

ids = st.binary(min_size=8, max_size=8)
numbers = st.integers(0, 2**64 - 1)
digests = st.binary(min_size=32, max_size=32)
halves = st.integers(0, 0xFFFF)


def echoes(meaningful: int) -> st.SearchStrategy[Echo]:
    return st.builds(Echo, halves.map(lambda bits: bits & ~meaningful), halves, halves)


packets: st.SearchStrategy[Packet] = st.one_of(
    st.builds(Init, ids, numbers, st.binary(max_size=255), st.booleans(), echoes(0x8500)),
    st.builds(InitAck, ids, numbers, st.integers(0, 255), st.booleans(), echoes(0x8500)),
    st.builds(Chunk, ids, numbers, numbers, st.binary(max_size=1400), echo=echoes(0x9100)),
    st.builds(ChunkAck, ids, numbers, numbers, numbers, echoes(0x9100)),
    st.builds(Done, ids, numbers, digests, echoes(0xD100)),
    st.builds(DoneAck, ids, numbers, digests, echoes(0xD100)),
    st.builds(Read, ids, echoes(0xD900)),
    st.builds(ReadAck, ids, echoes(0xD900)),
    st.builds(Aborted, ids, echoes(0xF900)),
)


def bytes_with(message_id: bytes, flags: int, rest: bytes) -> bytes:
    return message_id + flags.to_bytes(2, "big") + rest


def kind_of(fields: dict[str, Any]) -> type[Any]:
    return KINDS[fields["kind"] + ("_ack" if "ack" in fields["flags"] else "")]


class TestVectors:
    @pytest.mark.parametrize("entry", VECTORS["packets"], ids=lambda entry: entry["name"])
    def test_a_packet_of_the_vectors_has_the_fields_that_it_should(self, entry: dict[str, Any]) -> None:
        fields = entry["fields"]
        packet: Any = decode(bytes.fromhex(entry["hex"]))
        assert type(packet) is kind_of(fields)
        assert packet.id.hex() == fields["message_id"]
        expected = {
            "length": "length",
            "chunk_index": "index",
            "chunk_offset": "offset",
            "chunk_size": "stated_size",
            "chunk_count": "count",
        }
        for theirs, ours in expected.items():
            if theirs in fields:
                assert getattr(packet, ours) == fields[theirs], theirs
        if isinstance(packet, InitAck):
            assert packet.topic_length == fields["topic_length"]
        if isinstance(packet, Init):
            assert packet.topic.hex() == fields["topic_hex"]
        if isinstance(packet, Init | InitAck):
            assert packet.reply is ("reply" in fields["flags"])
        if isinstance(packet, Chunk):
            assert packet.data.hex() == fields["data_hex"]
        if isinstance(packet, Done | DoneAck):
            assert packet.digest.hex() == fields["checksum_hex"]

    @pytest.mark.parametrize("entry", VECTORS["packets"], ids=lambda entry: entry["name"])
    def test_a_packet_of_the_vectors_encodes_to_its_bytes(self, entry: dict[str, Any]) -> None:
        assert decode(bytes.fromhex(entry["hex"])).encode().hex() == entry["hex"]

    @pytest.mark.parametrize("entry", VECTORS["checksums"], ids=lambda entry: entry["data_hex"][:16])
    def test_the_digest_is_blake3_of_the_data(self, entry: dict[str, Any]) -> None:
        assert digest_of(bytes.fromhex(entry["data_hex"])).hex() == entry["blake3_hex"]

    def test_a_chunk_that_states_more_than_it_has_is_acknowledged_as_it_states(self) -> None:
        entry = VECTORS["size_field_larger_than_data"]
        packet = decode(bytes.fromhex(entry["hex"]))
        assert isinstance(packet, Chunk)
        assert len(packet.data) == 5
        assert packet.acknowledgement().encode().hex() == entry["ack_hex"]

    @pytest.mark.parametrize("entry", VECTORS["chunk_plans"], ids=lambda entry: str(entry["length"]))
    def test_the_chunks_are_those_of_the_vectors(self, entry: dict[str, Any]) -> None:
        plan = ChunkPlan(entry["length"])
        chunks = [[index, *plan.place(index)] for index in range(plan.count)]
        if "chunks" in entry:
            assert chunks == entry["chunks"]
        else:
            sizes = [size for _, _, size in chunks]
            assert (len(sizes), min(sizes), max(sizes)) == (entry["count"], entry["smallest"], entry["largest"])


class TestAcknowledgements:
    def test_an_init_is_acknowledged_without_its_topic_but_with_the_topics_length(self) -> None:
        packet = decode(factory.init(5, b"demo"))
        assert isinstance(packet, Init)
        assert packet.acknowledgement().encode() == factory.init_ack(5, 4)

    def test_a_reply_is_acknowledged_as_one(self) -> None:
        packet = decode(factory.init(5, flags=0x8400))
        assert isinstance(packet, Init)
        assert packet.acknowledgement().encode() == factory.init_ack(5, flags=0x8500)

    @pytest.mark.parametrize(
        ("sent", "answer_length"),
        [
            (factory.init(1000, b"topic", flags=0x82FF, reserved=0xBEEF), 21),
            (factory.init(1000, flags=0xFEFF), 21),
            (factory.chunk(1, 2, b"three", flags=0x7EFF), 36),
            (factory.done(1, b"x", flags=0x6E0F), 52),
        ],
    )
    def test_what_means_nothing_is_reflected(self, sent: bytes, answer_length: int) -> None:
        packet = decode(sent, inner_reserved=0x1234)
        assert isinstance(packet, Init | Chunk | Done)
        answer = packet.acknowledgement()
        assert answer.encode() == sent[:8] + bytes([sent[8] | 1]) + sent[9:answer_length]
        assert answer.echo.inner == 0x1234


class TestDispatch:
    @pytest.mark.parametrize(
        ("flags", "kind"),
        [
            (0xF800, Init),
            (0x7800, Chunk),
            (0x6800, Done),
            (0x2800, Read),
            (0x2000, Aborted),
            (0xD900, InitAck),
            (0x5900, ChunkAck),
            (0x6900, DoneAck),
            (0x2900, ReadAck),
        ],
    )
    def test_the_first_kind_of_several_counts(self, flags: int, kind: type[Any]) -> None:
        assert type(decode(factory.header(flags) + bytes(60))) is kind

    @pytest.mark.parametrize("flags", [0, 0x0400, 0x0200, 0x00FF, 0x0100, 0x2100, 0x0500])
    def test_flags_that_name_nothing_are_an_error(self, flags: int) -> None:
        with pytest.raises(MessageError, match="messages spec 2"):
            decode(factory.header(flags) + bytes(60))


class TestBadBytes:
    @pytest.mark.parametrize(
        "whole",
        [
            factory.init(5),
            factory.init(5, b"topic"),
            factory.init_ack(5),
            factory.chunk(0, 0, b""),
            factory.chunk_ack(0, 0, 5),
            factory.done(1, b"x"),
            factory.done_ack(1, b"x"),
            factory.read(),
            factory.aborted(),
        ],
    )
    def test_a_packet_cut_short_anywhere_is_an_error(self, whole: bytes) -> None:
        decode(whole)
        for length in range(len(whole)):
            with pytest.raises(MessageError):
                decode(whole[:length])

    @settings(deadline=None)
    @given(st.one_of(st.binary(max_size=80), st.builds(bytes_with, ids, halves, st.binary(max_size=80))), halves)
    def test_any_bytes_are_a_packet_or_an_error(self, body: bytes, inner: int) -> None:
        try:
            packet = decode(body, inner)
        except MessageError:
            return
        assert packet.id == body[:8]
        assert packet.encode() == body[: len(packet.encode())]

    def test_bytes_behind_a_packet_are_cut_off(self) -> None:
        for whole in (factory.init(5, b"abc"), factory.done(1, b"x"), factory.read()):
            assert decode(whole + b"surplus").encode() == whole
        packet = decode(factory.chunk(0, 0, b"abcdef", size=4))
        assert isinstance(packet, Chunk)
        assert packet.data == b"abcd"


class TestFields:
    @settings(deadline=None)
    @given(packets, st.integers(1, 3))
    def test_every_packet_survives_its_bytes(self, packet: Packet, surplus: int) -> None:
        assert decode(packet.encode(), packet.echo.inner) == packet
        assert decode(memoryview(packet.encode() + bytes(surplus)), packet.echo.inner) == packet

    @pytest.mark.parametrize(
        ("kind", "wrong"),
        [
            (Init(ID, 5), {"length": -1}),
            (Init(ID, 5), {"length": 2**64}),
            (Init(ID, 5), {"topic": bytes(256)}),
            (Init(ID, 5), {"id": bytes(7)}),
            (Init(ID, 5), {"echo": Echo(flags=0x0400)}),
            (InitAck(ID, 5), {"topic_length": 256}),
            (InitAck(ID, 5), {"topic_length": -1}),
            (InitAck(ID, 5), {"length": -1}),
            (Chunk(ID, 0, 0, b"abc"), {"index": -1}),
            (Chunk(ID, 0, 0, b"abc"), {"offset": 2**64}),
            (Chunk(ID, 0, 0, b"abc"), {"stated_size": 2}),
            (Chunk(ID, 0, 0, b"abc"), {"echo": Echo(flags=0x8000)}),
            (ChunkAck(ID, 0, 0, 3), {"stated_size": -1}),
            (Done(ID, 0, bytes(32)), {"digest": bytes(31)}),
            (Done(ID, 0, bytes(32)), {"echo": Echo(flags=0x1000)}),
            (DoneAck(ID, 0, bytes(32)), {"count": -1}),
            (Read(ID), {"echo": Echo(flags=0x4000)}),
            (ReadAck(ID), {"echo": Echo(flags=0x0100)}),
            (Aborted(ID), {"echo": Echo(flags=0x0800)}),
        ],
    )
    def test_a_field_out_of_range_is_an_error(self, kind: Any, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValueError):
            dataclasses.replace(kind, **wrong)

    @pytest.mark.parametrize("field", ["flags", "reserved", "inner"])
    def test_an_echo_has_sixteen_bits(self, field: str) -> None:
        for value in (-1, 0x10000):
            with pytest.raises(ValueError, match=field):
                Echo(**{field: value})


class TestChunking:
    def test_every_length_is_cut_so_that_a_reference_node_takes_it(self) -> None:
        for length in range(1, 14_000):
            plan = ChunkPlan(length)
            places = [plan.place(index) for index in range(plan.count)]
            assert plan.count == -(-length // 1300)
            at = 0
            for index, (offset, size) in enumerate(places):
                assert offset == at
                assert size <= CHUNK_BYTES
                assert size >= 250 or index == highest_index(length)
                at += size
            assert at == length

    def test_an_empty_message_has_no_chunk(self) -> None:
        assert ChunkPlan(0).count == 0
        assert expected_chunks(0) == 0
        assert highest_index(0) == 0

    @settings(deadline=None)
    @given(st.integers(1, 2**40))
    def test_chunks_of_a_large_message_differ_by_a_byte_at_most(self, length: int) -> None:
        plan = ChunkPlan(length)
        assert plan.size(0) - plan.size(plan.count - 1) in (0, 1)
        offset, size = plan.place(plan.count - 1)
        assert offset + size == length
