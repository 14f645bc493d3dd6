"""Frames between links, router and peers: neighbours, their control packets, what moved."""

from __future__ import annotations

from typing import Final

from protocol.codec import FrameError, frame, record

MOST_CONNECTION_IDS: Final = 64
RESET_TOKEN_BYTES: Final = 16
"""RFC 9000 section 10.3."""


@frame(0x30)
class LinkUp:
    """Link → router: a connection to a neighbour. `any_size`: it carries packets of every size."""

    link: int
    name: str
    static_cost: int
    any_size: bool
    resumed: bool
    """Whether this process goes on in a connection that another one had, and may have lost what it was to write."""


@frame(0x34)
class LinkOpened:
    """Link → peers: the handshake of its transport is done. Only links over a transport that has one say so."""

    link: int


@frame(0x35)
class ForwardedDatagram:
    """Peers → link: the listener got a datagram that is the link's, from an address that is not its peer's yet."""

    link: int
    sender: str
    datagram: bytes


@frame(0x36)
class ConnectionIds:
    """QUIC link → peers: by these ids its packets are known; `reset_token` (empty: none) is that of the first."""

    link: int
    ids: tuple[bytes, ...]
    reset_token: bytes

    def __post_init__(self) -> None:
        if len(self.ids) > MOST_CONNECTION_IDS or (self.reset_token and len(self.reset_token) != RESET_TOKEN_BYTES):
            raise FrameError(f"{len(self.ids)} connection ids, and a token of {len(self.reset_token)} bytes")


@frame(0x31)
class ControlArrived:
    """Link → router: control packets, headers included, one behind the other, already found well-formed."""

    link: int
    packets: bytes


@frame(0x32)
class SendControl:
    """Router → link: write these control packets, one after the other."""

    link: int
    packets: bytes


@record
class PairTraffic:
    """Packets and bytes of ciphertext between two addresses since the last report."""

    source: bytes
    destination: bytes
    packets: int
    octets: int


@frame(0x33)
class Traffic:
    """Link or tun → peers, about once a second while there is any: what moved since the last one."""

    link: int
    received_octets: int
    sent_octets: int
    pairs: tuple[PairTraffic, ...]
