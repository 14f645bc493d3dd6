"""Streams within one machine: Unix sockets, and vsock between a virtual machine and its host (wire spec 5.8).

The kernel does not count their bytes as it counts TCP's, so such a connection ends with its process and is dialled
again.
"""

from __future__ import annotations

from typing import Final

from actors.link.transports.interface import Setup, Transport
from protocol.mycelium.endpoint import VsockAddress

COST_UNIX: Final = 5
"""No other node knows this transport; it is as near as vsock."""
COST_VSOCK: Final = 5


class UnixTransport(Transport):
    """A Unix stream socket."""

    def _describe(self, setup: Setup) -> tuple[str, int]:
        return f"UNIX {setup.endpoint.address}", COST_UNIX


class VsockTransport(Transport):
    """A vsock stream socket."""

    def _describe(self, setup: Setup) -> tuple[str, int]:
        local = VsockAddress(*setup.connection.getsockname())
        remote = VsockAddress(*setup.connection.getpeername())
        return f"VSOCK {local} <-> {remote}", COST_VSOCK
