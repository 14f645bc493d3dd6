"""Clients of a real node's APIs: many that wait, some that go away, and processes that are killed under them."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.lab.api import NamespaceConnection
from tests.lab.namespaces import Lab
from tests.lab.nodes import SeptateNode
from tests.lab.waiting import wait_until
from tests.namespaces.processes import find_process, kill_process, wait_for_successor
from tests.namespaces.replay import WebSocket

pytestmark = pytest.mark.namespaces

MESSAGES: Final = "/api/v1/messages"
RAW: Final = "/api/v1/septate/messages"
OUTBOX: Final = "/api/v1/septate/messages/outbox"
RPC_PORT: Final = 8990
METRICS_PORT: Final = 9999
PATIENCE: Final = 20.0
WAITING: Final = 200
HARMLESS_S: Final = 0.05
LONG_POLL_S: Final = 60


@pytest.fixture(scope="module")
def node(module_lab: Lab) -> SeptateNode:
    """A node without neighbours, that sends messages to itself."""
    place = module_lab.namespace("api")
    made = SeptateNode(
        module_lab, place, options=["--no-tun", "--metrics-api-address", f"127.0.0.1:{METRICS_PORT}"]
    ).start()
    made.wait_until_up()
    wait_until("the message box", lambda: call(made, "GET", f"{MESSAGES}/topics")[0] == 200, PATIENCE)
    return made


@pytest.fixture(autouse=True)
def empty_inbox(node: SeptateNode) -> Iterator[None]:
    """No test finds a message of another."""
    yield
    while call(node, "GET", MESSAGES)[0] == 200:
        pass


def call(
    node: SeptateNode,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    port: int = 8989,
) -> tuple[int, bytes, Any]:
    """Status, body and headers of one request."""
    connection = NamespaceConnection(node.namespace, "127.0.0.1", port, LONG_POLL_S + PATIENCE)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


def push(node: SeptateNode, text: str, headers: dict[str, str] | None = None, query: str = "") -> tuple[int, Any]:
    """Sends a message to the node itself; status and JSON of the answer."""
    payload = base64.b64encode(text.encode()).decode()
    body = json.dumps({"dst": {"ip": node.address}, "payload": payload}).encode()
    status, content, _ = call(
        node, "POST", MESSAGES + query, body, {"Content-Type": "application/json", **(headers or {})}
    )
    return status, json.loads(content)


def popped(node: SeptateNode, timeout: int = 10) -> str | None:
    """The data of the next message, None where none comes in time."""
    status, content, _ = call(node, "GET", f"{MESSAGES}?timeout={timeout}")
    return base64.b64decode(json.loads(content)["payload"]).decode() if status == 200 else None


def rpc(node: SeptateNode, method: str, *params: Any) -> Any:
    """What a JSON-RPC call answers."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    _, content, _ = call(node, "POST", "/", body, {"Content-Type": "application/json"}, RPC_PORT)
    return json.loads(content)


def long_poll(node: SeptateNode, port: int = 8989) -> socket.socket:
    """A connection whose client waits for a message."""
    connection = NamespaceConnection(node.namespace, "127.0.0.1", port, LONG_POLL_S)
    connection.connect()
    made: socket.socket = connection.sock
    made.sendall(f"GET {MESSAGES}?timeout={LONG_POLL_S} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return made


def waiting(node: SeptateNode, role: str = "status") -> int:
    """How many calls wait, as the heartbeat tells it."""
    status, content, _ = call(node, "GET", "/api/v1/septate/actors")
    rows = json.loads(content) if status == 200 else []
    return next((row["queues"].get("waits", 0) for row in rows if row["role"] == role), 0)


def until(what: str, node: SeptateNode, happened: Callable[[], object]) -> None:
    """Waits for what a heartbeat will tell."""
    wait_until(what, happened, PATIENCE)


def test_two_hundred_clients_that_wait_make_nobody_else_wait(node: SeptateNode) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(WAITING):
            stack.enter_context(contextlib.closing(long_poll(node)))
        until("all of them wait", node, lambda: waiting(node) == WAITING)
        took = []
        for path in ("/api/v1/admin", "/api/v1/admin/peers", f"{MESSAGES}/topics/default") * 10:
            begin = time.monotonic()
            assert call(node, "GET", path)[0] == 200
            took.append(time.monotonic() - begin)
        assert statistics.median(took) < HARMLESS_S
    until("nobody waits for those who left", node, lambda: waiting(node) == 0)


def test_message_goes_to_one_who_waits_and_only_to_one(node: SeptateNode) -> None:
    found: list[str | None] = []
    threads = [threading.Thread(target=lambda: found.append(popped(node, 3))) for _ in range(5)]
    for thread in threads:
        thread.start()
    until("all of them wait", node, lambda: waiting(node) == len(threads))
    push(node, "for one of you")
    for thread in threads:
        thread.join()
    assert sorted(found, key=str) == [None, None, None, None, "for one of you"]


def test_client_that_went_away_while_it_waited_takes_no_message(node: SeptateNode) -> None:
    gone = [long_poll(node) for _ in range(10)]
    until("they wait", node, lambda: waiting(node) == len(gone))
    for client in gone:
        client.close()
    push(node, "for who is left")
    assert popped(node) == "for who is left"


def test_websocket_client_that_went_away_while_it_waited_takes_no_message(node: SeptateNode) -> None:
    with WebSocket(node.namespace, "/") as client:
        client.say(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "popMessage", "params": [False, LONG_POLL_S]}))
        until("it waits", node, lambda: waiting(node, "rpc") == 1)
    push(node, "for who is left")
    assert popped(node) == "for who is left"


def test_call_on_a_websocket_does_not_wait_for_an_earlier_one(node: SeptateNode) -> None:
    with WebSocket(node.namespace, "/") as client:
        client.say(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "popMessage", "params": [False, LONG_POLL_S]}))
        client.say(json.dumps({"jsonrpc": "2.0", "id": 2, "method": "getTopics"}))
        assert json.loads(client.hear(PATIENCE) or "{}")["id"] == 2
        push(node, "the first")
        assert json.loads(client.hear(PATIENCE) or "{}")["id"] == 1


def test_repetition_with_the_same_key_sends_nothing_and_is_answered_as_the_first_was(node: SeptateNode) -> None:
    first, again = (push(node, "once", {"Idempotency-Key": "a key of mine"}) for _ in range(2))
    assert first == again
    assert (popped(node), popped(node, 1)) == ("once", None)
    status, _, _ = call(
        node,
        "POST",
        MESSAGES,
        json.dumps({"dst": {"ip": node.address}, "payload": ""}).encode(),
        {"Content-Type": "application/json", "Idempotency-Key": "a key of mine"},
    )
    assert status == 422


def test_large_message_travels_as_it_is(node: SeptateNode) -> None:
    data = os.urandom(1 << 20) * 20
    headers = {"Content-Type": "application/octet-stream"}
    status, content, _ = call(node, "POST", f"{RAW}?dst={node.address}&topic=ZGVtbw==", data, headers)
    assert status == 201
    sent = json.loads(content)["id"]
    status, content, found = call(node, "GET", f"{RAW}?timeout=30&topic=ZGVtbw==")
    assert (status, content == data) == (200, True)
    assert (found["Septate-Message-Id"], found["Septate-Source"]) == (sent, node.address)
    assert (found["Septate-Topic"], found["Septate-Destination"]) == ("ZGVtbw==", node.address)
    assert sent in {row["id"] for row in json.loads(call(node, "GET", OUTBOX)[1])}


def test_message_that_is_too_large_for_the_answer_stays(node: SeptateNode) -> None:
    data = bytes(8 << 20)
    headers = {"Content-Type": "application/octet-stream"}
    assert call(node, "POST", f"{RAW}?dst={node.address}", data, headers)[0] == 201
    assert rpc(node, "popMessage", False, 30)["error"]["code"] == -32008
    assert len(call(node, "GET", RAW)[1]) == len(data)


def test_message_that_is_still_being_sent_can_be_given_up(node: SeptateNode) -> None:
    body = json.dumps({"dst": {"ip": "400::1"}, "payload": ""}).encode()
    _, content, _ = call(node, "POST", MESSAGES, body, {"Content-Type": "application/json"})
    sent = json.loads(content)["id"]
    assert call(node, "DELETE", f"{OUTBOX}/{sent}")[0] == 204
    assert json.loads(call(node, "GET", f"{MESSAGES}/status/{sent}")[1])["state"] == "aborted"
    assert call(node, "DELETE", f"{OUTBOX}/0000000000000001")[0] == 404


# --- processes that are killed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("role", "port"), [("status", 8989), ("rpc", RPC_PORT)])
def test_killed_server_is_back_for_the_next_call(node: SeptateNode, role: str, port: int) -> None:
    killed = find_process(node, role)
    kill_process(node, killed)
    # Who comes in between waits in the socket, which the supervisor holds.
    if role == "rpc":
        assert rpc(node, "getInfo")["result"]["nodeIp"] == node.address
    else:
        assert call(node, "GET", "/api/v1/admin", port=port)[0] == 200
    wait_for_successor(node, killed)


def test_client_that_waits_gets_its_message_from_the_successor_of_a_killed_message_box(node: SeptateNode) -> None:
    found: list[str | None] = []
    client = threading.Thread(target=lambda: found.append(popped(node, 30)))
    client.start()
    until("it waits", node, lambda: waiting(node) == 1)
    killed = find_process(node, "messagebox")
    kill_process(node, killed)
    wait_for_successor(node, killed)
    push(node, "after all")
    client.join()
    assert found == ["after all"]


def test_message_pushed_while_the_message_box_is_away_is_taken_by_its_successor(node: SeptateNode) -> None:
    killed = find_process(node, "messagebox")
    kill_process(node, killed)
    # Who asks in the very moment may be told to ask again.
    wait_until("it is gone", lambda: not Path(f"/proc/{killed.pid}").exists(), PATIENCE)
    assert push(node, "to whoever comes")[0] == 201
    assert popped(node) == "to whoever comes"


@pytest.mark.parametrize("attempt", range(3))
def test_message_pushed_in_the_moment_of_a_kill_is_there_once_after_a_repetition(
    node: SeptateNode, attempt: int
) -> None:
    kill_process(node, find_process(node, "messagebox"))
    key = {"Idempotency-Key": f"number {attempt} of {os.getpid()}"}
    assert push(node, "once", key)[0] == push(node, "once", key)[0] == 201
    assert (popped(node), popped(node, 1)) == ("once", None)


def test_process_that_does_not_answer_is_named(node: SeptateNode) -> None:
    router = find_process(node, "router")
    os.kill(router.pid, signal.SIGSTOP)
    try:
        status, content, _ = call(node, "GET", "/api/v1/admin/routes/selected")
        refused = rpc(node, "getSelectedRoutes")["error"]
    finally:
        os.kill(router.pid, signal.SIGCONT)
    assert (status, json.loads(content)["actor"]) == (503, "router")
    assert (refused["code"], refused["data"]) == (-32000, {"actor": "router"})


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_metrics_are_what_prometheus_reads(node: SeptateNode) -> None:
    status, content, headers = call(node, "GET", "/metrics", port=METRICS_PORT)
    families = {family.name: family for family in text_string_to_metric_families(content.decode())}
    assert (status, headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
    assert families["mycelium_router_received_tlvs"].type == "counter"
    assert families["process_open_fds"].samples[0].value > 20
    roles = {sample.labels["role"] for sample in families["septate_actor_ready"].samples}
    assert {"supervisor", "router", "tun", "peers", "messagebox", "status", "rpc"} <= roles
    assert all(sample.value >= 0 for family in families.values() for sample in family.samples)


def test_connection_that_is_cut_in_the_middle_of_a_body_costs_nothing(node: SeptateNode) -> None:
    connection = NamespaceConnection(node.namespace, "127.0.0.1", 8989, PATIENCE)
    connection.connect()
    head = f"POST {RAW}?dst={node.address} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
    connection.sock.sendall(f"{head}Content-Length: {100 << 20}\r\n\r\n".encode() + bytes(1 << 20))
    connection.close()
    # Three times as much as there is room for.
    for _ in range(8):
        broken = NamespaceConnection(node.namespace, "127.0.0.1", 8989, PATIENCE)
        broken.connect()
        with contextlib.suppress(ConnectionError):
            broken.sock.sendall(f"{head}Content-Length: {100 << 20}\r\n\r\n".encode())
        broken.close()

    def is_free() -> bool:
        headers = {"Content-Type": "application/octet-stream"}
        return call(node, "POST", f"{RAW}?dst=400::1", bytes(3 << 20), headers)[0] == 201

    wait_until("room for large bodies", is_free, PATIENCE)
