"""Message boxes among themselves and with a model of the reference, over networks that lose, double and reorder.

All on virtual time, and every event is acted on by itself: what dies, dies between any two of them.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.mycelium.messages.core import REMEMBER_SECONDS
from protocol.mycelium.messages.events import State
from tests.unit import message_factory as factory
from tests.unit.message_factory import ALICE, BOB, ID
from tests.unit.message_reference import ReferenceNode
from tests.unit.message_rig import Network, Node

LIMIT = 300.0
"""Virtual seconds until a sender gives up."""

awkward_lengths = st.one_of(
    st.sampled_from([0, 1, 249, 250, 251, 1299, 1300]),
    st.builds(lambda chunks, rest: 1300 * chunks + rest, st.integers(1, 12), st.integers(1, 249)),
    st.integers(0, 20_000),
)
lossy = st.fixed_dictionaries(
    {
        "loss": st.sampled_from([0.0, 0.1, 0.3]),
        "delay": st.sampled_from([0.001, 0.05, 0.4]),
        "seed": st.integers(0, 1000),
    }
)
wild = st.fixed_dictionaries(
    {
        "loss": st.sampled_from([0.0, 0.2]),
        "duplication": st.sampled_from([0.0, 0.2]),
        "jitter": st.sampled_from([0.01, 0.3]),
        "delay": st.sampled_from([0.001, 0.05]),
        "seed": st.integers(0, 1000),
    }
)


def finished(node: Node, message_id: bytes = ID) -> bool:
    return node.state(message_id) not in (State.PENDING, State.SENDING)


class TestBoxToBox:
    @settings(max_examples=50, deadline=None)
    @given(awkward_lengths, st.one_of(lossy, wild))
    def test_every_length_arrives_once_over_any_network(self, length: int, network: dict[str, float]) -> None:
        alice, bob = Node(ALICE), Node(BOB)
        net = Network(alice, bob, **network)  # type: ignore[arg-type]
        data = factory.payload(length)
        alice.push(ID, BOB.address, data)
        net.run(LIMIT, lambda: finished(alice))
        assert alice.state(ID) in (State.RECEIVED, State.READ)
        net.run(net.now + 30)
        assert bob.delivered == [data]
        assert bob.box.figures()["pending_messages"] == 0

    @pytest.mark.parametrize("network", [{}, {"loss": 0.1}, {"delay": 0.2}])
    def test_a_megabyte_arrives(self, network: dict[str, float]) -> None:
        alice, bob = Node(ALICE), Node(BOB)
        net = Network(alice, bob, **network)  # type: ignore[arg-type]
        data = factory.payload(1_000_000)
        alice.push(ID, BOB.address, data)
        net.run(10.0, lambda: finished(alice))
        assert bob.delivered == [data]

    def test_many_messages_both_ways_arrive_once_each(self) -> None:
        alice, bob = Node(ALICE), Node(BOB)
        net = Network(alice, bob, loss=0.1, duplication=0.1, jitter=0.05)
        sent = [factory.payload(number * 700, number) for number in range(30)]
        for number, data in enumerate(sent):
            alice.push(bytes([1]) * 7 + bytes([number]), BOB.address, data)
            bob.push(bytes([2]) * 7 + bytes([number]), ALICE.address, data)
        net.run(60.0)
        assert sorted(bob.delivered) == sorted(alice.delivered) == sorted(sent)

    @settings(max_examples=50, deadline=None)
    @given(
        awkward_lengths,
        st.sampled_from([0.0, 0.2]),
        st.integers(0, 1000),
        st.lists(st.integers(0, 60), min_size=1, max_size=4),
        st.lists(st.integers(0, 60), min_size=1, max_size=4),
    )
    def test_processes_that_die_anywhere_lose_nothing_and_deliver_nothing_twice(
        self, length: int, loss: float, seed: int, ours: list[int], theirs: list[int]
    ) -> None:
        alice, bob = Node(ALICE), Node(BOB)
        net = Network(alice, bob, loss=loss, seed=seed)
        data = factory.payload(length)
        alice.push(ID, BOB.address, data)
        for alice.dies_after, bob.dies_after in zip(ours, theirs, strict=False):
            net.run(net.now + 2.0)
        alice.dies_after = bob.dies_after = None
        net.run(LIMIT, lambda: finished(alice))
        assert alice.state(ID) in (State.RECEIVED, State.READ)
        net.run(LIMIT + 5)
        assert bob.delivered == [data]

    def test_nothing_is_left_of_a_message_in_the_end(self) -> None:
        alice, bob = Node(ALICE), Node(BOB)
        net = Network(alice, bob)
        alice.push(ID, BOB.address, b"hello")
        net.run(REMEMBER_SECONDS + 1)
        assert alice.box.status(ID) is None
        assert set(alice.box.figures().values()) == set(bob.box.figures().values()) == {0}
        assert alice.box.next_deadline() is bob.box.next_deadline() is None


class TestBoxToReference:
    @settings(max_examples=60, deadline=None)
    @given(awkward_lengths, lossy)
    def test_every_length_arrives_once(self, length: int, network: dict[str, float]) -> None:
        alice, bob = Node(ALICE), ReferenceNode(BOB)
        net = Network(alice, bob, **network)  # type: ignore[arg-type]
        data = factory.payload(length)
        alice.push(ID, BOB.address, data)
        net.run(LIMIT, lambda: bool(bob.delivered))
        net.run(net.now + 20)
        assert bob.delivered == [data]

    @settings(max_examples=30, deadline=None)
    @given(awkward_lengths, wild)
    def test_every_length_arrives_although_late_inits_wipe_what_was_acknowledged(
        self, length: int, network: dict[str, float]
    ) -> None:
        alice, bob = Node(ALICE), ReferenceNode(BOB)
        net = Network(alice, bob, **network)  # type: ignore[arg-type]
        data = factory.payload(length)
        alice.push(ID, BOB.address, data)
        net.run(LIMIT, lambda: bool(bob.delivered))
        assert bob.delivered[:1] == [data]

    def test_every_rest_that_the_reference_can_not_send_itself_arrives(self) -> None:
        for rest in range(1, 250, 8):
            alice, bob = Node(ALICE), ReferenceNode(BOB)
            net = Network(alice, bob)
            data = factory.payload(2600 + rest)
            alice.push(ID, BOB.address, data)
            net.run(1.0, lambda: bool(bob.delivered))  # noqa: B023
            assert bob.delivered == [data], rest

    def test_the_model_itself_can_not_send_such_a_rest(self) -> None:
        alice, bob = ReferenceNode(ALICE), ReferenceNode(BOB)
        net = Network(alice, bob)
        alice.push(ID, BOB.address, factory.payload(1301), 0.0)
        net.run(5.0)
        assert bob.delivered == []

    @settings(max_examples=30, deadline=None)
    @given(awkward_lengths, st.lists(st.integers(0, 40), min_size=1, max_size=4), st.integers(0, 1000))
    def test_a_sender_that_dies_anywhere_delivers_once(self, length: int, deaths: list[int], seed: int) -> None:
        alice, bob = Node(ALICE), ReferenceNode(BOB)
        net = Network(alice, bob, seed=seed)
        data = factory.payload(length)
        alice.push(ID, BOB.address, data)
        for alice.dies_after in deaths:
            net.run(net.now + 2.0)
        alice.dies_after = None
        net.run(LIMIT + 10)
        assert bob.delivered == [data]

    @pytest.mark.parametrize("delay", [0.001, 0.02, 0.05, 0.3])
    @pytest.mark.parametrize("length", [0, 1, 1300, 100_100, 330_000])
    def test_it_is_no_slower_than_the_reference_and_sends_no_more(self, delay: float, length: int) -> None:
        took, packets = [], []
        for sender in (Node(ALICE), ReferenceNode(ALICE)):
            receiver = ReferenceNode(BOB)
            net = Network(sender, receiver, delay=delay)
            sender.push(ID, BOB.address, factory.payload(length), 0.0)
            net.run(20.0, lambda: bool(receiver.delivered))  # noqa: B023
            took.append(net.now)
            packets.append(len(net.packets))
        assert took[0] <= took[1] + 0.001
        assert packets[0] <= packets[1]

    def test_on_a_lossy_way_it_keeps_up_with_the_reference(self) -> None:
        took = []
        for kind in (Node, ReferenceNode):
            total = 0.0
            for seed in range(5):
                sender, receiver = kind(ALICE), ReferenceNode(BOB)
                net = Network(sender, receiver, loss=0.3, seed=seed)
                sender.push(ID, BOB.address, factory.payload(300_300), 0.0)
                net.run(60.0, lambda: bool(receiver.delivered))  # noqa: B023
                total += net.now
            took.append(total)
        assert took[0] <= 1.25 * took[1]


class TestReferenceToBox:
    @settings(max_examples=50, deadline=None)
    @given(awkward_lengths, st.one_of(lossy, wild))
    def test_every_length_arrives_once(self, length: int, network: dict[str, float]) -> None:
        alice, bob = ReferenceNode(ALICE), Node(BOB)
        net = Network(alice, bob, **network)  # type: ignore[arg-type]
        data = factory.payload(length)
        alice.push(ID, BOB.address, data, 0.0)
        net.run(LIMIT, lambda: alice.state(ID) in ("received", "read"))
        assert alice.state(ID) in ("received", "read")
        assert bob.delivered == [data]

    @settings(max_examples=30, deadline=None)
    @given(awkward_lengths, st.lists(st.integers(0, 40), min_size=1, max_size=4), st.integers(0, 1000))
    def test_a_receiver_that_dies_anywhere_loses_nothing_that_it_acknowledged(
        self, length: int, deaths: list[int], seed: int
    ) -> None:
        alice, bob = ReferenceNode(ALICE), Node(BOB)
        net = Network(alice, bob, loss=0.1, seed=seed)
        data = factory.payload(length)
        alice.push(ID, BOB.address, data, 0.0)
        for bob.dies_after in deaths:
            net.run(net.now + 1.0)
        bob.dies_after = None
        net.run(LIMIT, lambda: alice.state(ID) in ("received", "read"))
        assert alice.state(ID) in ("received", "read")
        assert bob.delivered == [data]
