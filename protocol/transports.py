"""Which transport leads to an endpoint, and why one leads nowhere (wire spec 5.7, CLI spec 2.3 and 7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocol.mycelium.endpoint import Endpoint, Protocol, UnixAddress

HANDSHAKES: Final = frozenset({Protocol.TLS, Protocol.QUIC})
"""Transports on which both ends have to agree before the first packet."""


@dataclass(frozen=True, slots=True)
class Ways:
    """What this node speaks besides TCP."""

    private: bool = False
    """Whether it belongs to a private network: then TCP carries TLS and nothing else."""
    quic: bool = False
    """Whether it may use QUIC."""

    def transport(self, endpoint: Endpoint) -> Protocol:
        """What is spoken with the peer at `endpoint`: TCP carries TLS in a private network, whatever it is called."""
        if self.private and endpoint.protocol is Protocol.TCP:
            return Protocol.TLS
        return endpoint.protocol

    def why_never(self, endpoint: Endpoint) -> str:
        """Why `endpoint` is never dialled, for people; empty where it is."""
        if isinstance(endpoint.address, UnixAddress) and endpoint.address.guest:
            return "a number behind '#' names one who dialled us; leave it out"
        match endpoint.protocol:
            case Protocol.TLS if not self.private:
                return "TLS links belong to private networks; give --network-name and --network-key-file"
            case Protocol.QUIC if self.private:
                return "there is no QUIC in a private network; use tls://"
            case Protocol.QUIC if not self.quic:
                return "QUIC is disabled"
            case _:
                return ""
