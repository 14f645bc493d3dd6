"""A message box as a whole: who reads what, who waits for replies, what is forwarded, and messages to oneself."""

from __future__ import annotations

import pytest

from protocol.mycelium.identity import IdentityError
from protocol.mycelium.messages.box import MessageBox
from protocol.mycelium.messages.core import REMEMBER_SECONDS, Key, MessageBoxError, MessageRefused
from protocol.mycelium.messages.events import (
    Deliver,
    DeliverReply,
    ForgetMessage,
    Forward,
    Place,
    Send,
    State,
    StoreMessage,
    StoreOutgoing,
    StorePending,
    StorePlace,
)
from protocol.mycelium.messages.inbox import InboxEntry
from protocol.mycelium.messages.limits import Limits
from protocol.mycelium.messages.sender import OutboxFull
from protocol.mycelium.messages.topics import Source, TopicRules
from tests.unit import message_factory as factory
from tests.unit.message_factory import ALICE, BOB, CAROL, ID, Who
from tests.unit.message_rig import Node

VECTORS = factory.vectors("messages.json")
FOREVER = float("inf")
IDS = [bytes(7) + bytes([number]) for number in range(9)]


class NothingStored:
    def known(self, _key: Key) -> None:
        return None

    def waiting(self, _topic: bytes | None, _above: int) -> tuple[InboxEntry, ...]:
        return ()

    def holds(self, _key: Key) -> bool:
        return False


NOTHING = NothingStored()


def deliver(
    node: Node, data: bytes, topic: bytes = b"", message_id: bytes = ID, flags: int = 0x8000, sender: Who = ALICE
) -> list[bytes]:
    """One message of a single chunk; the answers to its DONE."""
    node.hear(sender, factory.init(len(data), topic, flags, message_id))
    node.hear(sender, factory.chunk(0, 0, data, message_id=message_id))
    return node.hear(sender, factory.done(1, data, message_id=message_id))


def ask(node: Node, reader: int, *, topic: bytes | None = None, take: bool = True, until: float = FOREVER) -> None:
    node.box.read(reader, topic, take, until, 0.0)
    node.act(0.0)


class TestTimeline:
    def test_both_ends_say_what_the_timeline_of_the_specification_says(self) -> None:
        timeline = VECTORS["timeline"]
        a, b = (Who.of(bytes.fromhex(timeline[f"{name}_public_hex"])) for name in "ab")
        message_id = bytes.fromhex(timeline["message_id"])
        asker, answerer = Node(a, reads=False), Node(b, reads=False)
        asker.push(
            message_id,
            b.address,
            bytes.fromhex(timeline["payload_hex"]),
            topic=bytes.fromhex(timeline["topic_hex"]),
            wait=True,
        )
        answerer.box.read(1, None, True, FOREVER, 0.0)
        spoken = [("A", body) for body in asker.sent()]
        replied = False
        for name, body in spoken:
            hearer, speaker = (answerer, a) if name == "A" else (asker, b)
            spoken += [("B" if name == "A" else "A", answer) for answer in hearer.hear(speaker, body)]
            if answerer.answers and not replied:
                replied = True
                answerer.push(message_id, a.address, bytes.fromhex(timeline["reply_payload_hex"]), reply=True)
                spoken += [("B", answer) for answer in answerer.sent()]
        assert [[name, body.hex()] for name, body in spoken] == timeline["steps"]
        assert [message.data for message in asker.replies] == [b"ok"]
        assert asker.state(message_id) is State.READ
        assert answerer.state(message_id) is State.RECEIVED


class TestReading:
    def test_the_oldest_message_is_taken_first(self) -> None:
        node = Node(BOB, reads=False)
        for number in range(3):
            deliver(node, b"message %d" % number, message_id=IDS[number])
        for reader in range(3):
            ask(node, reader)
        assert node.delivered == [b"message 0", b"message 1", b"message 2"]
        assert node.box.figures()["inbox_messages"] == node.box.figures()["inbox_bytes"] == 0

    def test_looking_leaves_the_message_and_tells_the_sender_each_time(self) -> None:
        node = Node(BOB, reads=False)
        deliver(node, b"hello")
        node.take_wire()
        for reader in range(2):
            ask(node, reader, take=False)
        ask(node, 2)
        assert node.sent() == [factory.read()] * 3
        assert node.delivered == [b"hello"] * 3

    @pytest.mark.parametrize(
        ("topic", "found"),
        [(None, b"of a"), (b"a", b"of a"), (b"b", b"of b"), (b"", b"of none"), (b"ab", None), (b"A", None)],
    )
    def test_a_topic_is_matched_exactly(self, topic: bytes | None, found: bytes | None) -> None:
        node = Node(BOB, reads=False)
        deliver(node, b"of a", b"a", IDS[0])
        deliver(node, b"of none", b"", IDS[1])
        deliver(node, b"of b", b"b", IDS[2])
        ask(node, 1, topic=topic, until=0.0)
        assert node.answers == [(1, found)]

    def test_nobody_waits_who_said_so(self) -> None:
        node = Node(BOB, reads=False)
        ask(node, 1, until=0.0)
        assert node.answers == [(1, None)]

    def test_a_reader_is_answered_with_nothing_when_its_time_is_over(self) -> None:
        node = Node(BOB, reads=False)
        ask(node, 1, until=5.0)
        ask(node, 2, until=3.0)
        node.wait_until(2.9)
        assert node.answers == []
        node.wait_until(5.0)
        assert node.answers == [(2, None), (1, None)]
        assert node.box.next_deadline() is None

    def test_one_taker_gets_a_message_and_all_who_look_see_it(self) -> None:
        node = Node(BOB, reads=False)
        ask(node, 1, take=True)
        ask(node, 2, take=False)
        ask(node, 3, take=True)
        ask(node, 4, take=False, topic=b"other")
        deliver(node, b"hello")
        assert sorted(reader for reader, _ in node.answers) == [1, 2]
        deliver(node, b"again", message_id=IDS[1])
        assert node.answers[2:] == [(3, b"again")]

    def test_a_reader_that_stopped_gets_nothing_and_takes_nothing(self) -> None:
        node = Node(BOB, reads=False)
        ask(node, 1, until=5.0)
        node.box.stop_reading(1)
        node.box.stop_reading(99)
        deliver(node, b"hello")
        node.wait_until(10.0)
        assert node.answers == []
        assert node.box.figures()["inbox_messages"] == 1

    def test_a_reader_that_waits_can_not_ask_again(self) -> None:
        node = Node(BOB, reads=False)
        ask(node, 1)
        with pytest.raises(MessageBoxError, match="reader 1"):
            ask(node, 1)

    def test_readers_are_bounded(self) -> None:
        node = Node(BOB, reads=False, limits=Limits(readers=2))
        for reader in range(3):
            ask(node, reader)
        assert node.answers == [(2, None)]
        assert node.box.counters["readers_refused"] == 1

    def test_the_acknowledgement_of_done_goes_before_the_read(self) -> None:
        node = Node(BOB)
        assert deliver(node, b"hello") == [factory.done_ack(1, b"hello"), factory.read()]

    def test_a_full_inbox_leaves_done_unanswered_until_there_is_room(self) -> None:
        node = Node(BOB, reads=False, limits=Limits(inbox_messages=1))
        deliver(node, b"first", message_id=IDS[0])
        assert deliver(node, b"second", message_id=IDS[1]) == []
        assert node.box.counters["dones_without_room"] == 1
        ask(node, 1)
        assert node.hear(ALICE, factory.done(1, b"second", message_id=IDS[1])) == [
            factory.done_ack(1, b"second", IDS[1])
        ]

    def test_bytes_of_the_inbox_are_bounded(self) -> None:
        node = Node(BOB, reads=False, limits=Limits(inbox_bytes=10))
        assert deliver(node, bytes(6), message_id=IDS[0])
        assert deliver(node, bytes(5), message_id=IDS[1]) == []
        assert deliver(node, bytes(4), message_id=IDS[2])

    def test_the_inbox_outlives_its_process(self) -> None:
        node = Node(BOB, reads=False)
        for number in range(2):
            deliver(node, b"message %d" % number, message_id=IDS[number])
        node.die(1.0)
        deliver(node, b"message 2", message_id=IDS[2])
        for reader in range(3):
            ask(node, reader)
        assert node.delivered == [b"message 0", b"message 1", b"message 2"]

    def test_a_message_keeps_its_id_known_as_long_as_it_is_stored(self) -> None:
        node = Node(BOB, reads=False)
        deliver(node, b"hello")
        node.die(REMEMBER_SECONDS + 1)
        assert node.hear(ALICE, factory.init(5)) == []
        ask(node, 1, until=0.0)
        node.store.completions.clear()
        node.die(2 * REMEMBER_SECONDS)
        assert node.hear(ALICE, factory.init(5)) == [factory.init_ack(5)]

    def test_no_number_is_given_twice_in_any_life(self) -> None:
        node = Node(BOB)
        deliver(node, b"first", message_id=IDS[0])
        node.push(IDS[1], ALICE.address, b"mine")
        node.die(1.0)
        deliver(node, b"second", message_id=IDS[2])
        node.push(IDS[3], ALICE.address, b"mine")
        assert [message.number for message in node.messages] == [1, 2]
        assert [stored.number for stored in node.events_of(StorePending)] == [1, 2]
        assert [stored.number for stored in node.events_of(StoreOutgoing)] == [1, 2]

    def test_what_is_in_a_readers_hands_nobody_else_gets(self) -> None:
        node = Node(BOB, reads=False)
        node.takes = False
        deliver(node, b"first", message_id=IDS[0])
        deliver(node, b"second", message_id=IDS[1])
        node.take_wire()
        for reader in range(3):
            ask(node, reader, until=0.0)
        assert node.answers == [(0, b"first"), (1, b"second"), (2, None)]
        assert node.sent() == [], "nobody has read anything yet"
        assert node.box.figures()["inbox_messages"] == node.box.figures()["inbox_in_hands"] == 2
        node.box.taken(1, 0.0)
        node.act(0.0)
        assert node.sent() == [factory.read(IDS[0])]
        assert list(node.store.messages) == [2]

    def test_what_a_reader_could_not_have_is_the_next_ones_in_its_old_place(self) -> None:
        node = Node(BOB, reads=False)
        node.takes = False
        for number in range(3):
            deliver(node, b"message %d" % number, message_id=IDS[number])
        ask(node, 1)
        ask(node, 2)
        node.box.put_back(1, 0.0)
        ask(node, 3)
        ask(node, 4)
        ask(node, 5)
        assert node.answers[2:] == [(3, b"message 0"), (4, b"message 2")]
        node.box.put_back(3, 0.0)
        node.act(0.0)
        assert node.answers[4:] == [(5, b"message 2")]

    def test_what_was_in_somebodys_hands_is_in_the_inbox_of_a_successor(self) -> None:
        node = Node(BOB, reads=False)
        node.takes = False
        deliver(node, b"hello")
        ask(node, 1)
        node.die(1.0)
        ask(node, 2)
        assert node.answers == [(1, b"hello"), (2, b"hello")]

    def test_a_message_in_nobodys_hands_can_not_be_finished(self) -> None:
        node = Node(BOB, reads=False)
        deliver(node, b"hello")
        for finish in (node.box.taken, node.box.put_back, node.box.not_forwarded):
            with pytest.raises(MessageBoxError, match="in nobody's hands"):
                finish(1, 0.0)

    def test_a_message_that_is_too_old_goes_unless_somebody_is_being_given_it(self) -> None:
        node = Node(BOB, reads=False)
        node.takes = False
        deliver(node, b"old", message_id=IDS[0])
        deliver(node, b"older", message_id=IDS[1])
        ask(node, 1)
        for number in (1, 2):
            node.box.expire(node.store.entry(number))
        node.act(0.0)
        assert list(node.store.messages) == [1]
        assert node.box.counters["messages_expired"] == 1
        assert node.box.figures()["inbox_bytes"] == 3

    def test_one_remote_can_not_fill_the_inbox_for_all(self) -> None:
        node = Node(BOB, reads=False, limits=Limits(inbox_remote_messages=1))
        assert deliver(node, b"first", message_id=IDS[0])
        assert deliver(node, b"second", message_id=IDS[1]) == []
        assert deliver(node, b"third", message_id=IDS[2], sender=CAROL)
        node.die(0.0)
        assert deliver(node, b"fourth", message_id=IDS[3]) == []

    def test_an_entry_of_the_wrong_size_is_refused(self) -> None:
        with pytest.raises(MessageRefused):
            InboxEntry(1, b"short", ALICE.address, BOB.address, b"", 0)


class TestReplies:
    def test_a_reply_goes_to_who_waits_for_it_and_nobody_is_told(self) -> None:
        node = Node(BOB)
        node.push(ID, ALICE.address, b"question", wait=True)
        assert deliver(node, b"answer", flags=0x8400) == [factory.done_ack(1, b"answer")]
        assert node.events_of(DeliverReply) == [DeliverReply(ID, 1)]
        assert node.events_of(StoreMessage)[0].place is Place.WAITER
        assert node.delivered == []
        assert node.replies[0].data == b"answer"

    def test_any_message_with_the_id_will_do_but_from_that_node_only(self) -> None:
        node = Node(BOB)
        node.push(ID, ALICE.address, b"question", wait=True)
        deliver(node, b"forged", sender=CAROL)
        deliver(node, b"answer", flags=0x8000)
        assert node.delivered == [b"forged"]
        assert [message.data for message in node.replies] == [b"answer"]

    def test_a_reply_that_nobody_waits_for_any_more_goes_to_the_inbox(self) -> None:
        node = Node(BOB)
        node.push(ID, ALICE.address, b"question", wait=True)
        node.box.stop_waiting(ID)
        node.box.stop_waiting(ID)
        deliver(node, b"answer", flags=0x8400)
        assert node.delivered == [b"answer"]

    def test_only_the_first_reply_is_waited_for(self) -> None:
        node = Node(BOB)
        node.push(ID, ALICE.address, b"question", wait=True)
        deliver(node, b"one", flags=0x8400)
        deliver(node, b"two", flags=0x8400)
        assert [message.data for message in node.replies] == [b"one"]
        assert node.delivered == [b"two"]

    def test_a_full_inbox_does_not_keep_a_reply_from_who_waits(self) -> None:
        node = Node(BOB, reads=False, limits=Limits(inbox_messages=1))
        deliver(node, b"first", message_id=IDS[0])
        node.push(ID, ALICE.address, b"question", wait=True)
        assert deliver(node, b"answer", flags=0x8400)
        assert len(node.replies) == 1

    def test_those_who_wait_are_bounded(self) -> None:
        node = Node(BOB, limits=Limits(readers=1))
        node.push(IDS[0], ALICE.address, b"", wait=True)
        with pytest.raises(OutboxFull, match="replies"):
            node.push(IDS[1], ALICE.address, b"", wait=True)


class TestForwarding:
    def node(self, limits: Limits | None = None) -> Node:
        rules = TopicRules()
        rules.add_source(b"web", Source.parse("400::/7"))
        rules.set_forward(b"web", "/run/web.sock")
        return Node(BOB, reads=False, topics=rules, limits=limits)

    def test_a_message_on_the_topic_goes_to_the_socket_and_nobody_is_told_that_it_was_read(self) -> None:
        node = self.node()
        assert deliver(node, b"request", b"web") == [factory.done_ack(1, b"request")]
        assert node.forwards == [Forward(1, "/run/web.sock")]
        ask(node, 1, until=0.0)
        assert node.answers == [(1, None)]
        node.take_wire()
        node.box.taken(1, 0.0)
        node.act(0.0)
        assert node.events_of(ForgetMessage) == [ForgetMessage(1)]
        assert node.store.messages == {}
        assert node.sent() == []

    def test_what_could_not_be_forwarded_goes_to_the_inbox(self) -> None:
        node = self.node()
        deliver(node, b"request", b"web")
        ask(node, 1, topic=b"web")
        node.box.put_back(1, 0.0)
        node.act(0.0)
        assert node.answers == [(1, b"request")]
        assert node.events_of(StorePlace) == [StorePlace(1)]

    def test_what_waits_for_its_socket_may_be_read_or_be_forwarded_later(self) -> None:
        node = self.node()
        deliver(node, b"one", b"web", IDS[0])
        deliver(node, b"two", b"web", IDS[1])
        for number in (1, 2):
            node.box.not_forwarded(number, 0.0)
        ask(node, 1)
        assert node.answers == [(1, b"one")]
        for entry in node.store.waiting(b"web", 0):
            node.box.forward(entry, "/run/web.sock")
        node.act(0.0)
        assert [forward.number for forward in node.forwards] == [1, 2, 2]
        assert node.events_of(StorePlace) == []

    def test_what_was_being_forwarded_when_the_process_died_is_in_the_inbox(self) -> None:
        node = self.node()
        deliver(node, b"request", b"web")
        node.die(1.0)
        ask(node, 1)
        assert node.answers == [(1, b"request")]

    def test_what_is_being_forwarded_takes_up_room(self) -> None:
        node = self.node(Limits(inbox_messages=1))
        deliver(node, b"request", b"web", IDS[0])
        assert deliver(node, b"another", b"web", IDS[1]) == []
        node.box.taken(1, 0.0)
        assert node.hear(ALICE, factory.done(1, b"another", message_id=IDS[1]))

    def test_a_reply_does_not_reach_a_socket_that_its_sender_may_not_use(self) -> None:
        rules = TopicRules()
        rules.add(b"")
        rules.set_forward(b"", "/run/all.sock")
        node = Node(BOB, reads=False, topics=rules)
        node.push(ID, ALICE.address, b"question")
        deliver(node, b"answer", flags=0x8400)
        assert node.forwards == []
        assert node.box.figures()["inbox_messages"] == 1
        rules.add_source(b"", Source.parse("400::/7"))
        node.push(IDS[1], ALICE.address, b"question")
        deliver(node, b"answer", flags=0x8400, message_id=IDS[1])
        assert len(node.forwards) == 1


class TestOneself:
    def test_a_message_to_oneself_arrives_and_is_read(self) -> None:
        node = Node(ALICE)
        node.push(ID, ALICE.another_address(), b"hello", topic=b"note")
        assert node.sent() == []
        assert node.events_of(Send) == []
        (message,) = node.messages
        assert (message.source, message.source_key) == (ALICE.address, ALICE.key)
        assert message.destination == ALICE.another_address()
        assert node.state(ID) is State.READ

    def test_who_waits_for_a_reply_from_oneself_does_not_get_the_question(self) -> None:
        node = Node(ALICE)
        node.push(ID, ALICE.address, b"question", wait=True)
        assert node.delivered == [b"question"]
        node.push(ID, ALICE.address, b"answer", reply=True)
        assert [message.data for message in node.replies] == [b"answer"]

    def test_a_large_message_to_oneself_lets_others_have_their_turn(self) -> None:
        node, data = Node(ALICE), factory.payload(2_000_000)
        node.push(ID, ALICE.address, data)
        assert node.box.next_deadline() == 0.0
        assert node.delivered == []
        node.wait_until(0.0)
        assert node.delivered == [data]

    def test_topic_rules_count_for_oneself_too(self) -> None:
        node = Node(ALICE, topics=TopicRules(accept=False))
        node.push(ID, ALICE.address, b"hello")
        node.wait_until(301.0)
        assert node.state(ID) is State.ABORTED


def test_a_key_of_the_wrong_size_is_refused() -> None:
    with pytest.raises(IdentityError):
        MessageBox(b"short", NOTHING.known, NOTHING)


def test_events_are_handed_out_once() -> None:
    box = MessageBox(ALICE.key, NOTHING.known, NOTHING)
    box.read(1, None, True, 0.0, 0.0)
    assert len(list(box.events())) == 1
    assert list(box.events()) == []


def test_a_deliver_that_takes_is_told_from_one_that_looks() -> None:
    node = Node(BOB, reads=False)
    deliver(node, b"hello")
    ask(node, 1, take=False)
    ask(node, 2, take=True)
    assert node.events_of(Deliver) == [Deliver(1, 1, False), Deliver(2, 1, True)]
