"""End-to-end encryption of what data packets carry: sealing in place, opening, and the inner header (wire spec 2).

Raw data is the ciphertext of inner header (4) and body, then the GCM tag (16), then the nonce (12): the nonce comes
last. There is no associated data, and the key is the X25519 result as it is, the same in both directions.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from typing import Final, NamedTuple, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocol.buffers import Buffer
from protocol.mycelium.errors import WireError
from protocol.mycelium.identity import shared_secret

INNER_HEADER: Final = 4
TAG: Final = 16
NONCE: Final = 12
OVERHEAD: Final = INNER_HEADER + TAG + NONCE
"""What raw data has more than the body, and the size of the smallest raw data that opens."""
MAX_BODY: Final = 0xFFFF - OVERHEAD

INNER_VERSION: Final = 1
INNER_L3: Final = 0
INNER_MESSAGE: Final = 1
INNER_ICMP: Final = 2

CAP_SUPER_PACKETS: Final = 0x01
"""Inner byte 2 of L3 packets: "I accept super-packets" (our extension E2); a reference node ignores the byte."""
CAP_SESSIONS: Final = 0x02
"""Inner byte 2 of L3 packets: "I accept sessions" (our extension E3)."""
MARK_SUPER_PACKET: Final = 0x01
"""Inner byte 3 of L3 packets: the body is a super-packet with its virtio header behind it (our extension E2)."""

_INNER: Final = struct.Struct("!BBBB")

Cipher: TypeAlias = AESGCM
"""What seals and opens between two nodes; safe to keep, it holds no state but its key."""


class SealError(WireError):
    """Raw data that doesn't open, or opens to something that no node sends; the packet is dropped and counted."""


class Inner(NamedTuple):
    """The inner header: type of the body (`INNER_…`), and of an L3 packet the capability and mark bits."""

    kind: int
    capabilities: int
    mark: int


class Ciphers:
    """Ciphers by public key, at most `limit`; the one that wasn't asked for longest makes room.

    A cipher costs an X25519 (some 40 µs), a look-up nothing. Holds the node's secret: never leaves its process.
    """

    __slots__ = ("_ciphers", "_limit", "_secret")

    def __init__(self, secret: bytes, limit: int) -> None:
        """`secret` is the node's 32-byte secret key. Raises `ValueError` on a limit below 1."""
        if limit < 1:
            raise ValueError(f"a limit of {limit} ciphers leaves nothing to seal with")
        self._secret = secret
        self._limit = limit
        self._ciphers: OrderedDict[bytes, Cipher] = OrderedDict()

    def cipher(self, public_key: bytes) -> Cipher:
        """The cipher for packets from and to the node with this 32-byte key.

        Raises `IdentityError` on a key that can't be one.
        """
        cipher = self._ciphers.get(public_key)
        if cipher is not None:
            self._ciphers.move_to_end(public_key)
            return cipher
        cipher = AESGCM(shared_secret(self._secret, public_key))
        if len(self._ciphers) >= self._limit:
            self._ciphers.popitem(last=False)
        self._ciphers[public_key] = cipher
        return cipher

    def __len__(self) -> int:
        return len(self._ciphers)

    def __repr__(self) -> str:
        return f"Ciphers({len(self._ciphers)} of at most {self._limit})"


def write_inner(out: memoryview | bytearray, start: int, kind: int, capabilities: int = 0, mark: int = 0) -> None:
    """Writes the inner header (4 bytes) to `out` at `start`.

    In other than L3 packets the last two bytes are no bits: see `parse_inner`.
    """
    _INNER.pack_into(out, start, INNER_VERSION, kind, capabilities, mark)


def seal_into(cipher: Cipher, nonce: bytes, buffer: memoryview, start: int, plain_length: int) -> int:
    """Seals `buffer[start:start + plain_length]` (inner header and body) in place; returns the length of the raw data.

    `buffer` needs 28 bytes more behind the plaintext. `nonce` is 12 bytes that were never used with this key before:
    random ones. Raises `ValueError` where the room doesn't suffice.
    """
    plain_end = start + plain_length
    sealed_end = plain_end + TAG
    cipher.encrypt_into(nonce, buffer[start:plain_end], None, buffer[start:sealed_end])
    buffer[sealed_end : sealed_end + NONCE] = nonce
    return plain_length + TAG + NONCE


def open_into(cipher: Cipher, raw: memoryview, out: memoryview) -> int:
    """Opens `raw` into the beginning of `out`; returns the length of the plaintext (inner header and body).

    `raw` may be read-only; `out` needs `len(raw) - 28` bytes (else `ValueError`). Raises `SealError` on raw data that
    is too short or not sealed with this key; what `out` holds then is forged and must not be looked at.
    """
    sealed_end = len(raw) - NONCE
    plain_length = sealed_end - TAG
    if plain_length < INNER_HEADER:
        raise SealError("2.4", f"raw data of {len(raw)} bytes, the smallest has {OVERHEAD}")
    try:
        return cipher.decrypt_into(raw[sealed_end:], raw[:sealed_end], None, out[:plain_length])
    except InvalidTag:
        raise SealError("2.4", f"raw data of {len(raw)} bytes is not sealed with the key of its sender") from None


def parse_inner(plain: Buffer) -> Inner:
    """The inner header at the beginning of an opened packet. Raises `SealError` on an unknown version or type.

    Outside of L3 packets bytes 2 and 3 mean nothing, since the reference reflects what it gets there when it
    acknowledges a message (wire spec 2.3); they are given as 0.
    """
    version, kind, capabilities, mark = _INNER.unpack_from(plain)
    if version != INNER_VERSION:
        raise SealError("2.3", f"inner version {version}, only {INNER_VERSION} exists")
    if kind == INNER_L3:
        return Inner(kind, capabilities, mark)
    if kind > INNER_ICMP:
        raise SealError("2.3", f"inner type {kind}, only {INNER_L3} to {INNER_ICMP} exist")
    return Inner(kind, 0, 0)
