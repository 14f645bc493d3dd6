"""FQ-CoDel, held against a transcription of both RFCs that keeps everything in lists."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import sqrt
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.flowqueue import DROP_BATCH, FlowLimits, FlowQueue, FlowQueueError, flow_key

UNHURRIED = FlowLimits(max_age=1000.0, interval=900.0)
"""Nothing is dropped for its age."""


def filled(limits: FlowLimits, flows: dict[str, int], size: int = 1000, now: float = 0.0) -> FlowQueue[str]:
    """A queue with so many packets of each flow, which are called a0, a1, …"""
    queue: FlowQueue[str] = FlowQueue(limits)
    for number, (name, count) in enumerate(flows.items()):
        for packet in range(count):
            queue.add(number, f"{name}{packet}", size, now)
    return queue


def test_packets_of_a_flow_leave_in_order() -> None:
    queue = filled(UNHURRIED, {"a": 5})
    assert queue.take(0.0, 3000) == ["a0", "a1", "a2"]
    assert queue.take(0.0, 3000) == ["a3", "a4"]
    assert queue.take(0.0, 3000) == []


def test_only_the_last_packet_goes_beyond_the_budget() -> None:
    queue = filled(UNHURRIED, {"a": 5})
    assert queue.take(0.0, 1001) == ["a0", "a1"]
    assert queue.take(0.0, 1) == ["a2"]
    assert queue.take(0.0, 0) == []
    assert (len(queue), queue.pending_bytes) == (2, 2000)


def test_flows_take_turns_of_a_quantum() -> None:
    queue = filled(FlowLimits(quantum=2000, max_age=1000.0), {"a": 5, "b": 3})
    assert queue.take(0.0, 1 << 20) == ["a0", "a1", "b0", "b1", "a2", "a3", "b2", "a4"]


def test_turn_that_was_overdrawn_is_made_up_for() -> None:
    queue = filled(FlowLimits(quantum=1500, max_age=1000.0), {"a": 6, "b": 6})
    assert queue.take(0.0, 6000) == ["a0", "a1", "b0", "b1", "a2", "b2"]


def test_new_flow_overtakes_those_that_had_their_turn() -> None:
    queue = filled(FlowLimits(quantum=2000, max_age=1000.0), {"a": 9, "b": 9})
    queue.take(0.0, 5000)
    queue.add(99, "hello", 100, 0.0)
    assert queue.take(0.0, 1) == ["hello"]


def test_flow_that_comes_back_is_new_only_after_all_others_had_a_turn() -> None:
    queue = filled(FlowLimits(quantum=1000, max_age=1000.0), {"a": 3, "b": 3})
    queue.take(0.0, 2000)
    queue.add(99, "s0", 100, 0.0)
    assert queue.take(0.0, 101) == ["s0", "a1"]
    queue.add(99, "s1", 100, 0.0)
    assert queue.take(0.0, 1 << 20) == ["b1", "s1", "a2", "b2"]


def test_flows_that_hash_to_the_same_queue_share_it() -> None:
    queue: FlowQueue[str] = FlowQueue(FlowLimits(queues=4, quantum=1000, max_age=1000.0))
    for flow, item in ((1, "a"), (5, "b"), (2, "c")):
        queue.add(flow, item, 1000, 0.0)
        queue.add(flow, item, 1000, 0.0)
    assert "".join(queue.take(0.0, 1 << 20)) == "acacbb"


def test_packet_that_waited_too_long_is_dropped_and_counted() -> None:
    dropped: list[str] = []
    queue: FlowQueue[str] = FlowQueue(FlowLimits(max_age=0.25), dropped.append)
    queue.add(1, "old", 10, 1.0)
    queue.add(2, "other", 10, 1.125)
    queue.add(1, "young", 10, 1.25)
    queue.expire(1.25)
    assert dropped == []
    assert queue.take(1.26, 1 << 20) == ["young", "other"]
    assert (dropped, queue.dropped_age) == (["old"], 1)


def test_oldest_says_when_the_next_packet_is_too_old() -> None:
    queue: FlowQueue[str] = FlowQueue(FlowLimits(queues=1 << 20))
    assert queue.oldest is None
    queue.add(1, "a", 10, 1.0)
    queue.add(2, "b", 10, 2.0)
    assert queue.oldest == 1.0
    queue.take(1.0, 1)
    assert queue.oldest == 2.0
    queue.expire(9.0)
    assert (queue.oldest, len(queue), queue.pending_bytes) == (None, 0, 0)


def test_fattest_flow_makes_room_with_its_oldest_half() -> None:
    queue = filled(FlowLimits(total_bytes=10_000, max_age=1000.0), {"thin": 2, "fat": 8})
    queue.add(98, "late", 1000, 0.0)
    assert (queue.dropped_full, len(queue)) == (4, 7)
    assert queue.take(0.0, 1 << 20) == ["thin0", "thin1", "fat4", "fat5", "fat6", "fat7", "late"]


def test_no_more_packets_make_room_than_one_batch() -> None:
    queue = filled(FlowLimits(packets=1000, max_age=1000.0), {"fat": 900, "thin": 100})
    queue.add(98, "late", 1000, 0.0)
    assert queue.dropped_full == DROP_BATCH


def test_packet_larger_than_all_room_is_dropped() -> None:
    queue = filled(FlowLimits(total_bytes=10_000, max_age=1000.0), {"a": 1})
    queue.add(97, "huge", 10_001, 0.0)
    assert (queue.take(0.0, 1 << 20), queue.dropped_full) == (["a0"], 1)


def test_queue_that_stands_loses_packets_faster_and_faster() -> None:
    queue: FlowQueue[int] = FlowQueue(FlowLimits(max_age=1000.0, total_bytes=1 << 40, packets=1 << 40))
    drops: list[float] = []
    now = seen = 0.0
    for _ in range(1000):
        # Arrivals and departures keep pace, behind a backlog of twenty.
        queue.add(1, 0, 1000, now)
        if now >= 0.02:
            queue.take(now, 1)
        if queue.dropped_codel > seen:
            drops += [now]
            seen = queue.dropped_codel
            queue.add(1, 0, 1000, now)
        now += 0.001
    first = drops[0]
    # Above the target from the first departure on, and an interval later the first drop.
    assert first == pytest.approx(0.12, abs=0.0015)
    expected, due = [], first
    for count in range(1, len(drops)):
        due += 0.1 / sqrt(count)
        expected.append(due)
    assert drops[1:] == pytest.approx(expected, abs=0.0015)
    assert len(drops) > 10


def test_queue_of_one_packet_never_stands() -> None:
    queue: FlowQueue[int] = FlowQueue(FlowLimits(max_age=1000.0))
    queue.add(1, 0, 60_000, 0.0)
    for number in range(100):
        now = number * 0.05
        queue.add(1, number, 60_000, now)
        assert len(queue.take(now + 0.04, 1)) == 1
    assert queue.dropped_codel == 0


def test_queue_that_drained_in_time_never_stands() -> None:
    queue: FlowQueue[int] = FlowQueue(FlowLimits(max_age=1000.0))
    for number in range(1000):
        for _ in range(10):
            queue.add(1, 0, 1000, number * 0.01)
        assert len(queue.take(number * 0.01 + 0.004, 1 << 20)) == 10
    assert queue.dropped_codel == 0


def test_queue_that_stood_begins_anew_after_it_was_short_for_a_moment() -> None:
    queue: FlowQueue[int] = FlowQueue(FlowLimits(max_age=1000.0))
    for number in range(4):
        queue.add(1, number, 10, 1.0)
    assert queue.take(1.01, 1) == [0]
    # Number 1 is dropped, and behind number 2 only one packet is left.
    assert queue.take(1.12, 1) == [2]
    for number in range(4, 12):
        queue.add(1, number, 10, 1.12)
    assert queue.take(1.13, 1) == [3]
    assert queue.take(1.24, 1) == [5]
    assert queue.take(1.30, 1) == [6]
    assert queue.take(1.35, 1) == [8]
    assert queue.dropped_codel == 3


def test_queue_whose_packets_all_became_too_old_does_not_stand() -> None:
    queue: FlowQueue[int] = FlowQueue(FlowLimits(max_age=0.15))
    for number in range(4):
        queue.add(1, number, 10, 1.0)
    assert queue.take(1.01, 1) == [0]
    assert queue.take(1.2, 1) == []
    for number in range(4, 8):
        queue.add(1, number, 10, 1.3)
    assert queue.take(1.31, 1) == [4]
    assert (queue.dropped_age, queue.dropped_codel) == (3, 0)


@pytest.mark.parametrize("size", [0, -1])
def test_packet_without_bytes_is_refused(size: int) -> None:
    with pytest.raises(FlowQueueError, match="bytes"):
        FlowQueue[str]().add(1, "a", size, 0.0)


@pytest.mark.parametrize(
    "limits",
    [
        {"queues": 0},
        {"quantum": 0},
        {"packets": 0},
        {"total_bytes": -1},
        {"target": 0.0},
        {"target": 0.1},
        {"max_age": 0.0},
    ],
)
def test_limit_that_lets_nothing_through_is_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(FlowQueueError, match="above zero"):
        FlowLimits(**limits)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 65_000), min_size=2, max_size=6), st.integers(1, 200_000))
def test_bulk_flows_share_bytes_equally_whatever_their_packets(sizes: list[int], budget: int) -> None:
    limits = FlowLimits(queues=1 << 20, total_bytes=1 << 40, packets=1 << 40, max_age=1000.0, interval=900.0)
    queue: FlowQueue[tuple[int, int]] = FlowQueue(limits)
    shares: Counter[int] = Counter()
    waiting: Counter[int] = Counter()
    goal = 12 * limits.quantum * len(sizes)
    while shares.total() < goal:
        for flow, size in enumerate(sizes):
            while waiting[flow] < 3 * limits.quantum + budget:
                # Large ones for most of it, or a flow of tiny packets would take all day.
                packet = max(size, 2000)
                queue.add(flow, (flow, packet), packet, 0.0)
                waiting[flow] += packet
        for flow, packet in queue.take(0.0, budget):
            shares[flow] += packet
            waiting[flow] -= packet
    # Up to a turn apart and a packet overdrawn, which of 12 turns each is what 10 % leave room for.
    assert max(shares.values()) - min(shares.values()) <= 2 * limits.quantum


def test_shares_of_bulk_flows_differ_by_less_than_a_tenth() -> None:
    limits = FlowLimits(queues=1 << 20, total_bytes=1 << 40, packets=1 << 40, max_age=1000.0, interval=900.0)
    queue: FlowQueue[int] = FlowQueue(limits)
    sizes = (65_226, 1342, 9000, 40_000)
    for flow, size in enumerate(sizes):
        for _ in range(4_000_000 // size):
            queue.add(flow, flow, size, 0.0)
    shares: Counter[int] = Counter()
    while shares.total() < 10_000_000:
        for flow in queue.take(0.0, 200_000):
            shares[flow] += sizes[flow]
    assert max(shares.values()) < 1.1 * min(shares.values())


@settings(deadline=None)
@given(st.integers(1, 8), st.integers(1, 300_000), st.integers(1, 40))
def test_packet_of_a_sparse_flow_leaves_within_one_round(bulk: int, budget: int, rounds: int) -> None:
    limits = FlowLimits(queues=1 << 20, total_bytes=1 << 40, packets=1 << 40, max_age=1000.0, interval=900.0)
    queue: FlowQueue[str] = FlowQueue(limits)
    for flow in range(bulk):
        for _ in range(rounds * (budget // 60_000 + 2) + 10):
            queue.add(flow, "bulk", 60_000, 0.0)
    for _ in range(rounds):
        queue.take(0.0, budget)
    queue.add(99, "hello", 100, 0.0)
    overtaken = 0
    while "hello" not in (taken := queue.take(0.0, 1)):
        overtaken += 60_000 * len(taken)
    # Each other flow at most finishes the turn that it has as a new flow.
    assert overtaken <= bulk * (limits.quantum + 60_000)


@dataclass
class ModelFlow:
    """A queue as RFC 8289 section 5 has it."""

    packets: list[tuple[int, int, float]] = field(default_factory=list)
    deficit: int = 0
    largest: int = 0
    first_above: float = 0.0
    drop_next: float = 0.0
    count: int = 0
    lastcount: int = 0
    dropping: bool = False

    def bytes(self) -> int:
        return sum(size for _, size, _ in self.packets)


@dataclass
class Model:
    """RFC 8290 section 4, in its words, with section 5 of RFC 8289; 0.0 means never, so `now` begins above it."""

    limits: FlowLimits
    flows: dict[int, ModelFlow] = field(default_factory=dict)
    new: list[int] = field(default_factory=list)
    old: list[int] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    codel: int = 0
    age: int = 0
    full: int = 0

    def waiting(self) -> list[tuple[int, int, float]]:
        return [packet for flow in self.flows.values() for packet in flow.packets]

    def add(self, number: int, item: int, size: int, now: float) -> None:
        flow = self.flows.setdefault(number, ModelFlow())
        if number not in self.new + self.old:
            self.new.append(number)
            flow.deficit = self.limits.quantum
            flow.largest = 0
        flow.packets.append((item, size, now))
        flow.largest = max(flow.largest, size)
        while (
            sum(size for _, size, _ in self.waiting()) > self.limits.total_bytes
            or len(self.waiting()) > self.limits.packets
        ):
            fattest = max((self.flows[number] for number in self.new + self.old), key=ModelFlow.bytes)
            half = fattest.bytes() // 2
            for _ in range(DROP_BATCH):
                self.dropped.append(fattest.packets.pop(0)[0])
                self.full += 1
                if fattest.bytes() <= half:
                    break

    def expire(self, now: float) -> None:
        for flow in self.flows.values():
            old = [item for item, _, since in flow.packets if now - since > self.limits.max_age]
            self.dropped += old
            self.age += len(old)
            flow.packets = [packet for packet in flow.packets if packet[0] not in old]

    def take(self, now: float, budget: int) -> list[int]:
        self.expire(now)
        taken: list[int] = []
        while budget > 0 and self.new + self.old:
            source = self.new or self.old
            number = source[0]
            flow = self.flows[number]
            if flow.deficit <= 0:
                flow.deficit += self.limits.quantum
                self.old.append(source.pop(0))
                continue
            packet = self.deque(flow, now)
            if packet is None:
                was_new = source is self.new
                source.pop(0)
                if was_new:
                    self.old.append(number)
                continue
            flow.deficit -= packet[1]
            budget -= packet[1]
            taken.append(packet[0])
        return taken

    def dodeque(self, flow: ModelFlow, now: float) -> tuple[tuple[int, int, float] | None, bool]:
        if not flow.packets:
            flow.first_above = 0.0
            return None, False
        packet = flow.packets.pop(0)
        if now - packet[2] < self.limits.target or flow.bytes() <= flow.largest:
            flow.first_above = 0.0
        elif flow.first_above == 0.0:
            flow.first_above = now + self.limits.interval
        elif now >= flow.first_above:
            return packet, True
        return packet, False

    def control_law(self, time: float, count: int) -> float:
        return time + self.limits.interval / sqrt(count)

    def drop(self, packet: tuple[int, int, float] | None) -> None:
        assert packet is not None
        self.dropped.append(packet[0])
        self.codel += 1

    def deque(self, flow: ModelFlow, now: float) -> tuple[int, int, float] | None:
        packet, ok_to_drop = self.dodeque(flow, now)
        if flow.dropping:
            if not ok_to_drop:
                flow.dropping = False
            while flow.dropping and now >= flow.drop_next:
                self.drop(packet)
                flow.count += 1
                packet, ok_to_drop = self.dodeque(flow, now)
                if not ok_to_drop:
                    flow.dropping = False
                else:
                    flow.drop_next = self.control_law(flow.drop_next, flow.count)
        elif ok_to_drop:
            self.drop(packet)
            packet, ok_to_drop = self.dodeque(flow, now)
            flow.dropping = True
            delta = flow.count - flow.lastcount
            flow.count = 1
            if delta > 1 and now - flow.drop_next < 16 * self.limits.interval:
                flow.count = delta
            flow.drop_next = self.control_law(now, flow.count)
            flow.lastcount = flow.count
        return packet


flow_operations = st.lists(
    st.tuples(st.just("add"), st.integers(0, 5), st.integers(1, 900))
    | st.tuples(st.just("burst"), st.integers(0, 5), st.integers(1, 300))
    | st.tuples(st.just("take"), st.integers(0, 4000), st.none())
    | st.tuples(st.just("pass"), st.sampled_from([1, 10, 40, 120]), st.none())
    | st.tuples(st.just("expire"), st.none(), st.none()),
    min_size=20,
    max_size=150,
)


@settings(deadline=None, max_examples=60)
@given(flow_operations, st.sampled_from([0.05, 0.5]))
def test_any_traffic_is_scheduled_and_dropped_as_the_rfcs_say(
    steps: list[tuple[str, Any, Any]], max_age: float
) -> None:
    limits = FlowLimits(queues=4, quantum=1000, packets=60, total_bytes=9000, target=0.005, max_age=max_age)
    dropped: list[int] = []
    queue: FlowQueue[int] = FlowQueue(limits, dropped.append)
    model = Model(limits)
    now, added, taken = 1.0, 0, 0
    for step, argument, size in steps:
        if step in ("add", "burst"):
            for _ in range(1 if step == "add" else 8):
                queue.add(argument, added, size, now)
                model.add(argument % limits.queues, added, size, now)
                added += 1
        elif step == "take":
            packets = queue.take(now, argument)
            assert packets == model.take(now, argument)
            taken += len(packets)
        elif step == "pass":
            now += argument * 0.001
        else:
            queue.expire(now)
            model.expire(now)
        assert sorted(dropped) == sorted(model.dropped)
        assert (queue.dropped_codel, queue.dropped_age, queue.dropped_full) == (model.codel, model.age, model.full)
        assert added == taken + len(dropped) + len(queue)
        assert queue.pending_bytes == sum(size for _, size, _ in model.waiting())
        assert queue.oldest == min((since for _, _, since in model.waiting()), default=None)


@pytest.mark.parametrize("seed", range(20))
def test_standing_queue_is_controlled_as_the_rfc_says(seed: int) -> None:
    random = Random(seed)
    limits = FlowLimits(queues=1, max_age=1000.0, total_bytes=100_000)
    queue: FlowQueue[int] = FlowQueue(limits)
    model = Model(limits)
    now, added = 1.0, 0
    for _ in range(300):
        # Now a flood, now a trickle: the queue begins to stand, is controlled, drains and stands again.
        for _ in range(random.choice([1, 2, 3, 9])):
            queue.add(0, added, 1000, now)
            model.add(0, added, 1000, now)
            added += 1
        now += random.uniform(0.001, 0.06)
        budget = random.choice([0, 1, 2000, 4000, 20_000])
        assert queue.take(now, budget) == model.take(now, budget)
    assert queue.dropped_codel == model.codel > 5


SOURCE, DESTINATION = bytes(range(16)), bytes(range(100, 116))


def packet(next_header: int, payload: bytes, traffic_class: int = 0, hop_limit: int = 64) -> bytes:
    return (
        (6 << 28 | traffic_class << 20).to_bytes(4, "big")
        + len(payload).to_bytes(2, "big")
        + bytes([next_header, hop_limit])
        + SOURCE
        + DESTINATION
        + payload
    )


def ports(source: int, destination: int, rest: bytes = bytes(16)) -> bytes:
    return source.to_bytes(2, "big") + destination.to_bytes(2, "big") + rest


@pytest.mark.parametrize("transport", [6, 17, 33, 132, 136])
def test_ports_tell_flows_apart(transport: int) -> None:
    first = packet(transport, ports(443, 50_000))
    assert flow_key(first) == bytes([transport]) + SOURCE + DESTINATION + bytes.fromhex("01bbc350")
    assert flow_key(memoryview(first)) == flow_key(packet(transport, ports(443, 50_000, b"other"), 8, 63))
    assert flow_key(first) != flow_key(packet(transport, ports(443, 50_001)))
    assert flow_key(first) != flow_key(packet(transport, ports(444, 50_000)))


def test_transports_with_the_same_ports_are_different_flows() -> None:
    assert flow_key(packet(6, ports(1, 2))) != flow_key(packet(17, ports(1, 2)))


@pytest.mark.parametrize("next_header", [44, 58, 0, 59])
def test_packets_without_ports_are_told_apart_by_addresses_and_next_header(next_header: int) -> None:
    key = bytes([next_header]) + SOURCE + DESTINATION
    assert flow_key(packet(next_header, ports(1, 2))) == flow_key(packet(next_header, ports(3, 4))) == key


def test_addresses_tell_flows_apart() -> None:
    one = packet(6, ports(1, 2))
    other = bytearray(one)
    other[39] ^= 1
    assert flow_key(one) != flow_key(other)


@given(st.binary(max_size=60))
def test_any_bytes_have_a_flow(data: bytes) -> None:
    assert flow_key(data) == flow_key(memoryview(data))
