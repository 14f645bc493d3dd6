"""What a node's API says, as frozen objects: peers, routes, traffic, messages."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

MESSAGE_ID_DIGITS: Final = 16


@dataclass(frozen=True, slots=True)
class Info:
    """Who the node is: addresses as text, the public key as 64 hex digits, its start in seconds of the Unix epoch."""

    subnet: str
    address: str
    public_key: str
    started: int

    @classmethod
    def of(cls, value: Any) -> Info:
        """From an `Info` object (API spec 3.1)."""
        return cls(
            checked_text(value["nodeSubnet"]),
            checked_text(value["nodeIp"]),
            checked_text(value["nodePubkey"]),
            _number(value["nodeStartTime"]),
        )


@dataclass(frozen=True, slots=True)
class Peer:
    """A neighbour, connected or not. `protocol`, `kind` and `state` are the words of the API, for example
    `tcp`, `static`, `alive`; octets are counted since the peer became known, seconds run until now."""

    protocol: str
    address: str
    kind: str
    state: str
    sent_octets: int
    received_octets: int
    discovered_s: int
    connected_s: int | None
    """None if it never was."""

    @property
    def endpoint(self) -> str:
        """What `add_peer` and `remove_peer` take, for example `tcp://192.0.2.10:9651`."""
        return f"{self.protocol}://{self.address}"

    @classmethod
    def of(cls, value: Any) -> Peer:
        """From a `PeerStats` object (API spec 3.1)."""
        protocol, address = value["endpoint"]["proto"], value["endpoint"]["addr"]
        last = value["lastConnected"]
        return cls(
            checked_text(protocol),
            _peer_address(address),
            checked_text(value["type"]),
            checked_text(value["connectionState"]),
            _number(value["txBytes"]),
            _number(value["rxBytes"]),
            _number(value["discovered"]),
            None if last is None else _number(last),
        )


def _peer_address(value: Any) -> str:
    if "vsock" in value:
        return f"{_number(value['vsock']['cid'])}:{_number(value['vsock']['port'])}"
    return checked_text(value["socket"] if "socket" in value else value["unix"])


@dataclass(frozen=True, slots=True)
class Route:
    """A way to a subnet. `metric` is what the next hop announced, None for a retracted route."""

    subnet: str
    next_hop: str
    metric: int | None
    seqno: int

    @classmethod
    def of(cls, value: Any) -> Route:
        """From a `Route` object (API spec 3.1)."""
        metric = value["metric"]
        return cls(
            checked_text(value["subnet"]),
            checked_text(value["nextHop"]),
            None if metric == "infinite" else _number(metric),
            _number(value["seqno"]),
        )


@dataclass(frozen=True, slots=True)
class QueriedSubnet:
    """A subnet that is being asked for, and the seconds until that is given up."""

    subnet: str
    expires_s: int

    @classmethod
    def of(cls, value: Any) -> QueriedSubnet:
        """From a `QueriedSubnet` object (API spec 3.1), whose seconds are text."""
        return cls(checked_text(value["subnet"]), int(value["expiration"]))


@dataclass(frozen=True, slots=True)
class Traffic:
    """Data packets of one address and the bytes that were sealed in them."""

    address: str
    packets: int
    octets: int

    @classmethod
    def of(cls, value: Any) -> Traffic:
        """From an entry of `PacketStatistics` (API spec 3.1)."""
        return cls(checked_text(value["ip"]), _number(value["packetCount"]), _number(value["byteCount"]))


@dataclass(frozen=True, slots=True)
class PacketStatistics:
    """Traffic by source and by destination."""

    by_source: tuple[Traffic, ...]
    by_destination: tuple[Traffic, ...]

    @classmethod
    def of(cls, value: Any) -> PacketStatistics:
        """From a `PacketStatistics` object (API spec 3.1)."""
        sources, destinations = (tuple(map(Traffic.of, value[name])) for name in ("bySource", "byDestination"))
        return cls(sources, destinations)


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A peer, and the link to it where there is one: what it costs, and why it is used or not."""

    endpoint: str
    reached: str
    origin: str
    state: str
    reason: str
    link: str | None
    neighbour: str | None
    cost: int | None
    round_trip_ms: int | None
    prefixes: int
    why: str

    @classmethod
    def of(cls, value: Any) -> Neighbour:
        """From its JSON object. Raises `KeyError`, `TypeError` or `ValueError` on another shape."""
        link, neighbour = value["link"], value["neighbour"]
        cost, round_trip = value["cost"], value["roundTripMs"]
        return cls(
            endpoint=checked_text(value["endpoint"]),
            reached=checked_text(value["reached"]),
            origin=checked_text(value["origin"]),
            state=checked_text(value["state"]),
            reason=checked_text(value["reason"]),
            link=None if link is None else checked_text(link),
            neighbour=None if neighbour is None else checked_text(neighbour),
            cost=None if cost is None else _number(cost),
            round_trip_ms=None if round_trip is None else _number(round_trip),
            prefixes=_number(value["prefixes"]),
            why=checked_text(value["why"]),
        )


@dataclass(frozen=True, slots=True)
class AllowedRule:
    """One rule of who may come in; `last_used_s` is seconds ago, None for never."""

    rule: str
    configured: bool
    packets: int
    octets: int
    last_used_s: int | None

    @classmethod
    def of(cls, value: Any) -> AllowedRule:
        """From its JSON object. Raises `KeyError`, `TypeError` or `ValueError` on another shape."""
        used = value["lastUsed"]
        return cls(
            rule=checked_text(value["rule"]),
            configured=value["origin"] == "configured",
            packets=_number(value["packets"]),
            octets=_number(value["bytes"]),
            last_used_s=None if used is None else _number(used),
        )


@dataclass(frozen=True, slots=True)
class AllowList:
    """Who may come in from the overlay; without a rule everybody may."""

    rules: tuple[AllowedRule, ...]
    own_flows: int
    """Flows of the host whose replies come in."""
    refused_packets: int

    @classmethod
    def of(cls, value: Any) -> AllowList:
        """From its JSON object. Raises `KeyError`, `TypeError` or `ValueError` on another shape."""
        return cls(
            rules=tuple(AllowedRule.of(entry) for entry in value["rules"]),
            own_flows=_number(value["ownFlows"]),
            refused_packets=_number(value["refusedPackets"]),
        )


@dataclass(frozen=True, slots=True)
class Message:
    """A message that arrived. Addresses are text, keys 64 hex digits, `id` 16; without a topic `topic` is empty."""

    id: str
    source: str
    source_key: str
    destination: str
    destination_key: str
    topic: bytes
    payload: bytes = field(repr=False)

    @classmethod
    def of(cls, value: Any) -> Message:
        """From an `InboundMessage` object (API spec 4)."""
        return cls(
            id=checked_text(value["id"]),
            source=checked_text(value["srcIp"]),
            source_key=checked_text(value["srcPk"]),
            destination=checked_text(value["dstIp"]),
            destination_key=checked_text(value["dstPk"]),
            topic=from_base64(value.get("topic", "")),
            payload=from_base64(value["payload"]),
        )


class MessageState(Enum):
    """What became of a message that was sent; the value is the word of the API."""

    PENDING = "pending"
    """Its receiver has not answered yet: no route, offline, or it refuses the topic. It is tried until its deadline."""
    SENDING = "sending"
    RECEIVED = "received"
    READ = "read"
    """Somebody took it out of the receiver's inbox."""
    ABORTED = "aborted"

    @property
    def final(self) -> bool:
        """Whether sending is over, well or badly."""
        return self in (MessageState.RECEIVED, MessageState.READ, MessageState.ABORTED)


@dataclass(frozen=True, slots=True)
class MessageStatus:
    """A message that was sent: bytes, state, and while it is SENDING how many chunks wait, are under way, arrived.

    `created` and `deadline` are seconds of the Unix epoch.
    """

    destination: str
    state: MessageState
    length: int
    created: int
    deadline: int
    chunks_unsent: int = 0
    chunks_under_way: int = 0
    chunks_arrived: int = 0

    @classmethod
    def of(cls, value: Any) -> MessageStatus:
        """From a `MessageStatus` object (API spec 4)."""
        state = value["state"]
        chunks = (0, 0, 0)
        if isinstance(state, dict):
            (state, found) = next(iter(state.items()))
            chunks = (_number(found["pending"]), _number(found["sent"]), _number(found["acked"]))
        return cls(
            checked_text(value["dst"]),
            MessageState(state),
            _number(value["msgLen"]),
            _number(value["created"]),
            _number(value["deadline"]),
            *chunks,
        )


@dataclass(frozen=True, slots=True)
class OwnMessage:
    """A message in the outbox: id (16 hex digits), topic, whether it answers another one, and its status."""

    id: str
    topic: bytes
    is_reply: bool
    status: MessageStatus

    @classmethod
    def of(cls, value: Any) -> OwnMessage:
        """From an entry of the outbox list."""
        return cls(
            checked_text(value["id"]), from_base64(value["topic"]), bool(value["reply"]), MessageStatus.of(value)
        )


def from_base64(text: Any) -> bytes:
    """The bytes of base64 text. Raises `ValueError` or `TypeError` for anything else."""
    return base64.b64decode(checked_text(text), validate=True)


def to_base64(octets: bytes | bytearray | memoryview) -> str:
    """Base64 text with padding."""
    return base64.b64encode(octets).decode()


def of_headers(headers: Mapping[str, str], payload: bytes, own_key: str) -> Message:
    """A message whose bytes came as they are, and the rest in headers (names in lower case)."""
    return Message(
        id=headers["septate-message-id"],
        source=headers["septate-source"],
        source_key=headers["septate-source-key"],
        destination=headers["septate-destination"],
        destination_key=own_key,
        topic=from_base64(headers.get("septate-topic", "")),
        payload=payload,
    )


def checked_text(value: Any) -> str:
    """`value` if it is text, else a `TypeError`."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no number")
    return value
