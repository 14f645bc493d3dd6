"""The measurements: each on two nodes that are linked, the first of which dials."""

import base64
import http.client
import json
import secrets
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from bench.accounting import memory_of
from bench.contenders import Line
from bench.messages.figures import percentile
from bench.messages.rows import INBOX_MESSAGES
from bench.rows import Figures
from tests.lab.api import Api, NamespaceConnection
from tests.lab.namespaces import LabError
from tests.lab.nodes import API_PORT, Node, SeptateNode
from tests.lab.waiting import WaitError, wait_until

MEGA: Final = 1e6
RPC_PORT: Final = 8990
MESSAGE_BYTES: Final = 1024
LARGE_BYTES: Final = 7_000_000
HUGE_BYTES: Final = 100_000_000
SMALL_BYTES: Final = 100
SENDERS: Final = 8
READERS: Final = 4
CLIENTS: Final = 50
CALLS: Final = 50
"""In one batch of JSON-RPC."""
CALL_SECONDS: Final = 120.0
WAIT_SECONDS: Final = 20
SETTLE_SECONDS: Final = 2.0
SAMPLE: Final = 200
BATCH: Final = 2000
API_PATH: Final = "/api/v1/admin/peers"
_RAW_PATH: Final = "/api/v1/septate/messages"


@dataclass(frozen=True, slots=True)
class Amounts:
    """How much of each is measured."""

    messages: int = 3000
    pings: int = 200
    api_seconds: float = 5.0
    large: int = 3
    inbox: int = INBOX_MESSAGES


QUICK: Final = Amounts(messages=1000, pings=50, api_seconds=2.0, large=1)


class Tool:
    """One run of the load inside a node's namespace, under way."""

    def __init__(self, node: Node, kind: str, *arguments: object) -> None:
        command = node.namespace.command(
            [sys.executable, "-m", "bench.messages.calls", kind, *map(json.dumps, arguments)]
        )
        self._what = f"{kind} at {node}"
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def result(self, timeout: float = CALL_SECONDS) -> dict[str, Any]:
        """What it found. Raises LabError when it failed, or did not end."""
        try:
            output, errors = self._process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise LabError(f"{self._what} did not end within {timeout:g} s") from None
        if self._process.returncode != 0:
            lines = errors.decode(errors="replace").strip().splitlines() or ["no reason given"]
            raise LabError(f"{self._what}: {lines[-1]}")
        found: dict[str, Any] = json.loads(output)
        return found


def measure_rate(line: Line, amounts: Amounts) -> Figures:
    """Messages of 1 KB one way: from the first push to the last pop."""
    return {"rate": _rate([(line.first, line.last)], amounts.messages)}


def measure_rate_batches(line: Line, amounts: Amounts) -> Figures:
    """The same by JSON-RPC, many calls in one request."""
    return {"rate_batches": _rate([(line.first, line.last)], amounts.messages, CALLS)}


def measure_rate_both(line: Line, amounts: Amounts) -> Figures:
    """The same both ways at once."""
    return {"rate_both": _rate([(line.first, line.last), (line.last, line.first)], amounts.messages)}


def _rate(ways: list[tuple[Node, Node]], count: int, batch: int = 1) -> float:
    if batch == 1:
        readers = [Tool(other, "pop", API_PORT, READERS, count, _patience(other, len(ways))) for _, other in ways]
        senders = [Tool(one, "push", API_PORT, SENDERS, count, MESSAGE_BYTES, other.address) for one, other in ways]
    else:
        readers = [Tool(receiver, "pop_batches", RPC_PORT, READERS, count, batch) for _, receiver in ways]
        senders = [
            Tool(one, "push_batches", RPC_PORT, SENDERS, count, MESSAGE_BYTES, other.address, batch)
            for one, other in ways
        ]
    begin = min(tool.result()["begin"] for tool in senders)
    ends = [tool.result() for tool in readers]
    missing = sum(count - end["different"] for end in ends)
    if missing:
        raise LabError(f"{missing} messages were popped twice")
    return float(count * len(ways) / (max(end["end"] for end in ends) - begin))


def _patience(reader: Node, ways: int) -> int:
    # A Mycelium node that also sends would send nothing while a reader waits.
    return 0 if ways > 1 and not isinstance(reader, SeptateNode) else WAIT_SECONDS


def measure_large(line: Line, amounts: Amounts) -> Figures:
    """One message of 7 MB over JSON-RPC, from the push to the answer of the waiting pop."""
    return {"large": median(_one_large(line) for _ in range(amounts.large))}


def _one_large(line: Line) -> float:
    payload = secrets.token_bytes(LARGE_BYTES)
    text = base64.b64encode(payload).decode()
    topic = base64.b64encode(secrets.token_bytes(4)).decode()
    sender, receiver = (Api(node.namespace, RPC_PORT) for node in (line.first, line.last))
    wanted = _call("popMessage", [False, int(CALL_SECONDS) - 20, topic])
    pushed = _call("pushMessage", [{"dst": {"ip": line.last.address}, "topic": topic, "payload": text}])
    with ThreadPoolExecutor(1) as waiting:
        popped = waiting.submit(receiver.request, "POST", "/", wanted, timeout=CALL_SECONDS)
        begin = time.monotonic()
        _result(sender.request("POST", "/", pushed, timeout=CALL_SECONDS))
        answer = popped.result()
        passed = time.monotonic() - begin
    if _result(answer)["payload"] != text:
        raise LabError("the large message is not the one that was sent")
    return LARGE_BYTES / MEGA / passed


def _call(method: str, parameters: list[object]) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}


def _result(answer: tuple[int, bytes]) -> Any:
    status, body = answer
    said = json.loads(body) if status == 200 else {}
    if not isinstance(said, dict) or said.get("result") is None:
        raise LabError(f"JSON-RPC answered {status}: {body[:200]!r}")
    return said["result"]


def measure_huge(line: Line, _amounts: Amounts) -> Figures:
    """One message of 100 MB, bytes as they are, from the push to the last byte of the waiting pop."""
    if not isinstance(line.first, SeptateNode):
        return {"huge": "it takes messages up to 10 MiB of JSON-RPC"}
    payload = secrets.token_bytes(HUGE_BYTES)
    with ThreadPoolExecutor(1) as waiting:
        popped = waiting.submit(_raw, line.last, "GET", f"{_RAW_PATH}?timeout={int(CALL_SECONDS) - 20}", None)
        begin = time.monotonic()
        _raw(line.first, "POST", f"{_RAW_PATH}?dst={line.last.address}", payload)
        received = popped.result()
        passed = time.monotonic() - begin
    if received != payload:
        raise LabError("the message of 100 MB is not the one that was sent")
    return {"huge": HUGE_BYTES / MEGA / passed}


def _raw(node: Node, method: str, path: str, body: bytes | None) -> bytes:
    connection = NamespaceConnection(node.namespace, "127.0.0.1", API_PORT, CALL_SECONDS)
    try:
        connection.request(method, path, body, {"Content-Type": "application/octet-stream"} if body else {})
        answer = connection.getresponse()
        content = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise LabError(f"raw transfer: {method} at {node}: {error}") from error
    finally:
        connection.close()
    if answer.status not in (200, 201):
        raise LabError(f"raw transfer: {method} at {node} gave {answer.status}: {content[:200]!r}")
    return content


def measure_latency(line: Line, amounts: Amounts) -> Figures:
    """Messages of 100 bytes, one at a time, from the call that sends to the answer of a pop that waits."""
    topic = base64.b64encode(b"ping").decode()
    pushed = {
        "dst": {"ip": line.last.address},
        "topic": topic,
        "payload": base64.b64encode(bytes(SMALL_BYTES)).decode(),
    }
    sender, receiver = (Api(node.namespace, API_PORT) for node in (line.first, line.last))
    times = []
    with ThreadPoolExecutor(1) as waiting:
        for _ in range(amounts.pings):
            popped = waiting.submit(_expect, receiver, "GET", "/api/v1/messages?timeout=20&topic=cGluZw%3D%3D", 200)
            # So that the reader waits before there is anything.
            time.sleep(0.01)
            begin = time.monotonic()
            _expect(sender, "POST", "/api/v1/messages", 201, pushed)
            times.append((popped.result() - begin) * 1000)
    return {"latency": median(times), "latency_p99": percentile(times, 0.99)}


def _expect(api: Api, method: str, path: str, wanted: int, body: object | None = None) -> float:
    status, content = api.request(method, path, body, timeout=30.0)
    moment = time.monotonic()
    if status != wanted:
        raise LabError(f"{method} {path} gave {status} instead of {wanted}: {content[:200]!r}")
    return moment


def measure_api(line: Line, amounts: Amounts) -> Figures:
    """The list of peers, asked by 50 clients at once, each on a connection that it keeps."""
    found = Tool(line.first, "ask", API_PORT, CLIENTS, amounts.api_seconds, API_PATH).result()
    return {"api": found["per_second"], "api_p99": found["p99"] * 1000}


def measure_inbox(line: Line, amounts: Amounts) -> Figures:
    """Memory of the receiving node before the first message and with all of them in its inbox."""
    before = memory_of(line.last.process_id).total
    for _ in range(0, amounts.inbox, BATCH):
        # A sender that is given all at once starves its own acknowledgements.
        _fill(line, min(BATCH, amounts.inbox))
    time.sleep(SETTLE_SECONDS)
    after = memory_of(line.last.process_id).total
    Tool(line.last, "pop", API_PORT, READERS, amounts.inbox, 0).result(CALL_SECONDS * 10)
    return {"inbox": after / MEGA, "inbox_more": (after - before) / MEGA}


def _fill(line: Line, count: int) -> None:
    pushed = Tool(line.first, "push", API_PORT, SENDERS, count, SMALL_BYTES, line.last.address)
    ids = pushed.result()["ids"]
    # In order but for the senders' race: a sample finds the moment, and what is popped in the end proves it.
    left = [*ids[::SAMPLE], *ids[-SENDERS:]]
    api = Api(line.first.namespace, API_PORT)

    def arrived() -> bool:
        while left:
            found = api.get(f"/api/v1/messages/status/{left[0]}")
            if found is None or found["state"] not in ("received", "read"):
                return False
            del left[0]
        return True

    try:
        wait_until(f"{count} messages more in the inbox", arrived, CALL_SECONDS)
    except WaitError as error:
        raise LabError(str(error)) from None
