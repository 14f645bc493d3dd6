"""Builds packets of the Mycelium wire protocol from the specification alone, and reads the vectors.

Shares no code with what is tested.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VECTORS = Path(__file__).parent.parent / "vectors"
ROUTER_ID = bytes(range(1, 41))
ALICE = bytes.fromhex("0520c662fd009e925d9934ed0ab882ab")
BOB = bytes.fromhex("052d0dc0ab0c851a6e34e79d1f3f15d3")


def vectors(name: str) -> Any:
    return json.loads((VECTORS / name).read_text())


def named(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    (entry,) = [entry for entry in entries if entry["name"] == name]
    return entry


def control(body: bytes, *, magic: int = 42, version: int = 3, length: int | None = None) -> bytes:
    """A control packet around a Babel body; `length` lies about the size of the body."""
    return struct.pack("!BBHBBH", 1, 1, 0, magic, version, len(body) if length is None else length) + body


def tlv(tlv_type: int, body: bytes, *, length: int | None = None) -> bytes:
    return bytes((tlv_type, len(body) if length is None else length)) + body


def hello(seqno: int = 0) -> bytes:
    return control(tlv(4, struct.pack("!HHH", 0x8000, seqno, 2000)))


def ihu(encoding: int = 0, address: bytes = b"", rx_cost: int = 1015) -> bytes:
    return control(tlv(5, struct.pack("!BBHH", encoding, 0, rx_cost, 6000) + address))


def update_body(
    encoding: int = 2, plen: int = 64, prefix: bytes = ALICE[:8], *, flags: int = 0, omitted: int = 0, metric: int = 0
) -> bytes:
    return struct.pack("!BBBBHHH", encoding, flags, plen, omitted, 30000, 7, metric) + prefix + ROUTER_ID


def update(encoding: int = 2, plen: int = 64, prefix: bytes = ALICE[:8], **fields: int) -> bytes:
    return control(tlv(8, update_body(encoding, plen, prefix, **fields)))


def route_request(encoding: int = 2, plen: int = 64, prefix: bytes = BOB[:8], generation: int = 0) -> bytes:
    return control(tlv(9, bytes((generation, encoding, plen)) + prefix))


def seqno_request(encoding: int = 2, plen: int = 64, prefix: bytes = BOB[:8], hop_count: int = 64) -> bytes:
    return control(tlv(10, struct.pack("!BBHBB", encoding, plen, 9, hop_count, 0) + ROUTER_ID + prefix))


def data(raw: bytes, *, hop_limit: int = 63, source: bytes = ALICE, destination: bytes = BOB) -> bytes:
    return b"\x01\x00\x00\x00" + b"\x00" + struct.pack("!HB", len(raw), hop_limit) + source + destination + raw


def seal(key: bytes, nonce: bytes, plain: bytes) -> bytes:
    return AESGCM(key).encrypt(nonce, plain, b"") + nonce


def unseal(key: bytes, raw: bytes) -> bytes:
    return AESGCM(key).decrypt(raw[-12:], raw[:-12], b"")


def ipv6(next_header: int, payload: bytes, *, source: bytes = ALICE, destination: bytes = BOB) -> bytes:
    return b"\x60\0\0\0" + struct.pack("!HBB", len(payload), next_header, 64) + source + destination + payload


def slow_checksum(data: bytes) -> int:
    """RFC 1071, word by word."""
    total = 0
    padded = data + b"\0" * (len(data) % 2)
    for (word,) in struct.iter_unpack("!H", padded):
        total += word
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def icmpv6_checksum_is_right(packet: bytes) -> bool:
    """Whether the ICMPv6 message right behind the IPv6 header of `packet` carries its checksum."""
    pseudo_header = packet[8:40] + struct.pack("!II", len(packet) - 40, 58)
    return slow_checksum(pseudo_header + packet[40:]) == 0
