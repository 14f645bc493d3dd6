"""Messages between a Septate node and one of the reference program, both ways."""

from __future__ import annotations

import base64
import http.client
import json
import os
import random
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Any, Final

import pytest

from actors.runtime.asking import runtime_root
from protocol.frames import ChangeTopic, Outcome, TopicChange
from tests.lab.namespaces import Lab
from tests.lab.nodes import MyceliumNode, SeptateNode
from tests.lab.post import Post
from tests.lab.waiting import wait_until
from tests.namespaces.test_mixed import build_chain

pytestmark = [pytest.mark.namespaces, pytest.mark.mycelium]

PATIENCE: Final = 60.0
LENGTHS: Final = (
    *(0, 1, 249, 250, 251, 1299, 1300, 1301, 1549, 1550, 2599, 2600, 2601, 2849, 2850, 64_000, 64_001),
    *(1300 * chunks + rest for chunks in (1, 2, 7, 40, 500, 769) for rest in (1, 17, 100, 248, 249, 250)),
    1_000_000,
)
"""Those that no two reference nodes can send each other among them (Q1)."""
MORE_LENGTHS: Final = int(os.environ.get("MESSAGE_LENGTHS", "0"))
"""So many random ones besides."""


@dataclass(frozen=True, slots=True)
class Mixed:
    """Both nodes, and who asks ours."""

    ours: SeptateNode
    theirs: MyceliumNode
    post: Post


class Theirs:
    """The reference's messages, by its HTTP API."""

    def __init__(self, node: MyceliumNode) -> None:
        self._api = node.api

    def push(self, destination: str, data: bytes, *, topic: bytes = b"", reply_to: str = "") -> str:
        body = {"dst": {"ip": destination}, "payload": base64.b64encode(data).decode()}
        if topic:
            body["topic"] = base64.b64encode(topic).decode()
        path = f"/api/v1/messages/reply/{reply_to}" if reply_to else "/api/v1/messages"
        status, answer = self._api.request("POST", path, body, timeout=PATIENCE)
        assert status in (201, 204), (status, answer)
        return "" if reply_to else str(json.loads(answer)["id"])

    def pop(self, timeout: int = 30, topic: bytes | None = None) -> tuple[dict[str, Any], bytes] | None:
        query = f"?timeout={timeout}"
        if topic is not None:
            query += "&topic=" + urllib.parse.quote(base64.b64encode(topic).decode(), safe="")
        status, answer = self._api.request("GET", f"/api/v1/messages{query}", timeout=timeout + PATIENCE)
        if status == 204:
            return None
        message = json.loads(answer)
        return message, base64.b64decode(message["payload"])

    def state(self, message_id: str) -> Any:
        try:
            status, answer = self._api.request("GET", f"/api/v1/messages/status/{message_id}")
        except (OSError, http.client.HTTPException):
            return None
        return json.loads(answer)["state"] if status == 200 else None


@pytest.fixture(scope="module")
def nodes(module_lab: Lab) -> tuple[SeptateNode, MyceliumNode]:
    chain = build_chain(module_lab, (SeptateNode, MyceliumNode))
    ours, theirs = chain.ends
    assert isinstance(ours, SeptateNode)
    assert isinstance(theirs, MyceliumNode)
    return ours, theirs


@pytest.fixture
def mixed(nodes: tuple[SeptateNode, MyceliumNode]) -> Iterator[Mixed]:
    ours, theirs = nodes
    with Post(runtime_root() / ours.instance) as post:
        yield Mixed(ours, theirs, post)


def lengths() -> list[int]:
    dice = random.Random(os.urandom(8))
    return [*LENGTHS, *(dice.randrange(1_000_000) for _ in range(MORE_LENGTHS))]


def test_every_length_arrives_at_the_reference(mixed: Mixed) -> None:
    theirs, destination = Theirs(mixed.theirs), IPv6Address(mixed.theirs.address).packed
    for length in lengths():
        data = random.Random(length).randbytes(length)
        _, message_id = mixed.post.push(destination, data, topic=b"sizes")
        found = theirs.pop()
        assert found is not None, f"{length} bytes never arrived"
        message, got = found
        assert got == data, f"{length} bytes"
        assert bytes.fromhex(message["id"]) == message_id
        wait_until("read", lambda number=message_id: mixed.post.state(number) == "read", PATIENCE)


def test_every_length_that_the_reference_can_send_arrives(mixed: Mixed) -> None:
    theirs = Theirs(mixed.theirs)
    for length in lengths():
        data = random.Random(length).randbytes(length)
        message_id = theirs.push(mixed.ours.address, data, topic=b"sizes")
        found = mixed.post.pop(wait_ms=30_000)
        assert found is not None, f"{length} bytes never arrived"
        head, got = found
        assert got == data, f"{length} bytes"
        assert (head.id.hex(), head.topic) == (message_id, b"sizes")
        wait_until("read", lambda number=message_id: theirs.state(number) in ("read", "received"), PATIENCE)


def test_each_answers_the_other(mixed: Mixed) -> None:
    theirs, destination = Theirs(mixed.theirs), IPv6Address(mixed.theirs.address).packed
    token, _ = mixed.post.push(destination, b"ping", wait_ms=30_000)
    found = theirs.pop()
    assert found is not None
    theirs.push(found[0]["srcIp"], b"pong", reply_to=found[0]["id"])
    answer = mixed.post.receive(token)
    assert answer is not None
    assert answer[1] == b"pong"

    message_id = theirs.push(mixed.ours.address, b"ping")
    asked = mixed.post.pop(wait_ms=30_000)
    assert asked is not None
    mixed.post.push(asked[0].source, b"pong", reply_to=asked[0].id)
    reply = theirs.pop()
    assert reply is not None
    assert (reply[0]["id"], reply[1]) == (message_id, b"pong")


def test_rules_about_topics_keep_the_reference_out(mixed: Mixed) -> None:
    def change(kind: TopicChange, value: str = "") -> None:
        token = mixed.post.token()
        mixed.post.send(ChangeTopic(token, kind, b"closed", value))
        assert mixed.post.hear(token).outcome is Outcome.DONE

    theirs = Theirs(mixed.theirs)
    change(TopicChange.ADD)
    kept_out = theirs.push(mixed.ours.address, b"let me in", topic=b"closed")
    theirs.push(mixed.ours.address, b"open", topic=b"open")
    found = mixed.post.pop(wait_ms=30_000)
    assert found is not None
    assert found[1] == b"open"
    assert theirs.state(kept_out) == "pending"
    change(TopicChange.ADD_SOURCE, f"{mixed.theirs.address}/64")
    found = mixed.post.pop(topic=b"closed", wait_ms=30_000)
    assert found is not None
    assert found[1] == b"let me in"


def test_a_message_waits_for_a_reference_node_that_comes_later(lab: Lab) -> None:
    chain = build_chain(lab, (SeptateNode, MyceliumNode))
    ours, node = chain.ends
    assert isinstance(ours, SeptateNode)
    assert isinstance(node, MyceliumNode)
    destination = IPv6Address(node.address).packed
    node.stop()
    with Post(runtime_root() / ours.instance) as post:
        _, message_id = post.push(destination, b"while you were out")
        node.start()
        node.wait_until_up()
        found = Theirs(node).pop(timeout=60)
        assert found is not None
        assert found[1] == b"while you were out"
        wait_until("read", lambda: post.state(message_id) == "read", PATIENCE)
