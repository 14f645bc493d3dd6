"""Builds message packets from the specification alone, and reads the vectors. Shares no code with what is tested."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

VECTORS = Path(__file__).parent.parent / "vectors"
ID = bytes.fromhex("0102030405060708")


def vectors(name: str) -> Any:
    return json.loads((VECTORS / name).read_text())


@dataclass(frozen=True)
class Who:
    """A node: its public key, and the address that follows from it."""

    key: bytes
    address: bytes

    @classmethod
    def of(cls, key: bytes) -> Who:
        digest = blake3(key).digest()[:16]
        return cls(key, bytes([4 + digest[0].bit_count() % 2]) + digest[1:])

    @classmethod
    def named(cls, name: str) -> Who:
        return cls.of(hashlib.sha256(name.encode()).digest())

    def another_address(self, last: int = 9) -> bytes:
        return self.address[:8] + bytes(7) + bytes([last])


ALICE = Who.named("alice")
BOB = Who.named("bob")
CAROL = Who.named("carol")


def payload(length: int, seed: int = 0) -> bytes:
    """Bytes of which no two pieces are alike."""
    return blake3(seed.to_bytes(4, "big")).digest(length=length) if length else b""


def header(flags: int, message_id: bytes = ID, reserved: int = 0) -> bytes:
    return message_id + struct.pack("!HH", flags, reserved)


def init(length: int, topic: bytes = b"", flags: int = 0x8000, message_id: bytes = ID, reserved: int = 0) -> bytes:
    return header(flags, message_id, reserved) + struct.pack("!QB", length, len(topic)) + topic


def init_ack(length: int, topic_length: int = 0, flags: int = 0x8100, message_id: bytes = ID) -> bytes:
    return header(flags, message_id) + struct.pack("!QB", length, topic_length)


def chunk(
    index: int, offset: int, data: bytes, size: int | None = None, flags: int = 0x1000, message_id: bytes = ID
) -> bytes:
    stated = len(data) if size is None else size
    return header(flags, message_id) + struct.pack("!QQQ", index, offset, stated) + data


def chunk_ack(index: int, offset: int, size: int, message_id: bytes = ID) -> bytes:
    return header(0x1100, message_id) + struct.pack("!QQQ", index, offset, size)


def done(count: int, data: bytes, flags: int = 0x4000, message_id: bytes = ID) -> bytes:
    return header(flags, message_id) + struct.pack("!Q", count) + blake3(data).digest()


def done_ack(count: int, data: bytes, message_id: bytes = ID) -> bytes:
    return done(count, data, 0x4100, message_id)


def read(message_id: bytes = ID) -> bytes:
    return header(0x0800, message_id)


def aborted(message_id: bytes = ID) -> bytes:
    return header(0x2000, message_id)


def reference_plan(length: int) -> list[tuple[int, int, int]]:
    """(index, offset, size) as a reference sender cuts it (messages spec 6.2)."""
    return [(index, at, min(1300, length - at)) for index, at in enumerate(range(0, length, 1300))]
