"""What a process of links is given at birth, of itself and of each connection."""

from __future__ import annotations

from dataclasses import dataclass

from actors.runtime.exchange import ArenaConfig
from actors.runtime.positions import Positions
from protocol.mycelium.endpoint import Protocol
from protocol.mycelium.network import Network


@dataclass(frozen=True, slots=True)
class OldArena:
    """Part of an arena that a predecessor used."""

    number: int
    descriptor: int


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """One connection, as a process gets it."""

    number: int
    """Names this link to router, peers and other links."""
    connection: int
    """Descriptor of the connected socket."""
    endpoint: str
    """The peer as people write it."""
    outbound: bool
    """Whether this side dialled."""
    transport: Protocol
    """What is spoken on the socket."""
    opening: bytes
    """What an accepted connection begins with that its socket does not hold."""
    ledger: int
    """Descriptor of the connection's ledger, -1 where the transport can't be resumed."""
    base: Positions
    """Where the kernel's counts stood when the connection was new."""
    resumed: bool
    """Whether a predecessor used this connection."""
    old_arenas: tuple[OldArena, ...]
    """Where the ledger says that bytes lie which are needed."""


@dataclass(frozen=True, slots=True)
class HostConfig:
    """What a process of links is given at birth."""

    public_key: bytes
    """Of this node."""
    network: Network | None
    """The private network whose key its TLS connections take."""
    arena: ArenaConfig
    """Of this incarnation."""
    links: tuple[LinkConfig, ...]
    """One, or, where a predecessor had several or links are many, several."""
