"""The HTTP API over real sockets: recorded exchanges of the reference, and what is ours."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import logging
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actors import status
from actors.api.administration import NodeFacts
from actors.api.asking import DEADLINE_S, Actors
from actors.api.local import is_local_name, is_local_origin
from actors.api.node import Node as ApiNode
from actors.api.waiting import Waits
from actors.runtime.asking import Asker
from actors.runtime.figures import Gauges
from actors.status import StatusConfig, server
from protocol.frames import AddressTraffic, AskPeers, QueriedRow, Role, RouteKind, RouteRow
from protocol.mycelium.identity import public_key
from protocol.prefix import Prefix, parse_address
from tests.lab.waiting import wait_until
from tests.unit.recorded import differences, fill, load
from tests.unit.stand_ins import Node, actor, actor_row, run_folder

RECORDED = load("recorded_http.json")
KEYS = {name: public_key(bytes.fromhex(RECORDED["keys"][name])) for name in "AB"}
ADDRESSES = RECORDED["addresses"]
UNDER = {"A": "10.93.1.1", "B": "10.93.1.2"}
STARTED = 1795321643
GROUPS = sorted({re.sub(r"\.[^.]+$", "", case["id"]) for case in RECORDED["cases"]})


class Served:
    """A node of stand-ins with the real API in front of it."""

    def __init__(self, node: Node, port: int, counters: Counter[str]) -> None:
        self.node = node
        self.port = port
        self.counters = counters

    def call(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """One exchange, in the form of the recordings; nothing is added to the given headers but Host and length."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True, skip_host="Host" in (headers or {}))
            for name, value in (headers or {}).items():
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            # A body that is refused early may not be taken; the answer is there all the same.
            with contextlib.suppress(ConnectionError):
                connection.endheaders(body)
            answer = connection.getresponse()
            return _as_recorded(answer, answer.read())
        finally:
            connection.close()


def _as_recorded(answer: http.client.HTTPResponse, content: bytes) -> dict[str, Any]:
    kept = {name.lower(): value for name, value in answer.getheaders() if name.lower() in ("content-type", "allow")}
    if "allow" in kept:
        kept["allow"] = ",".join(sorted(part.strip() for part in kept["allow"].split(",")))
    text = content.decode()
    body: dict[str, Any] = {"text": text}
    if not content:
        body = {"empty": True}
    elif "json" in kept.get("content-type", ""):
        body = {"json": json.loads(text)}
        if json.dumps(body["json"], separators=(",", ":"), ensure_ascii=False) != text:
            body["compact"] = False
    return {"status": answer.status, "headers": kept, "body": body}


@contextmanager
def served(
    name: str,
    *,
    actors: tuple[str, ...] = ("peers", "router", "tun"),
    host: str = "127.0.0.1",
    deadline_s: float = DEADLINE_S,
) -> Iterator[Any]:
    """Node A or B as it was when the exchanges were recorded."""
    with ExitStack() as stack:
        folder = stack.enter_context(run_folder())
        node = recorded_node(name)
        if actors:
            stack.enter_context(node.alive(folder, actors))
        yield stack.enter_context(api_of(node, folder, KEYS[name], host, deadline_s))


@contextmanager
def api_of(
    node: Node, folder: Path, key: bytes, host: str = "127.0.0.1", deadline_s: float = DEADLINE_S
) -> Iterator[Served]:
    listener = socket.create_server((host, 0))
    port = listener.getsockname()[1]
    counters: Counter[str] = Counter()
    with Asker(folder) as asker:
        config = StatusConfig(key, listener.detach(), STARTED, folder)
        actors = Actors(asker, deadline_s)
        api = ApiNode(NodeFacts(key, STARTED), actors, Waits(status.MOST_WAITS, counters))
        (server,) = status.servers(config, api, counters)
        server.start()
        try:
            server.check()
            yield Served(node, port, counters)
        finally:
            server.stop()


def recorded_node(name: str) -> Node:
    other = "B" if name == "A" else "A"
    node = Node()
    if name == "A":
        endpoint, kind = f"tcp://[::ffff:{UNDER['B']}]:46652", "inbound"
        hop = f"TCP [::ffff:{UNDER['A']}]:9651 <-> [::ffff:{UNDER['B']}]:46652"
    else:
        endpoint, kind = f"tcp://{UNDER['A']}:9651", "static"
        hop = f"TCP {UNDER['B']}:46652 <-> {UNDER['A']}:9651"
    node.add(endpoint, kind, "alive", sent_octets=68, received_octets=69, discovered_age=2.9, connected_age=1.2)
    network = Prefix.of(parse_address(ADDRESSES[other]), 64).network
    node.routes[RouteKind.SELECTED].append(RouteRow(network, 64, hop, 0, 0))
    node.keys[network[:8]] = KEYS[other]
    return node


@pytest.fixture(scope="module")
def nodes() -> Iterator[dict[str, Served]]:
    with served("A") as first, served("B") as second:
        yield {"A": first, "B": second}


@pytest.fixture
def api() -> Iterator[Served]:
    with served("A") as made:
        yield made


def variables() -> dict[str, str]:
    found = {}
    for name in "AB":
        subnet = str(Prefix.of(parse_address(ADDRESSES[name]), 64))
        found |= {
            f"{name}.ip": ADDRESSES[name],
            f"{name}.pk": KEYS[name].hex(),
            f"{name}.subnet": subnet,
            f"{name}.other": subnet.replace("::/64", "::1234"),
            f"{name}.under": UNDER[name],
        }
    return found


def _body(body: Any) -> bytes | None:
    if body is None or isinstance(body, str):
        return None if body is None else body.encode()
    if "base64" in body:
        return base64.b64decode(body["base64"])
    return (body["prefix"] + body["repeat"] * body["count"] + body["suffix"]).encode()


@pytest.mark.parametrize("group", GROUPS)
def test_answers_are_those_of_the_reference(group: str, nodes: dict[str, Served]) -> None:
    for case in RECORDED["cases"]:
        if re.sub(r"\.[^.]+$", "", case["id"]) != group:
            continue
        request = fill(case["request"], variables())
        answer = nodes[request.get("node", "A")].call(
            request["method"], request["path"], _body(request.get("body")), request.get("headers")
        )
        problems = differences(case, fill(case["response"], variables()), answer)
        assert not problems, f"{case['id']}: {case['about']}: {problems}"


def test_peer_object_has_the_members_of_the_reference_in_its_order(api: Served) -> None:
    peer = api.call("GET", "/api/v1/admin/peers")["body"]["json"][0]
    assert list(peer.items()) == [
        ("endpoint", {"proto": "tcp", "addr": {"socket": "[::ffff:10.93.1.2]:46652"}}),
        ("type", "inbound"),
        ("connectionState", "alive"),
        ("txBytes", 68),
        ("rxBytes", 69),
        ("discovered", 2),
        ("lastConnected", 1),
    ]


def test_infinite_metric_is_a_word(api: Served) -> None:
    network = parse_address("5a5:ddb0:8295:ef60::")
    api.node.routes[RouteKind.FALLBACK] = [RouteRow(network, 64, "TCP x", metric, 9) for metric in (65534, 65535)]
    answer = api.call("GET", "/api/v1/admin/routes/fallback")
    assert [route["metric"] for route in answer["body"]["json"]] == [65534, "infinite"]
    assert answer["body"]["json"][0]["subnet"] == "5a5:ddb0:8295:ef60::/64"


def test_queried_subnet_counts_whole_seconds_as_text(api: Served) -> None:
    network = parse_address("400::")
    api.node.queried = [QueriedRow(network, 64, 14.99), QueriedRow(network, 64, -0.5)]
    assert api.call("GET", "/api/v1/admin/routes/queried")["body"]["json"] == [
        {"subnet": "400::/64", "expiration": "14"},
        {"subnet": "400::/64", "expiration": "0"},
    ]


def test_packet_statistics_write_mapped_addresses_dotted(api: Served) -> None:
    api.node.by_source = [AddressTraffic(parse_address("::ffff:c000:201"), 2, 300)]
    api.node.by_destination = [AddressTraffic(parse_address("5ea::1"), 3, 400)]
    assert api.call("GET", "/api/v1/admin/stats/packets")["body"]["json"] == {
        "bySource": [{"ip": "::ffff:192.0.2.1", "packetCount": 2, "byteCount": 300}],
        "byDestination": [{"ip": "5ea::1", "packetCount": 3, "byteCount": 400}],
    }


def test_peer_that_the_node_has_no_room_for_is_unavailable(api: Served) -> None:
    api.node.full = True
    answer = api.call(
        "POST", "/api/v1/admin/peers", b'{"endpoint":"tcp://192.0.2.1:1"}', {"Content-Type": "application/json"}
    )
    assert (answer["status"], answer["body"]) == (503, {"text": "the peer table is full"})


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"endpoint":"\\ud800"}', 400),
        (b'{"endpoint":NaN}', 400),
        (b"[" * 100_000, 400),
        (b"1" * 10_000, 400),
        (b"[]", 422),
        (b"[1]", 422),
        (b'{"endpoint":{"endpoint":"tcp://192.0.2.1:1"}}', 422),
        (b'{"x":1,"x":2,"endpoint":"foo"}', 400),
    ],
)
def test_nasty_body_is_refused(api: Served, body: bytes, expected: int) -> None:
    answer = api.call("POST", "/api/v1/admin/peers", body, {"Content-Type": "application/json"})
    assert answer["status"] == expected
    assert len(api.node.peers) == 1


@pytest.mark.parametrize(("asked", "stays"), [({}, True), ({"Connection": "close"}, False)])
def test_connection_stays_after_an_answer_without_a_body(api: Served, asked: dict[str, str], stays: bool) -> None:
    api.node.add("tcp://192.0.2.1:1")
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=20)
    connection.request("DELETE", "/api/v1/admin/peers/tcp%3A%2F%2F192.0.2.1%3A1", headers=asked)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    assert (answer.status, not answer.will_close) == (204, stays)


def test_absolute_request_target_is_understood(api: Served) -> None:
    assert api.call("GET", f"http://127.0.0.1:{api.port}/api/v1/admin?x=1")["status"] == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/admin/proxy"),
        ("POST", "/api/v1/admin/proxy"),
        ("DELETE", "/api/v1/admin/proxy"),
        ("GET", "/api/v1/admin/proxy/probe"),
    ],
)
def test_part_that_does_not_exist_yet_says_so(api: Served, method: str, path: str) -> None:
    answer = api.call(method, path, b"{}", {"Content-Type": "application/json"})
    assert answer["status"] == 501
    assert "not in this version" in answer["body"]["text"]


# --- actors that do not answer ----------------------------------------------------------------------------------------


def test_silent_actor_is_named() -> None:
    with served("A", actors=("peers",), deadline_s=0.1) as api:
        answer = api.call("GET", "/api/v1/admin/routes/selected")
        assert answer["status"] == 503
        assert answer["body"]["json"]["actor"] == "router"
        assert api.call("GET", "/api/v1/admin")["status"] == 200


def test_answer_of_the_wrong_kind_is_named(api: Served) -> None:
    with (
        run_folder() as folder,
        actor(folder, "router", lambda question: [AskPeers(question.token)]),
        api_of(api.node, folder, KEYS["A"], "127.0.0.1") as other,
    ):
        answer = other.call("GET", "/api/v1/admin/routes/queried")
    assert answer["status"] == 503
    assert "AskPeers where QueriedList belongs" in answer["body"]["json"]["error"]


def test_health_is_ok_when_all_vital_actors_answer(api: Served) -> None:
    answer = api.call("GET", "/healthz")
    assert (answer["status"], answer["body"]) == (200, {"text": "ok"})


def test_health_names_who_is_silent() -> None:
    with served("A", actors=("router",), deadline_s=0.2) as api:
        answer = api.call("GET", "/healthz")
        assert (answer["status"], answer["body"]) == (503, {"text": "no answer from peers, tun"})


def test_actors_are_listed(api: Served) -> None:
    api.node.actors = [actor_row("link-3", Role.LINK)]
    assert api.call("GET", "/api/v1/septate/actors")["body"]["json"] == [
        {
            "name": "link-3",
            "role": "link",
            "title": "link-3 title",
            "pid": 4711,
            "ready": True,
            "ageSeconds": 65.0,
            "restarts": 2,
            "cpuSeconds": 1.23,
            "memoryKib": 20992,
            "queues": {"outgoing": 3},
            "counters": {"sends.full": 1},
        }
    ]


def test_actors_of_a_node_without_living_actors_are_unavailable() -> None:
    with served("A", actors=(), deadline_s=0.1) as api:
        answer = api.call("GET", "/api/v1/septate/actors")
        assert (answer["status"], answer["body"]["json"]["actor"]) == (503, "supervisor")


def test_connection_is_read_from_while_a_short_answer_is_on_its_way() -> None:
    # Else a look in that moment is the last: nobody wakes the serving thread when the answer is gone.
    with run_folder() as folder, Asker(folder) as asker:
        listener = socket.create_server(("127.0.0.1", 0))
        node = ApiNode(NodeFacts(KEYS["A"], STARTED), Actors(asker), Waits(1, Counter()))
        (server,) = status.servers(StatusConfig(KEYS["A"], listener.detach(), STARTED, folder), node, Counter())
        ours, theirs = socket.socketpair()
        with ours, theirs:
            inside = server._server
            channel = inside.channel_class(inside, ours, ("", 0), inside.adj, map={})
            for waiting, is_read in ((1000, True), (1 << 20, False)):
                channel.total_outbufs_len = waiting
                assert channel.readable() is is_read
            channel.total_outbufs_len = 0
            for written, wakes in ((1000, False), (1 << 20, True)):
                channel.written = written
                assert channel.needs_the_serving_thread() is wakes
        server.start()
        server.stop()


def test_threads_come_when_they_are_needed_and_go_when_they_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE_S", 0.05)
    monkeypatch.setattr(server, "KEPT_THREADS", 1)
    answer_now = threading.Event()

    def serving() -> int:
        return sum(thread.name.startswith("waitress-") for thread in threading.enumerate())

    before = serving()
    node = recorded_node("A")

    def reply(question: Any) -> Any:
        assert answer_now.wait(20)
        return node.reply(question)

    with run_folder() as folder, actor(folder, "peers", reply), api_of(node, folder, KEYS["A"], deadline_s=20) as slow:
        callers = [threading.Thread(target=slow.call, args=("GET", "/api/v1/admin/peers")) for _ in range(6)]
        for caller in callers:
            caller.start()
        wait_until("a thread each", lambda: serving() - before == len(callers), 20.0)
        answer_now.set()
        for caller in callers:
            caller.join()
        wait_until("one is left", lambda: serving() - before == 1, 20.0)
        assert slow.call("GET", "/api/v1/admin")["status"] == 200


def test_requests_do_not_wait_for_one_that_waits(api: Served) -> None:
    with run_folder() as folder:
        asked, answer_now = threading.Event(), threading.Event()

        def reply(question: Any) -> Any:
            asked.set()
            assert answer_now.wait(20)
            return api.node.reply(question)

        with actor(folder, "peers", reply), api_of(api.node, folder, KEYS["A"], "127.0.0.1") as slow:
            waiting = threading.Thread(target=slow.call, args=("GET", "/api/v1/admin/peers"))
            waiting.start()
            assert asked.wait(20)
            assert slow.call("GET", "/api/v1/admin")["status"] == 200
            answer_now.set()
            waiting.join()


def test_status_page_shows_the_node_and_escapes_what_others_chose(api: Served) -> None:
    api.node.add("tcp://192.0.2.9:1", reason="<script>")
    api.node.routes[RouteKind.SELECTED] += [RouteRow(parse_address("5a5::"), 64, "TCP x", 65535, 0)] * 201
    api.node.actors = [actor_row("router", Role.ROUTER)]
    answer = api.call("GET", "/status")
    text = answer["body"]["text"]
    assert (answer["status"], answer["headers"]["content-type"]) == (200, "text/html; charset=utf-8")
    for shown in (ADDRESSES["A"], "tcp://192.0.2.9:1", "&lt;script&gt;", "infinite", "and 2 more", "router title"):
        assert shown in text
    assert "<script>" not in text


def test_status_page_names_who_is_silent() -> None:
    with served("A", actors=("peers",), deadline_s=0.2) as api:
        text = api.call("GET", "/status")["body"]["text"]
    assert "no answer from router" in text
    assert "no answer from tun" in text
    assert "46652" in text


# --- who may ask ------------------------------------------------------------------------------------------------------


def test_foreign_host_name_is_refused_on_loopback(api: Served) -> None:
    assert api.call("GET", "/api/v1/admin", headers={"Host": "rebound.example:8989"})["status"] == 403
    assert api.call("GET", "/api/v1/admin", headers={"Host": f"LOCALHOST:{api.port}"})["status"] == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://rebound.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:3000"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 200),
    ],
)
def test_page_of_another_site_is_refused_on_loopback(api: Served, headers: dict[str, str], status: int) -> None:
    assert api.call("GET", "/api/v1/admin", headers=headers)["status"] == status


@pytest.mark.parametrize("origin", ["http://127.0.0.1:1", "https://[::1]", "http://localhost", "HTTP://LOCALHOST:8080"])
def test_pages_of_this_machine_are_local(origin: str) -> None:
    assert is_local_origin(origin)


@pytest.mark.parametrize(
    "origin", ["", "null", "http://", "http://a.example", "http://localhost.example", "ftp://localhost", "http://[::1"]
)
def test_other_pages_are_not_local(origin: str) -> None:
    assert not is_local_origin(origin)


def test_any_host_name_will_do_elsewhere() -> None:
    with served("A", host="0.0.0.0") as api:
        assert api.call("GET", "/api/v1/admin", headers={"Host": "node.example"})["status"] == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:8989", "localhost", "[400::1]:80"])
def test_addresses_and_localhost_are_local_names(host: str) -> None:
    assert is_local_name(host)


@pytest.mark.parametrize("host", ["", "localhost.example", "127.0.0.1.example", "[::1]x", "[::1", "::1", "[x]"])
def test_other_names_are_not_local(host: str) -> None:
    assert not is_local_name(host)


def test_answers_are_counted_by_class(api: Served) -> None:
    api.call("GET", "/api/v1/admin")
    api.call("GET", "/nope")
    assert api.counters == {"http.2xx": 1, "http.4xx": 1}


# --- the actor --------------------------------------------------------------------------------------------------------


def test_error_in_a_handler_is_an_empty_500(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_row: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr("actors.api.administration.peer_object", fail)
    with served("A") as api:
        answer = api.call("GET", "/api/v1/admin/peers")
    assert (answer["status"], answer["body"]) == (500, {"empty": True})


class FakeRuntime:
    """What `status.main` uses of the runtime."""

    def __init__(self) -> None:
        self.gauges = Gauges()
        self.counters = self.gauges.counters
        self.logged: list[tuple[str, str]] = []
        self.log = SimpleNamespace(
            warning=lambda text, **_: self.logged.append(("warning", text)),
            error=lambda text, **_: self.logged.append(("error", text)),
        )
        self.loop = SimpleNamespace(every=lambda _seconds, call: self.checks.append(call))
        self.checks: list[Any] = []
        self.stopping: list[Any] = []

    def at_stop(self, call: Any) -> None:
        self.stopping.append(call)

    def serve(self) -> None:
        for call in self.checks:
            call()
        logging.getLogger("waitress.queue").warning("Task queue depth is %d", 7)
        logging.getLogger("waitress").error("bad")
        for call in self.stopping:
            call()


def test_actor_serves_until_it_is_stopped_and_logs_what_the_server_logs() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with run_folder() as folder:
        runtime = FakeRuntime()
        status.main(runtime, StatusConfig(KEYS["A"], listener.detach(), STARTED, folder))  # type: ignore[arg-type]
    assert runtime.logged == [("warning", "Task queue depth is 7"), ("error", "bad")]
    with pytest.raises(RuntimeError, match="has ended"):
        runtime.checks[0]()
