"""The transports of links: one class each behind one interface. A new one is a file and a line in the table below."""

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import Final

from actors.link.transports.interface import Owner, Setup, Transport, TransportError
from actors.link.transports.local import UnixTransport, VsockTransport
from actors.link.transports.tcp import TcpTransport
from actors.runtime import psk
from protocol.mycelium.endpoint import Protocol

__all__ = ["TRANSPORTS", "Owner", "Setup", "Transport", "TransportError"]


@functools.cache
def _quic() -> type[Transport]:
    try:
        from actors.link.transports.qh3_inside import check
        from actors.link.transports.quic import QuicTransport
    except ImportError as error:
        raise TransportError(f"no QUIC here: {error}; install what constraints.txt names, or --disable-quic") from None
    check()
    return QuicTransport


def _tls() -> type[Transport]:
    from actors.link.transports.tls import TlsTransport

    # Where it can't be had, each connection says why.
    with contextlib.suppress(psk.Unusable):
        psk.load()
    return TlsTransport


TRANSPORTS: Final[Mapping[Protocol, Callable[[], type[Transport]]]] = {
    Protocol.TCP: lambda: TcpTransport,
    Protocol.TLS: _tls,
    Protocol.QUIC: _quic,
    Protocol.UNIX: lambda: UnixTransport,
    Protocol.VSOCK: lambda: VsockTransport,
}
"""How to get at each. What stands on a library is imported when it is asked for the first time: some 10 MB, a fifth of
a second. The supervisor asks before it forks the first link that needs it, so that all links have it in common. Raises
`TransportError` where it can't be had."""
