"""Every frame that travels between two processes of a node, defined once.

Numbers below 0x20 travel on the Unix socket between the supervisor and a child, the others over ZeroMQ. Adding,
removing or changing one means a new `SCHEMA`: both ends of every connection compare it before anything else.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final, TypeVar

import msgpack

from protocol.codec import FrameError, Payload, frame, record, topic

SCHEMA: Final = 1

ADDRESS_BYTES: Final = 16
KEY_BYTES: Final = 32
MAX_PART: Final = 1024
"""Rows in one part of a long answer."""
MAX_CHANGES: Final = 1024
MAX_SLOTS: Final = 4096
MAX_RUN_BYTES: Final = 1 << 19
"""Payload bytes in one frame of packets; a sender splits before that."""

_Row = TypeVar("_Row")


class Role(enum.Enum):
    """The kinds of process."""

    SUPERVISOR = "supervisor"
    TUN = "tun"
    LINK = "link"
    PEERS = "peers"
    ROUTER = "router"
    STATUS = "status"


TO_TUN: Final = 0
"""Where other packets have the number of a link: tun. Links start at 1."""
_PROCESS_BITS: Final = 32


def link_number(process: int, index: int) -> int:
    """The number of the link that is number `index` (0 is the first) in process `process` (1 is the first)."""
    return index << _PROCESS_BITS | process


def index_of(link: int) -> int:
    """Which of the links that its process has had this is."""
    return link >> _PROCESS_BITS


def process_of(link: int) -> int:
    """Which process a link lives in."""
    return link & (1 << _PROCESS_BITS) - 1


def link_text(link: int) -> str:
    """A link as logs name it: its process, and which one of several there it is."""
    index = index_of(link)
    return f"{process_of(link)}.{index}" if index else str(process_of(link))


def actor_of(link: int) -> str:
    """The name of the actor that a link lives in, or tun's."""
    return f"link-{process_of(link)}" if link else "tun"


def in_parts(rows: Sequence[_Row]) -> Iterator[tuple[tuple[_Row, ...], bool]]:
    """Rows in parts that fit a frame, each with whether another follows; one empty part where there is nothing."""
    for start in range(0, max(1, len(rows)), MAX_PART):
        yield tuple(rows[start : start + MAX_PART]), start + MAX_PART < len(rows)


# --- supervisor and child ---------------------------------------------------------------------------------------------


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


@frame(0x05)
class OpenSocket:
    """Peers → supervisor: a TCP socket to dial with, marked as configured."""

    token: int
    ipv6: bool


@frame(0x0E)
class AdoptLink:
    """Supervisor → a process of links, the socket and the ledger attached: take this connection, too.

    `sent` and `received` are the kernel's counts when the connection was new.
    """

    link: int
    endpoint: str
    outbound: bool
    sent: int
    received: int


@frame(0x06)
class SocketOpened:
    """Supervisor → peers, the socket attached; or `error` and nothing attached."""

    token: int
    error: str


@frame(0x07)
class SpawnLink:
    """Peers → supervisor, the connected socket attached: give it a process."""

    link: int
    endpoint: str
    outbound: bool

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


# --- forwarding table -------------------------------------------------------------------------------------------------


class RouteState(enum.IntEnum):
    """What a prefix is to the packet path."""

    FORGOTTEN = 0
    """Nothing is known (any more): packets that wait for it are given up."""
    SELECTED = 1
    """A link leads there."""
    RESOLVING = 2
    """Asked for: packets wait."""
    UNREACHABLE = 3
    """Known, but no route is usable now; the key still opens packets from there."""


@record
class RouteEntry:
    """One prefix of the forwarding table. `link` is 0 and `public_key` empty where there is none."""

    network: bytes
    length: int
    state: RouteState
    link: int
    public_key: bytes
    clean: bool

    def __post_init__(self) -> None:
        if len(self.network) != ADDRESS_BYTES or not 0 <= self.length <= 128:
            raise FrameError("a prefix has 16 bytes and 0 to 128 bits")
        if len(self.public_key) not in (0, KEY_BYTES):
            raise FrameError(f"a public key has {KEY_BYTES} bytes, not {len(self.public_key)}")


@frame(0x20)
class TableEpoch:
    """Router → each new subscriber: which router process publishes. A new epoch means: introduce yourself again."""

    epoch: int


@frame(0x21)
class RouteDelta:
    """Router → data actors: change number `serial` of the forwarding table."""

    epoch: int
    serial: int
    changes: tuple[RouteEntry, ...]

    def __post_init__(self) -> None:
        if len(self.changes) > MAX_CHANGES:
            raise FrameError(f"{len(self.changes)} changes in one delta, at most {MAX_CHANGES}")


@frame(0x26)
class TableSerial:
    """Router → data actors, for some seconds after a change: the number of the last one, lest its loss go unnoticed."""

    epoch: int
    serial: int


@frame(0x22)
class AskTable:
    """Data actor → router: the whole table, please."""


@frame(0x23)
class TablePart:
    """Router → data actor: part `number` of the table as of change `serial`; `more` where another part follows.

    Two answers may overlap on their way: parts of one serial, numbered from 0 without a gap, make a whole table.
    """

    epoch: int
    serial: int
    number: int
    entries: tuple[RouteEntry, ...]
    more: bool


@frame(0x24)
class Resolve:
    """Data actor → router: packets wait for (or came from) this prefix."""

    network: bytes
    length: int


@frame(0x25)
class RouteUsed:
    """Data actor → router: these /64 prefixes carried packets lately, so don't let them expire."""

    networks: tuple[bytes, ...]


# --- links ------------------------------------------------------------------------------------------------------------


@frame(0x30)
class LinkUp:
    """Link → router: a connection to a neighbour. `any_size`: it carries packets of every size."""

    link: int
    name: str
    static_cost: int
    any_size: bool
    resumed: bool
    """Whether this process goes on in a connection that another one had, and may have lost what it was to write."""


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


# --- packets ----------------------------------------------------------------------------------------------------------


def lengths_of(run: bytes) -> tuple[int, ...]:
    """The lengths of the packets in a run, in order."""
    return struct.unpack(f"<{len(run) // 4}I", run)


def pack_lengths(lengths: list[int]) -> bytes:
    """The inverse of `lengths_of`."""
    return struct.pack(f"<{len(lengths)}I", *lengths)


_PACKETS: Final = 0x40


@frame(_PACKETS)
class Packets:
    """Data actor → data actor, over a lane: data packets, each with its header, to be passed on in this order.

    Towards tun they are for this node, hop limits counted down; towards a link they are to be written. Small runs lie
    in `payload`, with 32-bit little-endian `lengths`, one per packet; others stay in the sender's arena, where `pieces`
    says (`protocol/arena.py`). A reader gives each piece back with `Returned`.
    """

    link: int
    """Which of the links in the receiving process; 0 towards tun."""
    lengths: bytes
    payload: Payload
    pieces: bytes

    def __post_init__(self) -> None:
        if len(self.lengths) % 4 or sum(lengths := lengths_of(self.lengths)) != len(self.payload):
            raise FrameError("the lengths don't add up to the payload")
        if 0 in lengths:
            raise FrameError("an empty packet in a run")
        if len(self.payload) > MAX_RUN_BYTES:
            raise FrameError(f"{len(self.payload)} bytes in one run of packets, at most {MAX_RUN_BYTES}")
        if not self.lengths and not self.pieces:
            raise FrameError("a run without packets")


@frame(0x41)
class Returned:
    """Reader → writer of an arena: done with pieces, each named by its slot and the link it went to.

    Two 64-bit little-endian numbers for each piece; those of one link and slot in the order in which they came.
    """

    pieces: bytes

    def __post_init__(self) -> None:
        if not self.pieces or len(self.pieces) % 16:
            raise FrameError(f"{len(self.pieces)} bytes of pieces that come back")


_PACKETS_TOPIC: Final = topic(Packets)


def pack_packets(link: int, lengths: bytes, payload: Payload, pieces: bytes) -> bytes:
    """`pack(Packets(…))` for the packet path: the same bytes, made in 1 µs instead of 8."""
    data: bytes = msgpack.packb((_PACKETS, link, lengths, payload, pieces))
    return data


def unpack_packets(data: bytes) -> tuple[int, tuple[int, ...], bytes, bytes] | None:
    """Link, ends of the packets in the payload, payload and pieces of a `Packets`; None for any other frame.

    `unpack` for the packet path: as strict, in 1 µs instead of 6. Raises `FrameError`.
    """
    if not data.startswith(_PACKETS_TOPIC):
        return None
    try:
        _, link, lengths, payload, pieces = msgpack.unpackb(data, use_list=False)
    except (ValueError, msgpack.exceptions.StackError) as error:
        raise FrameError(f"{len(data)} bytes are not one Packets: {error}") from error
    if type(link) is not int or not type(lengths) is type(payload) is type(pieces) is bytes:
        raise FrameError("Packets: a number and three byte strings belong here")
    if not lengths:
        if payload or not pieces:
            raise FrameError("Packets: a run without packets")
        return link, (), payload, pieces
    if len(lengths) % 4:
        raise FrameError("Packets: the lengths are cut short")
    ends = tuple(accumulate(lengths_of(lengths)))
    if ends[-1] != len(payload) or len(payload) > MAX_RUN_BYTES or len(set(ends)) < len(ends) or not ends[0]:
        raise FrameError("Packets: the lengths don't add up to the payload")
    return link, ends, payload, pieces


@frame(0x43)
class LaneHello:
    """Either side of a lane, first: the schema, and the arena whose descriptor came with the connection."""

    schema: int
    arena: int
    slots: int

    def __post_init__(self) -> None:
        if self.arena < 1 or not 0 < self.slots <= MAX_SLOTS:
            raise FrameError(f"arena {self.arena} of {self.slots} slots")


@frame(0x44)
class Recovered:
    """Reader → writer: what a predecessor of the reader had leased is not needed any more."""


class Undelivered(enum.IntEnum):
    """Why a link could not pass a packet on."""

    NO_ROUTE = 1
    HOP_LIMIT = 2


@frame(0x42)
class ReportUndelivered:
    """Link → tun, which holds the key that seals reports: tell the source what became of this data packet."""

    why: Undelivered
    packet: bytes


# --- questions from people and from status ----------------------------------------------------------------------------


@frame(0x50)
class AskPeers:
    """→ peers."""

    token: int


@record
class PeerRow:
    """One peer. Ages in seconds; `connected_age` is None where it never was connected."""

    endpoint: str
    kind: str
    state: str
    link: int
    sent_octets: int
    received_octets: int
    discovered_age: float
    connected_age: float | None
    reason: str


@frame(0x51)
class PeerList:
    """Peers → asker."""

    token: int
    peers: tuple[PeerRow, ...]
    more: bool


@frame(0x52)
class AddPeer:
    """→ peers: dial this endpoint for ever."""

    token: int
    endpoint: str


@frame(0x53)
class RemovePeer:
    """→ peers: forget this endpoint and close its connection."""

    token: int
    endpoint: str


class Outcome(enum.IntEnum):
    """How a request ended."""

    DONE = 0
    EXISTS = 1
    MISSING = 2
    REFUSED = 3


@frame(0x54)
class Answer:
    """The end of an `AddPeer` or `RemovePeer`; `reason` is for people."""

    token: int
    outcome: Outcome
    reason: str


class RouteKind(enum.Enum):
    """Which routes are asked for."""

    SELECTED = "selected"
    FALLBACK = "fallback"


@frame(0x55)
class AskRoutes:
    """→ router."""

    token: int
    kind: RouteKind


@record
class RouteRow:
    """One route: metric as the next hop announced it."""

    network: bytes
    length: int
    next_hop: str
    metric: int
    seqno: int


@frame(0x56)
class RouteList:
    """Router → asker."""

    token: int
    routes: tuple[RouteRow, ...]
    more: bool


@frame(0x57)
class AskQueried:
    """→ router: what is being resolved?"""

    token: int


@record
class QueriedRow:
    """One prefix that is being resolved, for so many seconds more."""

    network: bytes
    length: int
    seconds_left: float


@frame(0x58)
class QueriedList:
    """Router → asker."""

    token: int
    queried: tuple[QueriedRow, ...]
    more: bool


@frame(0x59)
class AskPublicKey:
    """→ router: whose address is this?"""

    token: int
    address: bytes


@frame(0x5A)
class PublicKeyAnswer:
    """Router → asker; empty where no route is known."""

    token: int
    public_key: bytes


@frame(0x5B)
class AskTraffic:
    """→ peers: packets and bytes by address."""

    token: int


@record
class AddressTraffic:
    """Packets and bytes of ciphertext with this source or destination."""

    address: bytes
    packets: int
    octets: int


@frame(0x5C)
class TrafficList:
    """Peers → asker. Sources in full, then destinations in full; `more` where another part follows."""

    token: int
    by_source: tuple[AddressTraffic, ...]
    by_destination: tuple[AddressTraffic, ...]
    more: bool


# --- events for whoever attaches --------------------------------------------------------------------------------------


class Direction(enum.Enum):
    """Which way a packet crosses the process that reports it."""

    IN = "in"
    OUT = "out"


@frame(0x60)
class PacketsSeen:
    """Link or tun → its subscribers: the 40-byte headers of data packets that just passed, concatenated."""

    actor: str
    direction: Direction
    headers: bytes
