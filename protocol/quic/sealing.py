"""Protection of 1-RTT packets (RFC 9001 sections 5 and 6), for the few that are not made by the connection itself."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

TAG_BYTES: Final = 16
NUMBER_BYTES: Final = 4
"""Of a packet number as we write it: the receiver finds the whole one by it within 2^31 of what it expects."""

_FIXED: Final = 0x40
_PHASE: Final = 0x04
_PROTECTED: Final = 0x1F
_SAMPLE_BYTES: Final = 16
_IV_BYTES: Final = 12


class SealingError(Exception):
    """A packet can't be opened: it is cut short, or was sealed with other keys."""


class Suite(enum.IntEnum):
    """Cipher suites of TLS 1.3 by their numbers (RFC 8446 appendix B.4)."""

    AES_128_GCM_SHA256 = 0x1301
    AES_256_GCM_SHA384 = 0x1302
    CHACHA20_POLY1305_SHA256 = 0x1303

    @property
    def key_bytes(self) -> int:
        """Of the key, and of that for headers."""
        return 16 if self is Suite.AES_128_GCM_SHA256 else 32

    @property
    def hash(self) -> hashes.HashAlgorithm:
        """What keys are derived by."""
        return hashes.SHA384() if self is Suite.AES_256_GCM_SHA384 else hashes.SHA256()


@dataclass(frozen=True, slots=True)
class Opened:
    """A packet without its protection."""

    number: int
    phase: int
    destination: bytes
    """Connection id."""
    payload: bytes
    """Its frames."""


class PacketKeys:
    """The keys of one direction in one key phase."""

    def __init__(self, suite: Suite, secret: bytes, *, generation: int = 0, header_key: bytes = b"") -> None:
        """`secret` is the traffic secret of `generation`; `header_key` that of generation 0, which outlives updates."""
        self.generation: Final = generation
        """Key updates since the handshake."""
        self._suite = suite
        self._secret = secret
        self._header_key = header_key or self._derive(b"quic hp", suite.key_bytes)
        self._iv = int.from_bytes(self._derive(b"quic iv", _IV_BYTES), "big")
        key = self._derive(b"quic key", suite.key_bytes)
        self._cipher = ChaCha20Poly1305(key) if suite is Suite.CHACHA20_POLY1305_SHA256 else AESGCM(key)

    @property
    def phase(self) -> int:
        """The bit in packets by which the receiver knows them."""
        return self.generation & 1

    def next(self) -> PacketKeys:
        """The keys after a key update (RFC 9001 section 6.1)."""
        secret = self._derive(b"quic ku", self._suite.hash.digest_size)
        return PacketKeys(self._suite, secret, generation=self.generation + 1, header_key=self._header_key)

    def seal(self, destination: bytes, number: int, payload: bytes) -> bytes:
        """A 1-RTT packet. `number` must never be used for two packets that leave with the same keys."""
        first = _FIXED | self.phase << 2 | NUMBER_BYTES - 1
        header = bytes((first,)) + destination + (number & 0xFFFFFFFF).to_bytes(NUMBER_BYTES, "big")
        packet = bytearray(header + self._cipher.encrypt(self._nonce(number), payload, header))
        at = 1 + len(destination)
        mask = self._mask(bytes(packet[at + 4 : at + 4 + _SAMPLE_BYTES]))
        packet[0] ^= mask[0] & _PROTECTED
        for place in range(NUMBER_BYTES):
            packet[at + place] ^= mask[1 + place]
        return bytes(packet)

    def open(self, packet: bytes, id_bytes: int, expected: int) -> Opened:
        """Opens a 1-RTT packet to a connection id of `id_bytes`; `expected`: a packet number close to its own.

        Raises `SealingError`.
        """
        at = 1 + id_bytes
        if len(packet) < at + 4 + _SAMPLE_BYTES:
            raise SealingError(f"{len(packet)} bytes are no whole packet (RFC 9001 section 5.4.2)")
        mask = self._mask(packet[at + 4 : at + 4 + _SAMPLE_BYTES])
        first = packet[0] ^ mask[0] & _PROTECTED
        size = 1 + (first & 3)
        written = bytes(octet ^ mask[1 + place] for place, octet in enumerate(packet[at : at + size]))
        number = whole_number(int.from_bytes(written, "big"), 8 * size, expected)
        header = bytes((first,)) + packet[1:at] + written
        try:
            payload = self._cipher.decrypt(self._nonce(number), packet[at + size :], header)
        except InvalidTag:
            raise SealingError(f"packet {number} was not sealed with keys of generation {self.generation}") from None
        return Opened(number, (first & _PHASE) >> 2, packet[1:at], payload)

    def _nonce(self, number: int) -> bytes:
        return (self._iv ^ number).to_bytes(_IV_BYTES, "big")

    def _mask(self, sample: bytes) -> bytes:
        """Of the first byte and the packet number (RFC 9001 section 5.4)."""
        if self._suite is Suite.CHACHA20_POLY1305_SHA256:
            return Cipher(algorithms.ChaCha20(self._header_key, sample), mode=None).encryptor().update(bytes(5))
        return Cipher(algorithms.AES(self._header_key), modes.ECB()).encryptor().update(sample)[:5]

    def _derive(self, label: bytes, size: int) -> bytes:
        """HKDF-Expand-Label (RFC 8446 section 7.1)."""
        name = b"tls13 " + label
        info = size.to_bytes(2, "big") + bytes((len(name),)) + name + b"\0"
        return HKDFExpand(self._suite.hash, size, info).derive(self._secret)


def whole_number(written: int, bits: int, expected: int) -> int:
    """The packet number of which `written` are the last `bits`, close to `expected` (RFC 9000 appendix A.3)."""
    window = 1 << bits
    found = expected & ~(window - 1) | written
    if found <= expected - window // 2 and found + window < 1 << 62:
        return found + window
    if found > expected + window // 2 and found >= window:
        return found - window
    return found
