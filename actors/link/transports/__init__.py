"""The transports of links: one class each behind one interface. A new one is a file and a line in the table below."""

from collections.abc import Mapping
from typing import Final

from actors.link.transports.interface import Owner, Setup, Transport, TransportError
from actors.link.transports.local import UnixTransport, VsockTransport
from actors.link.transports.quic import QuicTransport
from actors.link.transports.tcp import TcpTransport
from actors.link.transports.tls import TlsTransport
from protocol.mycelium.endpoint import Protocol

__all__ = ["TRANSPORTS", "Owner", "Setup", "Transport", "TransportError"]

TRANSPORTS: Final[Mapping[Protocol, type[Transport]]] = {
    Protocol.TCP: TcpTransport,
    Protocol.TLS: TlsTransport,
    Protocol.QUIC: QuicTransport,
    Protocol.UNIX: UnixTransport,
    Protocol.VSOCK: VsockTransport,
}
