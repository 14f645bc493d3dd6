"""Rows of frames as the JSON objects of the HTTP API: names, order and forms of the reference (API spec 3.1)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from ipaddress import IPv6Address
from typing import Any, Final

from protocol.frames import ActorRow, AddressTraffic, PeerRow, QueriedRow, RouteRow
from protocol.mycelium.endpoint import Endpoint, SocketAddress, UnixAddress, VsockAddress, ip_text

METRIC_INFINITE: Final = 0xFFFF


def peer_object(row: PeerRow) -> dict[str, Any]:
    """A `PeerStats`; ages are whole seconds."""
    endpoint = Endpoint.parse(row.endpoint)
    return {
        "endpoint": {"proto": endpoint.protocol.value, "addr": _address_object(endpoint.address)},
        "type": row.kind,
        "connectionState": row.state,
        "txBytes": row.sent_octets,
        "rxBytes": row.received_octets,
        "discovered": _whole_seconds(row.discovered_age),
        "lastConnected": None if row.connected_age is None else _whole_seconds(row.connected_age),
    }


def _address_object(address: SocketAddress | VsockAddress | UnixAddress) -> dict[str, Any]:
    match address:
        case SocketAddress():
            return {"socket": str(address)}
        case VsockAddress():
            return {"vsock": {"cid": address.cid, "port": address.port}}
        case UnixAddress():
            # Ours: the reference has no such transport, and so no form for it.
            return {"unix": str(address)}


def route_object(row: RouteRow) -> dict[str, Any]:
    """A `Route`."""
    return {
        "subnet": subnet_text(row.network, row.length),
        "nextHop": row.next_hop,
        "metric": "infinite" if row.metric >= METRIC_INFINITE else row.metric,
        "seqno": row.seqno,
    }


def queried_object(row: QueriedRow) -> dict[str, Any]:
    """A `QueriedSubnet`; the reference writes its seconds as text."""
    return {"subnet": subnet_text(row.network, row.length), "expiration": str(_whole_seconds(row.seconds_left))}


def traffic_objects(rows: Iterable[AddressTraffic]) -> list[dict[str, Any]]:
    """One half of a `PacketStatistics`."""
    return [
        {"ip": ip_text(IPv6Address(row.address)), "packetCount": row.packets, "byteCount": row.octets} for row in rows
    ]


def actor_object(row: ActorRow) -> dict[str, Any]:
    """One process of the node: ours, not the reference's."""
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


def subnet_text(network: bytes, length: int) -> str:
    """`5ea:4578:6f:62c8::/64` for 16 bytes and a number of bits."""
    return f"{ip_text(IPv6Address(network))}/{length}"


def _whole_seconds(age: float) -> int:
    return max(0, math.floor(age))
