"""Who a node is: X25519 keys, the overlay address that follows from them, router-ids, shared secrets (wire spec 1)."""

from __future__ import annotations

from typing import Final

from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from protocol.prefix import ADDRESS_BYTES

KEY_BYTES: Final = 32
"""Size of secret keys, public keys and shared secrets alike."""
ROUTER_ID_BYTES: Final = 40
ROUTER_ID_RANDOM_BYTES: Final = 6
_ZONE: Final = bytes(2)
_ZONE_END: Final = KEY_BYTES + len(_ZONE)
OVERLAY_FIRST_BYTES: Final = (0x04, 0x05)
"""What an address of the overlay, 400::/7, begins with: either, by the parity of its key's hash."""


class IdentityError(ValueError):
    """A key or a router-id that can't be one; never quotes a secret."""


class KeyFileError(IdentityError):
    """A key file that holds no key."""


def read_secret(content: bytes) -> bytes:
    """The 32-byte secret key in the `content` of a key file; what follows it is ignored (wire spec 1.1).

    Raises `KeyFileError` when the content is too short.
    """
    if len(content) < KEY_BYTES:
        raise KeyFileError(
            f"the key file holds {len(content)} bytes, a key has {KEY_BYTES}; "
            "restore it from a backup, or move it away to get a new identity"
        )
    return content[:KEY_BYTES]


def public_key(secret: bytes) -> bytes:
    """The 32-byte X25519 public key of a 32-byte secret, which is stored unclamped (wire spec 1.2).

    Raises `IdentityError` on another size.
    """
    _check_size("secret key", secret, KEY_BYTES)
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def address_of(public_key: bytes) -> bytes:
    """The 16-byte overlay address of a 32-byte public key: its BLAKE3 hash, moved into 400::/7 (wire spec 1.3).

    Raises `IdentityError` on another size.
    """
    _check_size("public key", public_key, KEY_BYTES)
    digest = blake3(public_key).digest(length=ADDRESS_BYTES)
    parity = digest[0].bit_count() & 1
    return bytes((OVERLAY_FIRST_BYTES[parity],)) + digest[1:]


def router_id(public_key: bytes, random: bytes) -> bytes:
    """The 40-byte router-id: 32 bytes public key, a zero zone, 6 `random` bytes drawn at every start (wire spec 1.5).

    Raises `IdentityError` on wrong sizes.
    """
    _check_size("public key", public_key, KEY_BYTES)
    _check_size("random part of a router-id", random, ROUTER_ID_RANDOM_BYTES)
    return public_key + _ZONE + random


def router_id_text(router_id: bytes) -> str:
    """`<64 hex>-<4 hex>-<12 hex>` (wire spec 1.5). Raises `IdentityError`."""
    _check_size("router-id", router_id, ROUTER_ID_BYTES)
    return f"{router_id[:KEY_BYTES].hex()}-{router_id[KEY_BYTES:_ZONE_END].hex()}-{router_id[_ZONE_END:].hex()}"


def router_id_key(router_id: bytes) -> bytes:
    """The 32-byte public key in a 40-byte router-id. Raises `IdentityError`."""
    _check_size("router-id", router_id, ROUTER_ID_BYTES)
    return router_id[:KEY_BYTES]


def shared_secret(secret: bytes, public_key: bytes) -> bytes:
    """The raw 32-byte X25519 result of our `secret` and another node's `public_key`: the AES key (wire spec 2.1).

    Raises `IdentityError` on wrong sizes, and when the public key is a point of small order: with such a "key" the
    result is zero for every secret and protects nothing.
    """
    _check_size("secret key", secret, KEY_BYTES)
    _check_size("public key", public_key, KEY_BYTES)
    own = X25519PrivateKey.from_private_bytes(secret)
    try:
        return own.exchange(X25519PublicKey.from_public_bytes(public_key))
    except ValueError:
        raise IdentityError(
            f"public key {public_key.hex()} is a point of small order: it gives an all-zero secret with every key"
        ) from None


def _check_size(what: str, value: bytes, size: int) -> None:
    if len(value) != size:
        raise IdentityError(f"a {what} has {size} bytes, this one has {len(value)}")
