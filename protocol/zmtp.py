"""ZMTP 3.1 (ZeroMQ RFC 37): one connection that carries messages of one part, with the NULL mechanism.

    greeting   FF, 8 bytes of padding, 7F, version 3.1, the mechanism in 20 bytes, as-server, 31 bytes of filler
    handshake  one READY command from either side, with its Socket-Type and Identity
    traffic    frames: flags (1), size (1, or 8 where LONG is set), body

A message of ours is one frame. Of a message of several parts only this is understood: empty parts in front of the last
one, which REQ sockets and `send_multipart` put there, are skipped. Any other part that is not the last is an error:
its data would be lost in silence.
"""

from __future__ import annotations

import enum
import struct
from typing import Final

GREETING_BYTES: Final = 64
MAX_IDENTITY: Final = 255
MAX_SHORT: Final = 255
"""Bytes of the largest body whose size fits one byte."""
MAX_COMMAND: Final = 4096
"""Bytes of a command. READY is the only one that grows: two properties of ours, and whatever the other side adds."""
MAX_PING_CONTEXT: Final = 16
MAX_PONGS: Final = 64
"""Answers that wait to be sent. Whoever pings more often without reading (RFC 37: it should not) gets fewer answers."""

_MORE: Final = 0x01
_LONG: Final = 0x02
_COMMAND: Final = 0x04
_KNOWN_FLAGS: Final = _MORE | _LONG | _COMMAND
_NO_PLAIN_MESSAGE: Final = 0xFF & ~_LONG
_SHORT_HEADER: Final = 2
_LONG_HEADER: Final = 9
_LONG_SIZE: Final = struct.Struct("!Q")
_PROPERTY_SIZE: Final = struct.Struct("!I")
_PING_TTL_BYTES: Final = 2
_SHORT_HEADERS: Final = tuple(bytes((0, size)) for size in range(MAX_SHORT + 1))
_DELIMITER: Final = bytes((_MORE, 0))

_MAJOR: Final = 3
_MINOR: Final = 1
_MECHANISM: Final = b"NULL".ljust(20, b"\0")
_GREETING: Final = (b"\xff" + bytes(8) + b"\x7f" + bytes((_MAJOR, _MINOR)) + _MECHANISM).ljust(GREETING_BYTES, b"\0")
_SIGNATURE_END: Final = 9
_MAJOR_AT: Final = 10
_MECHANISM_AT: Final = 12


class SocketType(enum.Enum):
    """What this side is to the other one."""

    ROUTER = b"ROUTER"
    """The side that binds."""
    DEALER = b"DEALER"
    """The side that connects."""


_LEGAL_PEERS: Final = {
    SocketType.ROUTER: frozenset({b"REQ", b"DEALER", b"ROUTER"}),
    SocketType.DEALER: frozenset({b"REP", b"DEALER", b"ROUTER"}),
}
_WANTS_DELIMITER: Final = frozenset({b"REQ", b"REP"})


class ZmtpError(Exception):
    """The other side broke RFC 37 or refused us; the connection is over. `reason` is for people."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ZmtpConnection:
    """One connection between two sockets: bytes of the stream in, messages out.

    Its memory is bounded by `max_message` bytes and what one call of `receive` is given. A PING is answered; the time
    to live in it is ignored, as a Unix socket tells when the other side is gone.
    """

    __slots__ = (
        "_failure",
        "_greeted",
        "_kept",
        "_max_message",
        "_needed",
        "_outgoing",
        "_peer_wants_delimiter",
        "_pongs",
        "_socket_type",
        "peer_identity",
        "ready",
    )

    def __init__(self, socket_type: SocketType, identity: bytes, *, max_message: int) -> None:
        """`identity` is 0…255 bytes that don't begin with zero; `max_message` is in bytes, at least 255.

        Raises `ValueError` otherwise.
        """
        if max_message < MAX_SHORT:
            raise ValueError(f"a limit of {max_message} bytes for a message, at least {MAX_SHORT}")
        if len(identity) > MAX_IDENTITY or identity[:1] == b"\0":
            raise ValueError(f"identity {identity!r}: it has at most {MAX_IDENTITY} bytes, and the first is not zero")
        self.ready = False
        """Whether both sides said READY: only then may messages be sent."""
        self.peer_identity = b""
        """How the other side calls itself, empty where it did not say."""
        self._socket_type = socket_type
        self._max_message = max_message
        self._greeted = False
        self._peer_wants_delimiter = False
        self._failure: ZmtpError | None = None
        self._kept = bytearray()
        self._needed = 0
        self._pongs = 0
        properties = _property(b"Socket-Type", socket_type.value) + _property(b"Identity", identity)
        self._outgoing = [_GREETING, _command(b"READY", properties)]

    def outgoing(self) -> bytes:
        """What this side has to send for the protocol's sake: greeting and READY first, later answers to PING.

        To be asked at the beginning and after each `receive`; goes between two messages.
        """
        if not self._outgoing:
            return b""
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        self._pongs = 0
        return data

    def frame_header(self, length: int) -> bytes:
        """The bytes in front of a message of `length` bytes. The other side must be `ready`."""
        header = _SHORT_HEADERS[length] if length <= MAX_SHORT else bytes((_LONG,)) + _LONG_SIZE.pack(length)
        return _DELIMITER + header if self._peer_wants_delimiter else header

    def receive(self, data: bytes) -> list[bytes]:
        """The messages that are complete now that `data` arrived, in order.

        Raises `ZmtpError` at the first byte that can't be understood, and again at each later call; messages in front
        of it in the same `data` are lost with it.
        """
        if self._failure is not None:
            raise self._failure
        kept = self._kept
        if kept:
            kept += data
            if len(kept) < self._needed:
                return []
            data = bytes(kept)
            kept.clear()
        start = 0
        if not self._greeted:
            if not self._read_greeting(data):
                kept += data
                return []
            start = GREETING_BYTES
        return self._cut(data, start)

    def _cut(self, data: bytes, start: int) -> list[bytes]:
        messages: list[bytes] = []
        append = messages.append
        end, largest, ready = len(data), self._max_message, self.ready
        needed = _SHORT_HEADER
        while end - start >= _SHORT_HEADER:
            flags = data[start]
            if not flags and ready:
                # Nearly every frame on a lane is short: a way of its own takes a fifth off its time.
                stop = start + _SHORT_HEADER + data[start + 1]
                if stop > end:
                    needed = stop - start
                    break
                append(data[start + 2 : stop])
                start = stop
                continue
            if flags & _LONG:
                body = start + _LONG_HEADER
                if body > end:
                    needed = _LONG_HEADER
                    break
                size = int.from_bytes(data[start + 1 : body], "big")
            else:
                body = start + _SHORT_HEADER
                size = data[start + 1]
            if flags & _NO_PLAIN_MESSAGE or size > largest or not ready:
                self._check_header(flags, size)
            stop = body + size
            if stop > end:
                needed = stop - start
                break
            if not flags & _NO_PLAIN_MESSAGE:
                append(data[body:stop])
            elif flags & _COMMAND:
                self._take_command(data[body:stop])
                ready = self.ready
            start = stop
        if start < end:
            self._kept += memoryview(data)[start:]
            self._needed = needed
        return messages

    def _read_greeting(self, data: bytes) -> bool:
        """Whether the greeting is complete. What can be judged is judged at once: garbage need not be 64 bytes long."""
        if data[:1] not in (b"", b"\xff") or data[_SIGNATURE_END:_MAJOR_AT] not in (b"", b"\x7f"):
            raise self._broken("greeting: this is not ZeroMQ")
        if len(data) > _MAJOR_AT and data[_MAJOR_AT] < _MAJOR:
            raise self._broken("greeting: it speaks a version of ZMTP before 3.0")
        if len(data) < GREETING_BYTES:
            return False
        mechanism = data[_MECHANISM_AT : _MECHANISM_AT + len(_MECHANISM)]
        if mechanism != _MECHANISM:
            raise self._broken(
                f"greeting: mechanism {_printable(mechanism.rstrip(bytes(1)))}, only NULL is spoken here"
            )
        self._greeted = True
        return True

    def _check_header(self, flags: int, size: int) -> None:
        """Judges a header that isn't a plain message of a size that may be, before its body is waited for."""
        if flags & ~_KNOWN_FLAGS:
            raise self._broken(f"framing: reserved bits in flags {flags:#04x}")
        if flags & _COMMAND:
            if flags & _MORE:
                raise self._broken("framing: a command of several frames")
            if size > MAX_COMMAND:
                raise self._broken(f"framing: a command of {size} bytes, at most {MAX_COMMAND}")
        elif not self.ready:
            raise self._broken("handshake: a message where READY belongs")
        elif flags & _MORE:
            if size:
                raise self._broken("framing: a message of several parts")
        else:
            raise self._broken(f"framing: a message of {size} bytes, at most {self._max_message}")

    def _take_command(self, body: bytes) -> None:
        name_end = 1 + body[0] if body else 0
        name, data = body[1:name_end], body[name_end:]
        if name_end > len(body) or not name.isalpha():
            raise self._broken("framing: a command without a name")
        if name == b"ERROR":
            raise self._broken(f"handshake: the other side refuses: {_printable(data[1 : 1 + MAX_IDENTITY])}")
        if not self.ready:
            if name != b"READY":
                raise self._broken(f"handshake: {_printable(name)} where READY belongs")
            self._take_ready(data)
        elif name == b"READY":
            raise self._broken("traffic: a second READY")
        elif name == b"PING":
            self._take_ping(data)
        # PONG and the commands of other patterns (SUBSCRIBE, JOIN, …) mean nothing to a ROUTER or DEALER.

    def _take_ready(self, data: bytes) -> None:
        properties: dict[bytes, bytes] = {}
        at = 0
        while at < len(data):
            name_end = at + 1 + data[at]
            value = name_end + _PROPERTY_SIZE.size
            if name_end == at + 1 or value > len(data):
                raise self._broken("handshake: READY with a property that has no name or no value")
            (size,) = _PROPERTY_SIZE.unpack_from(data, name_end)
            if value + size > len(data):
                raise self._broken("handshake: READY with a property that goes on behind its end")
            properties[data[at + 1 : name_end].lower()] = data[value : value + size]
            at = value + size
        socket_type = properties.get(b"socket-type")
        if socket_type is not None and socket_type not in _LEGAL_PEERS[self._socket_type]:
            raise self._broken(f"handshake: a {_printable(socket_type)} can't talk to a {self._socket_type.name}")
        identity = properties.get(b"identity", b"")
        if len(identity) > MAX_IDENTITY or identity[:1] == b"\0":
            raise self._broken("handshake: an identity that is too long or begins with zero")
        self.peer_identity = identity
        self._peer_wants_delimiter = socket_type in _WANTS_DELIMITER
        self.ready = True

    def _take_ping(self, data: bytes) -> None:
        context = data[_PING_TTL_BYTES:]
        if len(data) < _PING_TTL_BYTES or len(context) > MAX_PING_CONTEXT:
            raise self._broken("traffic: PING without a time to live, or with more context than allowed")
        if self._pongs < MAX_PONGS:
            self._pongs += 1
            self._outgoing.append(_command(b"PONG", context))

    def _broken(self, reason: str) -> ZmtpError:
        self._failure = ZmtpError(reason)
        self._kept = bytearray()
        return self._failure


def _command(name: bytes, data: bytes) -> bytes:
    body = bytes((len(name),)) + name + data
    if len(body) <= MAX_SHORT:
        return bytes((_COMMAND, len(body))) + body
    return bytes((_COMMAND | _LONG,)) + _LONG_SIZE.pack(len(body)) + body


def _property(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + _PROPERTY_SIZE.pack(len(value)) + value


def _printable(text: bytes) -> str:
    return repr(text[:64])[1:]
