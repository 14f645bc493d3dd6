"""Large chunks between two of our kind (extension E4), and what a sender tells of itself: progress, outbox, turns."""

from __future__ import annotations

import pytest

from protocol.mycelium.messages.chunking import CHUNK_BYTES, LARGE_CHUNK_BYTES
from protocol.mycelium.messages.core import MessageRefused
from protocol.mycelium.messages.events import Send, State, StorePending
from protocol.mycelium.messages.packets import ACCEPT_LARGE, OFFER_LARGE, Chunk, Init
from protocol.mycelium.messages.records import Progress, SavedOutgoing
from protocol.mycelium.messages.sender import MAX_CLEAN, MAX_UNDER_WAY
from tests.unit import message_factory as factory
from tests.unit.message_factory import ALICE, BOB, CAROL, ID, payload
from tests.unit.message_rig import Network, Node

DATA = payload(500_000)


def sent_chunks(node: Node) -> list[Chunk]:
    return [event.packet for event in node.events_of(Send) if isinstance(event.packet, Chunk)]


def sent_inits(node: Node) -> list[int]:
    """The bytes of the inner header that each INIT went with."""
    return [event.packet.echo.inner for event in node.events_of(Send) if isinstance(event.packet, Init)]


def clean(node: Node, other: Node, is_clean: bool = True, now: float = 0.0) -> None:
    node.box.route(other.who.address[:8], is_clean, now)
    node.act(now)


class TestLargeChunks:
    def test_a_message_goes_in_large_chunks_where_the_way_carries_them(self) -> None:
        alice, bob = Node(ALICE), Node(BOB)
        clean(alice, bob)
        alice.push(ID, BOB.address, DATA)
        Network(alice, bob).run(10.0)
        assert bob.delivered == [DATA]
        assert sent_inits(alice) == [OFFER_LARGE]
        assert len(sent_chunks(alice)) == -(-len(DATA) // LARGE_CHUNK_BYTES)
        assert bob.events_of(StorePending)[0].large
        assert alice.state(ID) is State.READ

    def test_nothing_is_offered_on_any_other_way(self) -> None:
        alice, bob = Node(ALICE), Node(BOB)
        clean(alice, Node(CAROL))
        alice.push(ID, BOB.address, DATA)
        Network(alice, bob).run(10.0)
        assert bob.delivered == [DATA]
        assert sent_inits(alice) == [0]
        assert max(len(chunk.data) for chunk in sent_chunks(alice)) <= CHUNK_BYTES

    def test_a_small_message_offers_nothing(self) -> None:
        alice, bob = Node(ALICE), Node(BOB)
        clean(alice, bob)
        alice.push(ID, BOB.address, b"hello")
        assert sent_inits(alice) == [0]

    def test_a_receiver_that_only_echoes_the_offer_gets_small_chunks(self) -> None:
        alice, bob = Node(ALICE), Node(BOB)
        clean(alice, bob)
        alice.push(ID, BOB.address, DATA)
        alice.hear(BOB, factory.init_ack(len(DATA)), inner_reserved=OFFER_LARGE)
        assert max(len(chunk.data) for chunk in sent_chunks(alice)) <= CHUNK_BYTES

    def test_an_acknowledgement_from_before_the_offer_decides_nothing(self) -> None:
        alice, bob = Node(ALICE), Node(BOB)
        clean(alice, bob)
        alice.push(ID, BOB.address, DATA)
        alice.hear(BOB, factory.init_ack(len(DATA)))
        assert sent_chunks(alice) == []
        alice.hear(BOB, factory.init_ack(len(DATA)), inner_reserved=ACCEPT_LARGE)
        assert len(sent_chunks(alice)[0].data) > CHUNK_BYTES

    def test_a_way_that_turns_out_clean_after_the_first_init_is_offered_the_second_time(self) -> None:
        alice, bob = Node(ALICE), Node(BOB)
        alice.push(ID, BOB.address, DATA)
        clean(alice, bob)
        Network(alice, bob).run(10.0)
        assert bob.delivered == [DATA]
        assert sent_inits(alice) == [0, OFFER_LARGE]
        assert min(len(chunk.data) for chunk in sent_chunks(alice)) > CHUNK_BYTES

    @pytest.mark.parametrize("acknowledged", [False, True])
    def test_a_message_begins_again_with_small_chunks_when_the_way_is_clean_no_more(self, acknowledged: bool) -> None:
        alice, bob = Node(ALICE), Node(BOB)
        clean(alice, bob)
        alice.push(ID, BOB.address, DATA)
        if acknowledged:
            alice.hear(BOB, factory.init_ack(len(DATA)), inner_reserved=ACCEPT_LARGE)
        alice.log.clear()
        clean(alice, bob, False)
        assert sent_inits(alice) == [0]
        Network(alice, bob).run(10.0)
        assert bob.delivered == [DATA]
        assert max(len(chunk.data) for chunk in sent_chunks(alice)) <= CHUNK_BYTES

    def test_what_is_all_there_is_not_begun_again(self) -> None:
        alice, bob = Node(ALICE), Node(BOB)
        clean(alice, bob)
        alice.push(ID, BOB.address, DATA)
        alice.hear(BOB, factory.init_ack(len(DATA)), inner_reserved=ACCEPT_LARGE)
        for chunk in sent_chunks(alice):
            alice.hear(BOB, factory.chunk_ack(chunk.index, chunk.offset, len(chunk.data)))
        alice.log.clear()
        clean(alice, bob, False)
        assert sent_inits(alice) == []
        assert alice.state(ID) is State.SENDING

    def test_a_repeated_init_with_the_offer_keeps_what_is_there(self) -> None:
        bob = Node(BOB)
        for _ in range(2):
            bob.hear(ALICE, factory.init(200_000), inner_reserved=OFFER_LARGE)
        assert len(bob.events_of(StorePending)) == 1
        accepted = [event.packet.echo.inner for event in bob.events_of(Send)]
        assert accepted == [ACCEPT_LARGE, ACCEPT_LARGE]

    def test_an_init_without_the_offer_begins_a_message_that_had_it_again(self) -> None:
        bob = Node(BOB)
        bob.hear(ALICE, factory.init(200_000), inner_reserved=OFFER_LARGE)
        bob.hear(ALICE, factory.chunk(0, 0, payload(60_000)))
        bob.hear(ALICE, factory.init(200_000))
        assert [stored.large for stored in bob.events_of(StorePending)] == [True, False]
        assert bob.box.counters["pending_replaced"] == 1

    def test_ways_that_are_clean_are_bounded(self) -> None:
        alice, bob = Node(ALICE), Node(BOB)
        clean(alice, bob)
        for number in range(MAX_CLEAN):
            alice.box.route(number.to_bytes(8, "big"), True, 0.0)
        alice.push(ID, BOB.address, DATA)
        assert sent_inits(alice) == [0]


class TestProgress:
    @pytest.mark.parametrize("is_clean", [False, True])
    def test_a_successor_sends_only_what_was_not_acknowledged(self, is_clean: bool) -> None:
        alice, bob = Node(ALICE), Node(BOB)
        clean(alice, bob, is_clean)
        alice.push(ID, BOB.address, DATA)
        alice.hear(BOB, factory.init_ack(len(DATA)), inner_reserved=ACCEPT_LARGE if is_clean else 0)
        early = sent_chunks(alice)[:5]
        for chunk in early:
            alice.hear(BOB, factory.chunk_ack(chunk.index, chunk.offset, len(chunk.data)))
        (progress,) = alice.box.progress()
        assert alice.box.progress() == [], "nothing has moved since"
        assert [index for index, acked in enumerate(progress.acked) if acked] == [chunk.index for chunk in early]
        alice.store.acked[1] = progress.largest, [chunk.index for chunk in early]
        alice.store.states[1] = State.SENDING
        alice.log.clear()
        alice.die(1.0)
        alice.act(1.0)
        again = sent_chunks(alice)
        assert again
        assert {chunk.index for chunk in again}.isdisjoint(chunk.index for chunk in early)
        assert {len(chunk.data) for chunk in again} <= {len(chunk.data) for chunk in early} | {len(again[-1].data)}

    def test_a_finished_message_has_no_progress(self) -> None:
        alice, bob = Node(ALICE), Node(BOB)
        alice.push(ID, BOB.address, DATA)
        Network(alice, bob).run(10.0)
        assert alice.box.progress() == []

    def test_chunks_that_the_cut_does_not_have_are_refused(self) -> None:
        with pytest.raises(MessageRefused, match="chunk 2 of a message of 2 chunks"):
            SavedOutgoing(
                1, ID, BOB.address, b"", False, payload(100_000), 0.0, State.SENDING, False, [2], 0, LARGE_CHUNK_BYTES
            )

    def test_progress_says_how_the_message_is_cut(self) -> None:
        assert Progress(1, CHUNK_BYTES, b"\x01").largest == CHUNK_BYTES


class TestOutbox:
    def test_own_messages_are_listed_in_order(self) -> None:
        alice = Node(ALICE)
        ids = [bytes(7) + bytes([number]) for number in range(3)]
        for number, message_id in enumerate(ids):
            alice.push(message_id, BOB.address, payload(number), topic=b"t", reply=number == 2)
        rows = alice.box.outbox()
        assert [row.id for row in rows] == ids
        assert [(row.length, row.topic, row.reply) for row in rows] == [
            (0, b"t", False),
            (1, b"t", False),
            (2, b"", True),
        ]

    def test_a_message_that_is_given_up_is_aborted_once(self) -> None:
        alice = Node(ALICE)
        alice.push(ID, BOB.address, b"hello")
        alice.take_wire()
        assert alice.box.cancel(ID, 0.0) is True
        alice.act(0.0)
        assert alice.sent() == [factory.aborted()]
        assert alice.state(ID) is State.ABORTED
        assert alice.box.cancel(ID, 0.0) is False
        assert alice.box.cancel(bytes(8), 0.0) is None
        assert alice.box.counters["messages_cancelled"] == 1


class TestTurns:
    def ids(self, count: int) -> list[bytes]:
        return [number.to_bytes(8, "big") for number in range(1, count + 1)]

    def test_no_more_messages_are_announced_than_a_receiver_can_deal_with(self) -> None:
        alice, bob = Node(ALICE), Node(BOB)
        for message_id in self.ids(MAX_UNDER_WAY + 10):
            alice.push(message_id, BOB.address, b"hello")
        assert len(alice.take_wire()) == MAX_UNDER_WAY
        net = Network(alice, bob)
        alice.handle_timer(0.2)
        net.now = 0.2
        net.run(20.0)
        assert len(bob.delivered) == MAX_UNDER_WAY + 10

    def test_messages_that_get_no_answer_do_not_keep_others_back(self) -> None:
        alice = Node(ALICE)
        ids = self.ids(MAX_UNDER_WAY + 1)
        for message_id in ids:
            alice.push(message_id, BOB.address, b"hello", topic=b"refused")
        alice.take_wire()
        sent = alice.wait_until(3.0)
        assert any(body.startswith(ids[-1]) for body in sent)

    def test_other_remotes_have_turns_of_their_own(self) -> None:
        alice = Node(ALICE)
        for message_id in self.ids(MAX_UNDER_WAY + 1):
            alice.push(message_id, BOB.address, b"hello")
        alice.take_wire()
        alice.push(bytes(8), CAROL.address, b"hello")
        assert alice.sent() == [factory.init(5, message_id=bytes(8))]

    def test_one_that_is_given_up_while_it_waits_is_never_announced(self) -> None:
        alice = Node(ALICE)
        ids = self.ids(MAX_UNDER_WAY + 2)
        for message_id in ids:
            alice.push(message_id, BOB.address, b"hello")
        alice.take_wire()
        alice.box.cancel(ids[-2], 0.0)
        alice.box.cancel(ids[0], 0.0)
        alice.act(0.0)
        sent = alice.sent()
        assert factory.init(5, message_id=ids[-1]) in sent
        assert not any(body.startswith(ids[-2]) for body in sent)
