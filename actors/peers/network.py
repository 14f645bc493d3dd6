"""What the kernel says of this machine's interfaces and addresses, over routing netlink, for the peers actor."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from typing import Any, Final

from actors.runtime.actor import Runtime
from protocol.interfaces import Change, Interface, Interfaces, LocalAddress, local_address
from protocol.netlink import (
    GROUP_IPV4_ADDRESS,
    GROUP_IPV6_ADDRESS,
    GROUP_LINK,
    DumpDone,
    News,
    ask_addresses,
    ask_links,
    parse,
)

DATAGRAM_BYTES: Final = 64 << 10
DATAGRAMS_PER_TURN: Final = 64
RECEIVE_BUFFER_BYTES: Final = 1 << 20

USER_TIMEOUT_MS: Final = 4000
"""What was sent and not acknowledged for so long ends the connection: a dead path under traffic (TCP_USER_TIMEOUT). The
kernel counts from the first retransmission, some round trips behind what was lost: 0.2 s, under a full stream 0.8 s."""
KEEP_ALIVE_SECONDS: Final = (2, 1, 3)
"""Idle time before the first probe, time between probes, probes: an idle path is dead after some 5 s. Where both are
set, the kernel ends the connection by the user timeout once a probe went unanswered, so the first probes come early."""


class Network:
    """Follows interfaces and addresses; `on_change` hears of addresses that were lost or came.

    Where the machine has no routing netlink, nothing is ever lost: the log says so once.
    """

    def __init__(self, runtime: Runtime, on_change: Callable[[Change], None]) -> None:
        self._runtime = runtime
        self._on_change = on_change
        self._interfaces = Interfaces()
        self._news: list[News] = []
        """Of an answer that is not complete yet."""
        self._asking = ""
        self._settled = False
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            self._socket.bind((0, GROUP_LINK | GROUP_IPV4_ADDRESS | GROUP_IPV6_ADDRESS))
        except OSError as error:
            runtime.log.warning(
                "interfaces can't be followed; a lost one is noticed by its silence", reason=error.strerror
            )
            return
        runtime.loop.watch(self._socket.fileno(), self._on_news)
        self._ask("links")

    def __iter__(self) -> Iterator[Interface]:
        return iter(self._interfaces)

    def _ask(self, what: str) -> None:
        self._asking = what
        self._socket.send(ask_links(1) if what == "links" else ask_addresses(2))

    def _on_news(self, _events: int) -> None:
        for _ in range(DATAGRAMS_PER_TURN):
            try:
                data, (sender, _groups) = self._socket.recvfrom(DATAGRAM_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                # More came than there was room for: everything is asked for again.
                self._runtime.counters["network.missed"] += 1
                self._news.clear()
                self._interfaces.forget()
                self._ask("links")
                break
            if sender == 0:
                # Only the kernel has this number; another process could send us what it likes.
                for item in parse(data):
                    self._take(item)
        if not self._asking and self._news:
            self._apply()

    def _take(self, item: News) -> None:
        if not isinstance(item, DumpDone):
            self._news.append(item)
        elif self._asking == "links":
            self._ask("addresses")
        elif self._asking:
            self._asking = ""

    def _apply(self) -> None:
        news, self._news = self._news, []
        change = self._interfaces.apply(news)
        if not self._settled:
            # What was there before we looked did not come now.
            self._settled = True
            change = Change(change.lost, frozenset())
        self._on_change(change)


def watch_over(connection: socket.socket) -> None:
    """Has the kernel end a TCP connection whose path is dead: within 5 s under traffic, some 5 s without."""
    if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.type != socket.SOCK_STREAM:
        return
    idle, interval, probes = KEEP_ALIVE_SECONDS
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, probes)


def local_of(family: int, sockaddr: Any) -> LocalAddress | None:
    """The local address of a socket, from its `getsockname()`; None where no interface carries it."""
    if family == socket.AF_INET:
        return local_address(socket.inet_aton(sockaddr[0]), 0)
    if family == socket.AF_INET6:
        return local_address(socket.inet_pton(socket.AF_INET6, sockaddr[0].partition("%")[0]), sockaddr[3])
    return None


def address_text(local: LocalAddress) -> str:
    """The address as people write it."""
    octets, index = local
    family = socket.AF_INET if len(octets) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, octets) + (f"%{index}" if index else "")
