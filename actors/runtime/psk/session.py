"""What a TLS session with a pre-shared key can do, whichever library does it; and what its failures mean."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

from protocol.mycelium.network import LONGEST_NAME, Network

RECORD_BYTES: Final = 16_384
"""The most that one record carries (RFC 8446 section 5.1)."""

_OTHER_NAME: Final = "it does not know this network's name"
_OTHER_KEY: Final = "its network key is another"
_MEANINGS: Final = {
    "alert handshake failure": _OTHER_NAME,
    "binder does not verify": _OTHER_KEY,
    "illegal parameter": _OTHER_KEY,
    "decrypt error": _OTHER_KEY,
    "unknown ca": "it insists on the network key, and this side did not use it",
    "certificate verify failed": "it shows a certificate in place of the network key",
    "wrong version number": "it speaks no TLS: it is in no private network",
    "http request": "it speaks HTTP",
    "unsupported protocol": "its TLS is older than 1.3",
    "protocol version": "it wants another TLS than 1.3",
}
"""What a part of OpenSSL's words means here, about the peer."""


class SessionError(Exception):
    """The session is over or never began; says why, for people: of the peer, which is `it`."""


class Session(ABC):
    """One TLS connection in memory: bytes of the wire in and out, no socket."""

    @abstractmethod
    def handshake(self) -> bool:
        """Goes on with the handshake as far as what was fed allows; whether it is done. Raises `SessionError`."""

    @abstractmethod
    def feed(self, data: memoryview) -> None:
        """Bytes that arrived."""

    @abstractmethod
    def drain(self) -> bytes:
        """Bytes to send: all there are, also after an error, which the peer shall hear of."""

    @abstractmethod
    def write(self, data: memoryview) -> None:
        """Encrypts all of `data`. Raises `SessionError`."""

    @abstractmethod
    def read_into(self, memory: memoryview) -> int:
        """Decrypts into `memory`; how many bytes, 0 where the peer has ended, -1 where more must be fed first.

        Raises `SessionError` where what was fed is no record of this session.
        """


def meaning(network: Network, identity: str | None, words: str) -> SessionError:
    """A failed handshake for people; `identity` is the name that a client told, `words` are OpenSSL's."""
    if identity is not None and identity != network.name:
        return SessionError(f"its network is {identity[:LONGEST_NAME]!r}, ours is {network.name!r}")
    said = words.replace("_", " ").lower()
    found = next((meaning for part, meaning in _MEANINGS.items() if part in said), None)
    return SessionError(found or f"the TLS handshake failed: {said}")
