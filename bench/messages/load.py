"""A load of HTTP calls: many connections that are kept open, one call at a time on each, one thread."""

import re
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

IDLE_SECONDS: Final = 0.005
"""How long a reader that found nothing waits before it asks again."""
QUIET_SECONDS: Final = 60.0
"""A node that says nothing for so long is given up."""
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class LoadError(Exception):
    """The node's API refused a call, or fell silent."""


@dataclass(slots=True)
class Exchange:
    """One connection and the call that is under way on it."""

    socket: socket.socket
    received: bytearray = field(default_factory=bytearray)
    begun: float = 0.0

    def begin(self, request: bytes) -> None:
        """Sends a request; short ones only, so that it always fits the socket's buffer."""
        self.begun = time.monotonic()
        self.socket.sendall(request)

    def take(self) -> tuple[int, bytes] | None:
        """Reads what is there: status and body once the answer is complete. Raises LoadError where it never will be."""
        part = self.socket.recv(1 << 20)
        if not part:
            raise LoadError("the API closed a connection that was to be kept")
        self.received += part
        end = self.received.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = bytes(self.received[: end + 2])
        status = int(head[9:12])
        found = _LENGTH.search(head)
        length = int(found[1]) if found is not None else 0
        if len(self.received) < end + 4 + length:
            return None
        body = bytes(self.received[end + 4 :])
        self.received.clear()
        return status, body


def run(
    port: int,
    connections: int,
    next_request: Callable[[], bytes | None],
    on_answer: Callable[[int, bytes, float], float],
    is_done: Callable[[], bool] = lambda: False,
) -> None:
    """Keeps `connections` calls under way until `next_request` gives None and all are answered, or until `is_done`.

    `on_answer` gets status, body and seconds, and returns the seconds of rest before the next call there.
    """
    selector = selectors.DefaultSelector()
    resting: list[tuple[float, Exchange]] = []
    busy = 0
    opened = []

    def begin(exchange: Exchange) -> None:
        nonlocal busy
        request = next_request()
        if request is not None:
            exchange.begin(request)
            busy += 1

    try:
        for _ in range(connections):
            made = socket.create_connection(("127.0.0.1", port), timeout=QUIET_SECONDS)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            opened.append(Exchange(made))
            selector.register(made, selectors.EVENT_READ, opened[-1])
        for exchange in opened:
            begin(exchange)
        while (busy or resting) and not is_done():
            events = selector.select(IDLE_SECONDS if resting else QUIET_SECONDS)
            if not events and not resting:
                raise LoadError(f"the API said nothing for {QUIET_SECONDS:g} s")
            for key, _ in events:
                exchange = key.data
                answer = exchange.take()
                if answer is None:
                    continue
                busy -= 1
                rest = on_answer(*answer, time.monotonic() - exchange.begun)
                if rest:
                    resting.append((time.monotonic() + rest, exchange))
                else:
                    begin(exchange)
            now = time.monotonic()
            due = [exchange for moment, exchange in resting if moment <= now]
            resting = [(moment, exchange) for moment, exchange in resting if moment > now]
            for exchange in due:
                begin(exchange)
    finally:
        for exchange in opened:
            exchange.socket.close()
        selector.close()


def request(method: str, path: str, body: bytes = b"") -> bytes:
    """One request as it goes over the wire."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body
