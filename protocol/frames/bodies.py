"""Frames between tun, which has the node key, and the message box: bodies of message packets, many in one frame."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from protocol.codec import FrameError, Payload, frame
from protocol.frames.parts import ADDRESS_BYTES, KEY_BYTES

MAX_BODIES: Final = 8192
"""In one frame."""
MAX_BODIES_BYTES: Final = 1 << 20
"""Of all bodies in one frame; a sender splits before that."""
SUBNET_BYTES: Final = 8

_OPENED: Final = struct.Struct(f"<{ADDRESS_BYTES}s{ADDRESS_BYTES}s{KEY_BYTES}sHI")
_TO_SEAL: Final = struct.Struct(f"<{ADDRESS_BYTES}s{ADDRESS_BYTES}sHI")


@frame(0x45)
class MessagesOpened:
    """Tun → messagebox: bodies of inner type 1 packets that were opened, in order.

    One head for each: source, destination, public key of the source, bytes 2 and 3 of the inner header, and how many
    bytes of `bodies` are its.
    """

    heads: bytes
    bodies: Payload

    def __post_init__(self) -> None:
        _check(_OPENED, self.heads, self.bodies)


@frame(0x46)
class SealMessages:
    """Messagebox → tun: bodies to be sealed and sent, in order.

    One head for each: source, destination, bytes 2 and 3 of the inner header, and how many bytes of `bodies` are its.
    `life` is a number of this process of the message box, `number` counts its frames from 1.
    """

    life: int
    number: int
    heads: bytes
    bodies: Payload

    def __post_init__(self) -> None:
        _check(_TO_SEAL, self.heads, self.bodies)


@frame(0x47)
class MessagesSealed:
    """Tun → messagebox: of frame `number` of process `life`, and all before it, nothing waits here any more.

    With life 0 it says that this tun is new, and has nothing of anybody.
    """

    life: int
    number: int


@frame(0x48)
class MessageRoute:
    """Tun → messagebox: whether the way to this /64 (8 bytes), which messages go, carries packets of any size."""

    subnet: bytes
    clean: bool

    def __post_init__(self) -> None:
        if len(self.subnet) != SUBNET_BYTES:
            raise FrameError(f"a subnet has {SUBNET_BYTES} bytes, not {len(self.subnet)}")


def opened_head(source: bytes, destination: bytes, key: bytes, reserved: int, size: int) -> bytes:
    """One head of a `MessagesOpened`."""
    return _OPENED.pack(source, destination, key, reserved, size)


def opened_heads(heads: bytes) -> Iterator[tuple[bytes, bytes, bytes, int, int]]:
    """The inverse: source, destination, key, reserved bytes and size of each."""
    return _OPENED.iter_unpack(heads)


def sealing_head(source: bytes, destination: bytes, reserved: int, size: int) -> bytes:
    """One head of a `SealMessages`."""
    return _TO_SEAL.pack(source, destination, reserved, size)


def sealing_heads(heads: bytes) -> Iterator[tuple[bytes, bytes, int, int]]:
    """The inverse: source, destination, reserved bytes and size of each."""
    return _TO_SEAL.iter_unpack(heads)


def _check(layout: struct.Struct, heads: bytes, bodies: Payload) -> None:
    if len(heads) % layout.size or not 0 < len(heads) // layout.size <= MAX_BODIES:
        raise FrameError(f"{len(heads)} bytes of heads, {layout.size} each, 1 to {MAX_BODIES} in a frame")
    if len(bodies) > MAX_BODIES_BYTES:
        raise FrameError(f"{len(bodies)} bytes of message packets in a frame, at most {MAX_BODIES_BYTES}")
    if sum(head[-1] for head in layout.iter_unpack(heads)) != len(bodies):
        raise FrameError("the sizes in the heads don't add up to the bodies")
