"""Control TLVs: the reference's own byte arrays, recorded packets, and everything that must not be sent."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.mycelium import tlv
from protocol.mycelium.tlv import ControlError, Decoded, Hello, Ihu, RouteRequest, SeqnoRequest, Update
from protocol.prefix import Prefix
from tests.unit import wire_factory as factory

WIRE = factory.vectors("wire.json")
RECORDED = factory.vectors("wire_recorded.json")
ALICE_SUBNET = Prefix.of(factory.ALICE, 64)
BOB_SUBNET = Prefix.of(factory.BOB, 64)


def from_fields(tlv_type: int, fields: dict[str, Any]) -> tlv.Tlv | None:
    """The TLV that a vector's fields describe, `None` where it names nothing in the overlay."""
    if tlv_type == 4:
        return Hello(fields["seqno"], fields["interval_cs"], unicast=bool(fields["flags"]))
    if tlv_type == 5:
        return Ihu(fields["rx_cost"], fields["interval_cs"])
    subnet = fields["subnet"]
    if tlv_type == 9 and subnet is None:
        return RouteRequest(None, fields["generation"])
    if "." in subnet or subnet.startswith("fe80:") or subnet == "::/0":
        return None
    prefix = Prefix.parse(subnet)
    if tlv_type == 9:
        return RouteRequest(prefix, fields["generation"])
    router_id = bytes.fromhex(fields["router_id"])
    if tlv_type == 10:
        return SeqnoRequest(prefix, router_id, fields["seqno"], fields["hop_count"])
    return Update(prefix, router_id, fields["seqno"], fields["metric"], fields["interval_cs"], fields["flags"] & 1)


def is_sent(entry: dict[str, Any]) -> bool:
    """Whether a node ever sends the form of this vector: not an IHU with an address, nor flags without a meaning."""
    fields = entry["fields"]
    meaningless = fields.get("address") is not None or (entry["tlv_type"] == 8 and fields["flags"] > 1)
    return not meaningless and from_fields(entry["tlv_type"], fields) is not None


SENT = [entry for entry in WIRE["tlv"] if is_sent(entry)]


def only(packet: bytes) -> tlv.Tlv:
    """The TLV of a packet in which nothing is ignored."""
    decoded = tlv.decode(packet)
    assert decoded.ignored == 0
    (found,) = decoded.tlvs
    return found


class TestVectors:
    @pytest.mark.parametrize("entry", WIRE["tlv"], ids=lambda entry: entry["name"])
    def test_frame_decodes_to_the_fields_of_the_vector(self, entry: dict[str, Any]) -> None:
        expected = from_fields(entry["tlv_type"], entry["fields"])
        decoded = tlv.decode(bytes.fromhex(entry["frame"]))
        assert decoded == (Decoded((), 1) if expected is None else Decoded((expected,), 0))

    @pytest.mark.parametrize("entry", SENT, ids=lambda entry: entry["name"])
    def test_fields_of_the_vector_encode_to_its_frame(self, entry: dict[str, Any]) -> None:
        made = from_fields(entry["tlv_type"], entry["fields"])
        assert made is not None
        assert tlv.encode(made).hex() == entry["frame"]

    @pytest.mark.parametrize("entry", WIRE["tlv_decode"], ids=lambda entry: entry["name"])
    def test_body_decodes_as_in_the_reference_where_it_means_something(self, entry: dict[str, Any]) -> None:
        packet = factory.control(factory.tlv(entry["tlv_type"], bytes.fromhex(entry["body"])))
        expected = entry["decoded"] and from_fields(entry["tlv_type"], entry["decoded"])
        assert tlv.decode(packet) == (Decoded((), 1) if expected is None else Decoded((expected,), 0))

    @pytest.mark.parametrize("conversation", RECORDED["conversations"], ids=lambda entry: entry["name"])
    def test_every_control_packet_of_the_reference_decodes_and_encodes_to_itself(
        self, conversation: dict[str, Any]
    ) -> None:
        for direction, packet_hex in conversation["packets"]:
            if direction == "in" and packet_hex.startswith("0101"):
                assert tlv.encode(only(bytes.fromhex(packet_hex))).hex() == packet_hex


class TestEncoding:
    """Expected bytes come from the factory."""

    def test_defaults_are_what_the_reference_sends(self) -> None:
        assert tlv.encode(Hello(3)) == factory.hello(3)
        assert tlv.encode(Ihu(1015)) == factory.ihu()
        assert tlv.encode(Update(ALICE_SUBNET, factory.ROUTER_ID, 7, 0)) == factory.update()
        assert tlv.encode(RouteRequest(BOB_SUBNET)) == factory.route_request()
        assert tlv.encode(RouteRequest(None)) == factory.route_request(0, 0, b"")
        assert tlv.encode(SeqnoRequest(BOB_SUBNET, factory.ROUTER_ID, 9)) == factory.seqno_request()

    def test_clean_mark_is_the_lowest_flag_bit_of_an_update(self) -> None:
        made = Update(ALICE_SUBNET, factory.ROUTER_ID, 7, 0, flags=tlv.UPDATE_FLAG_CLEAN)
        assert tlv.encode(made) == factory.update(flags=1)

    @pytest.mark.parametrize("plen", [1, 7, 8, 9, 65, 127, 128])
    def test_prefix_takes_only_the_bytes_that_its_length_needs(self, plen: int) -> None:
        prefix = Prefix.of(b"\xff" * 16, plen)
        expected = factory.route_request(2, plen, prefix.network[: -(-plen // 8)])
        assert tlv.encode(RouteRequest(prefix)) == expected
        assert only(expected) == RouteRequest(prefix)

    prefixes = st.builds(Prefix.of, st.binary(min_size=16, max_size=16), st.integers(1, 128))
    router_ids = st.binary(min_size=40, max_size=40)
    u16 = st.integers(0, 0xFFFF)

    @given(
        st.one_of(
            st.builds(Hello, u16, u16, st.booleans()),
            st.builds(Ihu, u16, u16),
            st.builds(Update, prefixes, router_ids, u16, u16, u16, st.integers(0, 1)),
            st.builds(RouteRequest, st.none() | prefixes, st.integers(0, 15)),
            st.builds(SeqnoRequest, prefixes, router_ids, u16, st.integers(1, 255)),
        )
    )
    def test_what_is_encoded_decodes_to_itself(self, made: tlv.Tlv) -> None:
        packet = tlv.encode(made)
        assert tlv.decode(packet) == tlv.decode(memoryview(packet)) == Decoded((made,), 0)


class TestWhatIsNeverSent:
    """A TLV that would harm a reference node can't be made."""

    def test_field_out_of_range_is_refused(self) -> None:
        good: dict[str, Any] = {"prefix": ALICE_SUBNET, "router_id": factory.ROUTER_ID, "seqno": 0}
        attempts: dict[str, Any] = {
            "Hello seqno 65536": lambda: Hello(65536),
            "Hello interval -1": lambda: Hello(0, -1),
            "IHU rx-cost": lambda: Ihu(-1),
            "IHU interval": lambda: Ihu(0, 65536),
            "Update seqno": lambda: Update(ALICE_SUBNET, factory.ROUTER_ID, -1, 0),
            "Update metric": lambda: Update(**good, metric=65536),
            "Update interval": lambda: Update(**good, metric=0, interval_cs=65536),
            "Update flags 0x80": lambda: Update(**good, metric=0, flags=0x80),
            "Update with a router-id of 39": lambda: Update(ALICE_SUBNET, bytes(39), 0, 0),
            "Route Request generation 16": lambda: RouteRequest(None, 16),
            "Seqno Request with a router-id of 41": lambda: SeqnoRequest(ALICE_SUBNET, bytes(41), 0),
            "Seqno Request seqno": lambda: SeqnoRequest(ALICE_SUBNET, factory.ROUTER_ID, 65536),
            "Seqno Request hop count 0": lambda: SeqnoRequest(**good, hop_count=0),
        }
        for message, attempt in attempts.items():
            with pytest.raises(ValueError, match=message):
                attempt()

    @pytest.mark.parametrize(
        "prefix",
        [Prefix(bytes(16), 0), Prefix(b"\xff" * 16, 65), Prefix(b"\xff" * 16, 129), Prefix(b"\xff" * 15, 64)],
        ids=["default prefix", "host bits", "length 129", "15 bytes"],
    )
    def test_prefix_that_aborts_or_floods_a_reference_node_is_refused(self, prefix: Prefix) -> None:
        for make in (
            lambda: RouteRequest(prefix),
            lambda: Update(prefix, factory.ROUTER_ID, 0, 0),
            lambda: SeqnoRequest(prefix, factory.ROUTER_ID, 0),
        ):
            with pytest.raises(ValueError):
                make()


class TestIgnored:
    """Legal but useless: counted, and the link goes on."""

    @pytest.mark.parametrize(
        "packet",
        [
            factory.control(b"\x04\x06" + bytes(6), magic=43),
            factory.control(b"\x04\x06" + bytes(6), version=2),
            factory.control(factory.tlv(11, b"abcd")),
            factory.control(factory.tlv(255, bytes(200))),
            factory.control(b"\x00"),
            factory.update(1, 24, b"\x0a\0\0"),
            factory.update(3, 64, bytes(8)),
            factory.update(0, 0, b""),
            factory.update(2, 0, b""),
            factory.update(4, 64, bytes(8)),
            factory.ihu(4),
            factory.route_request(1, 24, b"\x0a\0\0"),
            factory.route_request(3, 64, bytes(8)),
            factory.route_request(2, 0, b""),
            factory.route_request(9, 200, b""),
            factory.route_request(generation=16),
            factory.route_request(0, 0, b"", generation=255),
            factory.seqno_request(1, 32, bytes(4)),
            factory.seqno_request(3, 64, bytes(8)),
            factory.seqno_request(0, 0, b""),
            factory.seqno_request(2, 0, b""),
            factory.seqno_request(200, 64, bytes(8)),
            factory.seqno_request(hop_count=0),
        ],
        ids=lambda packet: packet.hex()[8:40],
    )
    def test_packet_without_a_meaning_is_counted_once(self, packet: bytes) -> None:
        assert tlv.decode(packet) == Decoded((), 1)

    def test_surplus_inside_the_tlv_is_skipped_and_counted(self) -> None:
        surplus = factory.control(factory.tlv(4, bytes.fromhex("8000 0001 07d0") + b"\x80\x02\0\0"))
        assert tlv.decode(surplus) == Decoded((Hello(1),), 1)

    def test_further_tlvs_are_skipped_and_counted_however_many(self) -> None:
        one = factory.tlv(4, bytes.fromhex("8000 0001 07d0"))
        assert tlv.decode(factory.control(one * 1000)) == Decoded((Hello(1),), 1)

    def test_what_follows_an_ignored_tlv_is_ignored_too(self) -> None:
        for first in (b"\x00", factory.tlv(1, bytes(3)), factory.tlv(5, bytes((7, 0, 0, 0, 0, 0)))):
            packet = factory.control(first + factory.tlv(4, bytes(6)))
            assert tlv.decode(packet) == Decoded((), 2)

    def test_reserved_bits_are_not_looked_at(self) -> None:
        expected = Update(ALICE_SUBNET, factory.ROUTER_ID, 7, 5, flags=tlv.UPDATE_FLAG_CLEAN)
        assert only(factory.update(flags=0xFF, omitted=0xFF, metric=5)) == expected
        assert only(factory.update(flags=0xFE, omitted=0xFF, metric=5)) != expected
        assert only(b"\x01\x01\xff\xff" + factory.hello(5)[4:]) == Hello(5)

    def test_bits_past_the_prefix_length_are_cleared(self) -> None:
        assert only(factory.route_request(2, 60, b"\xff" * 8)) == RouteRequest(Prefix.of(b"\xff" * 16, 60))

    def test_wildcard_with_a_prefix_length_is_a_wildcard(self) -> None:
        assert only(factory.route_request(0, 64, b"")) == RouteRequest(None)
        assert tlv.decode(factory.route_request(0, 64, bytes(8))) == Decoded((RouteRequest(None),), 1)

    @pytest.mark.parametrize(("encoding", "size"), [(0, 0), (1, 4), (2, 16), (3, 8)])
    def test_address_in_an_ihu_is_not_looked_at(self, encoding: int, size: int) -> None:
        assert only(factory.ihu(encoding, bytes(size))) == Ihu(1015)


class TestClosing:
    """What a peer that is in step can't have sent."""

    @pytest.mark.parametrize(
        ("packet", "section"),
        [
            (b"", "3.4"),
            (b"\x01\x01\0\0\x2a\x03\0", "3.4"),
            (factory.control(b"\x04\x06" + bytes(6), length=7), "3.4"),
            (factory.control(b"\x04\x06" + bytes(6), length=9), "3.4"),
            (factory.control(b""), "3.5"),
            (factory.control(b"\x04"), "3.5"),
            (factory.control(factory.tlv(4, bytes(6), length=7)), "3.5"),
            (factory.control(factory.tlv(77, bytes(6), length=99)), "3.5"),
            (factory.control(factory.tlv(4, bytes(5))), "3.5"),
            (factory.control(factory.tlv(4, bytes(6), length=0)), "3.5"),
            (factory.control(factory.tlv(5, bytes(5))), "3.5"),
            (factory.ihu(1, bytes(3)), "3.5"),
            (factory.ihu(2, bytes(15)), "3.5"),
            (factory.ihu(3, bytes(7)), "3.5"),
            (factory.control(factory.tlv(8, bytes(9))), "3.5"),
            (factory.control(factory.tlv(8, factory.update_body()[:-1])), "3.5"),
            (factory.update(0, 64, b""), "4.0"),
            (factory.update(1, 33, bytes(5)), "4.0"),
            (factory.update(2, 129, bytes(17)), "4.0"),
            (factory.update(3, 10, bytes(2)), "4.0"),
            (factory.control(factory.tlv(9, bytes(2))), "3.5"),
            (factory.route_request(2, 64, bytes(7)), "3.5"),
            (factory.route_request(2, 129, bytes(17)), "4.0"),
            (factory.route_request(1, 255, b""), "4.0"),
            (factory.control(factory.tlv(10, bytes(45))), "3.5"),
            (factory.seqno_request(2, 64, bytes(7)), "3.5"),
            (factory.seqno_request(0, 8, b"\x04"), "4.0"),
            (factory.seqno_request(2, 129, bytes(17)), "4.0"),
        ],
        ids=lambda value: value.hex()[8:40] if isinstance(value, bytes) else value,
    )
    def test_malformed_packet_closes_the_link_and_names_the_section(self, packet: bytes, section: str) -> None:
        with pytest.raises(ControlError) as caught:
            tlv.decode(packet)
        assert caught.value.section == section
        assert caught.value.reason
        assert str(caught.value).endswith(f"(wire spec {section})")

    @given(st.binary(max_size=400))
    def test_any_bytes_decode_or_raise_a_control_error(self, body: bytes) -> None:
        for packet in (body, factory.control(body)):
            with contextlib.suppress(ControlError):
                assert len(tlv.decode(packet).tlvs) <= 1

    @given(st.sampled_from(WIRE["tlv"]), st.data())
    def test_any_bit_flips_decode_or_raise_a_control_error(self, entry: dict[str, Any], draw: st.DataObject) -> None:
        packet = bytearray.fromhex(entry["frame"])
        for bit in draw.draw(st.lists(st.integers(0, len(packet) * 8 - 1), min_size=1, max_size=8)):
            packet[bit // 8] ^= 1 << bit % 8
        with contextlib.suppress(ControlError):
            assert len(tlv.decode(packet).tlvs) <= 1
