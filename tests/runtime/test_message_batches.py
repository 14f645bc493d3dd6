"""Batches of calls about messages, against the process of the message box: order, places, limits, and its death."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from actors.api.administration import NodeFacts
from actors.api.asking import Actors
from actors.api.faults import ApiError, Fault
from actors.api.messages import Letter, Received, Wish
from actors.api.node import Node
from actors.api.reading import encode_base64
from actors.api.waiting import Waits
from actors.rpc.dialect import answer
from actors.rpc.method import Caller, call, call_all
from actors.rpc.methods import all_methods
from actors.runtime.asking import Asker
from protocol.frames import MAX_PART_BYTES
from protocol.mycelium.endpoint import ip_text
from tests.lab.waiting import wait_until
from tests.runtime.test_messagebox import run, serving
from tests.unit.message_factory import BOB, payload

__all__ = ("run",)
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

MOST = 10_000_000


@pytest.fixture
def node(run: Path) -> Iterator[Node]:
    """The calls of a node, whether its message box runs or not."""
    with Asker(run) as asker:
        yield Node(NodeFacts(BOB.key, 0), Actors(asker), Waits(8, Counter()))


def letter(data: bytes, topic: bytes = b"", key: bytes = b"") -> Letter:
    """A message to the node itself."""
    return Letter(BOB.address, topic, data, key=key)


def data_of(found: Received | ApiError | None) -> bytes | None:
    """What came; fails on an error."""
    assert not isinstance(found, ApiError), found
    return None if found is None else bytes(found.data)


def test_messages_of_a_batch_are_sent_and_read_in_their_order(run: Path, node: Node) -> None:
    sent = [b"%d" % number for number in range(100)]
    with serving(run):
        ids = [found["id"] for found in node.batches.push_all(list(map(letter, sent))) if isinstance(found, dict)]
        found = node.batches.read_all([Wish()] * 110, MOST)
    assert len(set(ids)) == 100
    assert [data_of(one) for one in found] == [*sent, *[None] * 10]
    assert [one.head.id.hex() for one in found if isinstance(one, Received)] == ids


def test_what_is_refused_has_its_place_and_costs_nothing_else(run: Path, node: Node) -> None:
    with serving(run):
        found = node.batches.push_all([letter(b"a"), letter(b"b", topic=bytes(256)), letter(b"c")])
        assert [isinstance(one, ApiError) for one in found] == [False, True, False]
        read = node.batches.read_all([Wish(), Wish(b"other"), Wish()], MOST)
    assert [data_of(one) for one in read] == [b"a", None, b"c"]


@pytest.mark.parametrize("size", [MAX_PART_BYTES, MAX_PART_BYTES + 1, 3_000_000])
def test_large_messages_of_a_batch_arrive_among_small_ones(run: Path, node: Node, size: int) -> None:
    sent = [b"first", payload(size), b"between", payload(size, 1), b"last"]
    with serving(run):
        assert all(isinstance(found, dict) for found in node.batches.push_all(list(map(letter, sent))))
        wait_until("all have arrived", lambda: all(one["state"] == "received" for one in node.messages.outbox()), 20)
        found = node.batches.read_all([Wish()] * 6, MOST)
    # In the order in which they became complete.
    assert {data_of(one) for one in found} == {*sent, None}


def test_a_message_that_does_not_fit_the_answer_stays(run: Path, node: Node) -> None:
    with serving(run):
        node.batches.push_all([letter(bytes([number]) * 1000) for number in range(3)])
        found = node.batches.read_all([Wish()] * 3, 2500)
        assert [data_of(one) for one in found[:2]] == [bytes(1000), b"\x01" * 1000]
        assert isinstance(found[2], ApiError)
        assert found[2].fault is Fault.TOO_LARGE
        assert data_of(node.messages.read(Wish())) == b"\x02" * 1000


def test_a_batch_with_keys_outlives_the_death_of_the_message_box(run: Path, node: Node) -> None:
    sent = [letter(b"%d" % number, key=b"key %d" % number) for number in range(64)]
    results: list[object] = []
    with serving(run) as box:
        results += node.batches.push_all(sent[:8])
        pushing = threading.Thread(target=lambda: results.extend(node.batches.push_all(sent)))
        pushing.start()
        os.kill(box.pid, signal.SIGKILL)
        box.ended()
    with serving(run):
        pushing.join(20)
        assert not pushing.is_alive()
        found = node.batches.read_all([Wish()] * 80, MOST)
    assert results[:8] == results[8:16], "the first ones were sent before, and are told of again"
    assert all(isinstance(result, dict) for result in results)
    read = [data for data in map(data_of, found) if data is not None]
    assert sorted(read) == sorted(bytes(one.data) for one in sent)


def test_calls_of_a_batch_are_answered_in_their_places(run: Path, node: Node) -> None:
    methods, caller = all_methods(lambda _: {}), Caller(node, lambda: False)
    message = {"dst": {"ip": ip_text(IPv6Address(BOB.address))}, "payload": encode_base64(b"hello")}
    calls = [
        ("pushMessage", [message]),
        ("pushMessage", ["no message"]),
        ("pushMessage", [message | {"topic": encode_base64(bytes(256))}]),
        ("pushMessage", [message]),
        ("nonsense", []),
        ("popMessage", []),
        ("popMessage", [False, 0, "%"]),
        ("popMessage", []),
        ("popMessage", [True]),
    ]
    text = json.dumps(
        [
            {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
            for number, (method, params) in enumerate(calls)
        ]
    )
    with serving(run):
        reply = answer(
            text.encode(),
            lambda name, params: call(methods[name], caller, params),
            lambda members: call_all(methods, caller, members),
        )
    answers = json.loads(reply.text or "")
    assert [one["id"] for one in answers] == list(range(9))
    codes = [one["error"]["code"] if "error" in one else None for one in answers]
    assert codes == [None, -32602, -32015, None, -32601, None, -32013, None, None]
    assert [answers[place]["result"]["id"] for place in (5, 7)] == [answers[place]["result"]["id"] for place in (0, 3)]
    assert answers[8]["result"] is None
