"""Sealing and opening in place against fixed-nonce vectors and packets that the reference sealed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.mycelium import identity, sealing
from protocol.mycelium.identity import IdentityError
from protocol.mycelium.sealing import Ciphers, Inner, SealError
from tests.unit import wire_factory as factory

WIRE = factory.vectors("wire.json")
RECORDED = factory.vectors("wire_recorded.json")
SECRETS = {entry["name"]: bytes.fromhex(entry["secret_key"]) for entry in WIRE["identity"]}
PUBLIC = {entry["name"]: bytes.fromhex(entry["public_key"]) for entry in WIRE["identity"]}
SHARED = bytes.fromhex(WIRE["shared_secret"][0]["shared_secret"])
NONCE = bytes(range(12))
CIPHER = sealing.Cipher(SHARED)


def opened(cipher: sealing.Cipher, raw: bytes) -> bytes:
    out = memoryview(bytearray(len(raw)))
    return bytes(out[: sealing.open_into(cipher, memoryview(raw), out)])


class TestVectors:
    @pytest.mark.parametrize("entry", WIRE["inner_packets"], ids=lambda entry: entry["name"])
    def test_plaintext_seals_in_place_to_the_raw_data_of_the_vector(self, entry: dict[str, Any]) -> None:
        plain, raw = bytes.fromhex(entry["plaintext"]), bytes.fromhex(entry["raw_data"])
        cipher = Ciphers(SECRETS[entry["sender"]], limit=1).cipher(PUBLIC[entry["receiver"]])
        buffer = bytearray(b"\xee" * 7 + plain + b"\xee" * 40)
        length = sealing.seal_into(cipher, bytes.fromhex(entry["nonce"]), memoryview(buffer), 7, len(plain))
        assert buffer[7 : 7 + length] == raw
        assert buffer[:7] + buffer[7 + length :] == b"\xee" * 19

    @pytest.mark.parametrize("entry", WIRE["inner_packets"], ids=lambda entry: entry["name"])
    def test_raw_data_of_the_vector_opens_at_the_receiver(self, entry: dict[str, Any]) -> None:
        cipher = Ciphers(SECRETS[entry["receiver"]], limit=1).cipher(PUBLIC[entry["sender"]])
        plain = opened(cipher, bytes.fromhex(entry["raw_data"]))
        assert plain.hex() == entry["plaintext"]
        if entry["name"] == "unknown-inner-type":
            with pytest.raises(SealError, match="inner type 7"):
                sealing.parse_inner(plain)
        else:
            assert sealing.parse_inner(plain).kind == entry["inner_type"]

    def test_every_recorded_packet_between_known_nodes_opens(self) -> None:
        count = 0
        for conversation in RECORDED["conversations"]:
            secrets = [bytes.fromhex(secret) for secret in conversation["secrets"].values()]
            nodes = {identity.address_of(identity.public_key(secret))[:8]: secret for secret in secrets}
            for direction, packet_hex in conversation["packets"]:
                packet = bytes.fromhex(packet_hex)
                sender, receiver = nodes.get(packet[8:16]), nodes.get(packet[24:32])
                # What the test peer sent holds deliberate garbage; what the reference sent must open.
                if direction == "in" and packet[1] == 0 and sender and receiver:
                    cipher = Ciphers(receiver, limit=1).cipher(identity.public_key(sender))
                    inner = sealing.parse_inner(opened(cipher, packet[40:]))
                    assert inner.capabilities == inner.mark == 0
                    count += 1
        assert count > 80


class TestSealing:
    @given(st.binary(min_size=4, max_size=3000), st.binary(min_size=12, max_size=12))
    def test_what_is_sealed_opens_elsewhere_and_here(self, plain: bytes, nonce: bytes) -> None:
        buffer = bytearray(plain + bytes(28))
        length = sealing.seal_into(CIPHER, nonce, memoryview(buffer), 0, len(plain))
        assert length == len(buffer) == len(plain) + sealing.OVERHEAD - sealing.INNER_HEADER
        assert factory.unseal(SHARED, bytes(buffer)) == plain
        assert opened(CIPHER, factory.seal(SHARED, nonce, plain)) == plain

    def test_largest_body_fills_the_length_field(self) -> None:
        plain_length = sealing.INNER_HEADER + sealing.MAX_BODY
        buffer = memoryview(bytearray(65535))
        assert sealing.seal_into(CIPHER, NONCE, buffer, 0, plain_length) == 65535
        assert opened(CIPHER, bytes(buffer)) == bytes(plain_length)

    def test_too_little_room_is_refused(self) -> None:
        with pytest.raises(ValueError):
            sealing.seal_into(CIPHER, NONCE, memoryview(bytearray(50)), 0, 40)
        with pytest.raises(ValueError):
            sealing.seal_into(CIPHER, NONCE, memoryview(bytearray(60)), 0, 40)
        with pytest.raises(ValueError):
            sealing.open_into(CIPHER, memoryview(factory.seal(SHARED, NONCE, bytes(40))), memoryview(bytearray(39)))

    @pytest.mark.parametrize("size", [0, 1, 27, 28, 31])
    def test_raw_data_below_32_bytes_does_not_open(self, size: int) -> None:
        raw = factory.seal(SHARED, NONCE, b"")[:size].ljust(size, b"\0")
        with pytest.raises(SealError, match=f"raw data of {size} bytes"):
            opened(CIPHER, raw)

    @given(st.integers(0, 40 * 8 - 1))
    def test_any_changed_bit_does_not_open(self, bit: int) -> None:
        raw = bytearray(factory.seal(SHARED, NONCE, b"\x01\0\0\0" + bytes(8)))
        raw[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SealError, match="not sealed with the key"):
            opened(CIPHER, bytes(raw))

    def test_opening_reads_read_only_memory(self) -> None:
        raw = memoryview(factory.seal(SHARED, NONCE, b"\x01\0\0\0"))
        assert raw.readonly
        assert sealing.open_into(CIPHER, raw, memoryview(bytearray(4))) == 4


class TestInnerHeader:
    def test_header_is_written_where_it_is_told(self) -> None:
        out = bytearray(8)
        sealing.write_inner(out, 2, sealing.INNER_L3, sealing.CAP_SUPER_PACKETS, sealing.MARK_SUPER_PACKET)
        assert out.hex() == "0000010001010000"

    def test_bits_of_layer_3_packets_are_given(self) -> None:
        assert sealing.parse_inner(b"\x01\x00\x03\x01body") == Inner(sealing.INNER_L3, 3, 1)

    @pytest.mark.parametrize("kind", [sealing.INNER_MESSAGE, sealing.INNER_ICMP])
    def test_reflected_bytes_outside_of_layer_3_packets_mean_nothing(self, kind: int) -> None:
        assert sealing.parse_inner(bytes((1, kind, 0xFF, 0xFF))) == Inner(kind, 0, 0)

    @pytest.mark.parametrize("header", ["00000000", "02000000", "01030000", "01ff0000"])
    def test_unknown_version_or_type_is_refused(self, header: str) -> None:
        with pytest.raises(SealError) as caught:
            sealing.parse_inner(bytes.fromhex(header))
        assert caught.value.section == "2.3"


class TestCiphers:
    def test_cipher_is_kept_and_the_longest_unused_makes_room(self) -> None:
        ciphers = Ciphers(SECRETS["alice"], limit=2)
        bob = ciphers.cipher(PUBLIC["bob"])
        relay = ciphers.cipher(PUBLIC["relay"])
        assert ciphers.cipher(PUBLIC["bob"]) is bob
        ciphers.cipher(PUBLIC["carol"])
        assert len(ciphers) == 2
        assert ciphers.cipher(PUBLIC["bob"]) is bob
        assert ciphers.cipher(PUBLIC["relay"]) is not relay

    def test_key_of_small_order_is_refused_and_not_kept(self) -> None:
        ciphers = Ciphers(SECRETS["alice"], limit=2)
        with pytest.raises(IdentityError):
            ciphers.cipher(bytes(32))
        assert len(ciphers) == 0

    def test_text_form_shows_no_key(self) -> None:
        ciphers = Ciphers(SECRETS["alice"], limit=9)
        assert repr(ciphers) == str(ciphers) == "Ciphers(0 of at most 9)"

    def test_limit_below_one_is_refused(self) -> None:
        with pytest.raises(ValueError, match="limit of 0"):
            Ciphers(SECRETS["alice"], limit=0)
