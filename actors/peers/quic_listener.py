"""The listening UDP socket: what the peers actor does with datagrams that belong to no link's own socket.

The rules are in `protocol/quic/door.py`. Here they get a socket, a clock, and random bytes.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Final

import msgpack

from actors.runtime.actor import Runtime
from actors.runtime.budget import Budget
from protocol.frames import ConnectionIds, ForwardedDatagram
from protocol.mycelium.endpoint import SocketAddress
from protocol.quic.door import RANDOM_BYTES, Door, Drop, Forward, Reply
from protocol.quic.tokens import KEY_BYTES

DATAGRAMS_PER_TURN: Final = 64
LARGEST_DATAGRAM: Final = 2048
REPLIES_PER_SECOND: Final = 1000
BUSY: Final = 8
"""Strangers whose handshake goes on; from then on each has to prove its address first, which costs it a round trip."""

_PACKET_INFO: Final = 16 + 4
_SPACE: Final = socket.CMSG_SPACE(_PACKET_INFO)


@dataclass(frozen=True, slots=True)
class Stranger:
    """Who begins a connection: his address, and ours to which he sent."""

    remote: SocketAddress
    local: SocketAddress
    original: bytes
    retried: bytes
    key: tuple[bytes, bytes]


class QuicListener:
    """One per node."""

    def __init__(
        self,
        runtime: Runtime,
        descriptor: int,
        *,
        admits: Callable[[SocketAddress], bool],
        is_busy: Callable[[], bool],
        may_begin: Callable[[SocketAddress], bool],
        begin: Callable[[Stranger], None],
    ) -> None:
        """`admits(remote)`: whether anybody there may call at all; who may not gets no answer.

        `begin(stranger)` makes a link for whom `may_begin(remote)` lets in; `is_busy`: too many do so already.
        """
        self._runtime = runtime
        self._counters = runtime.counters
        self._loop = runtime.loop
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(False)
        self._port = self._socket.getsockname()[1]
        self._door = Door(os.urandom(KEY_BYTES))
        self._senders: dict[int, bytes] = {}
        self._addresses: dict[int, Stranger] = {}
        self._replies = Budget(REPLIES_PER_SECOND)
        self._admits = admits
        self._is_busy = is_busy
        self._may_begin = may_begin
        self._begin = begin
        runtime.on(ConnectionIds, self._on_ids)
        self._loop.watch(self._socket.fileno(), lambda _: self._read())
        runtime.gauges.queue("quic_opening", lambda: self._door.opening)

    def opening(self, stranger: Stranger) -> bytes:
        """What the stranger's link is to begin with: call it when the link's own socket is there."""
        data: bytes = msgpack.packb((stranger.original, stranger.retried, self._door.begun(stranger.key)))
        return data

    def link_made(self, link: int, stranger: Stranger) -> None:
        """The stranger has a link."""
        self._addresses[link] = stranger

    def link_gone(self, link: int) -> None:
        """The link is no more. Its peer is told at once: a process that was killed said nothing."""
        token = self._door.link_gone(link)
        self._senders.pop(link, None)
        stranger = self._addresses.pop(link, None)
        reset = self._door.farewell(token, os.urandom(RANDOM_BYTES))
        if stranger is not None and reset is not None:
            self._answer(reset, stranger.remote, _from(stranger.local))

    def next_second(self) -> None:
        """A new second has begun."""
        self._replies.next_second()
        self._door.expire(self._loop.now())

    def _on_ids(self, sender: bytes, message: ConnectionIds) -> None:
        self._senders[message.link] = sender
        self._door.link_has(message.link, message.ids, message.reset_token)

    def _read(self) -> None:
        for _ in range(DATAGRAMS_PER_TURN):
            try:
                datagram, ancillary, _, sender = self._socket.recvmsg(LARGEST_DATAGRAM, _SPACE)
            except BlockingIOError:
                return
            except OSError:
                # What an answer of ours met on its way.
                self._counters["quic.errors"] += 1
                continue
            self._look_at(datagram, SocketAddress.of_sockaddr(sender), ancillary)

    def _look_at(self, datagram: bytes, remote: SocketAddress, ancillary: list[tuple[int, int, bytes]]) -> None:
        if not self._admits(remote):
            self._counters["accepts.not_allowed"] += 1
            return
        client, now = str(remote).encode(), self._loop.now()
        found = self._door.receive(datagram, client, now, os.urandom(RANDOM_BYTES), busy=self._is_busy())
        match found:
            case Drop():
                self._counters[found.counter] += 1
            case Forward():
                sender = self._senders.get(found.link)
                if sender is not None:
                    self._counters["quic.forwarded"] += 1
                    self._runtime.send(sender, ForwardedDatagram(found.link, str(remote), datagram))
            case Reply():
                self._answer(found, remote, ancillary)
            case opening:
                local = _local_of(ancillary, self._port)
                if local is None or not self._may_begin(remote):
                    return
                key = self._door.begin(datagram, client, now)
                if key is None:
                    self._counters["quic.opening_full"] += 1
                    return
                self._begin(Stranger(remote, local, opening.original, opening.retried, key))

    def _answer(self, reply: Reply, remote: SocketAddress, ancillary: list[tuple[int, int, bytes]]) -> None:
        if not self._replies.take():
            self._counters["quic.replies_over_limit"] += 1
            return
        self._counters[reply.counter] += 1
        # From the address that was written to: the client takes an answer from no other.
        info = [item for item in ancillary if item[:2] == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO)]
        try:
            self._socket.sendmsg([reply.datagram], info, 0, remote.sockaddr())
        except OSError:
            self._counters["quic.errors"] += 1


def _from(local: SocketAddress) -> list[tuple[int, int, bytes]]:
    """What makes a datagram leave from `local`."""
    info = local.host.packed + local.scope.to_bytes(4, "little")
    return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, info)]


def _local_of(ancillary: list[tuple[int, int, bytes]], port: int) -> SocketAddress | None:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO) and len(data) == _PACKET_INFO:
            host = IPv6Address(data[:16])
            scope = int.from_bytes(data[16:20], "little") if host.is_link_local else 0
            return SocketAddress(host, port, scope)
    return None
