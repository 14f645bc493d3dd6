"""Own messages: what is sent when, what an acknowledgement changes, and when a message is given up."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.mycelium.messages.core import MessageBoxError, MessageRefused
from protocol.mycelium.messages.events import ForgetOutgoing, State, StateChanged, StoreDoneSent, StoreOutgoing
from protocol.mycelium.messages.limits import Limits
from protocol.mycelium.messages.outgoing import TRANSITIONS, Outgoing, Phase, Saw
from protocol.mycelium.messages.pacing import (
    FIRST_WINDOW,
    LARGEST_WINDOW,
    LONGEST_REPEAT,
    SHORTEST_REPEAT,
    SMALLEST_WINDOW,
    Pace,
)
from protocol.mycelium.messages.records import SavedOutgoing
from protocol.mycelium.messages.sender import OutboxFull
from tests.unit import message_factory as factory
from tests.unit.message_factory import ALICE, BOB, CAROL, ID
from tests.unit.message_rig import Node

OTHER_ID = bytes.fromhex("1112131415161718")
IDS = [bytes(7) + bytes([number]) for number in range(8)]


def acks(bodies: list[bytes]) -> list[bytes]:
    """What a receiver answers."""
    lengths = {0x80: 21, 0x10: 36, 0x40: 52}
    return [body[:8] + bytes([body[8] | 1]) + body[9 : lengths[body[8] & 0xF0]] for body in bodies]


def kinds(bodies: list[bytes]) -> Counter[str]:
    names = {0x80: "INIT", 0x84: "INIT", 0x10: "CHUNK", 0x40: "DONE", 0x20: "ABORTED", 0x08: "READ"}
    return Counter(names[body[8]] for body in bodies)


def begun(data: bytes = b"hello", now: float = 0.0, **options: object) -> Node:
    """A node whose message to Bob was begun, and its INIT acknowledged."""
    node = Node(ALICE)
    node.push(ID, BOB.address, data, now, **options)
    node.hear(BOB, factory.init_ack(len(data)), now)
    node.take_wire()
    return node


class TestOneMessage:
    def test_it_takes_the_steps_of_the_specification(self) -> None:
        node = Node(ALICE)
        node.push(ID, BOB.address, b"hello", topic=b"demo")
        assert node.sent() == [factory.init(5, b"demo")]
        assert node.hear(BOB, factory.init_ack(5, 4)) == [factory.chunk(0, 0, b"hello")]
        assert node.hear(BOB, factory.chunk_ack(0, 0, 5)) == [factory.done(1, b"hello")]
        assert node.hear(BOB, factory.done_ack(1, b"hello")) == []
        assert node.hear(BOB, factory.read()) == []
        assert [state for _, state in node.states] == [State.SENDING, State.RECEIVED, State.READ]

    def test_an_empty_message_has_no_chunk(self) -> None:
        node = Node(ALICE)
        node.push(ID, BOB.address, b"")
        assert node.hear(BOB, factory.init_ack(0)) == [factory.done(0, b"")]

    def test_a_reply_has_no_topic_and_is_marked_on_its_init_only(self) -> None:
        node = Node(ALICE)
        node.push(ID, BOB.address, b"hello", topic=b"ignored", reply=True)
        assert node.sent() == [factory.init(5, flags=0x8400)]
        assert node.hear(BOB, factory.init_ack(5, flags=0x8500)) == [factory.chunk(0, 0, b"hello")]

    def test_it_is_stored_before_anything_is_sent_and_so_is_that_done_follows(self) -> None:
        node = begun()
        node.hear(BOB, factory.chunk_ack(0, 0, 5))
        kinds = [type(event).__name__ for event in node.log]
        assert kinds == ["StoreOutgoing", "Send", "StateChanged", "Send", "StoreDoneSent", "Send"]

    def test_the_status_counts_chunks(self) -> None:
        length = 300 * 1300
        node = begun(factory.payload(length))
        status = node.box.status(ID)
        assert status is not None
        assert (status.pending, status.sent, status.acked) == (300 - 256, 256, 0)
        node.hear(BOB, factory.chunk_ack(3, 3900, 1300))
        status = node.box.status(ID)
        assert status is not None
        assert (status.state, status.sent + status.pending, status.acked) == (State.SENDING, 299, 1)
        assert (status.created, status.deadline, status.length) == (0.0, 300.0, length)
        assert status.destination == BOB.address

    def test_while_done_is_on_its_way_all_chunks_count_as_acknowledged(self) -> None:
        node = begun()
        node.hear(BOB, factory.chunk_ack(0, 0, 5))
        status = node.box.status(ID)
        assert status is not None
        assert (status.state, status.pending, status.sent, status.acked) == (State.SENDING, 0, 0, 1)

    def test_a_read_that_overtakes_the_acknowledgement_of_done_counts_for_both(self) -> None:
        node = begun()
        node.hear(BOB, factory.chunk_ack(0, 0, 5))
        node.hear(BOB, factory.read())
        assert [state for _, state in node.states] == [State.SENDING, State.RECEIVED, State.READ]

    def test_data_is_not_kept_once_it_arrived(self) -> None:
        node = begun()
        assert node.box.figures()["outbox_bytes"] == 5
        node.hear(BOB, factory.chunk_ack(0, 0, 5))
        node.hear(BOB, factory.done_ack(1, b"hello"))
        assert node.box.figures()["outbox_bytes"] == 0
        assert node.box.figures()["outbox_messages"] == 1


class TestStrayPackets:
    @pytest.mark.parametrize(
        "body",
        [factory.init_ack(5), factory.chunk_ack(0, 0, 5), factory.done_ack(1, b"hello"), factory.read()],
    )
    def test_packets_of_no_message_are_counted(self, body: bytes) -> None:
        node = begun()
        for sender in (CAROL, ALICE):
            assert node.hear(sender, body) == []
        assert node.box.counters["packets_of_no_message"] == 2
        assert node.state(ID) is State.SENDING

    @pytest.mark.parametrize(
        "body",
        [
            factory.init_ack(5),
            factory.chunk_ack(1, 0, 5),
            factory.chunk_ack(2**64 - 1, 0, 5),
            factory.chunk_ack(0, 1, 5),
            factory.chunk_ack(0, 0, 4),
            factory.done_ack(1, b"hello"),
            factory.read(),
            factory.header(0x0900),
        ],
    )
    def test_packets_that_make_no_sense_now_change_nothing(self, body: bytes) -> None:
        node = begun()
        assert node.hear(BOB, body) == []
        assert node.box.counters["packets_in_wrong_state"] == 1
        assert node.state(ID) is State.SENDING

    def test_an_acknowledgement_of_an_init_of_another_length_is_not_ours(self) -> None:
        node = Node(ALICE)
        node.push(ID, BOB.address, b"hello")
        assert node.hear(BOB, factory.init_ack(6)) == []
        assert node.state(ID) is State.PENDING

    def test_an_acknowledgement_of_another_digest_is_not_ours(self) -> None:
        node = begun()
        node.hear(BOB, factory.chunk_ack(0, 0, 5))
        node.hear(BOB, factory.done_ack(1, b"other"))
        assert node.state(ID) is State.SENDING

    def test_acknowledgements_of_a_finished_message_change_nothing(self) -> None:
        node = begun()
        node.hear(BOB, factory.chunk_ack(0, 0, 5))
        for _ in range(2):
            node.hear(BOB, factory.done_ack(1, b"hello"))
        for _ in range(2):
            node.hear(BOB, factory.read())
        assert node.state(ID) is State.READ
        assert node.box.counters["packets_in_wrong_state"] == 2

    def test_a_chunk_acknowledged_twice_counts_once(self) -> None:
        node = begun(factory.payload(2600))
        for _ in range(2):
            node.hear(BOB, factory.chunk_ack(1, 1300, 1300))
        status = node.box.status(ID)
        assert status is not None
        assert (status.sent, status.acked) == (1, 1)


class TestTimers:
    def test_an_init_is_repeated_as_the_reference_does_and_later_less_often(self) -> None:
        node = Node(ALICE)
        node.push(ID, BOB.address, b"hello")
        node.take_wire()
        assert kinds(node.wait_until(1.05)) == {"INIT": 10}
        node.wait_until(10.0)
        assert kinds(node.wait_until(20.0))["INIT"] in (10, 11)

    def test_a_chunk_is_repeated_alone(self) -> None:
        node = begun(factory.payload(3900))
        for index in (0, 2):
            node.hear(BOB, factory.chunk_ack(index, index * 1300, 1300), 0.01)
        (again,) = node.wait_until(0.15)
        assert again[:20] == factory.chunk(1, 0, b"")[:20]

    def test_a_done_is_repeated_until_it_is_acknowledged(self) -> None:
        node = begun()
        node.hear(BOB, factory.chunk_ack(0, 0, 5), 0.01)
        assert kinds(node.wait_until(1.0))["DONE"] >= 5
        node.hear(BOB, factory.done_ack(1, b"hello"), 1.0)
        assert node.wait_until(100.0) == []

    def test_what_is_lost_twice_waits_twice_as_long(self) -> None:
        node = begun(factory.payload(2600))
        node.hear(BOB, factory.chunk_ack(0, 0, 1300), 0.2)
        node.wait_until(0.21)
        again = [len(node.wait_until(tenth / 10)) for tenth in range(3, 30)]
        gaps = [number for number, sent in enumerate(again) if sent]
        assert gaps[1] - gaps[0] == 4

    def test_a_long_round_trip_makes_repetitions_rare(self) -> None:
        node = begun(factory.payload(20_000), now=0.0)
        for index in range(15):
            offset, size = (index * 1250, 1250)
            node.hear(BOB, factory.chunk_ack(index, offset, size), 0.7)
        assert len(node.wait_until(1.5)) <= 2

    @pytest.mark.parametrize(
        "acknowledged", [[], [factory.init_ack(5)], [factory.init_ack(5), factory.chunk_ack(0, 0, 5)]]
    )
    def test_after_300_seconds_it_is_aborted_and_after_600_forgotten(self, acknowledged: list[bytes]) -> None:
        node = Node(ALICE)
        node.push(ID, BOB.address, b"hello")
        for body in acknowledged:
            node.hear(BOB, body)
        node.wait_until(299.9)
        assert node.state(ID) in (State.PENDING, State.SENDING)
        assert node.wait_until(300.1)[-1] == factory.aborted()
        assert node.state(ID) is State.ABORTED
        assert node.box.figures()["outbox_bytes"] == 0
        node.hear(BOB, factory.read(), 301.0)
        assert node.wait_until(599.9) == []
        assert node.state(ID) is State.ABORTED
        node.wait_until(600.1)
        assert node.box.status(ID) is None
        assert node.events_of(ForgetOutgoing) == [ForgetOutgoing(1, ID)]
        assert node.box.next_deadline() is None

    def test_a_receiver_that_forgot_everything_before_done_gets_it_again(self) -> None:
        node, data = begun(factory.payload(2600)), factory.payload(2600)
        node.hear(BOB, factory.chunk_ack(0, 0, 1300), 0.01)
        sent = kinds(node.wait_until(8.0))
        assert sent["INIT"] >= 1
        assert node.state(ID) is State.PENDING
        again = node.hear(BOB, factory.init_ack(2600), 8.0)
        assert again == [factory.chunk(0, 0, data[:1300]), factory.chunk(1, 1300, data[1300:])]

    def test_a_receiver_that_may_have_delivered_is_never_sent_an_init_again(self) -> None:
        node = begun()
        node.hear(BOB, factory.chunk_ack(0, 0, 5), 0.01)
        sent = kinds(node.wait_until(299.0))
        assert sent["DONE"] > 200
        assert sent["INIT"] == 0

    def test_a_receiver_that_lacks_chunks_after_all_gets_them_again(self) -> None:
        node, data = begun(factory.payload(2600)), factory.payload(2600)
        for index in range(2):
            node.hear(BOB, factory.chunk_ack(index, index * 1300, 1300), 0.01)
        probes = [body for body in node.wait_until(6.0) if body[8] == 0x10]
        assert set(probes) == {factory.chunk(0, 0, data[:1300])}
        again = node.hear(BOB, factory.chunk_ack(0, 0, 1300), 6.0)
        assert again == [factory.chunk(1, 1300, data[1300:])]
        assert node.hear(BOB, factory.chunk_ack(1, 1300, 1300), 6.1) == [factory.done(2, data)]
        assert [state for _, state in node.states] == [State.SENDING]

    def test_a_receiver_that_asks_for_chunks_and_then_says_nothing_is_asked_for_done_again(self) -> None:
        node, data = begun(factory.payload(2600)), factory.payload(2600)
        for index in range(2):
            node.hear(BOB, factory.chunk_ack(index, index * 1300, 1300), 0.01)
        node.wait_until(6.0)
        node.hear(BOB, factory.chunk_ack(0, 0, 1300), 6.0)
        sent = kinds(node.wait_until(20.0))
        assert sent["INIT"] == 0
        assert sent["DONE"] >= 1
        node.hear(BOB, factory.done_ack(2, data), 20.0)
        assert node.state(ID) is State.RECEIVED

    def test_an_early_second_acknowledgement_of_the_first_chunk_is_no_answer_to_a_probe(self) -> None:
        node = begun()
        node.hear(BOB, factory.chunk_ack(0, 0, 5), 0.01)
        assert node.hear(BOB, factory.chunk_ack(0, 0, 5), 0.02) == []

    def test_done_that_is_acknowledged_while_chunks_go_again_is_enough(self) -> None:
        node, data = begun(factory.payload(2600)), factory.payload(2600)
        for index in range(2):
            node.hear(BOB, factory.chunk_ack(index, index * 1300, 1300), 0.01)
        node.wait_until(6.0)
        node.hear(BOB, factory.chunk_ack(0, 0, 1300), 6.0)
        node.hear(BOB, factory.done_ack(2, data), 6.0)
        assert node.state(ID) is State.RECEIVED
        assert node.wait_until(100.0) == []


class TestWindow:
    """A message of 400 chunks, 256 of which make the first window."""

    LENGTH = 400 * 1300

    def ack(self, index: int) -> bytes:
        return factory.chunk_ack(index, index * 1300, 1300)

    def indices(self, bodies: list[bytes]) -> list[int]:
        return [int.from_bytes(body[12:20], "big") for body in bodies if body[8] == 0x10]

    def begun(self) -> tuple[Node, list[int]]:
        node = Node(ALICE)
        node.push(ID, BOB.address, factory.payload(self.LENGTH))
        return node, self.indices(node.hear(BOB, factory.init_ack(self.LENGTH), 0.01))

    def test_the_first_window_goes_at_once_and_each_acknowledgement_makes_room_for_two(self) -> None:
        node, sent = self.begun()
        assert sent == list(range(256))
        assert self.indices(node.hear(BOB, self.ack(0), 0.02)) == [256, 257]
        assert self.indices(node.hear(BOB, self.ack(1), 0.02)) == [258, 259]

    def test_after_a_loss_half_as_many_go(self) -> None:
        node, _ = self.begun()
        assert self.indices(node.wait_until(0.115)) == list(range(128))

    def test_a_chunk_that_was_given_up_and_then_acknowledged_does_not_go_again(self) -> None:
        node, _ = self.begun()
        node.wait_until(0.115)
        again = self.indices(node.hear(BOB, self.ack(128), 0.12)) + self.indices(node.hear(BOB, self.ack(0), 0.12))
        assert again[0] == 129

    def test_what_was_under_way_to_a_receiver_that_forgot_it_takes_no_room(self) -> None:
        node, _ = self.begun()
        while node.state(ID) is State.SENDING:
            node.handle_timer(node.box.next_deadline() or 0.0)
        node.take_wire()
        assert len(self.indices(node.hear(BOB, factory.init_ack(self.LENGTH), 8.0))) == 64

    def test_what_was_under_way_of_a_message_given_up_takes_no_room(self) -> None:
        node, _ = self.begun()
        node.push(OTHER_ID, BOB.address, factory.payload(1300), 299.0)
        node.hear(BOB, factory.init_ack(1300, message_id=OTHER_ID), 299.0)
        node.wait_until(300.5)
        assert node.state(ID) is State.ABORTED
        node.push(IDS[0], BOB.address, factory.payload(64 * 1300), 301.0)
        assert len(self.indices(node.hear(BOB, factory.init_ack(64 * 1300, message_id=IDS[0]), 301.0))) >= 63

    def test_what_was_under_way_of_a_message_that_had_arrived_takes_no_room(self) -> None:
        node, data = Node(ALICE), factory.payload(70 * 1300)
        node.push(OTHER_ID, BOB.address, data)
        node.hear(BOB, factory.init_ack(len(data), message_id=OTHER_ID), 0.01)
        for index in range(70):
            node.hear(BOB, factory.chunk_ack(index, index * 1300, 1300, OTHER_ID), 0.02)
        node.wait_until(6.0)
        assert len(node.hear(BOB, factory.chunk_ack(0, 0, 1300, OTHER_ID), 6.0)) == 69
        node.hear(BOB, factory.done_ack(70, data, OTHER_ID), 6.0)
        node.push(ID, BOB.address, factory.payload(self.LENGTH), 6.0)
        sent = self.indices(node.hear(BOB, factory.init_ack(self.LENGTH), 6.01))
        assert len(sent) == 256 + 71

    def test_the_acknowledgement_of_a_repeated_chunk_measures_nothing(self) -> None:
        message = Outgoing(1, ID, BOB.address, b"", False, factory.payload(2600), 0.0)
        for index in range(2):
            assert message.next_chunk() == index
            assert message.sent(index, 1.0)
        assert message.lose(1.5, 0.5) == [0, 1]
        assert message.next_chunk() == 0
        assert not message.sent(0, 2.0)
        assert message.acknowledge(0, 2.1) == (True, None)
        assert message.acknowledge(0, 2.2) == (False, None)


class TestRightBehindTheInit:
    """The only chunk of a short message, where the other node was heard of lately."""

    @pytest.fixture
    def node(self) -> Node:
        node = begun()
        node.hear(BOB, factory.chunk_ack(0, 0, 5), 0.01)
        node.hear(BOB, factory.done_ack(1, b"hello"), 0.02)
        node.take_wire()
        return node

    def test_it_goes_at_once_and_is_not_sent_twice(self, node: Node) -> None:
        node.push(OTHER_ID, BOB.address, b"small", 1.0)
        chunk = factory.chunk(0, 0, b"small", message_id=OTHER_ID)
        assert node.sent() == [factory.init(5, message_id=OTHER_ID), chunk]
        assert node.hear(BOB, factory.init_ack(5, message_id=OTHER_ID), 1.01) == []
        done = factory.done(1, b"small", message_id=OTHER_ID)
        assert node.hear(BOB, factory.chunk_ack(0, 0, 5, message_id=OTHER_ID), 1.01) == [done]

    def test_it_goes_again_when_it_was_lost(self, node: Node) -> None:
        node.push(OTHER_ID, BOB.address, b"small", 1.0)
        node.take_wire()
        node.hear(BOB, factory.init_ack(5, message_id=OTHER_ID), 1.01)
        assert node.wait_until(1.0 + SHORTEST_REPEAT) == [factory.chunk(0, 0, b"small", message_id=OTHER_ID)]

    def test_it_goes_again_behind_an_init_that_was_repeated_and_made_a_reference_node_forget_it(
        self, node: Node
    ) -> None:
        node.push(OTHER_ID, BOB.address, b"small", 1.0)
        node.take_wire()
        assert node.wait_until(1.0 + SHORTEST_REPEAT) == [factory.init(5, message_id=OTHER_ID)]
        chunk = factory.chunk(0, 0, b"small", message_id=OTHER_ID)
        assert node.hear(BOB, factory.init_ack(5, message_id=OTHER_ID), 1.2) == [chunk]

    def test_it_waits_where_nothing_was_heard_yet_and_where_there_are_more(self, node: Node) -> None:
        node.push(OTHER_ID, CAROL.address, b"small", 1.0)
        assert node.sent() == [factory.init(5, message_id=OTHER_ID)]
        node.push(IDS[0], BOB.address, bytes(1301), 1.0)
        assert node.sent() == [factory.init(1301, message_id=IDS[0])]

    def test_what_is_given_up_before_it_was_accepted_takes_no_room_of_the_others(self, node: Node) -> None:
        for _ in range(2 * FIRST_WINDOW // 1000):
            node.push(OTHER_ID, BOB.address, bytes(1000), 1.0)
            node.box.cancel(OTHER_ID, 1.0)
            assert kinds(node.sent())["CHUNK"] == 1


class TestSharing:
    def test_messages_to_one_node_share_its_window_in_equal_bytes(self) -> None:
        node = Node(ALICE)
        sizes = [1300 * 600, 1299 * 600, 1300 * 600]
        for message_id, size in zip(IDS, sizes, strict=False):
            node.push(message_id, BOB.address, factory.payload(size))
        waiting = []
        for message_id, size in zip(IDS, sizes, strict=False):
            waiting += node.hear(BOB, factory.init_ack(size, message_id=message_id))
        # The first message took the whole window while it was alone.
        del waiting[:250]
        got: Counter[bytes] = Counter()
        for _ in range(700):
            for body in node.hear(BOB, acks(waiting[:1])[0], 0.01):
                got[body[:8]] += len(body) - 36
                waiting.append(body)
            del waiting[0]
        shares = [got[message_id] for message_id in IDS[1:3]]
        assert min(shares) > 0.9 * max(shares)

    def test_a_small_message_is_not_kept_waiting_by_a_large_one(self) -> None:
        node = begun(factory.payload(4_000_000))
        node.push(OTHER_ID, BOB.address, b"small", 0.01)
        assert node.hear(BOB, factory.init_ack(5, message_id=OTHER_ID), 0.02) == []
        sent = []
        for index in range(4):
            sent += node.hear(BOB, factory.chunk_ack(index, index * 1300, 1300), 0.03)
        assert factory.chunk(0, 0, b"small", message_id=OTHER_ID) in sent

    def test_an_acknowledgement_moves_its_own_message_only(self) -> None:
        node = Node(ALICE)
        for message_id in IDS[:4]:
            node.push(message_id, BOB.address, b"hello")
        answers = node.hear(BOB, factory.init_ack(5, message_id=IDS[0]))
        assert answers == [factory.chunk(0, 0, b"hello", message_id=IDS[0])]

    def test_two_replies_with_one_id_go_one_after_the_other(self) -> None:
        node = Node(ALICE)
        node.push(ID, BOB.address, b"one", reply=True)
        node.push(ID, BOB.address, b"two!", reply=True)
        assert node.sent() == [factory.init(3, flags=0x8400)]
        node.hear(BOB, factory.init_ack(3, flags=0x8500))
        node.hear(BOB, factory.chunk_ack(0, 0, 3))
        assert node.state(ID) is State.PENDING
        assert node.hear(BOB, factory.done_ack(1, b"one")) == [
            factory.init(4, flags=0x8400),
            factory.chunk(0, 0, b"two!"),
        ]
        node.hear(BOB, factory.init_ack(4, flags=0x8500))
        node.hear(BOB, factory.chunk_ack(0, 0, 4))
        node.hear(BOB, factory.done_ack(1, b"two!"))
        assert node.state(ID) is State.RECEIVED
        node.hear(BOB, factory.read())
        assert node.state(ID) is State.READ

    def test_one_that_waits_for_another_of_its_id_is_given_up_in_silence(self) -> None:
        node = begun(b"first", now=0.0)
        node.push(ID, BOB.address, b"second", 0.0, reply=True)
        sent = node.wait_until(300.1)
        assert kinds(sent)["ABORTED"] == 1
        assert factory.init(6, flags=0x8400) not in sent[:-1]
        assert [state for _, state in node.states].count(State.ABORTED) == 2

    def test_the_later_of_two_is_known_when_the_earlier_is_forgotten(self) -> None:
        node = Node(ALICE)
        node.push(ID, BOB.address, b"one", 0.0, reply=True)
        node.push(ID, BOB.address, b"two!", 100.0, reply=True)
        node.wait_until(601.0)
        assert node.events_of(ForgetOutgoing) == [ForgetOutgoing(1, ID)]
        status = node.box.status(ID)
        assert status is not None
        assert (status.length, status.created) == (4, 100.0)

    def test_the_same_id_to_another_node_is_another_message(self) -> None:
        node = Node(ALICE)
        node.push(ID, BOB.address, b"hello")
        node.push(ID, CAROL.address, b"hello")
        assert len(node.sent()) == 2
        assert node.hear(CAROL, factory.init_ack(5)) == [factory.chunk(0, 0, b"hello")]

    def far_away(self, node: Node, peer: factory.Who, now: float) -> None:
        """A message to a peer whose answers take 0.4 seconds."""
        message_id = now.hex().encode()[-8:]
        node.push(message_id, peer.address, b"hello", now)
        for after, body in (
            (0.4, factory.init_ack(5, message_id=message_id)),
            (0.8, factory.chunk_ack(0, 0, 5, message_id)),
            (1.2, factory.done_ack(1, b"hello", message_id)),
        ):
            node.wait_until(now + after)
            node.hear(peer, body, now + after)

    def repeats(self, node: Node, now: float) -> int:
        """How often the INIT of a message to Bob is repeated in 0.35 seconds."""
        node.push(ID, BOB.address, b"again", now)
        node.take_wire()
        return len(node.wait_until(now + 0.35))

    def test_the_pace_of_a_node_is_remembered_for_the_next_message(self) -> None:
        node = Node(ALICE)
        self.far_away(node, BOB, 0.0)
        assert self.repeats(node, 10.0) == 0

    def test_the_pace_of_few_nodes_is_remembered(self) -> None:
        node = Node(ALICE)
        self.far_away(node, BOB, 0.0)
        for number in range(300):
            peer = factory.Who.named(str(number))
            node.push(ID, peer.address, b"", 2.0)
            node.hear(peer, factory.init_ack(0), 2.0)
            node.hear(peer, factory.done_ack(0, b""), 2.0)
        assert node.box.counters["messages_accepted"] == 301
        assert self.repeats(node, 10.0) == 3


class TestBounds:
    def test_a_full_outbox_is_an_error(self) -> None:
        node = Node(ALICE, limits=Limits(outbox_messages=2))
        node.push(IDS[0], BOB.address, b"x")
        node.push(IDS[1], BOB.address, b"x")
        with pytest.raises(OutboxFull, match="2 messages"):
            node.push(IDS[2], BOB.address, b"x")

    def test_a_finished_message_makes_room_for_a_new_one(self) -> None:
        node = Node(ALICE, limits=Limits(outbox_messages=2))
        node.push(IDS[0], BOB.address, b"")
        node.push(IDS[1], BOB.address, b"")
        node.hear(BOB, factory.init_ack(0, message_id=IDS[1]))
        node.hear(BOB, factory.done_ack(0, b"", IDS[1]))
        node.push(IDS[2], BOB.address, b"")
        assert node.box.status(IDS[1]) is None
        assert node.box.counters["outgoing_forgotten_early"] == 1

    def test_too_many_bytes_are_an_error(self) -> None:
        node = Node(ALICE, limits=Limits(outbox_bytes=10))
        node.push(IDS[0], BOB.address, bytes(6))
        with pytest.raises(OutboxFull, match="5 more"):
            node.push(IDS[1], BOB.address, bytes(5))
        node.push(IDS[1], BOB.address, bytes(4))

    @pytest.mark.parametrize(
        ("message_id", "destination", "topic"),
        [(b"short", BOB.address, b""), (ID, b"short", b""), (ID, BOB.address, bytes(256))],
    )
    def test_what_can_be_no_message_is_an_error(self, message_id: bytes, destination: bytes, topic: bytes) -> None:
        with pytest.raises(MessageRefused):
            Node(ALICE).push(message_id, destination, b"", topic=topic)

    def test_a_reply_may_be_given_any_topic(self) -> None:
        Node(ALICE).push(ID, BOB.address, b"", topic=bytes(256), reply=True)

    @pytest.mark.parametrize(
        "destination", [bytes(10) + b"\xff\xff\x0a\x00\x00\x01", bytes.fromhex("20010db8") + bytes(12)]
    )
    def test_a_message_to_no_overlay_address_is_never_sent(self, destination: bytes) -> None:
        node = Node(ALICE)
        node.push(ID, destination, b"hello")
        assert node.sent() == node.wait_until(400.0) == []
        assert node.state(ID) is State.ABORTED


class TestRestart:
    def test_a_message_that_began_begins_again(self) -> None:
        node = begun(factory.payload(2600))
        node.die(5.0)
        node.act(5.0)
        assert node.sent() == [factory.init(2600)]
        assert len(node.events_of(StoreOutgoing)) == 1

    def test_after_done_it_goes_on_with_done(self) -> None:
        node = begun()
        node.hear(BOB, factory.chunk_ack(0, 0, 5), 0.01)
        node.die(5.0)
        node.act(5.0)
        assert node.sent() == [factory.done(1, b"hello")]
        node.hear(BOB, factory.done_ack(1, b"hello"), 5.0)
        assert node.state(ID) is State.RECEIVED
        assert len(node.events_of(StoreDoneSent)) == 1

    def saved(self, data: bytes, **changed: object) -> SavedOutgoing:
        fields: dict[str, object] = {
            "number": 1,
            "id": ID,
            "destination": BOB.address,
            "topic": b"",
            "reply": False,
            "data": data,
            "created": 0.0,
            "state": State.SENDING,
            "done_sent": False,
        }
        return SavedOutgoing(**(fields | changed))  # type: ignore[arg-type]

    def test_with_its_acknowledged_chunks_it_sends_only_the_others(self) -> None:
        node, data = Node(ALICE), factory.payload(3900)
        node.box.restore_outgoing(self.saved(data, acked=(0, 2)), 1.0)
        node.act(1.0)
        assert node.sent() == [factory.chunk(1, 1300, data[1300:2600])]
        status = node.box.status(ID)
        assert status is not None
        assert (status.pending, status.sent, status.acked) == (0, 1, 2)

    def test_with_all_chunks_acknowledged_it_sends_done(self) -> None:
        node, data = Node(ALICE), factory.payload(2600)
        node.box.restore_outgoing(self.saved(data, acked=(0, 1)), 1.0)
        node.act(1.0)
        assert node.sent() == [factory.done(2, data)]

    def test_acknowledged_chunks_of_one_that_did_not_begin_mean_nothing(self) -> None:
        node, data = Node(ALICE), factory.payload(2600)
        node.box.restore_outgoing(self.saved(data, acked=(0, 1), state=State.PENDING), 1.0)
        node.act(1.0)
        assert node.sent() == [factory.init(2600)]

    @pytest.mark.parametrize("state", [State.RECEIVED, State.READ, State.ABORTED])
    def test_a_finished_one_answers_questions_until_it_is_forgotten(self, state: State) -> None:
        node = Node(ALICE)
        node.box.restore_outgoing(self.saved(b"", state=state, length=77), 400.0)
        node.act(400.0)
        status = node.box.status(ID)
        assert status is not None
        assert (status.state, status.length) == (state, 77)
        node.hear(BOB, factory.read(), 400.0)
        assert node.state(ID) is (state if state is State.ABORTED else State.READ)
        node.wait_until(601.0)
        assert node.box.status(ID) is None

    def test_one_whose_time_is_over_is_aborted(self) -> None:
        node = Node(ALICE)
        node.box.restore_outgoing(self.saved(b"hello"), 301.0)
        node.act(301.0)
        assert node.sent() == []
        assert node.state(ID) is State.ABORTED

    def test_numbers_go_on_and_must_be_in_order(self) -> None:
        node = Node(ALICE)
        node.box.restore_outgoing(self.saved(b"x", number=7), 1.0)
        assert node.push(OTHER_ID, BOB.address, b"y", 1.0) == 8
        with pytest.raises(MessageBoxError, match="in order"):
            node.box.restore_outgoing(self.saved(b"x", number=8), 1.0)

    @pytest.mark.parametrize("acked", [(1,), (-1,)])
    def test_chunks_that_do_not_exist_are_refused(self, acked: tuple[int, ...]) -> None:
        with pytest.raises(MessageRefused, match="of 1 chunks"):
            self.saved(b"hello", acked=acked)


class TestStates:
    def test_a_step_that_is_not_in_the_table_is_an_error(self) -> None:
        message = Outgoing(1, ID, BOB.address, b"", False, b"", 0.0)
        with pytest.raises(MessageBoxError, match="was read"):
            message.move(Saw.READ, 0.0)

    def test_every_phase_but_the_last_two_can_be_left(self) -> None:
        left = {phase for phase, _ in TRANSITIONS}
        assert set(Phase) - left == {Phase.READ, Phase.ABORTED}

    def test_states_are_told_once_for_each_change(self) -> None:
        node = begun()
        node.hear(BOB, factory.chunk_ack(0, 0, 5))
        node.hear(BOB, factory.done_ack(1, b"hello"))
        assert node.events_of(StateChanged) == [
            StateChanged(1, ID, State.SENDING),
            StateChanged(1, ID, State.RECEIVED),
        ]


class TestPace:
    def test_nothing_is_repeated_sooner_than_by_the_reference(self) -> None:
        pace = Pace()
        assert pace.repeat_after() == SHORTEST_REPEAT
        for _ in range(20):
            pace.measured(0.001)
        assert pace.repeat_after() == SHORTEST_REPEAT

    def test_the_timer_follows_the_round_trip_and_is_bounded(self) -> None:
        pace = Pace()
        pace.measured(0.5)
        assert pace.repeat_after() == pytest.approx(1.5)
        for _ in range(100):
            pace.measured(0.5)
        assert pace.repeat_after() == pytest.approx(0.52)
        pace.timed_out()
        pace.timed_out()
        assert pace.repeat_after() == pytest.approx(1.04)
        pace.measured(60.0)
        assert pace.repeat_after() == LONGEST_REPEAT

    def test_a_bound_is_a_guess_until_something_is_measured(self) -> None:
        pace = Pace()
        pace.bounded(0.4)
        assert pace.repeat_after() == pytest.approx(0.6)
        pace.bounded(15.0)
        assert pace.repeat_after() == 1.0
        pace.measured(0.01)
        assert pace.repeat_after() == SHORTEST_REPEAT

    @settings(deadline=None)
    @given(st.lists(st.one_of(st.integers(1, 1300), st.none()), max_size=300))
    def test_the_window_grows_and_shrinks_between_its_bounds(self, story: list[int | None]) -> None:
        pace = Pace()
        now = 0.0
        for size in story:
            now += 0.05
            before = pace.window
            if size is None:
                pace.lost(now)
                assert pace.window <= before
            else:
                pace.acknowledged(size)
                assert before <= pace.window <= before + size
            assert SMALLEST_WINDOW <= pace.window <= LARGEST_WINDOW

    def test_losses_of_one_round_halve_the_window_once(self) -> None:
        pace = Pace()
        pace.lost(1.0)
        pace.lost(1.05)
        assert pace.window == FIRST_WINDOW // 2
        pace.lost(1.2)
        assert pace.window == SMALLEST_WINDOW
