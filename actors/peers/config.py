"""What the peers actor is given at birth: how strangers come in, whom to dial, and the links that run already."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from actors.peers.accepting import Listener
from actors.peers.discovery import DiscoveryConfig
from protocol.callers import Callers
from protocol.logins import Passwords
from protocol.transports import Ways


@dataclass(frozen=True, slots=True)
class KeptLink:
    """A link that runs already when peers starts again."""

    number: int
    endpoint: str
    """The peer as people write it."""
    reached: str
    """Likewise, with the address that it was reached at."""
    outbound: bool
    age: float
    family: int
    local: Any
    """Family and local address of its socket, as the `socket` module has them."""
    remote: Any
    """The other end's; None where it is gone."""


@dataclass(frozen=True, slots=True)
class PeersConfig:
    """What peers is given at birth."""

    listeners: tuple[Listener, ...]
    """One of each kind at most; those that could not be opened are not among them."""
    callers: Callers
    """Who may connect over IP."""
    discovery: DiscoveryConfig
    """Looking for neighbours on the local network."""
    ways: Ways
    """How peers can be reached."""
    memory: int
    """Descriptor of the memory file: peers added and removed since the node's start."""
    endpoints: tuple[str, ...] = field(repr=False)
    """From the command line or the configuration, spelled with their passwords."""
    marked: bool
    """Whether what goes out bears a firewall mark."""
    passwords: Passwords
    """At SOCKS5 proxies, from a file."""
    own_subnet: bytes
    """The first 8 bytes of the own addresses."""
    kept: tuple[KeptLink, ...]
    """Links of a predecessor."""
    first_process: int
    """The number of the next process of links; never one that was used before."""
    highest: tuple[int, ...]
    """The highest link number used in each process of links that lives."""
