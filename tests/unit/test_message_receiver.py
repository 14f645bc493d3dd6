"""Incoming messages: what is taken and answered, what is refused in silence, and how much anybody can make it hold."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.mycelium.messages.box import MessageBox
from protocol.mycelium.messages.core import MessageBoxError, MessageRefused
from protocol.mycelium.messages.events import ForgetPending, Send, StoreChunk, StoreMessage, StorePending
from protocol.mycelium.messages.limits import Limits
from protocol.mycelium.messages.receiver import SavedPending
from protocol.mycelium.messages.topics import Source, TopicRules
from tests.unit import message_factory as factory
from tests.unit.message_factory import ALICE, BOB, CAROL, ID
from tests.unit.message_rig import Node, Store

VECTORS = factory.vectors("messages.json")
OTHER_ID = bytes.fromhex("1112131415161718")


def small_limits(**changed: int) -> Limits:
    limits = {
        "message_bytes": 10_000,
        "remote_bytes": 20_000,
        "remote_messages": 4,
        "pending_bytes": 40_000,
        "pending_messages": 8,
    }
    return Limits(**(limits | changed))


def send_whole(node: Node, data: bytes, now: float = 0.0, message_id: bytes = ID, flags: int = 0x8000) -> list[bytes]:
    """Sends a message as a reference node cuts it; the answers to DONE."""
    node.hear(ALICE, factory.init(len(data), flags=flags, message_id=message_id), now)
    plan = factory.reference_plan(len(data))
    for index, offset, size in plan:
        piece = factory.chunk(index, offset, data[offset : offset + size], message_id=message_id)
        assert node.hear(ALICE, piece, now) == [factory.chunk_ack(index, offset, size, message_id)]
    return node.hear(ALICE, factory.done(len(plan), data, message_id=message_id), now)


class TestWholeMessages:
    @pytest.mark.parametrize("length", [0, 1, 249, 250, 251, 1300, 1301, 1549, 1550, 2600, 2601, 5000, 65_537])
    def test_a_message_as_the_reference_cuts_it_is_delivered(self, length: int) -> None:
        node, data = Node(BOB), factory.payload(length)
        answers = send_whole(node, data)
        assert answers == [factory.done_ack(-(-length // 1300), data), factory.read()]
        assert node.delivered == [data]

    def test_chunks_may_come_in_any_order_and_twice(self) -> None:
        node, data = Node(BOB), factory.payload(5000)
        node.hear(ALICE, factory.init(5000))
        for index, offset, size in reversed(factory.reference_plan(5000) * 2):
            piece = factory.chunk(index, offset, data[offset : offset + size])
            assert node.hear(ALICE, piece) == [factory.chunk_ack(index, offset, size)]
        assert node.hear(ALICE, factory.done(4, data))[0] == factory.done_ack(4, data)
        assert node.delivered == [data]
        assert len(node.events_of(StoreChunk)) == 4

    def test_other_cuts_than_ours_are_taken(self) -> None:
        node, data = Node(BOB), factory.payload(2000)
        node.hear(ALICE, factory.init(2000))
        for index in range(8):
            piece = factory.chunk(index, index * 250, data[index * 250 : index * 250 + 250])
            assert node.hear(ALICE, piece)
        assert node.hear(ALICE, factory.done(8, data))[0] == factory.done_ack(8, data)
        assert node.delivered == [data]

    def test_a_chunk_replaces_the_one_at_its_index(self) -> None:
        node, data = Node(BOB), factory.payload(300)
        node.hear(ALICE, factory.init(300))
        assert node.hear(ALICE, factory.chunk(0, 0, bytes(300)))
        assert node.hear(ALICE, factory.chunk(0, 0, data))
        node.hear(ALICE, factory.done(1, data))
        assert node.delivered == [data]

    def test_acknowledgements_come_from_the_address_that_was_sent_to(self) -> None:
        node, data = Node(BOB, reads=False), b"hello"
        address = BOB.another_address()
        for body in (factory.init(5), factory.chunk(0, 0, data), factory.done(1, data)):
            node.hear(ALICE, body, destination=address)
        sent = node.events_of(Send)
        assert [(event.source, event.destination) for event in sent] == [(address, ALICE.address)] * 3
        node.box.read(1, None, False, 0.0, 0.0)
        node.act(0.0)
        assert node.events_of(Send)[3].source == address

    def test_a_message_says_all_that_the_api_shows(self) -> None:
        node = Node(BOB, topics=TopicRules())
        node.hear(ALICE, factory.init(5, b"demo"), source=ALICE.another_address())
        node.hear(ALICE, factory.chunk(0, 0, b"hello"))
        node.hear(ALICE, factory.done(1, b"hello"))
        (message,) = node.messages
        assert message.id == ID
        assert message.source == ALICE.another_address()
        assert message.source_key == ALICE.key
        assert message.destination == BOB.address
        assert message.topic == b"demo"
        assert message.data == b"hello"

    def test_what_is_durable_precedes_every_acknowledgement(self) -> None:
        node = Node(BOB)
        send_whole(node, b"hello")
        kinds = [type(event).__name__ for event in node.log]
        assert kinds[:4] == ["StorePending", "Send", "StoreChunk", "Send"]
        assert kinds[4:] == ["StoreMessage", "Send", "Deliver", "ForgetMessage", "Send"]


class TestRefusals:
    @pytest.mark.parametrize("entry", VECTORS["rejections"], ids=lambda entry: entry["case"])
    def test_what_a_reference_node_drops_gets_no_answer(self, entry: dict[str, Any]) -> None:
        node = Node(BOB)
        if "init_length" in entry:
            node.hear(ALICE, factory.init(entry["init_length"]))
            if entry["init_length"] == 5:
                node.hear(ALICE, factory.chunk(0, 0, b"hello"))
        answers = node.hear(ALICE, bytes.fromhex(entry["hex"]))
        # A reference sender's own last chunk may be small, and has to be taken although a reference receiver does not.
        assert len(answers) == ("should accept" in entry["reference"])

    @pytest.mark.parametrize(
        ("length", "body"),
        [
            (5, factory.chunk(0, 1, b"hello")),
            (5, factory.chunk(0, 2**64 - 1, b"hello")),
            (5, factory.chunk(1, 0, b"hello")),
            (0, factory.chunk(0, 0, b"x")),
            (0, factory.chunk(1, 0, b"")),
            (1000, factory.chunk(0, 0, bytes(249))),
            (1000, factory.chunk(4, 0, bytes(250))),
            (1000, factory.chunk(2**64 - 1, 0, bytes(250))),
        ],
    )
    def test_a_chunk_that_does_not_fit_is_dropped_and_counted(self, length: int, body: bytes) -> None:
        node = Node(BOB)
        node.hear(ALICE, factory.init(length))
        assert node.hear(ALICE, body) == []
        assert node.box.counters["chunks_refused"] == 1

    def test_chunks_that_are_longer_than_the_message_together_are_dropped(self) -> None:
        node = Node(BOB)
        node.hear(ALICE, factory.init(1000))
        for index in range(3):
            assert node.hear(ALICE, factory.chunk(index, 0, bytes(300)))
        assert node.hear(ALICE, factory.chunk(3, 0, bytes(300))) == []
        assert node.hear(ALICE, factory.chunk(2, 0, bytes(401))) == []
        assert node.hear(ALICE, factory.chunk(2, 0, bytes(400)))

    @pytest.mark.parametrize("body", [factory.chunk(0, 0, b"hello"), factory.done(1, b"hello"), factory.aborted()])
    def test_packets_of_no_message_are_dropped_and_counted(self, body: bytes) -> None:
        node = Node(BOB)
        assert node.hear(ALICE, body) == []
        assert node.box.counters["packets_of_no_message"] == 1

    def test_another_node_that_knows_the_id_changes_nothing(self) -> None:
        node, data = Node(BOB), b"hello"
        node.hear(ALICE, factory.init(5))
        node.hear(ALICE, factory.chunk(0, 0, data))
        node.hear(CAROL, factory.init(7))
        node.hear(CAROL, factory.chunk(0, 0, b"another"))
        node.hear(CAROL, factory.aborted())
        assert node.hear(CAROL, factory.done(1, data)) == []
        assert node.hear(ALICE, factory.done(1, data))[0] == factory.done_ack(1, data)
        assert node.delivered == [data]

    def test_a_done_before_all_chunks_is_dropped_and_the_message_goes_on(self) -> None:
        node, data = Node(BOB), factory.payload(2000)
        node.hear(ALICE, factory.init(2000))
        node.hear(ALICE, factory.chunk(0, 0, data[:1300]))
        assert node.hear(ALICE, factory.done(2, data)) == []
        assert node.hear(ALICE, factory.done(1, data)) == []
        node.hear(ALICE, factory.chunk(1, 1300, data[1300:]))
        assert node.hear(ALICE, factory.done(2, data))[0] == factory.done_ack(2, data)

    def test_chunks_of_the_right_number_but_too_few_bytes_are_incomplete(self) -> None:
        node, data = Node(BOB), factory.payload(2000)
        node.hear(ALICE, factory.init(2000))
        node.hear(ALICE, factory.chunk(0, 0, data[:1000]))
        node.hear(ALICE, factory.chunk(1, 1300, data[1300:]))
        assert node.hear(ALICE, factory.done(2, data)) == []
        assert node.box.counters["dones_incomplete"] == 1

    def test_a_wrong_digest_is_hashed_once_and_forgiven_a_few_times(self) -> None:
        node = Node(BOB)
        node.hear(ALICE, factory.init(5))
        node.hear(ALICE, factory.chunk(0, 0, b"wrong"))
        for _ in range(100):
            assert node.hear(ALICE, factory.done(1, b"hello")) == []
        assert node.box.counters["dones_mismatched"] == 100
        node.hear(ALICE, factory.chunk(0, 0, b"hello"))
        assert node.hear(ALICE, factory.done(1, b"hello"))[0] == factory.done_ack(1, b"hello")

    def test_a_sender_whose_digests_are_always_wrong_is_given_up(self) -> None:
        node = Node(BOB)
        node.hear(ALICE, factory.init(1))
        for number in range(8):
            assert node.hear(ALICE, factory.chunk(0, 0, bytes([number])))
            assert node.hear(ALICE, factory.done(1, b"x")) == []
        assert node.hear(ALICE, factory.chunk(0, 0, b"x")) == []
        assert node.box.counters["pending_given_up"] == 1
        assert node.store.pending == {}

    def test_malformed_bytes_are_counted(self) -> None:
        node = Node(BOB)
        assert node.hear(ALICE, b"short") == []
        assert node.box.counters["packets_malformed"] == 1


class TestRepetition:
    def test_an_init_again_keeps_the_chunks_and_is_acknowledged_again(self) -> None:
        node, data = Node(BOB), factory.payload(2000)
        node.hear(ALICE, factory.init(2000))
        node.hear(ALICE, factory.chunk(0, 0, data[:1300]))
        assert node.hear(ALICE, factory.init(2000)) == [factory.init_ack(2000)]
        node.hear(ALICE, factory.chunk(1, 1300, data[1300:]))
        assert node.hear(ALICE, factory.done(2, data))[0] == factory.done_ack(2, data)

    @pytest.mark.parametrize("changed", [factory.init(6), factory.init(5, b"topic"), factory.init(5, flags=0x8400)])
    def test_another_init_with_the_same_id_begins_again(self, changed: bytes) -> None:
        node = Node(BOB)
        node.hear(ALICE, factory.init(5))
        node.hear(ALICE, factory.chunk(0, 0, b"hello"))
        assert len(node.hear(ALICE, changed)) == 1
        assert node.hear(ALICE, factory.done(1, b"hello")) == []
        assert node.box.counters["pending_replaced"] == 1
        assert len(node.store.pending) == 1

    def test_an_init_of_a_message_in_the_inbox_gets_no_answer(self) -> None:
        node = Node(BOB, reads=False)
        send_whole(node, b"hello")
        assert node.hear(ALICE, factory.init(5)) == []
        assert node.hear(ALICE, factory.init(7, flags=0x8400)) == []

    def test_an_init_of_a_message_that_was_taken_gets_no_answer_for_ten_minutes(self) -> None:
        node = Node(BOB)
        send_whole(node, b"hello")
        assert node.hear(ALICE, factory.init(5), now=599.0) == []
        node.store.completions.clear()
        assert node.hear(ALICE, factory.init(5), now=601.0) == [factory.init_ack(5)]

    def test_a_done_again_is_acknowledged_again_but_not_delivered_again(self) -> None:
        node = Node(BOB)
        send_whole(node, b"hello")
        assert node.hear(ALICE, factory.done(1, b"hello"), now=5.0) == [factory.done_ack(1, b"hello")]
        assert node.hear(ALICE, factory.done(1, b"other"), now=5.0) == []
        assert node.delivered == [b"hello"]

    def test_a_replay_in_the_same_batch_is_not_delivered_again(self) -> None:
        box = MessageBox(BOB.key, lambda _key: None, Store())
        packets = factory.init(5), factory.chunk(0, 0, b"hello"), factory.done(1, b"hello")
        for body in packets * 2:
            box.receive(ALICE.address, BOB.address, ALICE.key, body, 0.0)
        events = list(box.events())
        assert sum(isinstance(event, StoreMessage) for event in events) == 1
        assert sum(isinstance(event, Send) for event in events) == 4

    def test_a_replayed_message_is_not_delivered_again_after_a_restart(self) -> None:
        node = Node(BOB)
        send_whole(node, b"hello")
        node.die(10.0)
        for body in (factory.init(5), factory.chunk(0, 0, b"hello")):
            assert node.hear(ALICE, body, now=10.0) == []
        assert node.hear(ALICE, factory.done(1, b"hello"), now=10.0) == [factory.done_ack(1, b"hello")]
        assert node.delivered == [b"hello"]

    def test_memory_of_completed_messages_is_bounded_and_the_store_remembers_the_rest(self) -> None:
        node = Node(BOB, limits=small_limits(completions=2))
        for number in range(5):
            send_whole(node, b"hello", message_id=bytes(7) + bytes([number]))
        assert node.hear(ALICE, factory.init(5, message_id=bytes(8))) == []
        assert len(node.delivered) == 5

    def test_a_second_reply_with_the_id_of_the_first_is_delivered(self) -> None:
        node = Node(BOB)
        node.push(ID, ALICE.address, b"question")
        send_whole(node, b"one", flags=0x8400)
        send_whole(node, b"two", flags=0x8400)
        send_whole(node, b"two", flags=0x8400)
        assert node.delivered == [b"one", b"two", b"two"]

    def test_a_late_init_does_not_deliver_an_empty_reply_twice(self) -> None:
        node = Node(BOB)
        node.push(ID, ALICE.address, b"question")
        send_whole(node, b"", flags=0x8400)
        node.hear(ALICE, factory.init(0, flags=0x8400))
        assert node.hear(ALICE, factory.done(0, b"")) == [factory.done_ack(0, b"")]
        assert node.delivered == [b""]

    def test_a_late_init_of_a_reply_does_not_hide_that_it_is_complete(self) -> None:
        node = Node(BOB)
        node.push(ID, ALICE.address, b"question")
        send_whole(node, b"answer", flags=0x8400)
        node.hear(ALICE, factory.init(6, flags=0x8400))
        assert node.hear(ALICE, factory.done(1, b"answer")) == [factory.done_ack(1, b"answer")]
        assert node.delivered == [b"answer"]

    def test_aborted_forgets_a_pending_message_only(self) -> None:
        node = Node(BOB)
        node.hear(ALICE, factory.init(5))
        assert node.hear(ALICE, factory.aborted()) == []
        assert node.hear(ALICE, factory.chunk(0, 0, b"hello")) == []
        assert len(node.events_of(ForgetPending)) == 1
        send_whole(node, b"hello", message_id=OTHER_ID)
        node.hear(ALICE, factory.aborted(OTHER_ID))
        assert node.delivered == [b"hello"]


class TestTopics:
    def rules(self) -> TopicRules:
        rules = TopicRules(accept=False)
        rules.add_source(b"demo", Source.parse(f"{ALICE.address.hex(':', 2)}/64"))
        return rules

    def test_a_refused_topic_gets_no_answer(self) -> None:
        node = Node(BOB, topics=self.rules())
        assert node.hear(ALICE, factory.init(5)) == []
        assert node.hear(CAROL, factory.init(5, b"demo")) == []
        assert node.hear(ALICE, factory.init(5, b"demo")) == [factory.init_ack(5, 4)]
        assert node.box.counters["inits_refused_by_topic"] == 2

    def test_a_change_of_the_rules_counts_from_the_next_init_on(self) -> None:
        node = Node(BOB, topics=self.rules())
        assert node.hear(ALICE, factory.init(5)) == []
        node.box.topics.accept = True
        assert node.hear(ALICE, factory.init(5)) == [factory.init_ack(5)]

    def test_a_reply_to_a_message_of_ours_passes_the_rules(self) -> None:
        node = Node(BOB, topics=self.rules())
        node.push(ID, CAROL.address, b"question")
        assert node.hear(CAROL, factory.init(5, flags=0x8400)) == [factory.init_ack(5, flags=0x8500)]

    @pytest.mark.parametrize(
        ("sender", "body"),
        [
            (CAROL, factory.init(5, flags=0x8400, message_id=OTHER_ID)),
            (ALICE, factory.init(5, flags=0x8400)),
            (CAROL, factory.init(5, b"demo", flags=0x8400)),
        ],
        ids=["to no message", "from another node", "on a topic"],
    )
    def test_the_reply_flag_is_no_way_around_the_rules(self, sender: factory.Who, body: bytes) -> None:
        node = Node(BOB, topics=self.rules())
        node.push(ID, CAROL.address, b"question")
        assert node.hear(sender, body) == []


class TestBounds:
    @pytest.mark.parametrize("length", [10_001, 4 << 30, 2**64 - 1])
    def test_an_init_of_a_huge_message_costs_nothing(self, length: int) -> None:
        node = Node(BOB, limits=small_limits())
        assert node.hear(ALICE, factory.init(length)) == []
        assert node.box.counters["inits_too_long"] == 1
        assert node.box.figures()["pending_bytes"] == 0

    def test_one_remote_gets_its_share_only(self) -> None:
        node = Node(BOB, limits=small_limits())
        answers = [node.hear(ALICE, factory.init(10, message_id=bytes(7) + bytes([n]))) for n in range(6)]
        assert [len(answer) for answer in answers] == [1, 1, 1, 1, 0, 0]
        assert node.hear(CAROL, factory.init(10))
        assert node.box.counters["inits_over_remote_limit"] == 2

    def test_one_remote_gets_its_share_of_bytes_only_and_has_it_back_afterwards(self) -> None:
        node = Node(BOB, limits=small_limits())
        assert node.hear(ALICE, factory.init(10_000))
        assert node.hear(ALICE, factory.init(10_000, message_id=OTHER_ID))
        assert node.hear(ALICE, factory.init(1, message_id=bytes(8))) == []
        node.hear(ALICE, factory.aborted())
        assert node.hear(ALICE, factory.init(1, message_id=bytes(8)))

    def test_a_full_table_makes_room_by_what_nobody_sends_any_more(self) -> None:
        node = Node(BOB, limits=small_limits(pending_messages=2))
        node.hear(ALICE, factory.init(10), now=0.0)
        node.hear(CAROL, factory.init(10), now=0.0)
        node.hear(ALICE, factory.init(10), now=20.0)
        dave = factory.Who.named("dave")
        assert node.hear(dave, factory.init(10), now=29.0) == []
        assert node.box.counters["inits_over_limit"] == 1
        assert node.hear(dave, factory.init(10), now=31.0)
        assert node.hear(ALICE, factory.chunk(0, 0, bytes(10)), now=31.0)
        assert node.hear(CAROL, factory.chunk(0, 0, bytes(10)), now=31.0) == []

    def test_announced_bytes_are_bounded_in_all(self) -> None:
        node = Node(BOB, limits=small_limits(pending_bytes=25_000))
        senders = [factory.Who.named(f"sender {number}") for number in range(5)]
        answers = [node.hear(sender, factory.init(10_000)) for sender in senders]
        assert [len(answer) for answer in answers] == [1, 1, 0, 0, 0]
        assert node.box.figures()["pending_bytes"] == 20_000

    def test_a_message_whose_sender_is_silent_for_ten_minutes_is_forgotten(self) -> None:
        node = Node(BOB, reads=False)
        node.hear(ALICE, factory.init(2000), now=0.0)
        node.hear(ALICE, factory.chunk(0, 0, bytes(1000)), now=100.0)
        assert node.box.next_deadline() == 600.0 + 100.0
        node.wait_until(699.0)
        assert node.box.figures()["pending_messages"] == 1
        node.wait_until(701.0)
        assert node.box.figures()["pending_messages"] == 0
        assert node.store.pending == {}
        assert node.box.next_deadline() is None

    @settings(deadline=None)
    @given(st.data())
    def test_hostile_packets_never_make_it_hold_more_than_was_announced(self, data: st.DataObject) -> None:
        node = Node(BOB, limits=small_limits(inbox_messages=3, inbox_bytes=15_000), reads=False)
        sizes = st.sampled_from([0, 1, 249, 250, 251, 500, 1300, 9_999, 10_000, 10_001, 2**32, 2**64 - 1])
        for _ in range(data.draw(st.integers(1, 40))):
            sender = data.draw(st.sampled_from([ALICE, CAROL]))
            message_id = bytes(7) + bytes([data.draw(st.integers(0, 3))])
            piece = bytes(data.draw(st.sampled_from([0, 1, 250, 1300, 5000])))
            index = data.draw(st.one_of(st.integers(0, 5), sizes))
            body = data.draw(
                st.sampled_from(
                    [
                        factory.init(data.draw(sizes), message_id=message_id),
                        factory.chunk(index, data.draw(sizes), piece, message_id=message_id),
                        factory.done(index, piece, message_id=message_id),
                        factory.aborted(message_id),
                    ]
                )
            )
            node.hear(sender, body)
            figures = node.box.figures()
            stored = sum(len(piece) for chunks in node.store.chunks.values() for piece in chunks.values())
            assert stored <= figures["pending_bytes"] <= 40_000
            assert figures["pending_messages"] == len(node.store.pending) <= 8
            assert figures["inbox_messages"] == len(node.store.messages) <= 3
            assert figures["inbox_bytes"] <= 15_000


class TestRestart:
    def test_a_message_goes_on_where_it_was(self) -> None:
        node, data = Node(BOB), factory.payload(5000)
        node.hear(ALICE, factory.init(5000))
        for index, offset, size in factory.reference_plan(5000):
            node.die(1.0)
            assert node.hear(ALICE, factory.chunk(index, offset, data[offset : offset + size]), now=1.0)
        node.die(2.0)
        assert node.hear(ALICE, factory.done(4, data), now=2.0)[0] == factory.done_ack(4, data)
        assert node.delivered == [data]
        assert len(node.events_of(StorePending)) == len(node.events_of(StoreMessage)) == 1

    def test_numbers_are_not_used_twice(self) -> None:
        node = Node(BOB, reads=False)
        node.hear(ALICE, factory.init(5))
        node.die(1.0)
        node.hear(ALICE, factory.init(5, message_id=OTHER_ID), now=1.0)
        assert [event.number for event in node.events_of(StorePending)] == [1, 2]

    def saved(self, **changed: Any) -> SavedPending:
        fields: dict[str, Any] = {
            "number": 1,
            "id": ID,
            "source": ALICE.address,
            "destination": BOB.address,
            "length": 300,
            "topic": b"",
            "reply": False,
            "heard": 0.0,
            "chunks": (),
        }
        return SavedPending(**(fields | changed))

    @pytest.mark.parametrize("chunks", [((2, bytes(10)),), ((-1, bytes(10)),), ((0, bytes(301)),)])
    def test_a_store_with_impossible_chunks_is_refused(self, chunks: tuple[tuple[int, bytes], ...]) -> None:
        with pytest.raises(MessageBoxError, match="remove it from the store"):
            Node(BOB).box.restore_pending(self.saved(chunks=chunks))

    def test_a_store_with_the_same_message_twice_is_refused(self) -> None:
        node = Node(BOB)
        node.box.restore_pending(self.saved())
        with pytest.raises(MessageBoxError, match="twice"):
            node.box.restore_pending(self.saved(number=2))

    @pytest.mark.parametrize("changed", [{"id": b"short"}, {"source": b"short"}, {"topic": bytes(256)}])
    def test_saved_fields_of_the_wrong_size_are_refused(self, changed: dict[str, Any]) -> None:
        with pytest.raises(MessageRefused):
            self.saved(**changed)


def test_limits_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="readers"):
        Limits(readers=0)


def test_a_remote_must_be_allowed_the_largest_message() -> None:
    with pytest.raises(ValueError, match="remote_bytes"):
        Limits(message_bytes=100, remote_bytes=99)
