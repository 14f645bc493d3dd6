"""Control packets: the TLVs of the overlay's Babel dialect, how they are encoded and decoded (wire spec 3.4, 3.5, 4).

What the decoder makes of a packet. "Ignored" is counted in `Decoded.ignored`; "closes" raises `ControlError`, on which
the link is closed.

| Input                                                            | Decision                                     |
|------------------------------------------------------------------|----------------------------------------------|
| Babel magic other than 42, version other than 3                  | packet ignored                               |
| unknown TLV type, Pad1 and PadN among them                       | ignored                                      |
| bytes behind the fields inside the TLV (sub-TLVs)                | TLV accepted, the surplus ignored            |
| bytes behind the first TLV (further TLVs)                        | ignored: one packet never gets two answers   |
| reserved bytes, "omitted", IHU address                           | not looked at                                |
| bits set past the prefix length                                  | cleared                                      |
| Update flags                                                     | 0x01 is kept, all others cleared             |
| wildcard Route Request with a prefix length                      | accepted as wildcard, as the reference does  |
| IPv4 (AE 1), link-local (AE 3) or `::/0` prefix                  | ignored: names nothing in the overlay        |
| wildcard Update, wildcard Seqno Request                          | ignored: likewise                            |
| Route Request generation above 15, Seqno Request hop count 0     | ignored: travelled far enough                |
| unknown address encoding (AE above 3), fixed fields complete     | ignored                                      |
| no room for a TLV header in the body                             | closes                                       |
| TLV length that reaches past the body                            | closes                                       |
| fields that reach past the TLV length                            | closes                                       |
| prefix length impossible for its address encoding                | closes                                       |
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from protocol.buffers import Buffer
from protocol.mycelium.errors import WireError
from protocol.mycelium.framing import KIND_CONTROL, PACKET_VERSION
from protocol.mycelium.identity import ROUTER_ID_BYTES
from protocol.prefix import ADDRESS_BYTES, Prefix

BABEL_MAGIC: Final = 42
BABEL_VERSION: Final = 3

TYPE_PAD1: Final = 0
"""RFC 8966 4.6.1: the one TLV without a length byte."""
TYPE_HELLO: Final = 4
TYPE_IHU: Final = 5
TYPE_UPDATE: Final = 8
TYPE_ROUTE_REQUEST: Final = 9
TYPE_SEQNO_REQUEST: Final = 10

AE_WILDCARD: Final = 0
AE_IPV4: Final = 1
AE_IPV6: Final = 2
AE_LINK_LOCAL: Final = 3

HELLO_FLAG_UNICAST: Final = 0x8000
UPDATE_FLAG_CLEAN: Final = 0x01
"""Our extension: every link of the way carries packets of any size. A reference node ignores the bit and never hands it
on (wire spec 4.3)."""

METRIC_INFINITE: Final = 0xFFFF
"""A retraction."""
INTERVAL_HELLO_CS: Final = 2000
INTERVAL_IHU_CS: Final = 6000
INTERVAL_UPDATE_CS: Final = 30000
MAX_GENERATION: Final = 15
"""Largest Route Request generation on the wire (wire spec 7.9); a reference node wraps 255 to 0 (Q3)."""
SEQNO_REQUEST_HOP_COUNT: Final = 64

_MAX_U8: Final = 0xFF
_MAX_U16: Final = 0xFFFF

_HEADERS: Final = struct.Struct("!BBHBBH")
"""Packet header (version, type, reserved) and Babel header (magic, version, body length)."""
_TLV_HEADER_BYTES: Final = 2
_HELLO: Final = struct.Struct("!HHH")
_IHU: Final = struct.Struct("!BxHH")
_UPDATE: Final = struct.Struct("!BBBxHHH")
_ROUTE_REQUEST: Final = struct.Struct("!BBB")
_SEQNO_REQUEST: Final = struct.Struct(f"!BBHBx{ROUTER_ID_BYTES}s")
_IHU_ADDRESS_BYTES: Final = {AE_WILDCARD: 0, AE_IPV4: 4, AE_IPV6: 16, AE_LINK_LOCAL: 8}
_LINK_LOCAL_PLEN: Final = 64
_MAX_PLEN: Final = {AE_IPV4: 32, AE_IPV6: 128}


class ControlError(WireError):
    """A control packet after which the sender can't be trusted to be in step; the link is closed."""


@dataclass(frozen=True, slots=True)
class Hello:
    """Asks the peer for an IHU at once (wire spec 4.1). Raises `ValueError` on a field out of range."""

    seqno: int
    """Counter per connection, 0…65535."""
    interval_cs: int = INTERVAL_HELLO_CS
    unicast: bool = True

    def __post_init__(self) -> None:
        _check_range("Hello seqno", self.seqno, 0, _MAX_U16)
        _check_range("Hello interval", self.interval_cs, 0, _MAX_U16)


@dataclass(frozen=True, slots=True)
class Ihu:
    """Answers a Hello (wire spec 4.2); sent without an address. Raises `ValueError` on a field out of range."""

    rx_cost: int
    """The sender's current cost of this link, 0…65535."""
    interval_cs: int = INTERVAL_IHU_CS

    def __post_init__(self) -> None:
        _check_range("IHU rx-cost", self.rx_cost, 0, _MAX_U16)
        _check_range("IHU interval", self.interval_cs, 0, _MAX_U16)


@dataclass(frozen=True, slots=True)
class Update:
    """Announces a route to a prefix, or retracts it (wire spec 4.3). Raises `ValueError` on a field out of range."""

    prefix: Prefix
    router_id: bytes
    """40 bytes; of the prefix's origin, in a retraction of whoever retracts (wire spec Q7)."""
    seqno: int
    metric: int
    """`METRIC_INFINITE` retracts."""
    interval_cs: int = INTERVAL_UPDATE_CS
    flags: int = 0
    """0 or `UPDATE_FLAG_CLEAN`."""

    def __post_init__(self) -> None:
        _check_prefix("Update", self.prefix)
        _check_router_id("Update", self.router_id)
        _check_range("Update seqno", self.seqno, 0, _MAX_U16)
        _check_range("Update metric", self.metric, 0, _MAX_U16)
        _check_range("Update interval", self.interval_cs, 0, _MAX_U16)
        if self.flags & ~UPDATE_FLAG_CLEAN:
            raise ValueError(f"Update flags {self.flags:#x}: only {UPDATE_FLAG_CLEAN:#x} has a meaning")


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """Asks for an Update for a prefix, or for every route (wire spec 4.4).

    Raises `ValueError` on a field out of range.
    """

    prefix: Prefix | None
    """`None` is the wildcard."""
    generation: int = 0
    """0 by the originator, one more per forwarding node, at most `MAX_GENERATION`."""

    def __post_init__(self) -> None:
        if self.prefix is not None:
            _check_prefix("Route Request", self.prefix)
        _check_range("Route Request generation", self.generation, 0, MAX_GENERATION)


@dataclass(frozen=True, slots=True)
class SeqnoRequest:
    """Asks the origin of a prefix for a newer sequence number (wire spec 4.5).

    Raises `ValueError` on a field out of range.
    """

    prefix: Prefix
    router_id: bytes
    """40 bytes, of the origin that is asked."""
    seqno: int
    hop_count: int = SEQNO_REQUEST_HOP_COUNT
    """1…255; a request with 0 is discarded by whoever gets it."""

    def __post_init__(self) -> None:
        _check_prefix("Seqno Request", self.prefix)
        _check_router_id("Seqno Request", self.router_id)
        _check_range("Seqno Request seqno", self.seqno, 0, _MAX_U16)
        _check_range("Seqno Request hop count", self.hop_count, 1, _MAX_U8)


Tlv: TypeAlias = Hello | Ihu | Update | RouteRequest | SeqnoRequest


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a control packet held: at most one TLV, and how many things in it were ignored (see the table above)."""

    tlvs: tuple[Tlv, ...]
    ignored: int


def encode(tlv: Tlv) -> bytes:
    """The whole control packet that carries `tlv`: packet header, Babel header, TLV."""
    match tlv:
        case Hello(seqno, interval_cs, unicast):
            return _packet(TYPE_HELLO, _HELLO.pack(HELLO_FLAG_UNICAST if unicast else 0, seqno, interval_cs))
        case Ihu(rx_cost, interval_cs):
            return _packet(TYPE_IHU, _IHU.pack(AE_WILDCARD, rx_cost, interval_cs))
        case Update(prefix, router_id, seqno, metric, interval_cs, flags):
            fields = _UPDATE.pack(AE_IPV6, flags, prefix.length, interval_cs, seqno, metric)
            return _packet(TYPE_UPDATE, fields + _encode_prefix(prefix) + router_id)
        case RouteRequest(asked, generation):
            if asked is None:
                return _packet(TYPE_ROUTE_REQUEST, _ROUTE_REQUEST.pack(generation, AE_WILDCARD, 0))
            fields = _ROUTE_REQUEST.pack(generation, AE_IPV6, asked.length)
            return _packet(TYPE_ROUTE_REQUEST, fields + _encode_prefix(asked))
        case SeqnoRequest(prefix, router_id, seqno, hop_count):
            fields = _SEQNO_REQUEST.pack(AE_IPV6, prefix.length, seqno, hop_count, router_id)
            return _packet(TYPE_SEQNO_REQUEST, fields + _encode_prefix(prefix))


def decode(packet: Buffer) -> Decoded:
    """Decodes one whole control packet, packet header included, as the framing cut it.

    Raises `ControlError` where the table above says that the link closes, and nothing else on any bytes.
    """
    if len(packet) < _HEADERS.size:
        raise ControlError("3.4", f"control packet of {len(packet)} bytes has no Babel header")
    _, _, _, magic, version, body_length = _HEADERS.unpack_from(packet)
    if magic != BABEL_MAGIC or version != BABEL_VERSION:
        return Decoded((), ignored=1)
    body = packet[_HEADERS.size :]
    if len(body) != body_length:
        raise ControlError("3.4", f"Babel body length {body_length}, but {len(body)} bytes follow")
    if body_length and body[0] == TYPE_PAD1:
        return Decoded((), ignored=1 if body_length == 1 else 2)
    if body_length < _TLV_HEADER_BYTES:
        raise ControlError("3.5", f"Babel body of {body_length} bytes has no room for a TLV")
    tlv_type, tlv_length = body[0], body[1]
    tlv_end = _TLV_HEADER_BYTES + tlv_length
    if tlv_end > body_length:
        raise ControlError(
            "3.5", f"TLV type {tlv_type} claims {tlv_length} bytes, its packet has {body_length - _TLV_HEADER_BYTES}"
        )
    further = 1 if tlv_end < body_length else 0
    decoder = _DECODERS.get(tlv_type)
    if decoder is None:
        return Decoded((), ignored=1 + further)
    tlv, consumed = decoder(body[_TLV_HEADER_BYTES:tlv_end])
    if tlv is None:
        return Decoded((), ignored=1 + further)
    return Decoded((tlv,), ignored=further + (1 if consumed < tlv_length else 0))


_Outcome: TypeAlias = tuple[Tlv | None, int]
"""The TLV, or `None` where it is ignored, and how many of its bytes were fields."""


def _decode_hello(body: Buffer) -> _Outcome:
    _require("Hello", body, _HELLO.size)
    flags, seqno, interval_cs = _HELLO.unpack_from(body)
    return Hello(seqno, interval_cs, unicast=bool(flags & HELLO_FLAG_UNICAST)), _HELLO.size


def _decode_ihu(body: Buffer) -> _Outcome:
    _require("IHU", body, _IHU.size)
    encoding, rx_cost, interval_cs = _IHU.unpack_from(body)
    address_bytes = _IHU_ADDRESS_BYTES.get(encoding)
    if address_bytes is None:
        return None, len(body)
    size = _IHU.size + address_bytes
    _require("IHU", body, size)
    return Ihu(rx_cost, interval_cs), size


def _decode_update(body: Buffer) -> _Outcome:
    _require("Update", body, _UPDATE.size)
    encoding, flags, plen, interval_cs, seqno, metric = _UPDATE.unpack_from(body)
    if encoding > AE_LINK_LOCAL:
        return None, len(body)
    prefix_end = _UPDATE.size + _prefix_bytes("Update", encoding, plen)
    size = prefix_end + ROUTER_ID_BYTES
    _require("Update", body, size)
    if encoding != AE_IPV6 or plen == 0:
        return None, size
    prefix = _decode_prefix(body[_UPDATE.size : prefix_end], plen)
    router_id = bytes(body[prefix_end:size])
    return Update(prefix, router_id, seqno, metric, interval_cs, flags & UPDATE_FLAG_CLEAN), size


def _decode_route_request(body: Buffer) -> _Outcome:
    _require("Route Request", body, _ROUTE_REQUEST.size)
    generation, encoding, plen = _ROUTE_REQUEST.unpack_from(body)
    if encoding > AE_LINK_LOCAL:
        return None, len(body)
    wildcard = encoding == AE_WILDCARD
    size = _ROUTE_REQUEST.size + (0 if wildcard else _prefix_bytes("Route Request", encoding, plen))
    _require("Route Request", body, size)
    if generation > MAX_GENERATION:
        return None, size
    if wildcard:
        return RouteRequest(None, generation), size
    if encoding != AE_IPV6 or plen == 0:
        return None, size
    return RouteRequest(_decode_prefix(body[_ROUTE_REQUEST.size : size], plen), generation), size


def _decode_seqno_request(body: Buffer) -> _Outcome:
    _require("Seqno Request", body, _SEQNO_REQUEST.size)
    encoding, plen, seqno, hop_count, router_id = _SEQNO_REQUEST.unpack_from(body)
    if encoding > AE_LINK_LOCAL:
        return None, len(body)
    size = _SEQNO_REQUEST.size + _prefix_bytes("Seqno Request", encoding, plen)
    _require("Seqno Request", body, size)
    if encoding != AE_IPV6 or plen == 0 or hop_count == 0:
        return None, size
    prefix = _decode_prefix(body[_SEQNO_REQUEST.size : size], plen)
    return SeqnoRequest(prefix, router_id, seqno, hop_count), size


_DECODERS: Final[dict[int, Callable[[Buffer], _Outcome]]] = {
    TYPE_HELLO: _decode_hello,
    TYPE_IHU: _decode_ihu,
    TYPE_UPDATE: _decode_update,
    TYPE_ROUTE_REQUEST: _decode_route_request,
    TYPE_SEQNO_REQUEST: _decode_seqno_request,
}


def _packet(tlv_type: int, tlv_body: bytes) -> bytes:
    headers = _HEADERS.pack(
        PACKET_VERSION, KIND_CONTROL, 0, BABEL_MAGIC, BABEL_VERSION, _TLV_HEADER_BYTES + len(tlv_body)
    )
    return headers + bytes((tlv_type, len(tlv_body))) + tlv_body


def _encode_prefix(prefix: Prefix) -> bytes:
    return prefix.network[: _bytes_for_bits(prefix.length)]


def _decode_prefix(encoded: Buffer, plen: int) -> Prefix:
    return Prefix.of(bytes(encoded).ljust(ADDRESS_BYTES, b"\0"), plen)


def _prefix_bytes(name: str, encoding: int, plen: int) -> int:
    """How many bytes a prefix of `plen` bits takes in a known `encoding` (wire spec 4.0).

    Raises `ControlError` on a length that the encoding doesn't have.
    """
    if encoding == AE_WILDCARD:
        possible = plen == 0
    elif encoding == AE_LINK_LOCAL:
        possible = plen == _LINK_LOCAL_PLEN
    else:
        possible = plen <= _MAX_PLEN[encoding]
    if not possible:
        raise ControlError("4.0", f"{name} with prefix length {plen} in address encoding {encoding}")
    return _bytes_for_bits(plen)


def _bytes_for_bits(bits: int) -> int:
    return (bits + 7) // 8


def _require(name: str, body: Buffer, size: int) -> None:
    if len(body) < size:
        raise ControlError("3.5", f"{name} of {len(body)} bytes, its fields need {size}")


def _check_range(what: str, value: int, lowest: int, highest: int) -> None:
    if not lowest <= value <= highest:
        raise ValueError(f"{what} {value} is not between {lowest} and {highest}")


def _check_prefix(what: str, prefix: Prefix) -> None:
    if prefix.length == 0 or Prefix.of(prefix.network, prefix.length) != prefix:
        raise ValueError(f"{what} for {prefix!r}: needs 1 to 128 bits and none set past them")


def _check_router_id(what: str, router_id: bytes) -> None:
    if len(router_id) != ROUTER_ID_BYTES:
        raise ValueError(f"{what} with a router-id of {len(router_id)} bytes, it has {ROUTER_ID_BYTES}")
