"""The JSON-RPC server over real sockets: limits, foreign pages, and connections that break."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, RejectConnection, RejectData, Request, TextMessage
from wsproto.utilities import LocalProtocolError

from actors.api.administration import NodeFacts
from actors.api.asking import Actors
from actors.api.node import Node
from actors.api.waiting import Waits
from actors.rpc import application
from actors.rpc.application import Application
from actors.rpc.server import Server
from actors.runtime.asking import Asker
from protocol.frames import AskPeers
from protocol.mycelium.identity import public_key
from tests.lab.waiting import wait_until
from tests.unit.stand_ins import Node as StandIn
from tests.unit.stand_ins import actor, run_folder

KEY: Final = public_key(bytes(range(32)))
JSON: Final = {"Content-Type": "application/json"}
INFO: Final = b'{"jsonrpc":"2.0","id":1,"method":"getInfo"}'
PEERS: Final = b'{"jsonrpc":"2.0","id":2,"method":"getPeers"}'


class Served:
    """A server in front of one stand-in actor, peers, which answers when it is told to."""

    def __init__(self, port: int, counters: Counter[str], answering: threading.Event) -> None:
        self.port = port
        self.counters = counters
        self.answering = answering

    def post(self, body: bytes, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """Status and JSON (or text) of the answer to one POST."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("POST", "/", body, JSON | (headers or {}))
            answer = connection.getresponse()
            content = answer.read()
            return answer.status, json.loads(content) if "json" in (answer.headers["Content-Type"]) else content
        finally:
            connection.close()


@pytest.fixture
def served() -> Iterator[Served]:
    """A server on a loopback address."""
    with serving() as made:
        yield made


@contextmanager
def serving() -> Iterator[Served]:
    node, answering = StandIn(), threading.Event()
    answering.set()

    def reply(question: Any) -> Any:
        assert answering.wait(20)
        return node.reply(question)

    counters: Counter[str] = Counter()
    listener = socket.create_server(("127.0.0.1", 0))
    with run_folder() as folder, Asker(folder) as asker, actor(folder, "peers", reply):
        actors = Actors(asker, deadline_s=15.0)
        api = Node(NodeFacts(KEY, 1), actors, Waits(2, counters))
        pool = ThreadPoolExecutor(8)
        server = Server(Application(api, pool, counters, check_host=True), listener.detach())
        server.start()
        try:
            yield Served(server.port, counters, answering)
            server.check()
        finally:
            answering.set()
            server.stop()
            pool.shutdown()


class Client:
    """A WebSocket."""

    def __init__(self, port: int, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._events: list[Any] = []
        request = Request(host=f"127.0.0.1:{port}", target="/", extra_headers=list(headers))
        self._socket.sendall(self._protocol.send(request))
        self.first = self.next()

    def next(self) -> Any:
        """The next thing that happens."""
        while not self._events:
            try:
                self._protocol.receive_data(self._socket.recv(1 << 16) or None)
            except LocalProtocolError:
                return None
            self._events += list(self._protocol.events())
        return self._events.pop(0)

    def say(self, data: bytes) -> None:
        """Sends a text."""
        self._socket.sendall(self._protocol.send(TextMessage(data=data.decode())))

    def hear(self) -> Any:
        """The next text, parsed."""
        text = ""
        while True:
            event = self.next()
            assert isinstance(event, TextMessage), event
            text += event.data
            if event.message_finished:
                return json.loads(text)

    def close(self) -> None:
        """Goes away."""
        self._socket.close()


def test_call_is_answered(served: Served) -> None:
    status, found = served.post(INFO)
    assert (status, found["result"]["nodePubkey"]) == (200, KEY.hex())


def test_request_above_the_limit_is_refused_after_it_was_read(served: Served) -> None:
    status, found = served.post(bytes(application.MAX_BYTES + 1))
    assert (status, found["error"]["code"]) == (413, -32007)
    assert served.post(b" " * 100 + INFO)[0] == 200


@pytest.mark.parametrize(
    "headers", [{"Host": "rebound.example"}, {"Origin": "http://rebound.example"}, {"Origin": "null"}]
)
def test_foreign_names_are_refused(served: Served, headers: dict[str, str]) -> None:
    assert served.post(INFO, headers)[0] == 403
    pairs = tuple((name.lower().encode(), value.encode()) for name, value in headers.items() if name == "Origin")
    if pairs:
        client = Client(served.port, pairs)
        assert (type(client.first), client.first.status_code) == (RejectConnection, 403)
        assert isinstance(client.next(), RejectData)
        client.close()
    assert served.counters["rpc.foreign"] == 1 + bool(pairs)


def test_page_of_this_machine_may_call(served: Served) -> None:
    assert served.post(INFO, {"Origin": "http://localhost:3000"})[0] == 200


def test_connection_too_many_is_told_to_try_again_later(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application, "CONNECTIONS", 2)
    clients = [Client(served.port) for _ in range(2)]
    assert [type(client.first) for client in clients] == [AcceptConnection] * 2
    assert served.post(INFO)[0] == 429
    refused = Client(served.port)
    assert refused.first.status_code == 429
    refused.close()
    clients.pop().close()
    wait_until("room", lambda: served.post(INFO)[0] == 200, 20.0)
    clients.pop().close()


def test_calls_on_one_websocket_are_answered_as_they_are_done(served: Served) -> None:
    served.answering.clear()
    client = Client(served.port)
    client.say(PEERS)
    client.say(INFO)
    assert client.hear()["id"] == 1
    served.answering.set()
    assert client.hear()["id"] == 2
    client.close()


def test_call_that_finds_too_many_before_it_is_refused_at_once(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application, "QUEUED_PER_WEBSOCKET", 3)
    served.answering.clear()
    client = Client(served.port)
    for _ in range(3):
        client.say(PEERS)
    client.say(INFO)
    refused = client.hear()
    assert (refused["id"], refused["error"]["code"]) == (1, -32002)
    assert served.counters["rpc.crowded"] == 1
    served.answering.set()
    assert [client.hear()["id"] for _ in range(3)] == [2, 2, 2]
    client.close()


def test_message_above_the_limit_is_refused_and_the_websocket_lives(served: Served) -> None:
    client = Client(served.port)
    client.say(b" " * (application.MAX_BYTES + 1))
    assert client.hear()["error"]["code"] == -32007
    client.say(INFO)
    assert client.hear()["id"] == 1
    client.close()


def test_client_that_breaks_off_is_counted_and_costs_nothing(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as broken:
        broken.sendall(
            b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        )
    wait_until("it is noticed", lambda: served.counters["rpc.broken_off"] == 1, 20.0)
    assert served.post(INFO)[0] == 200


def test_actor_that_answers_something_else_is_named(served: Served) -> None:
    with run_folder() as folder, Asker(folder) as asker, actor(folder, "peers", lambda q: [AskPeers(q.token)]):
        api = Node(NodeFacts(KEY, 1), Actors(asker), Waits(2, Counter()))
        listener = socket.create_server(("127.0.0.1", 0))
        with ThreadPoolExecutor(1) as pool:
            server = Server(Application(api, pool, Counter(), check_host=True), listener.detach())
            server.start()
            _, found = Served(server.port, Counter(), threading.Event()).post(PEERS)
            server.stop()
    assert found["error"] == {
        "code": -32000,
        "message": "no answer from peers: it answered with AskPeers where PeerList belongs",
        "data": {"actor": "peers"},
    }
