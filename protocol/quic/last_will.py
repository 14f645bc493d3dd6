"""The last will of a connection: a sealed packet that ends it, for somebody else to send when its process is gone.

It is a CONNECTION_CLOSE as its process would have sent it (RFC 9000 section 10.2), under a packet number so far ahead
that the process will not come there before the will is renewed; the receiver still finds it. Sealed, it is no secret:
whoever holds it can end this one connection, and nothing else.
"""

from __future__ import annotations

from typing import Final

from protocol.quic.sealing import PacketKeys

AHEAD: Final = 1 << 30
"""Packet numbers: half of what the receiver finds by four bytes."""
RENEWED: Final = 1 << 29
"""So many packets later: hours of a full gigabit."""
_CLOSE: Final = bytes((0x1D, 0, 0))
"""By the application, without error, without words: what a reference node sends, too (wire spec 5.4)."""


class LastWill:
    """Knows when the will has to be written anew."""

    def __init__(self) -> None:
        self._sealed_for: tuple[int, bytes] | None = None
        self._made_at = 0

    def renewed(self, keys: PacketKeys, destination: bytes, number: int) -> bytes | None:
        """The will, where the last one is of no use any more: other keys, another connection id, or too far behind.

        `number` is that of any packet sent lately, `destination` the connection id by which the peer is known.
        """
        sealed_for = (keys.generation, destination)
        if sealed_for == self._sealed_for and number - self._made_at < RENEWED:
            return None
        self._sealed_for, self._made_at = sealed_for, number
        return keys.seal(destination, number + AHEAD, _CLOSE)
