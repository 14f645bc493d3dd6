"""What the API answers, as JSON: names, order and forms of the reference (API spec 3.1 and 4), and what is ours.

Each object is declared once; what fills it and what the documents say of it both come from the declaration.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from ipaddress import IPv6Address
from typing import Annotated, Final, Literal, NotRequired, TypedDict

from actors.api.schema import Range, Text
from protocol.frames import ActorRow, AddressTraffic, AllowedList, AllowedRow, PeerRow, QueriedRow, RouteRow
from protocol.mycelium.endpoint import Endpoint, SocketAddress, UnixAddress, VsockAddress, ip_text
from protocol.targets import HostName, Target

METRIC_INFINITE: Final = 0xFFFF

Address = Annotated[str, Text(example="5a5:ddb0:8295:ef60:678f:3e8e:1d83:1264"), "An IP address."]
Subnet = Annotated[str, Text(example="5a5:ddb0:8295:ef60::/64"), "ADDRESS/PREFIX."]
PublicKey = Annotated[str, Text(r"^[0-9a-fA-F]{64}$"), "64 hex digits."]
MessageId = Annotated[str, Text(r"^[0-9a-fA-F]{16}$", "0102030405060708"), "16 hex digits."]
Base64 = Annotated[
    str,
    Text(r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$", "ZGVtbw==", "base64"),
    "Bytes in base64, with padding.",
]
EndpointText = Annotated[str, Text(example="tcp://192.0.2.10:9651"), "PROTO://ADDRESS:PORT."]
Count = Annotated[int, Range(0)]
Seconds = Annotated[int, Range(0), "Seconds."]
UnixTime = Annotated[int, Range(0), "Seconds since the Unix epoch."]


class Info(TypedDict):
    """The node itself."""

    nodeSubnet: Subnet
    nodeIp: Address
    nodePubkey: PublicKey
    nodeStartTime: UnixTime


class SocketPlace(TypedDict):
    """Where an endpoint of TCP, TLS or QUIC is."""

    socket: Annotated[str, Text(example="192.0.2.10:9651")]


class VsockNumbers(TypedDict):
    """A virtual machine's context id, and a port."""

    cid: Count
    port: Count


class VsockPlace(TypedDict):
    """Where an endpoint of vsock is."""

    vsock: VsockNumbers


class UnixPlace(TypedDict):
    """Where an endpoint of a Unix socket is: ours, the reference has no such transport."""

    unix: str


class EndpointObject(TypedDict):
    """A peer's endpoint, taken apart."""

    proto: Literal["tcp", "tls", "quic", "vsock", "unix"]
    addr: SocketPlace | VsockPlace | UnixPlace


class PeerStats(TypedDict):
    """One peer. `discovered` and `lastConnected` are seconds ago."""

    endpoint: EndpointObject
    type: Literal["static", "inbound", "linkLocalDiscovery"]
    connectionState: Literal["alive", "connecting", "dead"]
    txBytes: Count
    rxBytes: Count
    discovered: Seconds
    lastConnected: Seconds | None


class Route(TypedDict):
    """A route; the metric is the one that the next hop announced."""

    subnet: Subnet
    nextHop: Annotated[str, Text(example="TCP 198.51.100.4:51022 <-> 192.0.2.10:9651")]
    metric: Annotated[int, Range(0, 65534)] | Literal["infinite"]
    seqno: Annotated[int, Range(0, 65535)]


class QueriedSubnet(TypedDict):
    """A subnet whose route is being searched; `expiration` is seconds, as text."""

    subnet: Subnet
    expiration: Annotated[str, Text(r"^\d+$", "15")]


class PacketCounts(TypedDict):
    """Packets with this source or destination, and their sealed bytes."""

    ip: Address
    packetCount: Count
    byteCount: Count


class PacketStatistics(TypedDict):
    """What was carried, by address."""

    bySource: list[PacketCounts]
    byDestination: list[PacketCounts]


class PublicKeyObject(TypedDict):
    """Whose an address is."""

    publicKey: PublicKey


class Destination(TypedDict):
    """Where a message goes: exactly one of an address and a key."""

    ip: NotRequired[Address]
    pk: NotRequired[PublicKey]


class PushMessage(TypedDict):
    """A message to be sent."""

    dst: Destination
    topic: NotRequired[Base64 | None]
    payload: Base64


class InboundMessage(TypedDict):
    """A message that arrived; without a topic it has no member `topic`."""

    id: MessageId
    srcIp: Address
    srcPk: PublicKey
    dstIp: Address
    dstPk: PublicKey
    topic: NotRequired[Base64]
    payload: Base64


class PushedMessage(TypedDict):
    """A message that is being sent."""

    id: MessageId


class SendingCounts(TypedDict):
    """Pieces of a message under way: never sent, sent and not acknowledged, acknowledged."""

    pending: Count
    sent: Count
    acked: Count


class Sending(TypedDict):
    """The state of a message under way."""

    sending: SendingCounts


MessageState = Literal["pending", "received", "read", "aborted"] | Sending


class MessageStatus(TypedDict):
    """What became of an own message."""

    dst: Address
    state: MessageState
    created: UnixTime
    deadline: UnixTime
    msgLen: Count


class OutboxMessage(TypedDict):
    """An own message of the last minutes."""

    id: MessageId
    dst: Address
    topic: Base64
    reply: bool
    state: MessageState
    created: UnixTime
    deadline: UnixTime
    msgLen: Count


class DefaultAction(TypedDict):
    """Whether messages on topics without rules are accepted."""

    accept: bool


class ActorObject(TypedDict):
    """One process of the node."""

    name: str
    role: str
    title: str
    pid: Count
    ready: bool
    ageSeconds: float
    restarts: Count
    cpuSeconds: float
    memoryKib: Count
    queues: dict[str, int]
    counters: dict[str, int]


class AllowRule(TypedDict):
    """One rule of the inbound allow-list, and what it let in; `lastUsed` is seconds ago."""

    rule: str
    origin: Literal["configured", "added"]
    packets: Count
    bytes: Count
    lastUsed: Seconds | None


class AllowList(TypedDict):
    """Who may come in from the overlay; everybody where no rule is active."""

    active: bool
    rules: list[AllowRule]
    ownFlows: Count
    refusedPackets: Count


class Unavailable(TypedDict):
    """A part of the node did not answer; it is `actor`."""

    error: str
    actor: str


# --- what fills them --------------------------------------------------------------------------------------------------


def peer_object(row: PeerRow) -> PeerStats:
    """Ages are whole seconds."""
    endpoint = _numeric(row)
    return {
        "endpoint": {"proto": endpoint.protocol.value, "addr": _place(endpoint.address)},
        "type": row.kind,  # type: ignore[typeddict-item]
        "connectionState": row.state,  # type: ignore[typeddict-item]
        "txBytes": row.sent_octets,
        "rxBytes": row.received_octets,
        "discovered": _whole_seconds(row.discovered_age),
        "lastConnected": None if row.connected_age is None else _whole_seconds(row.connected_age),
    }


def _numeric(row: PeerRow) -> Endpoint:
    """The peer with an address in place of a host name, for which the reference has no form: the one it was reached at.

    Before it was, nobody's address stands for it.
    """
    target = Target.parse(row.endpoint)
    if target.endpoint is not None:
        return target.endpoint
    if target.proxy is None and row.reached:
        return Endpoint.parse(row.reached)
    if isinstance(target.place, HostName):
        return Endpoint(target.protocol, SocketAddress(IPv6Address(0), target.place.port))
    return Endpoint(target.protocol, target.place)


def _place(address: SocketAddress | VsockAddress | UnixAddress) -> SocketPlace | VsockPlace | UnixPlace:
    match address:
        case SocketAddress():
            return {"socket": str(address)}
        case VsockAddress():
            return {"vsock": {"cid": address.cid, "port": address.port}}
        case UnixAddress():
            return {"unix": str(address)}


def route_object(row: RouteRow) -> Route:
    """One row of the router's table."""
    return {
        "subnet": subnet_text(row.network, row.length),
        "nextHop": row.next_hop,
        "metric": "infinite" if row.metric >= METRIC_INFINITE else row.metric,
        "seqno": row.seqno,
    }


def queried_object(row: QueriedRow) -> QueriedSubnet:
    """The reference writes its seconds as text."""
    return {"subnet": subnet_text(row.network, row.length), "expiration": str(_whole_seconds(row.seconds_left))}


def traffic_objects(rows: Iterable[AddressTraffic]) -> list[PacketCounts]:
    """One half of the statistics."""
    return [
        {"ip": ip_text(IPv6Address(row.address)), "packetCount": row.packets, "byteCount": row.octets} for row in rows
    ]


def actor_object(row: ActorRow) -> ActorObject:
    """A process as the supervisor knows it."""
    return {
        "name": row.name,
        "role": row.role.value,
        "title": row.title,
        "pid": row.pid,
        "ready": row.ready,
        "ageSeconds": round(row.age_seconds, 1),
        "restarts": row.restarts,
        "cpuSeconds": round(row.cpu_seconds, 2),
        "memoryKib": row.pss_kib,
        "queues": row.queues,
        "counters": row.counters,
    }


def allow_list_object(answer: AllowedList) -> AllowList:
    """The list as tun has it."""
    return {
        "active": bool(answer.rules),
        "rules": [_allow_rule(row) for row in answer.rules],
        "ownFlows": answer.own_flows,
        "refusedPackets": answer.refused,
    }


def _allow_rule(row: AllowedRow) -> AllowRule:
    return {
        "rule": row.rule,
        "origin": "configured" if row.configured else "added",
        "packets": row.packets,
        "bytes": row.octets,
        "lastUsed": None if row.idle is None else int(row.idle),
    }


def subnet_text(network: bytes, length: int) -> str:
    """`5ea:4578:6f:62c8::/64` for 16 bytes and a number of bits."""
    return f"{ip_text(IPv6Address(network))}/{length}"


def _whole_seconds(age: float) -> int:
    return max(0, math.floor(age))
