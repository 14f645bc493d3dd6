"""A neighbour made of the specification alone: one TCP connection, whole packets, no routing and no node code.

It answers Hellos, remembers the Updates it hears, and does whatever else a test tells it to. Once it has announced its
own /64 it does so again whenever it is asked for all its routes, as every node must (wire spec 7.18).
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import struct
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, NamedTuple, Self, TypeVar

from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from tests.lab.namespaces import Namespace
from tests.lab.nodes import LISTEN_PORT
from tests.lab.waiting import WaitError
from tests.unit import wire_factory as factory

T = TypeVar("T")

TYPE_HELLO, TYPE_IHU, TYPE_UPDATE, TYPE_ROUTE_REQUEST, TYPE_SEQNO_REQUEST = 4, 5, 8, 9, 10
CONNECT_TIMEOUT: Final = 10.0
_PACKET_HEADER: Final = 4
_CONTROL_HEADER: Final = 8
_DATA_HEADER: Final = 40
_WILDCARD: Final = 0


class HeardUpdate(NamedTuple):
    """An Update for a /64 (8 bytes), as it came over the wire (wire spec 4.3)."""

    seqno: int
    metric: int
    prefix: bytes
    router_id: bytes


class Packet(NamedTuple):
    """One packet: `tlv_type` is None for a data packet, `body` is the TLV's or everything behind the packet header."""

    tlv_type: int | None
    body: bytes


class RawPeer:
    """A connection to the node that listens on `address`, made from inside `namespace`."""

    def __init__(self, namespace: Namespace, address: str, *, secret: bytes | None = None) -> None:
        self._key = X25519PrivateKey.from_private_bytes(secret or os.urandom(32))
        self.public_key: Final = self._key.public_key().public_bytes_raw()
        self.router_id: Final = self.public_key + bytes(2) + os.urandom(6)
        self.address: Final = address_of(self.public_key)
        self.updates: list[HeardUpdate] = []
        self.closed = False
        self._announcement = b""
        self._received = bytearray()
        self._socket = namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.settimeout(CONNECT_TIMEOUT)
        self._socket.connect((address, LISTEN_PORT))
        self.endpoint: Final = "tcp://{}:{}".format(*self._socket.getsockname())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self._socket.close()

    @property
    def address_text(self) -> str:
        """The overlay address, for people and programs."""
        return str(ipaddress.IPv6Address(self.address))

    # --- sending ------------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Writes bytes as they are; what the node refuses to take, because it closed, is lost."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(data)

    def announce(self, *, seqno: int = 0, metric: int = 0) -> None:
        """Sends an Update for the own /64."""
        fields = struct.pack("!BBBBHHH", 2, 0, 64, 0, 30000, seqno, metric)
        self._announcement = factory.control(factory.tlv(TYPE_UPDATE, fields + self.address[:8] + self.router_id))
        self.send(self._announcement)

    def announce_foreign(self, count: int) -> None:
        """Sends, in one piece, Updates for the /64 of `count` nodes that nobody has heard of."""
        updates = bytearray()
        for _ in range(count):
            key = os.urandom(32)
            fields = struct.pack("!BBBBHHH", 2, 0, 64, 0, 30000, 0, 100)
            updates += factory.control(factory.tlv(TYPE_UPDATE, fields + address_of(key)[:8] + key + bytes(8)))
        self.send(bytes(updates))

    def ask_seqno(self, prefix: bytes, router_id: bytes, seqno: int) -> None:
        """Sends a Seqno Request for a /64 of the node `router_id`."""
        fields = struct.pack("!BBHBB", 2, 64, seqno, 64, 0)
        self.send(factory.control(factory.tlv(TYPE_SEQNO_REQUEST, fields + router_id + prefix)))

    def ask_for_everything(self) -> None:
        """Sends a wildcard Route Request."""
        self.send(factory.route_request(0, 0, b""))

    # --- receiving ----------------------------------------------------------------------------------------------------

    def wait_for(self, what: str, wanted: Callable[[Packet], T | None], timeout: float = 10.0) -> T:
        """Reads packets, answering Hellos, until `wanted` returns something true for one, and returns that.

        Raises WaitError when the time is over or the connection ends.
        """
        deadline = time.monotonic() + timeout
        while True:
            packet = self._next_packet(deadline)
            if packet is None:
                raise WaitError(f"{what}: {'connection closed' if self.closed else f'not within {timeout:g} s'}")
            found = wanted(packet)
            if found:
                return found

    def wait_for_update(self, prefix: bytes, timeout: float = 10.0) -> HeardUpdate:
        """Waits for the next Update for a /64 (8 bytes)."""

        def wanted(packet: Packet) -> HeardUpdate | None:
            if packet.tlv_type == TYPE_UPDATE and self.updates[-1].prefix == prefix:
                return self.updates[-1]
            return None

        return self.wait_for(f"an Update for {prefix.hex()}", wanted, timeout)

    def wait_for_route_request(self, prefix: bytes, timeout: float = 10.0) -> Packet:
        """Waits for a Route Request for a /64 (8 bytes)."""

        def wanted(packet: Packet) -> Packet | None:
            return packet if packet.tlv_type == TYPE_ROUTE_REQUEST and packet.body[3:11] == prefix else None

        return self.wait_for(f"a Route Request for {prefix.hex()}", wanted, timeout)

    def wait_for_data(self, timeout: float = 10.0) -> Packet:
        """Waits for a data packet."""
        return self.wait_for("a data packet", lambda packet: None if packet.tlv_type else packet, timeout)

    def say_hello(self, timeout: float = 10.0) -> None:
        """Sends a Hello and waits for its IHU: then the node has a link process for this connection."""
        self.send(factory.hello())
        self.wait_for("an IHU", lambda packet: packet.tlv_type == TYPE_IHU, timeout)

    def still_answers(self, timeout: float = 5.0) -> bool:
        """Whether the connection lives: a Hello gets its IHU."""
        try:
            self.say_hello(timeout)
        except WaitError:
            return False
        return True

    def listen(self, seconds: float) -> None:
        """Reads whatever comes for some time, answering Hellos."""
        deadline = time.monotonic() + seconds
        while self._next_packet(deadline) is not None:
            pass

    def _next_packet(self, deadline: float) -> Packet | None:
        while (packet := self._cut()) is None:
            patience = deadline - time.monotonic()
            if patience <= 0 or self.closed:
                return None
            self._socket.settimeout(patience)
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                return None
            except ConnectionResetError:
                data = b""
            self.closed = not data
            self._received += data
        if packet.tlv_type == TYPE_HELLO:
            self.send(factory.ihu())
        elif packet.tlv_type == TYPE_ROUTE_REQUEST and packet.body[1] == _WILDCARD:
            self.send(self._announcement)
        elif packet.tlv_type == TYPE_UPDATE:
            seqno, metric = struct.unpack_from("!HH", packet.body, 6)
            self.updates.append(HeardUpdate(seqno, metric, packet.body[10:18], packet.body[18:58]))
        return packet

    def _cut(self) -> Packet | None:
        received = self._received
        if len(received) < _CONTROL_HEADER:
            return None
        if received[1] == 1:
            end = _CONTROL_HEADER + int.from_bytes(received[6:8], "big")
        else:
            end = _DATA_HEADER + int.from_bytes(received[5:7], "big")
        if len(received) < end:
            return None
        whole = bytes(received[:end])
        del received[:end]
        if whole[1] == 1:
            return Packet(whole[_CONTROL_HEADER], whole[_CONTROL_HEADER + 2 :])
        return Packet(None, whole[_PACKET_HEADER:])

    # --- sealed packets -----------------------------------------------------------------------------------------------

    def seal(self, other_public_key: bytes, inner: bytes, destination: bytes, *, hop_limit: int = 63) -> bytes:
        """A whole data packet with the layer-3 packet `inner` from this peer for the node with that key."""
        plain = b"\x01\x00\x00\x00" + inner
        raw = factory.seal(self._shared(other_public_key), os.urandom(12), plain)
        return factory.data(raw, hop_limit=hop_limit, source=self.address, destination=destination)

    def unseal(self, other_public_key: bytes, packet: Packet) -> bytes:
        """The layer-3 packet inside a data packet from the node with that key."""
        return factory.unseal(self._shared(other_public_key), packet.body[_DATA_HEADER - _PACKET_HEADER :])[4:]

    def _shared(self, other_public_key: bytes) -> bytes:
        return self._key.exchange(X25519PublicKey.from_public_bytes(other_public_key))


def address_of(public_key: bytes) -> bytes:
    """The 16 bytes of a node's address (wire spec 1.3)."""
    digest = bytearray(blake3(public_key).digest()[:16])
    digest[0] = 0x04 | digest[0].bit_count() % 2
    return bytes(digest)


def echo_reply(request: bytes) -> bytes:
    """The echo reply to an IPv6 packet that holds an ICMPv6 echo request (RFC 4443 4.2)."""
    source, destination = request[8:24], request[24:40]
    body = bytearray(request[40:])
    body[0] = 129
    body[2:4] = bytes(2)
    pseudo_header = destination + source + struct.pack("!II", len(body), 58)
    body[2:4] = struct.pack("!H", factory.slow_checksum(pseudo_header + bytes(body)))
    return factory.ipv6(58, bytes(body), source=destination, destination=source)
