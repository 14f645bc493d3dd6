"""Retry tokens: proof that a client reads what is sent to its address, which a listener need not remember."""

from __future__ import annotations

import struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 16
NONCE_BYTES: Final = 12
LIFETIME_SECONDS: Final = 10.0
_MADE: Final = struct.Struct("!d")


def make_token(key: bytes, nonce: bytes, client: bytes, source: bytes, original: bytes, now: float) -> bytes:
    """A token for the client at `client`, which comes again to connection id `source` after it went to `original`."""
    return nonce + AESGCM(key).encrypt(nonce, _MADE.pack(now) + original, source + client)


def original_id(key: bytes, token: bytes, client: bytes, source: bytes, now: float) -> bytes | None:
    """The connection id to which `client` went first; None where the token is not ours, not his, or too old."""
    try:
        plain = AESGCM(key).decrypt(token[:NONCE_BYTES], token[NONCE_BYTES:], source + client)
    except (InvalidTag, ValueError):
        return None
    (made,) = _MADE.unpack_from(plain)
    return plain[_MADE.size :] if 0 <= now - made <= LIFETIME_SECONDS else None
