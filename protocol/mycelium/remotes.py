"""What tun knows of other nodes: the cipher shared with each, and which of our extensions it accepts."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from protocol.mycelium.identity import KEY_BYTES, IdentityError, address_of, shared_secret
from protocol.mycelium.sealing import CAP_SUPER_PACKETS, Cipher

MAX_REMOTES: Final = 4096
SUBNET_BYTES: Final = 8
FORGET_SECONDS: Final = 60.0
"""Capabilities of a node that sends nothing for so long are no longer believed: another program may run there now."""


class Remote:
    """One other node. Only what it sealed itself says what it accepts."""

    __slots__ = ("capabilities", "cipher", "public_key", "seen", "subnet")

    def __init__(self, cipher: Cipher, public_key: bytes, subnet: bytes) -> None:
        self.cipher = cipher
        self.public_key = public_key
        self.subnet = subnet
        """First 8 bytes of every address that belongs to its key."""
        self.capabilities = 0
        self.seen = float("-inf")

    def heard(self, capabilities: int, now: float) -> None:
        """A packet from it was opened at `now`, monotonic seconds, and carried these bits."""
        self.capabilities = capabilities
        self.seen = now

    def takes_super_packets(self, now: float) -> bool:
        """Whether it said lately that it does."""
        return bool(self.capabilities & CAP_SUPER_PACKETS) and now - self.seen < FORGET_SECONDS


class Remotes:
    """Remotes by public key, at most `limit`; the one that wasn't asked for longest makes room.

    Holds the node's secret: never leaves its process.
    """

    def __init__(self, secret: bytes, limit: int = MAX_REMOTES) -> None:
        self._secret = secret
        self._limit = limit
        self._remotes: OrderedDict[bytes, Remote | None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._remotes)

    def __repr__(self) -> str:
        return f"Remotes({len(self._remotes)} of at most {self._limit})"

    def owner(self, public_key: bytes, address: bytes) -> Remote | None:
        """As `get`, but None also where `address` does not belong to the key.

        Whoever tells us which key an address has need not be believed: the address itself says.
        """
        remote = self.get(public_key)
        return remote if remote is not None and address.startswith(remote.subnet) else None

    def get(self, public_key: bytes) -> Remote | None:
        """The node with this 32-byte key; None for a key of small order, with which nobody can share a secret.

        Raises `IdentityError` on another size.
        """
        if public_key in self._remotes:
            self._remotes.move_to_end(public_key)
            return self._remotes[public_key]
        remote = self._make(public_key)
        if len(self._remotes) >= self._limit:
            self._remotes.popitem(last=False)
        self._remotes[public_key] = remote
        return remote

    def _make(self, public_key: bytes) -> Remote | None:
        if len(public_key) != KEY_BYTES:
            raise IdentityError(f"public key of {len(public_key)} bytes, must have {KEY_BYTES}")
        try:
            return Remote(self._cipher(public_key), public_key, address_of(public_key)[:SUBNET_BYTES])
        except IdentityError:
            # Remembered like any other, so that each packet from or to it costs nothing.
            return None

    def _cipher(self, public_key: bytes) -> Cipher:
        return Cipher(shared_secret(self._secret, public_key))
