"""What a link asks of a transport, and the plain case: a stream socket that carries the packets as they are."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol

from actors.runtime.actor import Runtime
from actors.runtime.loop import READABLE, WRITABLE
from actors.runtime.udp import Address
from protocol.mycelium.endpoint import Endpoint
from protocol.mycelium.network import Network

Send = Callable[[list[memoryview | bytes]], int]
"""Writes the beginning of these buffers, which hold whole packets but for the rest of a torn one; returns how many
bytes it took. Raises `BlockingIOError` where it takes none for now, `OSError` and `TransportError` at the end."""
ReceiveInto = Callable[[memoryview], int]
"""Reads the next bytes of the peer's stream; returns how many, 0 at its end. Raises likewise."""


class TransportError(Exception):
    """The connection is over, or was never made; says why, for people."""


class Owner(Protocol):
    """The link as its transport sees it."""

    def opened(self) -> None:
        """Packets can be sent and received now. Not called by a transport that was open when it was made."""

    def arrived(self) -> None:
        """`receive_into` has something."""

    def room(self) -> None:
        """`send` takes more."""

    def poll(self) -> None:
        """What the transport wants to be polled for has changed."""

    def end(self, reason: str) -> None:
        """The connection is over."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a transport is made of."""

    runtime: Runtime
    owner: Owner
    connection: socket.socket
    """Connected; the transport's own from now on."""
    endpoint: Endpoint
    """The peer as people write it."""
    outbound: bool
    """Whether this side dialled."""
    number: int
    """Of the link."""
    opening: bytes
    """What an accepted connection begins with that its socket does not hold."""
    public_key: bytes
    """Of this node, for transports that name it."""
    network: Network | None
    """The private network of this node."""
    tell_peers: Callable[[object], bool]
    """Sends a frame to peers."""


class Transport:
    """One connection to a peer. This class is a plain stream socket; others change what they must.

    The link calls `send` and `receive_into` from its packet path, so they are attributes: of a plain socket, its own.
    """

    resumable: ClassVar[bool] = False
    """Whether a successor can go on in the same connection when this process was killed."""

    def __init__(self, setup: Setup) -> None:
        """Raises `OSError` where the connection is over already."""
        self._socket: Final = setup.connection
        self._owner: Final = setup.owner
        self._socket.setblocking(False)
        self.send: Send = self._socket.sendmsg
        self.receive_into: ReceiveInto = self._socket.recv_into
        self.opened = True
        """Whether packets can be sent and received."""
        self.name, self.static_cost = self._describe(setup)

    def _describe(self, setup: Setup) -> tuple[str, int]:
        """The connection as routes name it (API spec 3.1), and its static cost (wire spec 5.9)."""
        raise NotImplementedError

    def start(self) -> None:
        """Called once, when the link is ready to be called."""

    def fileno(self) -> int:
        """What to poll."""
        return self._socket.fileno()

    def wanted(self, *, reading: bool, writing: bool) -> int:
        """What to poll it for, where the link would read, or waits for `room`. Called when that may have changed."""
        return (READABLE if reading else 0) | (WRITABLE if writing else 0)

    def on_events(self, events: int) -> None:
        """It was polled, and this happened."""
        if events & WRITABLE:
            self._owner.room()
        if events & ~WRITABLE:
            self._owner.arrived()

    def forwarded(self, datagram: bytes, sender: Address) -> None:
        """A listener got this, which is for us. Only transports that announce themselves to one are told."""
        raise NotImplementedError

    def each_second(self) -> None:
        """Called each second: to find a silence that nothing else tells of."""
        return

    def close(self) -> None:
        """Lets go of the socket."""
        self._socket.close()
