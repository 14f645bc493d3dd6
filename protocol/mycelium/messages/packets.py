"""Message packets: the body of inner type 1, how each kind is encoded and decoded (messages spec 2 and 3).

What the decoder makes of a body:

| Input                                                          | Decision                                         |
|----------------------------------------------------------------|--------------------------------------------------|
| shorter than its layout, a topic that is cut short             | `MessageError`: a reference node dies of it (Q3) |
| no kind bit, or ACK with none that can be acknowledged         | `MessageError`: nothing to do                    |
| several kind bits                                              | the first of INIT, CHUNK, DONE, READ, ABORTED    |
| unassigned bits, the other kind bits, reserved bytes           | kept in `Echo`: an acknowledgement repeats them  |
| bytes behind the layout, or behind a chunk's stated size       | cut off                                          |
| a chunk's stated size larger than its data                     | the data counts; the acknowledgement repeats it  |
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeAlias

from blake3 import blake3

from protocol.buffers import Buffer
from protocol.mycelium.errors import WireError

ID_BYTES: Final = 8
DIGEST_BYTES: Final = 32
MAX_TOPIC: Final = 255
HEADER_BYTES: Final = 12

INIT: Final = 0x8000
DONE: Final = 0x4000
ABORTED: Final = 0x2000
CHUNK: Final = 0x1000
READ: Final = 0x0800
REPLY: Final = 0x0400
ACK: Final = 0x0100

_DISPATCH: Final = (INIT, CHUNK, DONE, READ, ABORTED)
"""Of several kind bits the first of these counts (messages spec 2)."""
_NOT_IN_ECHO: Final = {
    INIT: ACK | REPLY | INIT,
    CHUNK: ACK | INIT | CHUNK,
    DONE: ACK | INIT | CHUNK | DONE,
    READ: ACK | INIT | CHUNK | DONE | READ,
    ABORTED: ACK | INIT | CHUNK | DONE | READ | ABORTED,
}
"""Bits that say what a packet of this kind is; all others mean nothing in it."""

OFFER_LARGE: Final = 0x5345
"""Bytes 2 and 3 of the inner header of an INIT: "may I use large chunks?" (our extension E4). Any other value, and this
one towards a reference node, means nothing and is echoed."""
ACCEPT_LARGE: Final = 0x5350
"""The same bytes of its acknowledgement: "yes"."""

_MAX_U16: Final = 0xFFFF
_MAX_U64: Final = (1 << 64) - 1
_HEADER: Final = struct.Struct(f"!{ID_BYTES}sHH")
_INIT: Final = struct.Struct("!QB")
_CHUNK: Final = struct.Struct("!QQQ")
_DONE: Final = struct.Struct(f"!Q{DIGEST_BYTES}s")


class MessageError(WireError):
    """A body of inner type 1 that is no message packet; it is dropped and counted."""

    def __str__(self) -> str:
        return f"{self.reason} (messages spec {self.section})"


@dataclass(frozen=True, slots=True)
class Echo:
    """What a packet carries without meaning and its acknowledgement repeats. Raises `ValueError` out of range."""

    flags: int = 0
    """Flag bits that don't matter in a packet of this kind."""
    reserved: int = 0
    """Bytes 10 and 11 of the header."""
    inner: int = 0
    """Bytes 2 and 3 of the inner header (wire spec 2.3)."""

    def __post_init__(self) -> None:
        for name, value in (("flags", self.flags), ("reserved", self.reserved), ("inner", self.inner)):
            if not 0 <= value <= _MAX_U16:
                raise ValueError(f"echo {name} {value} is not between 0 and {_MAX_U16}")


NO_ECHO: Final = Echo()
"""What a node that only follows the specification sends."""


@dataclass(frozen=True, slots=True)
class Init:
    """First packet of a message (3.1). Raises `ValueError` on a field out of range, as all packets do."""

    id: bytes
    """8 bytes; a reply has the id of the message that it answers."""
    length: int
    """Bytes of the whole message, 0…2⁶⁴-1."""
    topic: bytes = b""
    """At most 255 bytes; empty means none."""
    reply: bool = False
    echo: Echo = NO_ECHO

    kind: ClassVar[int] = INIT

    def __post_init__(self) -> None:
        _check(INIT, self.id, self.echo, self.length)
        if len(self.topic) > MAX_TOPIC:
            raise ValueError(f"topic of {len(self.topic)} bytes, at most {MAX_TOPIC}")

    def encode(self) -> bytes:
        """21 bytes and the topic."""
        flags = INIT | (REPLY if self.reply else 0)
        return _header(self.id, flags, self.echo) + _INIT.pack(self.length, len(self.topic)) + self.topic

    def acknowledgement(self) -> InitAck:
        """What a receiver answers."""
        return InitAck(self.id, self.length, len(self.topic), self.reply, self.echo)


@dataclass(frozen=True, slots=True)
class InitAck:
    """Acknowledges an INIT (3.2): it without the topic's bytes, though their number stays."""

    id: bytes
    length: int
    topic_length: int = 0
    reply: bool = False
    echo: Echo = NO_ECHO

    kind: ClassVar[int] = INIT | ACK

    def __post_init__(self) -> None:
        _check(INIT, self.id, self.echo, self.length)
        if not 0 <= self.topic_length <= MAX_TOPIC:
            raise ValueError(f"topic length {self.topic_length} is not between 0 and {MAX_TOPIC}")

    def encode(self) -> bytes:
        """21 bytes."""
        flags = INIT | ACK | (REPLY if self.reply else 0)
        return _header(self.id, flags, self.echo) + _INIT.pack(self.length, self.topic_length)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a message (3.3)."""

    id: bytes
    index: int
    """From 0. The pieces are joined in the order of their indices."""
    offset: int
    """Where in the message the piece begins. Nothing but the length check depends on it."""
    data: bytes
    stated_size: int = -1
    """The size field, at least `len(data)`, and that unless given: only a strange sender states more."""
    echo: Echo = NO_ECHO

    kind: ClassVar[int] = CHUNK

    def __post_init__(self) -> None:
        if self.stated_size < 0:
            object.__setattr__(self, "stated_size", len(self.data))
        _check(CHUNK, self.id, self.echo, self.index, self.offset, self.stated_size)
        if len(self.data) > self.stated_size:
            raise ValueError(f"chunk of {len(self.data)} bytes that states {self.stated_size}")

    def encode(self) -> bytes:
        """36 bytes and the data."""
        fields = _CHUNK.pack(self.index, self.offset, self.stated_size)
        return b"".join((_header(self.id, CHUNK, self.echo), fields, self.data))

    def acknowledgement(self) -> ChunkAck:
        """What a receiver answers."""
        return ChunkAck(self.id, self.index, self.offset, self.stated_size, self.echo)


@dataclass(frozen=True, slots=True)
class ChunkAck:
    """Acknowledges a CHUNK (3.4): it without its data, the size as it was stated."""

    id: bytes
    index: int
    offset: int
    stated_size: int
    echo: Echo = NO_ECHO

    kind: ClassVar[int] = CHUNK | ACK

    def __post_init__(self) -> None:
        _check(CHUNK, self.id, self.echo, self.index, self.offset, self.stated_size)

    def encode(self) -> bytes:
        """36 bytes."""
        return _header(self.id, CHUNK | ACK, self.echo) + _CHUNK.pack(self.index, self.offset, self.stated_size)


@dataclass(frozen=True, slots=True)
class Done:
    """All chunks were acknowledged; their number and the message's digest follow (3.5)."""

    id: bytes
    count: int
    digest: bytes
    """32 bytes, `digest_of` the message."""
    echo: Echo = NO_ECHO

    kind: ClassVar[int] = DONE

    def __post_init__(self) -> None:
        _check_done(self.id, self.count, self.digest, self.echo)

    def encode(self) -> bytes:
        """52 bytes."""
        return _header(self.id, DONE, self.echo) + _DONE.pack(self.count, self.digest)

    def acknowledgement(self) -> DoneAck:
        """What a receiver answers."""
        return DoneAck(self.id, self.count, self.digest, self.echo)


@dataclass(frozen=True, slots=True)
class DoneAck:
    """The message is complete and its digest right (3.6)."""

    id: bytes
    count: int
    digest: bytes
    echo: Echo = NO_ECHO

    kind: ClassVar[int] = DONE | ACK

    def __post_init__(self) -> None:
        _check_done(self.id, self.count, self.digest, self.echo)

    def encode(self) -> bytes:
        """52 bytes."""
        return _header(self.id, DONE | ACK, self.echo) + _DONE.pack(self.count, self.digest)


@dataclass(frozen=True, slots=True)
class Read:
    """An application took the message, or looked at it (3.7)."""

    id: bytes
    echo: Echo = NO_ECHO

    kind: ClassVar[int] = READ

    def __post_init__(self) -> None:
        _check(READ, self.id, self.echo)

    def encode(self) -> bytes:
        """12 bytes."""
        return _header(self.id, READ, self.echo)


@dataclass(frozen=True, slots=True)
class ReadAck:
    """Acknowledges a READ (3.8). Nobody sends it, and it means nothing to whoever gets it."""

    id: bytes
    echo: Echo = NO_ECHO

    kind: ClassVar[int] = READ | ACK

    def __post_init__(self) -> None:
        _check(READ, self.id, self.echo)

    def encode(self) -> bytes:
        """12 bytes."""
        return _header(self.id, READ | ACK, self.echo)


@dataclass(frozen=True, slots=True)
class Aborted:
    """The sender gave up (3.9). Never acknowledged."""

    id: bytes
    echo: Echo = NO_ECHO

    kind: ClassVar[int] = ABORTED

    def __post_init__(self) -> None:
        _check(ABORTED, self.id, self.echo)

    def encode(self) -> bytes:
        """12 bytes."""
        return _header(self.id, ABORTED, self.echo)


FromSender: TypeAlias = Init | Chunk | Done | Aborted
"""What the receiver of a message gets from its sender."""
FromReceiver: TypeAlias = InitAck | ChunkAck | DoneAck | Read | ReadAck
"""What the sender of a message gets from its receiver."""
Packet: TypeAlias = FromSender | FromReceiver


def digest_of(data: Buffer) -> bytes:
    """The 32 bytes that DONE carries: BLAKE3 of the data, without the topic (3.5)."""
    return blake3(data).digest()


def decode(body: Buffer, inner_reserved: int = 0) -> Packet:
    """The packet in the body of an opened inner type 1 packet; `inner_reserved` is bytes 2 and 3 of its inner header.

    Raises `MessageError` for whatever is no packet, and nothing else.
    """
    if len(body) < HEADER_BYTES:
        raise MessageError("2", f"message packet of {len(body)} bytes, its header alone has {HEADER_BYTES}")
    message_id, flags, reserved = _HEADER.unpack_from(body)
    for kind in _DISPATCH:
        if flags & kind:
            break
    else:
        raise MessageError("2", f"flags {flags:#06x} name no kind of packet")
    acknowledges = flags & ACK
    decoder = _DECODERS.get(kind | acknowledges)
    if decoder is None:
        raise MessageError("2", f"flags {flags:#06x} acknowledge what nobody acknowledges")
    meaningless = flags & ~_NOT_IN_ECHO[kind]
    echo = Echo(meaningless, reserved, inner_reserved) if meaningless or reserved or inner_reserved else NO_ECHO
    return decoder(body, message_id, bool(flags & REPLY), echo)


def _decode_init(body: Buffer, message_id: bytes, reply: bool, echo: Echo) -> Init:
    length, topic_length = _fields("INIT", "3.1", _INIT, body)
    start = HEADER_BYTES + _INIT.size
    topic = bytes(body[start : start + topic_length])
    if len(topic) < topic_length:
        raise MessageError("3.1", f"topic of {topic_length} bytes, {len(topic)} are there")
    return Init(message_id, length, topic, reply, echo)


def _decode_init_ack(body: Buffer, message_id: bytes, reply: bool, echo: Echo) -> InitAck:
    length, topic_length = _fields("acknowledgement of an INIT", "3.2", _INIT, body)
    return InitAck(message_id, length, topic_length, reply, echo)


def _decode_chunk(body: Buffer, message_id: bytes, _reply: bool, echo: Echo) -> Chunk:
    index, offset, size = _fields("CHUNK", "3.3", _CHUNK, body)
    start = HEADER_BYTES + _CHUNK.size
    return Chunk(message_id, index, offset, bytes(body[start : start + size]), size, echo)


def _decode_chunk_ack(body: Buffer, message_id: bytes, _reply: bool, echo: Echo) -> ChunkAck:
    index, offset, size = _fields("acknowledgement of a CHUNK", "3.4", _CHUNK, body)
    return ChunkAck(message_id, index, offset, size, echo)


def _decode_done(body: Buffer, message_id: bytes, _reply: bool, echo: Echo) -> Done:
    count, digest = _fields("DONE", "3.5", _DONE, body)
    return Done(message_id, count, digest, echo)


def _decode_done_ack(body: Buffer, message_id: bytes, _reply: bool, echo: Echo) -> DoneAck:
    count, digest = _fields("acknowledgement of a DONE", "3.6", _DONE, body)
    return DoneAck(message_id, count, digest, echo)


def _decode_read(_body: Buffer, message_id: bytes, _reply: bool, echo: Echo) -> Read:
    return Read(message_id, echo)


def _decode_read_ack(_body: Buffer, message_id: bytes, _reply: bool, echo: Echo) -> ReadAck:
    return ReadAck(message_id, echo)


def _decode_aborted(_body: Buffer, message_id: bytes, _reply: bool, echo: Echo) -> Aborted:
    return Aborted(message_id, echo)


_DECODERS: Final[dict[int, Callable[[Buffer, bytes, bool, Echo], Packet]]] = {
    INIT: _decode_init,
    INIT | ACK: _decode_init_ack,
    CHUNK: _decode_chunk,
    CHUNK | ACK: _decode_chunk_ack,
    DONE: _decode_done,
    DONE | ACK: _decode_done_ack,
    READ: _decode_read,
    READ | ACK: _decode_read_ack,
    ABORTED: _decode_aborted,
}


def _fields(what: str, section: str, layout: struct.Struct, body: Buffer) -> tuple[Any, ...]:
    if len(body) < HEADER_BYTES + layout.size:
        raise MessageError(section, f"{what} of {len(body)} bytes, at least {HEADER_BYTES + layout.size}")
    return layout.unpack_from(body, HEADER_BYTES)


def _header(message_id: bytes, flags: int, echo: Echo) -> bytes:
    return _HEADER.pack(message_id, flags | echo.flags, echo.reserved)


def _check(kind: int, message_id: bytes, echo: Echo, *numbers: int) -> None:
    if len(message_id) != ID_BYTES:
        raise ValueError(f"a message id has {ID_BYTES} bytes, not {len(message_id)}")
    if echo.flags & _NOT_IN_ECHO[kind]:
        raise ValueError(f"echo flags {echo.flags:#06x} would make another packet of it")
    for number in numbers:
        if not 0 <= number <= _MAX_U64:
            raise ValueError(f"{number} doesn't fit the 64 bits of its field")


def _check_done(message_id: bytes, count: int, digest: bytes, echo: Echo) -> None:
    _check(DONE, message_id, echo, count)
    if len(digest) != DIGEST_BYTES:
        raise ValueError(f"a digest has {DIGEST_BYTES} bytes, not {len(digest)}")
