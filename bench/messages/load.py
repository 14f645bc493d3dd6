"""A load of HTTP calls: many connections that are kept open, one call at a time on each, one thread.

The benchmark starts it inside a namespace, `python -m bench.messages.load …`; the result is one line of JSON on
standard output. Times are of the monotonic clock, which all processes share.
"""

import argparse
import base64
import json
import re
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from bench.messages.figures import percentile

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
) -> None:
    """Keeps `connections` calls under way until `next_request` gives None and all are answered.

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
        while busy or resting:
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


def push(port: int, connections: int, count: int, size: int, destination: str) -> dict[str, object]:
    """Sends `count` messages of `size` bytes; begin and end in seconds, and their ids."""
    payload = base64.b64encode(bytes(range(256)) * (size // 256 + 1))[: (size + 2) // 3 * 4].decode()
    payload = base64.b64encode(base64.b64decode(payload)[:size]).decode()
    sent = request("POST", "/api/v1/messages", json.dumps({"dst": {"ip": destination}, "payload": payload}).encode())
    left = count
    ids: list[str] = []

    def following() -> bytes | None:
        nonlocal left
        left -= 1
        return sent if left >= 0 else None

    def answered(status: int, body: bytes, _seconds: float) -> float:
        if status != 201:
            raise LoadError(f"a message was refused with status {status}: {body[:200]!r}")
        ids.append(json.loads(body)["id"])
        return 0.0

    begin = time.monotonic()
    run(port, connections, following, answered)
    return {"begin": begin, "end": time.monotonic(), "ids": ids}


def pop(port: int, connections: int, count: int) -> dict[str, object]:
    """Takes `count` messages out of the inbox; when the last one was there, and how many were different."""
    ids: set[str] = set()
    end = time.monotonic()
    asked = request("GET", "/api/v1/messages")

    def following() -> bytes | None:
        return asked if len(ids) < count else None

    def answered(status: int, body: bytes, _seconds: float) -> float:
        nonlocal end
        if status == 200:
            ids.add(json.loads(body)["id"])
            end = time.monotonic()
            return 0.0
        if status != 204:
            raise LoadError(f"a pop was refused with status {status}: {body[:200]!r}")
        if time.monotonic() - end > QUIET_SECONDS:
            raise LoadError(f"{len(ids)} of {count} messages arrived, and then none for {QUIET_SECONDS:g} s")
        return IDLE_SECONDS

    run(port, connections, following, answered)
    return {"end": end, "different": len(ids)}


def ask(port: int, connections: int, seconds: float, path: str) -> dict[str, object]:
    """GETs of `path` for so long: how many a second, and the 99th percentile in seconds."""
    asked = request("GET", path)
    times: list[float] = []
    begin = time.monotonic()

    def following() -> bytes | None:
        return asked if time.monotonic() - begin < seconds else None

    def answered(status: int, body: bytes, passed: float) -> float:
        if status != 200:
            raise LoadError(f"{path} gave status {status}: {body[:200]!r}")
        times.append(passed)
        return 0.0

    run(port, connections, following, answered)
    return {"per_second": len(times) / (time.monotonic() - begin), "p99": percentile(times, 0.99)}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.messages.load")
    kinds = parser.add_subparsers(dest="kind", required=True)
    for kind in ("push", "pop", "ask"):
        one = kinds.add_parser(kind)
        one.add_argument("port", type=int)
        one.add_argument("connections", type=int)
        if kind == "ask":
            one.add_argument("seconds", type=float)
            one.add_argument("path")
        else:
            one.add_argument("count", type=int)
        if kind == "push":
            one.add_argument("size", type=int)
            one.add_argument("destination")
    given = vars(parser.parse_args())
    found = {"push": push, "pop": pop, "ask": ask}[given.pop("kind")](**given)
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
