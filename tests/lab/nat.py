"""A machine in the middle that translates addresses of UDP, and may forget what it knew: the port is another then."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from types import TracebackType
from typing import Final, Self

from tests.lab.namespaces import Namespace

READ_BYTES: Final = 65_535
BUFFER_BYTES: Final = 4 << 20
_SO_RCVBUFFORCE: Final = 33
_TURN: Final = 0.1


class Nat:
    """Passes datagrams on between one client and a server. A context manager: its thread ends with it."""

    def __init__(self, namespace: Namespace, inside: str, server: tuple[str, int]) -> None:
        """The client sends to `inside` and the server's port."""
        self._namespace = namespace
        self._server = server
        self._inside = self._socket()
        self._inside.bind((inside, server[1]))
        self._outside = self._bound_outside()
        self._client: tuple[str, int] | None = None
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        for each in (self._inside, self._outside):
            each.close()

    def forget(self) -> None:
        """From now on the server sees another port, and what it sends to the old one is lost."""
        fresh = self._bound_outside()
        with self._lock:
            old, self._outside = self._outside, fresh
        old.close()

    def _socket(self) -> socket.socket:
        made = self._namespace.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER_BYTES)
        made.setblocking(False)
        return made

    def _bound_outside(self) -> socket.socket:
        made = self._socket()
        made.bind(("0.0.0.0", 0))
        return made

    def _run(self) -> None:
        while not self._over.is_set():
            with self._lock:
                outside = self._outside
            with contextlib.suppress(OSError, ValueError):
                # One that was closed in this moment is another's in the next round.
                for ready in select.select([self._inside, outside], [], [], _TURN)[0]:
                    self._pass_on(ready, outside)

    def _pass_on(self, ready: socket.socket, outside: socket.socket) -> None:
        for _ in range(64):
            try:
                data, sender = ready.recvfrom(READ_BYTES)
            except BlockingIOError:
                return
            if ready is self._inside:
                self._client = sender
                outside.sendto(data, self._server)
            elif self._client is not None and sender == self._server:
                self._inside.sendto(data, self._client)
