"""Looking up host names by the system's resolver, in threads: a name server that does not answer blocks nobody else."""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final, Protocol

from actors.runtime.actor import Runtime
from protocol.mycelium.endpoint import SocketAddress
from protocol.racing import MOST_ADDRESSES, in_turn
from protocol.targets import HostName

MAX_THREADS: Final = 4
MAX_WAITING: Final = 256
"""Names that wait for a thread; more fail at once, and are tried again like all that fail."""

Found = list[SocketAddress]
"""The families in turn, the system's favourite first."""
Answer = Callable[[Found, str], None]
"""Is called with what was found, `MOST_ADDRESSES` at most, or with nothing and the reason."""


FILES: Final = (Path("/etc/resolv.conf"), Path("/etc/hosts"), Path("/etc/nsswitch.conf"))
"""What says how names are looked up, and is replaced by a new file when it changes."""


class OutOfReach:
    """Landlock lets a process read the files that were there when it was born. One that took the place of such a file
    is out of its reach: then only a successor of this process can look names up."""

    def __init__(self) -> None:
        self._readable = [path for path in FILES if _may_read(path)]

    def find(self) -> Path | None:
        """A file that could be read at birth and can't be now, if there is one."""
        return next((path for path in self._readable if path.exists() and not _may_read(path)), None)


def _may_read(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


class Resolves(Protocol):
    """Whoever looks up host names."""

    def look_up(self, host: HostName, answer: Answer, /) -> None:
        """Calls `answer` in a later round of the loop."""


class Resolver:
    """At most `MAX_THREADS` lookups at a time. A thread does nothing but wait for the system and say what it found."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._waiting: deque[tuple[HostName, Answer]] = deque()
        self._running = 0
        self._done: deque[tuple[Answer, Found, str]] = deque()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        runtime.loop.watch(self._bell, self._on_bell)
        runtime.gauges.queue("lookups", lambda: self._running + len(self._waiting))

    def look_up(self, host: HostName, answer: Answer) -> None:
        """Calls `answer` in a later round of the loop."""
        if len(self._waiting) >= MAX_WAITING:
            self._runtime.counters["lookups.crowded_out"] += 1
            self._runtime.loop.defer(lambda: answer([], "too many names are being looked up"))
            return
        self._waiting.append((host, answer))
        self._begin()

    def _begin(self) -> None:
        while self._waiting and self._running < MAX_THREADS:
            host, answer = self._waiting.popleft()
            self._running += 1
            threading.Thread(target=self._run, args=(host, answer), name="resolver", daemon=True).start()

    def _run(self, host: HostName, answer: Answer) -> None:
        try:
            found, reason = _addresses(host), ""
        except OSError as error:
            found, reason = [], f"cannot look up {host.name}: {error.strerror or error}"
        self._done.append((answer, found, reason))
        os.eventfd_write(self._bell, 1)

    def _on_bell(self, _events: int) -> None:
        os.eventfd_read(self._bell)
        while self._done:
            answer, found, reason = self._done.popleft()
            self._running -= 1
            self._runtime.counters["lookups.failed" if reason else "lookups.answered"] += 1
            self._runtime.counters["lookups.addresses_over_limit"] += max(0, len(found) - MOST_ADDRESSES)
            answer(found[:MOST_ADDRESSES], reason)
        self._begin()


def _addresses(host: HostName) -> Found:
    # The order is the system's (RFC 6724); families take turns all the same, for one may lead nowhere.
    found: dict[int, Found] = {}
    for family, _, _, _, sockaddr in socket.getaddrinfo(host.name, host.port, type=socket.SOCK_STREAM):
        text = str(sockaddr[0]).partition("%")[0]
        if family == socket.AF_INET:
            found.setdefault(family, []).append(SocketAddress(IPv4Address(text), host.port))
        elif family == socket.AF_INET6:
            scope = int(sockaddr[3]) if len(sockaddr) == 4 else 0
            found.setdefault(family, []).append(SocketAddress(IPv6Address(text), host.port, scope))
    return list(in_turn(*(dict.fromkeys(addresses) for addresses in found.values())))
