"""Messages between two nodes: what arrives, what is told to the sender, and what restarts and kills change about it."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Final

import pytest

from actors.runtime.asking import runtime_root
from protocol.frames import CancelMessage, ChangeTopic, Outcome, TopicChange
from tests.lab.namespaces import Lab
from tests.lab.nodes import SeptateNode
from tests.lab.post import Post
from tests.lab.waiting import wait_until
from tests.namespaces.message_chaos import Correspondent, Killer
from tests.namespaces.networks import build_pair
from tests.namespaces.processes import find_process, kill_process

pytestmark = pytest.mark.namespaces

PATIENCE: Final = 30.0
SECONDS_OF_KILLS: Final = float(os.environ.get("MESSAGE_KILL_SECONDS", "4"))
"""60 before a release."""
STEPS: Final = 10
CHAINS_PER_SECOND: Final = 400 / 60
"""So that a minute has 2000 messages each way."""


def packed(node: SeptateNode) -> bytes:
    return IPv6Address(node.address).packed


@dataclass(frozen=True, slots=True)
class Pair:
    """Two nodes, and somebody who asks the message box of each."""

    near: SeptateNode
    far: SeptateNode
    here: Post
    there: Post


@pytest.fixture(scope="module")
def nodes(module_lab: Lab) -> tuple[SeptateNode, SeptateNode]:
    return build_pair(module_lab)


@pytest.fixture
def pair(nodes: tuple[SeptateNode, SeptateNode]) -> Iterator[Pair]:
    near, far = nodes
    with Post(runtime_root() / near.instance) as here, Post(runtime_root() / far.instance) as there:
        yield Pair(near, far, here, there)
        while there.pop() is not None:
            pass


def wait_for_state(post: Post, message_id: bytes, *states: str) -> None:
    wait_until(f"a message {' or '.join(states)}", lambda: post.state(message_id) in states, PATIENCE)


@pytest.mark.parametrize("size", [0, 1, 1300, 1301, 1549, 70_000, 5_000_000])
def test_a_message_of_any_size_arrives_and_its_sender_hears_that_it_was_read(pair: Pair, size: int) -> None:
    data = random.Random(size).randbytes(size)
    _, message_id = pair.here.push(packed(pair.far), data, topic=b"demo")
    wait_for_state(pair.here, message_id, "received")
    found = pair.there.pop(topic=b"demo")
    assert found is not None
    head, got = found
    assert got == data
    assert (head.id, head.source, head.destination) == (message_id, packed(pair.near), packed(pair.far))
    wait_for_state(pair.here, message_id, "read")


def test_a_question_gets_its_answer(pair: Pair) -> None:
    token, message_id = pair.here.push(packed(pair.far), b"ping", wait_ms=30_000)
    found = pair.there.pop(wait_ms=30_000)
    assert found is not None
    pair.there.push(found[0].source, b"pong", reply_to=found[0].id)
    answer = pair.here.receive(token)
    assert answer is not None
    assert (answer[0].id, answer[1]) == (message_id, b"pong")


def test_a_topic_that_is_refused_arrives_when_its_rules_allow_it(pair: Pair) -> None:
    def change(kind: TopicChange, value: str = "") -> None:
        token = pair.there.token()
        pair.there.send(ChangeTopic(token, kind, b"closed", value))
        assert pair.there.hear(token).outcome is Outcome.DONE

    change(TopicChange.ADD)
    _, message_id = pair.here.push(packed(pair.far), b"let me in", topic=b"closed")
    _, other = pair.here.push(packed(pair.far), b"open", topic=b"open")
    wait_for_state(pair.here, other, "received")
    assert pair.here.state(message_id) == "pending"
    change(TopicChange.ADD_SOURCE, "400::/7")
    wait_for_state(pair.here, message_id, "received")
    change(TopicChange.REMOVE)


def test_a_message_that_is_given_up_does_not_arrive(pair: Pair) -> None:
    nobody = bytes([5]) + bytes(15)
    _, message_id = pair.here.push(nobody, b"hello?")
    token = pair.here.token()
    pair.here.send(CancelMessage(token, message_id))
    assert pair.here.hear(token).outcome is Outcome.DONE
    assert pair.here.state(message_id) == "aborted"


@pytest.mark.parametrize(
    ("where", "role"),
    [("near", "messagebox"), ("far", "messagebox"), ("near", "tun"), ("far", "link"), ("near", "router")],
)
def test_a_large_message_goes_on_when_a_process_is_killed_in_the_middle(pair: Pair, where: str, role: str) -> None:
    node: SeptateNode = getattr(pair, where)
    victim = find_process(node, role)
    data = random.Random(role).randbytes(8_000_000)
    _, message_id = pair.here.push(packed(pair.far), data)
    wait_until("some of it arrived", lambda: pair.here.outbox(message_id)[0].acked > 0, PATIENCE)
    kill_process(node, victim)
    # Who was waiting when the message box died waits for ever: a question is not repeated by itself.
    wait_for_state(pair.here, message_id, "received")
    with Post(runtime_root() / pair.far.instance) as reader:
        found = reader.pop()
        assert found is not None
        assert found[1] == data
        assert reader.pop() is None


def test_messages_wait_for_a_receiver_that_comes_later_and_outlive_either_node(lab: Lab) -> None:
    near, far = build_pair(lab)
    destination, here_run, there_run = packed(far), runtime_root() / near.instance, runtime_root() / far.instance
    far.stop()
    with Post(here_run) as here:
        _, first = here.push(destination, b"while you were out")
        _, second = here.push(destination, random.Random(1).randbytes(3_000_000))
        assert here.state(first) == "pending"
    near.kill()
    near.start()
    near.wait_until_up()
    far.start()
    far.wait_until_up()
    with Post(here_run) as here:
        for message_id in (first, second):
            wait_for_state(here, message_id, "received")
    far.kill()
    far.start()
    far.wait_until_up()
    with Post(there_run) as there:
        found = [there.pop() for _ in range(2)]
        assert sorted(len(got[1]) for got in found if got is not None) == [18, 3_000_000]
        assert there.pop() is None


def test_messages_are_delivered_once_and_in_order_while_processes_of_both_nodes_are_killed(lab: Lab) -> None:
    near, far = build_pair(lab)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chains = max(4, int(CHAINS_PER_SECOND * SECONDS_OF_KILLS))
    one, other = Correspondent(near, far, STEPS), Correspondent(far, near, STEPS)
    killer = Killer((near, far), seed, pause=0.2)
    one.start(range(chains // 2))
    other.start(range(chains // 2, chains))
    kills = threading.Thread(target=killer.run, args=(SECONDS_OF_KILLS,))
    began = time.monotonic()
    kills.start()
    kills.join()
    total = chains * STEPS
    wait_until(
        f"{total} messages",
        lambda: one.error or other.error or one.arrived() + other.arrived() >= total,
        120.0 + SECONDS_OF_KILLS,
    )
    seconds = time.monotonic() - began
    one.stop()
    other.stop()
    again = one.repeated + other.repeated
    print(f"{dict(killer.killed)} killed; {total} messages in {seconds:.0f} s, {again} delivered again and recognised")
    for chain in range(chains):
        asks, answers = (one, other) if chain < chains // 2 else (other, one)
        assert answers.seen[chain] == list(range(0, STEPS, 2)), f"chain {chain}"
        assert asks.seen[chain] == list(range(1, STEPS, 2)), f"chain {chain}"
