"""Headers of QUIC packets as a listener sees them, and the three answers that it gives without a connection.

Sources: RFC 8999 (what never changes), RFC 9000 sections 5.2, 6, 8.1, 10.3 and 17.2, RFC 9001 section 5.8.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VERSION_1: Final = 1
CONNECTION_ID_BYTES: Final = 8
"""Of those that we choose, as the reference does: a short header does not tell."""
SMALLEST_INITIAL_DATAGRAM: Final = 1200
SHORTEST_FIRST_ID: Final = 8
"""Of the connection id that a client makes up for the server (RFC 9000 section 7.2)."""
MOST_ID_BYTES: Final = 20
RESET_TOKEN_BYTES: Final = 16
SMALLEST_RESET: Final = 21
SHORTEST_WITH_RESET: Final = 43
"""A datagram that is answered by a reset: the reset has to be shorter, and not to be told from a packet."""

_LONG: Final = 0x80
_FIXED: Final = 0x40
_TYPE: Final = 0x30
_INITIAL: Final = 0x00
_RETRY: Final = 0x30
_RETRY_KEY: Final = bytes.fromhex("be0c690b9f66575a1d766b54e368c84e")
_RETRY_NONCE: Final = bytes.fromhex("461599d35d632bf2239825bb")


@dataclass(frozen=True, slots=True)
class Header:
    """The first packet of a datagram, as far as it can be read without keys."""

    destination: bytes
    """Connection id."""
    long: bool
    version: int = 0
    source: bytes = b""
    """Connection id."""
    initial: bool = False
    token: bytes = b""
    """Of an Initial."""


def read_header(datagram: bytes) -> Header | None:
    """The header of the first packet; None where none begins there."""
    if not datagram:
        return None
    first = datagram[0]
    if not first & _LONG:
        if not first & _FIXED or len(datagram) <= CONNECTION_ID_BYTES:
            return None
        return Header(datagram[1 : 1 + CONNECTION_ID_BYTES], long=False)
    if len(datagram) < 7:
        return None
    (version,) = struct.unpack_from("!I", datagram, 1)
    destination, at = _counted(datagram, 5)
    source, at = _counted(datagram, at) if destination is not None else (None, at)
    if destination is None or source is None:
        return None
    if version != VERSION_1:
        return Header(destination, True, version, source)
    if not first & _FIXED or len(destination) > MOST_ID_BYTES or len(source) > MOST_ID_BYTES:
        return None
    if first & _TYPE != _INITIAL:
        return Header(destination, True, version, source)
    size, at = _variable(datagram, at)
    if size is None or at + size > len(datagram):
        return None
    return Header(destination, True, version, source, initial=True, token=datagram[at : at + size])


def version_negotiation(header: Header, unused: int) -> bytes:
    """The answer to a version that we don't speak; `unused` are 7 random bits (RFC 9000 section 17.2.1)."""
    return b"".join(
        (
            bytes((_LONG | unused & 0x7F, 0, 0, 0, 0)),
            bytes((len(header.source),)) + header.source,
            bytes((len(header.destination),)) + header.destination,
            struct.pack("!I", VERSION_1),
        )
    )


def retry(header: Header, source: bytes, token: bytes, unused: int) -> bytes:
    """Asks the sender of an Initial to come again to the connection id `source`, and to bring `token` along."""
    packet = b"".join(
        (
            bytes((_LONG | _FIXED | _RETRY | unused & 0x0F,)) + struct.pack("!I", VERSION_1),
            bytes((len(header.source),)) + header.source,
            bytes((len(source),)) + source,
            token,
        )
    )
    pseudo = bytes((len(header.destination),)) + header.destination + packet
    return packet + AESGCM(_RETRY_KEY).encrypt(_RETRY_NONCE, b"", pseudo)


def stateless_reset(token: bytes, answered: int, unpredictable: bytes) -> bytes:
    """Tells a peer that we forgot the connection of its packet of `answered` bytes; empty where that is too short.

    `unpredictable` are as many random bytes as `SHORTEST_WITH_RESET`.
    """
    if answered < SHORTEST_WITH_RESET:
        return b""
    body = unpredictable[: SHORTEST_WITH_RESET - 1 - len(token)]
    return bytes((_FIXED | body[0] & 0x3F,)) + body[1:] + token


def _counted(datagram: bytes, at: int) -> tuple[bytes | None, int]:
    """A connection id behind its length, and where it ends."""
    if at >= len(datagram):
        return None, at
    end = at + 1 + datagram[at]
    return (datagram[at + 1 : end], end) if end <= len(datagram) else (None, at)


def _variable(datagram: bytes, at: int) -> tuple[int | None, int]:
    """A number of variable length (RFC 9000 section 16), and where it ends."""
    if at >= len(datagram):
        return None, at
    size = 1 << (datagram[at] >> 6)
    if at + size > len(datagram):
        return None, at
    return int.from_bytes(datagram[at : at + size], "big") & (1 << (8 * size - 2)) - 1, at + size
