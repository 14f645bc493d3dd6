"""Frames between the supervisor and its children, on their Unix socket."""

from __future__ import annotations

import enum
from typing import Final

from protocol.codec import FrameError, frame, record
from protocol.mycelium.endpoint import Protocol

SCHEMA: Final = 2
"""Of all frames; one more with every frame that is added, removed or changed."""

MOST_WILL_BYTES: Final = 256


class Role(enum.Enum):
    """The kinds of process."""

    SUPERVISOR = "supervisor"
    TUN = "tun"
    LINK = "link"
    PEERS = "peers"
    ROUTER = "router"
    STATUS = "status"
    RPC = "rpc"
    MESSAGEBOX = "messagebox"


@frame(0x01)
class Hello:
    """Child → supervisor, first: who speaks, and in which version of these frames."""

    schema: int
    role: Role
    name: str
    pid: int


@frame(0x02)
class Ready:
    """Child → supervisor: it serves now. A death after this is answered at once."""


@record
class Figures:
    """What a process says of itself."""

    cpu_seconds: float
    pss_kib: int
    queues: dict[str, int]
    counters: dict[str, int]


@frame(0x03)
class Heartbeat:
    """Child → supervisor, every second."""

    figures: Figures


@frame(0x04)
class Stop:
    """Supervisor → child: finish what is in hand and exit."""

    reason: str


class SocketKind(enum.Enum):
    """The kinds of socket that peers dials with."""

    TCP_IPV4 = "tcp4"
    TCP_IPV6 = "tcp6"
    UNIX = "unix"
    VSOCK = "vsock"


@frame(0x05)
class OpenSocket:
    """Peers → supervisor: a socket to dial with, marked as configured."""

    token: int
    kind: SocketKind


@frame(0x10)
class OpenDatagramSocket:
    """Peers → supervisor: a UDP socket, marked as configured, connected to `remote`, of `local` unless that is empty.

    Both are written as socket addresses. The answer is a `SocketOpened`.
    """

    token: int
    local: str
    remote: str


@frame(0x0E)
class AdoptLink:
    """Supervisor → a process of links, the socket attached, and the ledger where it has one: take it, too.

    `sent` and `received` are the kernel's counts when the connection was new; 0 where it has no ledger.
    """

    link: int
    endpoint: str
    outbound: bool
    transport: Protocol
    opening: bytes
    sent: int
    received: int


@frame(0x0F)
class LastWill:
    """A process of links → supervisor: what to send on this link's socket if the process is killed.

    A sealed packet that ends the connection and is good for nothing else (`protocol/quic/last_will.py`).
    """

    link: int
    datagram: bytes

    def __post_init__(self) -> None:
        if len(self.datagram) > MOST_WILL_BYTES:
            raise FrameError(f"a last will of {len(self.datagram)} bytes, at most {MOST_WILL_BYTES}")


@frame(0x06)
class SocketOpened:
    """Supervisor → peers, the socket attached; or `error` and nothing attached."""

    token: int
    error: str


@frame(0x07)
class SpawnLink:
    """Peers → supervisor, the connected socket attached: give it a process.

    `transport` is what is spoken there, which is not always what the endpoint says: in a private network TCP is TLS.
    `opening` is what was read of an accepted connection before, and the transport's own.
    `peer` is how people named it, which may be a host name where `endpoint` is the address it was reached at.
    """

    link: int
    endpoint: str
    outbound: bool
    transport: Protocol
    opening: bytes
    peer: str

    def __post_init__(self) -> None:
        if self.link < 1:
            raise FrameError(f"link {self.link} where numbers start at 1")


@frame(0x08)
class EndLink:
    """Peers or router → supervisor: this link has to go."""

    link: int
    reason: str


@frame(0x09)
class LinkGone:
    """Supervisor → peers and router: the process of this link ended."""

    link: int
    reason: str


@frame(0x0A)
class AskActors:
    """Child → supervisor, or anyone → an actor, who passes it on: what runs, and how is it?"""

    token: int


@record
class ActorRow:
    """One process as the supervisor knows it: identity, age, restarts, and its last heartbeat."""

    name: str
    role: Role
    title: str
    pid: int
    age_seconds: float
    restarts: int
    ready: bool
    cpu_seconds: float
    pss_kib: int
    queues: dict[str, int]
    counters: dict[str, int]


@frame(0x0B)
class ActorList:
    """The answer to `AskActors`; `more` where another part follows."""

    token: int
    actors: tuple[ActorRow, ...]
    more: bool


@frame(0x0C)
class DeviceReady:
    """Set-up child → supervisor, the TUN descriptor attached if there is a device: whose node this is."""

    public_key: bytes
    udp_offload: bool
    """Whether the device takes super-packets of UDP, too."""
    warnings: tuple[str, ...]


@frame(0x0D)
class DeviceFailed:
    """Set-up child → supervisor: why the node can't start."""

    error: str
