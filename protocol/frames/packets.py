"""Frames on the packet path: packets, pieces of arenas, what could not go on, what just passed."""

from __future__ import annotations

import enum
import struct
from itertools import accumulate
from typing import Final

import msgpack

from protocol.codec import FrameError, Payload, frame, topic

MAX_SLOTS: Final = 4096
MAX_RUN_BYTES: Final = 1 << 19
"""Payload bytes in one frame of packets; a sender splits before that."""


def lengths_of(run: bytes) -> tuple[int, ...]:
    """The lengths of the packets in a run, in order."""
    return struct.unpack(f"<{len(run) // 4}I", run)


def pack_lengths(lengths: list[int]) -> bytes:
    """The inverse of `lengths_of`."""
    return struct.pack(f"<{len(lengths)}I", *lengths)


_PACKETS: Final = 0x40


@frame(_PACKETS)
class Packets:
    """Data actor → data actor, over a lane: data packets, each with its header, to be passed on in this order.

    Towards tun they are for this node, hop limits counted down; towards a link they are to be written. Small runs lie
    in `payload`, with 32-bit little-endian `lengths`, one per packet; others stay in the sender's arena, where `pieces`
    says (`protocol/arena.py`). A reader gives each piece back with `Returned`.
    """

    link: int
    """Which of the links in the receiving process; 0 towards tun."""
    lengths: bytes
    payload: Payload
    pieces: bytes

    def __post_init__(self) -> None:
        if len(self.lengths) % 4 or sum(lengths := lengths_of(self.lengths)) != len(self.payload):
            raise FrameError("the lengths don't add up to the payload")
        if 0 in lengths:
            raise FrameError("an empty packet in a run")
        if len(self.payload) > MAX_RUN_BYTES:
            raise FrameError(f"{len(self.payload)} bytes in one run of packets, at most {MAX_RUN_BYTES}")
        if not self.lengths and not self.pieces:
            raise FrameError("a run without packets")


@frame(0x41)
class Returned:
    """Reader → writer of an arena: done with pieces, each named by its slot and the link it went to.

    Two 64-bit little-endian numbers for each piece; those of one link and slot in the order in which they came.
    """

    pieces: bytes

    def __post_init__(self) -> None:
        if not self.pieces or len(self.pieces) % 16:
            raise FrameError(f"{len(self.pieces)} bytes of pieces that come back")


_PACKETS_TOPIC: Final = topic(Packets)


def pack_packets(link: int, lengths: bytes, payload: Payload, pieces: bytes) -> bytes:
    """`pack(Packets(…))` for the packet path: the same bytes, made in 1 µs instead of 8."""
    data: bytes = msgpack.packb((_PACKETS, link, lengths, payload, pieces))
    return data


def unpack_packets(data: bytes) -> tuple[int, tuple[int, ...], bytes, bytes] | None:
    """Link, ends of the packets in the payload, payload and pieces of a `Packets`; None for any other frame.

    `unpack` for the packet path: as strict, in 1 µs instead of 6. Raises `FrameError`.
    """
    if not data.startswith(_PACKETS_TOPIC):
        return None
    try:
        _, link, lengths, payload, pieces = msgpack.unpackb(data, use_list=False)
    except (ValueError, msgpack.exceptions.StackError) as error:
        raise FrameError(f"{len(data)} bytes are not one Packets: {error}") from error
    if type(link) is not int or not type(lengths) is type(payload) is type(pieces) is bytes:
        raise FrameError("Packets: a number and three byte strings belong here")
    if not lengths:
        if payload or not pieces:
            raise FrameError("Packets: a run without packets")
        return link, (), payload, pieces
    if len(lengths) % 4:
        raise FrameError("Packets: the lengths are cut short")
    ends = tuple(accumulate(lengths_of(lengths)))
    if ends[-1] != len(payload) or len(payload) > MAX_RUN_BYTES or len(set(ends)) < len(ends) or not ends[0]:
        raise FrameError("Packets: the lengths don't add up to the payload")
    return link, ends, payload, pieces


@frame(0x43)
class LaneHello:
    """Either side of a lane, first: the schema, and the arena whose descriptor came with the connection."""

    schema: int
    arena: int
    slots: int

    def __post_init__(self) -> None:
        if self.arena < 1 or not 0 < self.slots <= MAX_SLOTS:
            raise FrameError(f"arena {self.arena} of {self.slots} slots")


@frame(0x44)
class Recovered:
    """Reader → writer: what a predecessor of the reader had leased is not needed any more."""


class Undelivered(enum.IntEnum):
    """Why a link could not pass a packet on."""

    NO_ROUTE = 1
    HOP_LIMIT = 2


@frame(0x42)
class ReportUndelivered:
    """Link → tun, which holds the key that seals reports: tell the source what became of this data packet."""

    why: Undelivered
    packet: bytes


class Direction(enum.Enum):
    """Which way a packet crosses the process that reports it."""

    IN = "in"
    OUT = "out"


@frame(0x60)
class PacketsSeen:
    """Link or tun → its subscribers: the 40-byte headers of data packets that just passed, concatenated."""

    actor: str
    direction: Direction
    headers: bytes
