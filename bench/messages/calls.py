"""What the load asks: pushes, pops, lists; one call in each request, or batches of JSON-RPC.

The benchmark starts it inside a namespace, `python -m bench.messages.calls …`; the result is one line of JSON on
standard output. Times are of the monotonic clock, which all processes share.
"""

import argparse
import base64
import json
import time
from typing import Any, Final, TypeAlias

from bench.messages.figures import percentile
from bench.messages.load import IDLE_SECONDS, QUIET_SECONDS, LoadError, request, run

Found: TypeAlias = dict[str, Any]
_OK: Final = 200
_CREATED: Final = 201
_NOTHING: Final = 204


def push(port: int, connections: int, count: int, size: int, destination: str) -> Found:
    """Sends `count` messages of `size` bytes over HTTP; begin and end in seconds, and their ids."""
    sent = request("POST", "/api/v1/messages", json.dumps(_message(size, destination)).encode())
    left = count
    ids: list[str] = []

    def following() -> bytes | None:
        nonlocal left
        left -= 1
        return sent if left >= 0 else None

    def answered(status: int, body: bytes, _seconds: float) -> float:
        if status != _CREATED:
            raise LoadError(f"a message was refused with status {status}: {body[:200]!r}")
        ids.append(json.loads(body)["id"])
        return 0.0

    begin = time.monotonic()
    run(port, connections, following, answered)
    return {"begin": begin, "end": time.monotonic(), "ids": ids}


def push_batches(port: int, connections: int, count: int, size: int, destination: str, batch: int) -> Found:
    """The same by JSON-RPC, `batch` messages in one request."""
    message = _message(size, destination)
    left = count
    ids: list[str] = []

    def following() -> bytes | None:
        nonlocal left
        now = min(batch, left)
        left -= now
        return _batch("pushMessage", [message], now) if now else None

    def answered(status: int, body: bytes, _seconds: float) -> float:
        ids.extend(result["id"] for result in _results(status, body))
        return 0.0

    begin = time.monotonic()
    run(port, connections, following, answered)
    return {"begin": begin, "end": time.monotonic(), "ids": ids}


def pop(port: int, connections: int, count: int, wait_s: int) -> Found:
    """Takes `count` messages out of the inbox; when the last one was there, and how many were different.

    Each call waits up to `wait_s` seconds for a message.
    """
    asked = request("GET", f"/api/v1/messages?timeout={wait_s}")

    def read(status: int, body: bytes) -> list[Any]:
        if status not in (_OK, _NOTHING):
            raise LoadError(f"a pop was refused with status {status}: {body[:200]!r}")
        return [json.loads(body)] if status == _OK else []

    return _pop(port, connections, count, asked, read)


def pop_batches(port: int, connections: int, count: int, batch: int) -> Found:
    """The same by JSON-RPC, `batch` pops in one request."""

    def read(status: int, body: bytes) -> list[Any]:
        return [result for result in _results(status, body) if result is not None]

    return _pop(port, connections, count, _batch("popMessage", [], batch), read)


def _pop(port: int, connections: int, count: int, asked: bytes, read: Any) -> Found:
    ids: set[str] = set()
    end = time.monotonic()

    def following() -> bytes | None:
        return asked if len(ids) < count else None

    def answered(status: int, body: bytes, _seconds: float) -> float:
        nonlocal end
        messages = read(status, body)
        if messages:
            ids.update(message["id"] for message in messages)
            end = time.monotonic()
            return 0.0
        if time.monotonic() - end > QUIET_SECONDS:
            raise LoadError(f"{len(ids)} of {count} messages arrived, and then none for {QUIET_SECONDS:g} s")
        return IDLE_SECONDS

    run(port, connections, following, answered, lambda: len(ids) >= count)
    return {"end": end, "different": len(ids)}


def ask(port: int, connections: int, seconds: float, path: str) -> Found:
    """GETs of `path` for so long: how many a second, and the 99th percentile in seconds."""
    asked = request("GET", path)
    times: list[float] = []
    begin = time.monotonic()

    def following() -> bytes | None:
        return asked if time.monotonic() - begin < seconds else None

    def answered(status: int, body: bytes, passed: float) -> float:
        if status != _OK:
            raise LoadError(f"{path} gave status {status}: {body[:200]!r}")
        times.append(passed)
        return 0.0

    run(port, connections, following, answered)
    return {"per_second": len(times) / (time.monotonic() - begin), "p99": percentile(times, 0.99)}


def _message(size: int, destination: str) -> Found:
    payload = (bytes(range(256)) * (size // 256 + 1))[:size]
    return {"dst": {"ip": destination}, "payload": base64.b64encode(payload).decode()}


def _batch(method: str, parameters: list[Any], count: int) -> bytes:
    calls = [{"jsonrpc": "2.0", "id": number, "method": method, "params": parameters} for number in range(count)]
    return request("POST", "/", json.dumps(calls).encode())


def _results(status: int, body: bytes) -> list[Any]:
    answers = json.loads(body) if status == _OK else None
    if not isinstance(answers, list) or any("result" not in answer for answer in answers):
        raise LoadError(f"a batch was refused with status {status}: {body[:200]!r}")
    return [answer["result"] for answer in answers]


KINDS: Final = {"push": push, "push_batches": push_batches, "pop": pop, "pop_batches": pop_batches, "ask": ask}


def main() -> None:
    """The command line: a kind, and its arguments as JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.messages.calls")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("arguments", type=json.loads, nargs="*")
    given = parser.parse_args()
    print(json.dumps(KINDS[given.kind](*given.arguments)), flush=True)  # type: ignore[operator]


if __name__ == "__main__":
    main()
