"""Out-of-band ICMP: reports built as in the vectors, reports of the reference opened, and everything else refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.icmpv6 import IcmpError
from protocol.mycelium import identity
from protocol.mycelium.reports import ReportError, build_report, open_report
from protocol.mycelium.sealing import Cipher
from tests.unit import wire_factory as factory

WIRE = factory.vectors("wire.json")
RECORDED = factory.vectors("wire_recorded.json")
SECRETS = {entry["name"]: bytes.fromhex(entry["secret_key"]) for entry in WIRE["identity"]}
SHARED = {(entry["a"], entry["b"]): bytes.fromhex(entry["shared_secret"]) for entry in WIRE["shared_secret"]}
RELAY_SUBNET = bytes.fromhex(factory.named(WIRE["identity"], "relay")["address_bytes"])[:8] + bytes(8)
OFFENDING = bytes.fromhex(WIRE["oob_icmp"]["original_frame_seen_by_relay"])
REPORTS = WIRE["oob_icmp"]["reports"]
ALICE_BOB = SHARED["alice", "bob"]
NONCE = bytes(12)


def bob_only(address: bytes) -> Cipher | None:
    return Cipher(ALICE_BOB) if address == factory.BOB else None


def open_at_alice(body: bytes, cipher_of: Callable[[bytes], Cipher | None] = bob_only) -> bytes:
    return open_report(memoryview(body), RELAY_SUBNET, factory.ALICE, 62, cipher_of)


def report_body(quoted: bytes, *, icmp: str = "0300", next_header: int = 58, about: bytes = factory.BOB) -> bytes:
    payload = bytes.fromhex(icmp) + b"\xab\xcd\0\0\x05\x3e" + quoted
    return about + factory.ipv6(next_header, payload, source=RELAY_SUBNET, destination=factory.ALICE)


def sealed(packet: bytes, header: str = "01000000") -> bytes:
    return factory.seal(ALICE_BOB, NONCE, bytes.fromhex(header) + packet)


class TestBuilding:
    @pytest.mark.parametrize("entry", REPORTS, ids=lambda entry: entry["name"])
    def test_report_is_the_frame_of_the_vector_before_its_first_hop(self, entry: dict[str, Any]) -> None:
        raw_length = entry["offending_packet_raw_data_len"]
        offending = OFFENDING if raw_length == 96 else factory.data(bytes(raw_length), hop_limit=1)
        kind = IcmpError.HOP_LIMIT if "time-exceeded" in entry["name"] else IcmpError.NO_ROUTE
        cipher = Cipher(SHARED["alice", "relay"])
        made = build_report(kind, RELAY_SUBNET, memoryview(offending), cipher, bytes.fromhex(entry["nonce"]))
        expected = bytearray.fromhex(entry["frame_sent_by_relay"])
        assert expected[7] == 63
        expected[7] = 64
        assert made == expected

    @pytest.mark.parametrize(("raw_length", "quoted"), [(0, 0), (1232, 1232), (1233, 0), (65535, 0)])
    def test_quote_is_whole_or_absent(self, raw_length: int, quoted: int) -> None:
        offending = memoryview(factory.data(b"\x77" * raw_length))
        made = build_report(IcmpError.NO_ROUTE, RELAY_SUBNET, offending, Cipher(ALICE_BOB), NONCE)
        plain = factory.unseal(ALICE_BOB, made[40:])
        assert plain[4:20] == factory.BOB
        assert plain[68:] == b"\x77" * quoted
        assert factory.icmpv6_checksum_is_right(plain[20:])

    def test_bytes_behind_the_offending_packet_are_never_quoted(self) -> None:
        offending = memoryview(factory.data(b"\x77" * 50) + b"stale bytes of another packet")
        made = build_report(IcmpError.NO_ROUTE, RELAY_SUBNET, offending, Cipher(ALICE_BOB), NONCE)
        assert factory.unseal(ALICE_BOB, made[40:])[68:] == b"\x77" * 50


class TestOpening:
    @pytest.mark.parametrize("entry", REPORTS, ids=lambda entry: entry["name"])
    def test_host_is_told_what_the_vector_says(self, entry: dict[str, Any]) -> None:
        plain = bytes.fromhex(entry["plaintext"])
        expected = entry["packet_written_to_tun_at_original_sender"]
        if expected is None:
            with pytest.raises(ReportError, match="raw data of 0 bytes"):
                open_at_alice(plain[4:])
        else:
            assert open_at_alice(plain[4:]).hex() == expected

    def test_reports_of_the_reference_open(self) -> None:
        opened = []
        for conversation in RECORDED["conversations"]:
            secrets = [bytes.fromhex(secret) for secret in conversation["secrets"].values()]
            nodes = {identity.address_of(identity.public_key(secret))[:8]: secret for secret in secrets}
            for direction, packet_hex in conversation["packets"]:
                packet = bytes.fromhex(packet_hex)
                reporter, receiver = nodes.get(packet[8:16]), nodes.get(packet[24:32])
                if direction != "in" or packet[1] or reporter is None or receiver is None:
                    continue

                def cipher_of(
                    address: bytes, own: bytes = receiver, known: dict[bytes, bytes] = nodes
                ) -> Cipher | None:
                    other = known.get(address[:8])
                    return Cipher(identity.shared_secret(own, identity.public_key(other))) if other else None

                plain = factory.unseal(identity.shared_secret(receiver, identity.public_key(reporter)), packet[40:])
                if plain[1] != 2:
                    continue
                try:
                    made = open_report(memoryview(plain)[4:], packet[8:24], packet[24:40], packet[7] - 1, cipher_of)
                except ReportError:
                    continue
                assert factory.icmpv6_checksum_is_right(made)
                assert (made[8:24], made[24:40], made[56:72]) == (packet[8:24], packet[24:40], packet[24:40])
                opened.append(made[40:42].hex())
        assert opened == ["0300"] * 6

    def test_parameter_of_packet_too_big_reaches_the_host(self) -> None:
        packet = factory.ipv6(17, bytes(30))
        made = open_at_alice(report_body(sealed(packet), icmp="0200"))
        assert made[40:42] + made[44:48] == b"\x02\x00\0\0\x05\x3e"
        assert made[48:] == packet
        assert factory.icmpv6_checksum_is_right(made)

    def test_trailer_behind_the_quoted_packet_stays_away_from_the_host(self) -> None:
        packet = factory.ipv6(17, bytes(30))
        assert open_at_alice(report_body(sealed(packet + b"\x01" * 10, "01000101")))[48:] == packet

    def test_bytes_behind_the_payload_length_are_not_part_of_the_quote(self) -> None:
        packet = factory.ipv6(17, bytes(30))
        assert open_at_alice(report_body(sealed(packet)) + b"surplus")[48:] == packet


class TestRefusing:
    GOOD = sealed(factory.ipv6(17, bytes(30)))

    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            (report_body(b"")[:-1], "63 bytes"),
            (report_body(bytes(1233)), "1297 bytes"),
            (report_body(GOOD, icmp="8000"), "type 128"),
            (report_body(GOOD, icmp="8600"), "type 134"),
            (report_body(GOOD, about=factory.ALICE), "key is unknown"),
            (report_body(GOOD, next_header=17), "next header 17"),
            (report_body(GOOD)[:16] + b"\x45" + report_body(GOOD)[17:], "without IPv6"),
            (report_body(GOOD)[:20] + b"\xff\xff" + report_body(GOOD)[22:], "payload length 65535"),
            (report_body(GOOD)[:20] + b"\x00\x07" + report_body(GOOD)[22:], "payload length 7"),
            (report_body(b""), "does not open"),
            (report_body(GOOD[:-1]), "does not open"),
            (report_body(bytes(len(GOOD))), "does not open"),
            (report_body(sealed(factory.ipv6(17, b""), "02000000")), "inner version 2"),
            (report_body(sealed(factory.ipv6(17, b""), "01010000")), "inner type 1"),
            (report_body(sealed(factory.ipv6(17, b""), "01020000")), "inner type 2"),
            (report_body(sealed(factory.ipv6(17, b"")[:-1])), "39 bytes"),
            (report_body(sealed(factory.ipv6(17, b"", source=factory.BOB))), "isn't ours"),
            (report_body(sealed(factory.ipv6(17, b"", destination=factory.ALICE))), "isn't ours"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_report_that_is_not_about_our_packet_is_refused(self, body: bytes, reason: str) -> None:
        with pytest.raises(ReportError, match=reason):
            open_at_alice(body)

    @given(st.binary(max_size=1400), st.booleans())
    def test_any_bytes_are_refused_with_a_report_error(self, noise: bytes, as_quote: bool) -> None:
        with pytest.raises(ReportError):
            open_at_alice(report_body(noise) if as_quote else noise, lambda _: Cipher(ALICE_BOB))
