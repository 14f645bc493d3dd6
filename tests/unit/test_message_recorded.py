"""Message boxes, and the model of the reference, against conversations recorded with Mycelium 0.7.10."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from blake3 import blake3

from protocol.mycelium.messages.events import State
from tests.unit import message_factory as factory
from tests.unit.message_factory import Who
from tests.unit.message_reference import ReferenceNode
from tests.unit.message_rig import Node

RECORDED = {entry["name"]: entry for entry in factory.vectors("messages_recorded.json")["conversations"]}


class Packet(NamedTuple):
    when: float
    sender: str
    inner: int
    body: bytes

    @property
    def id(self) -> bytes:
        return self.body[:8]

    @property
    def flags(self) -> int:
        return int.from_bytes(self.body[8:10], "big")


def conversation(name: str) -> tuple[dict[str, Who], list[Packet]]:
    entry = RECORDED[name]
    people = {label: Who.of(bytes.fromhex(key)) for label, key in entry["keys"].items()}
    packets = [
        Packet(when, sender, int(inner, 16), bytes.fromhex(body)) for when, sender, inner, body in entry["packets"]
    ]
    return people, packets


def begun_by(packets: list[Packet], sender: str) -> list[bytes]:
    """The ids of the messages that `sender` began, replies left out."""
    return [packet.id for packet in packets if packet.sender == sender and packet.flags & 0x8500 == 0x8000]


def data_of(packets: list[Packet], message_id: bytes, sender: str) -> bytes:
    chunks = [p.body for p in packets if p.id == message_id and p.sender == sender and p.flags == 0x1000]
    return b"".join(body[36:] for body in sorted(set(chunks), key=lambda body: body[12:20]))


def box_of(who: Who) -> tuple[Node, Callable[[], list[tuple[bytes, bytes, bytes, int]]]]:
    node = Node(who)
    return node, node.take_wire


def model_of(who: Who) -> tuple[ReferenceNode, Callable[[], list[tuple[bytes, bytes, bytes, int]]]]:
    node = ReferenceNode(who)
    return node, node.take_wire


@pytest.mark.parametrize("make", [box_of, model_of])
def test_messages_are_answered_byte_by_byte_as_the_recorded_node_answers(make: Callable[[Who], Any]) -> None:
    people, packets = conversation("messages")
    node, take_wire = make(people["R"])
    answered = begun_by(packets, "P")
    assert len(answered) == 5
    for message_id in answered:
        said = []
        for packet in packets:
            if packet.id == message_id and packet.sender == "P" and not packet.flags & 0x0100:
                source, destination = people["P"].address, people["R"].address
                node.receive(source, destination, people["P"].key, packet.body, packet.when, packet.inner)
                said += [(body, inner) for _, _, body, inner in take_wire()]
        recorded = [p for p in packets if p.id == message_id and p.sender == "R" and p.flags & 0x0900]
        assert said == [(packet.body, packet.inner) for packet in recorded]


def test_a_reply_that_is_waited_for_is_answered_as_the_recorded_node_answers() -> None:
    people, packets = conversation("messages")
    (message_id,) = [packet.id for packet in packets if packet.sender == "P" and packet.flags == 0x8400]
    data = data_of(packets, message_id, "R")
    node = Node(people["R"])
    node.push(message_id, people["P"].address, data, wait=True)
    said = node.sent()
    for packet in packets:
        if packet.id == message_id and packet.sender == "P":
            said += node.hear(people["P"], packet.body, packet.when)
    assert said == [packet.body for packet in packets if packet.id == message_id and packet.sender == "R"]
    assert [message.data for message in node.replies] == [b"pong!"]
    assert node.state(message_id) is State.READ


def test_messages_that_the_recorded_node_took_are_sent_with_the_same_bytes() -> None:
    people, packets = conversation("messages")
    for message_id in begun_by(packets, "P")[:3]:
        node = Node(people["P"])
        init = next(packet.body for packet in packets if packet.id == message_id)
        node.push(message_id, people["R"].address, data_of(packets, message_id, "P"), topic=init[21:])
        said = node.sent()
        for packet in packets:
            if packet.id == message_id and packet.sender == "R":
                said += node.hear(people["R"], packet.body, packet.when)
        assert said == [packet.body for packet in packets if packet.id == message_id and packet.sender == "P"]
        assert node.state(message_id) is State.READ


@pytest.mark.parametrize("name", ["messages", "message_loss"])
def test_every_message_of_the_recorded_node_is_delivered(name: str) -> None:
    people, packets = conversation(name)
    for message_id in begun_by(packets, "R"):
        node = Node(people["P"])
        of_message = [packet for packet in packets if packet.id == message_id]
        for packet in of_message:
            if packet.sender == "R" and packet.flags in (0x8000, 0x1000, 0x4000):
                node.hear(people["R"], packet.body, packet.when)
        digest = next(packet.body[20:52] for packet in of_message if packet.flags == 0x4000)
        assert [blake3(data).digest() for data in node.delivered] == [digest]


def test_acknowledgements_that_the_recorded_node_took_are_ours() -> None:
    people, packets = conversation("messages")
    for message_id in begun_by(packets, "R"):
        node = Node(people["P"])
        said: list[bytes] = []
        for packet in packets:
            if packet.id == message_id and packet.sender == "R" and packet.flags in (0x8000, 0x1000, 0x4000):
                said += node.hear(people["R"], packet.body, packet.when)
        theirs = [p.body for p in packets if p.id == message_id and p.sender == "P" and p.flags & 0x0900]
        assert said == theirs


def test_the_model_refuses_the_small_last_chunk_that_the_recorded_node_refused() -> None:
    people, packets = conversation("message_small_last_chunk")
    model = ReferenceNode(people["R"])
    said = []
    for packet in packets:
        if packet.sender == "P":
            source, destination = people["P"].address, people["R"].address
            model.receive(source, destination, b"", packet.body, packet.when, packet.inner)
            said += [body for _, _, body, _ in model.take_wire()]
    assert said == [packet.body for packet in packets if packet.sender == "R"]
