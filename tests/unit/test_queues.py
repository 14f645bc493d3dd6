"""The queues, held against slow obvious models: lists of packets that know which kind they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.queues import MAX_BUFFERS, QueueError, SendLimits, SendQueue, WaitingPackets, WaitLimits


def data(queue: SendQueue, packets: list[bytes], now: float = 0.0, lease: object = None) -> None:
    queue.data(memoryview(b"".join(packets)), list(accumulate(map(len, packets))), now, lease)


def offered(queue: SendQueue, now: float = 0.0, limit: int = 1 << 20) -> bytes:
    return b"".join(queue.buffers(now, limit))


def write(queue: SendQueue, count: int, now: float = 0.0) -> bytes:
    piece = offered(queue, now)[:count]
    queue.sent(len(piece))
    return piece


def test_control_leaves_before_data() -> None:
    queue = SendQueue()
    data(queue, [b"data"])
    queue.control(b"hello")
    assert offered(queue) == b"hellodata"


def test_torn_data_packet_is_finished_before_control() -> None:
    queue = SendQueue()
    data(queue, [b"first", b"second"])
    assert write(queue, 2) == b"fi"
    queue.control(b"hello")
    assert offered(queue) == b"rsthellosecond"


def test_torn_control_packet_is_finished_first() -> None:
    queue = SendQueue()
    queue.control(b"hello")
    queue.control(b"update")
    assert write(queue, 3) == b"hel"
    assert write(queue, 1) == b"l"
    assert offered(queue) == b"oupdate"


def test_write_that_ends_between_packets_tears_none() -> None:
    queue = SendQueue()
    data(queue, [b"first", b"second"])
    assert write(queue, 5) == b"first"
    queue.control(b"hello")
    assert offered(queue) == b"hellosecond"


def test_run_that_is_sent_in_one_go_is_offered_in_one_piece() -> None:
    queue = SendQueue()
    data(queue, [b"first", b"second"])
    assert queue.buffers(0.0, 100) == [b"firstsecond"]
    queue.sent(11)
    assert (queue.pending_bytes, queue.oldest, queue.buffers(0.0, 100)) == (0, None, [])


def test_offer_ends_with_the_last_packet_that_fits() -> None:
    queue = SendQueue()
    data(queue, [b"first", b"second", b"third"])
    data(queue, [b"fourth"])
    assert offered(queue, limit=15) == b"firstsecond"
    assert offered(queue, limit=16) == b"firstsecondthird"
    assert offered(queue, limit=21) == b"firstsecondthird"


def test_control_that_does_not_fit_the_limit_holds_data_back() -> None:
    queue = SendQueue()
    queue.control(b"hello")
    queue.control(b"update")
    data(queue, [b"d"])
    assert offered(queue, limit=10) == b"hello"


@pytest.mark.parametrize("limit", [0, 1, 4])
def test_packet_larger_than_the_limit_is_offered_alone(limit: int) -> None:
    queue = SendQueue()
    data(queue, [b"first", b"second"])
    assert offered(queue, limit=limit) == b"first"
    queue.control(b"hello")
    assert offered(queue, limit=limit) == b"hello"


def test_offer_has_no_more_pieces_than_the_kernel_takes() -> None:
    queue = SendQueue()
    for _ in range(MAX_BUFFERS + 5):
        queue.control(b"c")
    data(queue, [b"d"])
    assert queue.buffers(0.0, 1 << 20) == [b"c"] * MAX_BUFFERS
    queue.sent(MAX_BUFFERS)
    for _ in range(MAX_BUFFERS):
        data(queue, [b"d"])
    assert queue.buffers(0.0, 1 << 20) == [b"c"] * 5 + [b"d"] * (MAX_BUFFERS - 5)


def test_old_data_is_dropped_and_counted() -> None:
    queue = SendQueue(SendLimits(max_age=1.0))
    data(queue, [b"first", b"second"], now=10.0)
    data(queue, [b"third"], now=11.0)
    assert queue.oldest == 10.0
    assert offered(queue, now=11.0) == b"firstsecondthird"
    assert offered(queue, now=11.1) == b"third"
    assert (queue.dropped_age, queue.oldest, queue.pending_bytes) == (2, 11.0, 5)


def test_rest_of_a_torn_packet_is_never_too_old() -> None:
    queue = SendQueue(SendLimits(max_age=1.0))
    data(queue, [b"first", b"second", b"third"])
    write(queue, 7)
    assert offered(queue, now=100.0) == b"cond"
    assert queue.dropped_age == 1


def test_oldest_data_makes_room() -> None:
    queue = SendQueue(SendLimits(data_bytes=10))
    data(queue, [b"aaaa", b"bbbb"])
    data(queue, [b"cccc"])
    assert offered(queue) == b"bbbbcccc"
    data(queue, [b"ddd", b"eee", b"fff", b"ggg"])
    assert offered(queue) == b"eeefffggg"
    assert queue.dropped_full == 4


def test_rest_of_a_torn_packet_does_not_make_room() -> None:
    queue = SendQueue(SendLimits(data_bytes=10))
    data(queue, [b"aaaa", b"bbbb"])
    write(queue, 1)
    data(queue, [b"cccccccccc"])
    assert offered(queue) == b"aaacccccccccc"


def test_control_beyond_its_bounds_is_refused_and_counted() -> None:
    queue = SendQueue(SendLimits(control_packets=2, control_bytes=10))
    assert queue.control(b"123456")
    assert not queue.control(b"12345")
    assert queue.control(b"1234")
    write(queue, 6)
    assert queue.control(b"1")
    assert not queue.control(b"2")
    assert queue.dropped_control == 2


def test_lease_comes_back_when_the_last_byte_is_sent() -> None:
    queue = SendQueue()
    data(queue, [b"first", b"second"], lease=7)
    write(queue, 10)
    assert queue.released() == []
    write(queue, 1)
    assert queue.released() == [7]
    assert queue.released() == []


def test_lease_of_a_torn_packet_comes_back_when_it_is_finished_though_its_run_was_dropped() -> None:
    queue = SendQueue(SendLimits(max_age=1.0))
    data(queue, [b"first", b"second"], lease=7)
    write(queue, 2)
    queue.expire(5.0)
    assert (queue.dropped_age, queue.released()) == (1, [])
    write(queue, 3, now=5.0)
    assert queue.released() == [7]


def test_lease_of_a_run_outlives_a_torn_packet_in_its_middle() -> None:
    queue = SendQueue()
    data(queue, [b"first", b"second"], lease=7)
    write(queue, 2)
    write(queue, 3)
    assert queue.released() == []
    write(queue, 6)
    assert queue.released() == [7]


def test_leases_of_dropped_data_come_back() -> None:
    queue = SendQueue(SendLimits(data_bytes=5, max_age=1.0))
    data(queue, [b"first"], lease=1)
    data(queue, [b"other"], lease=2)
    queue.expire(9.0)
    assert queue.released() == [1, 2]


@pytest.mark.parametrize("count", [-1, 6])
def test_more_than_was_offered_cannot_have_been_sent(count: int) -> None:
    queue = SendQueue()
    queue.control(b"hello")
    queue.buffers(0.0, 100)
    with pytest.raises(QueueError, match=f"{count} bytes sent of 5 offered"):
        queue.sent(count)


@pytest.mark.parametrize("change", ["control", "data", "expire"])
def test_offer_is_void_once_the_queue_has_changed(change: str) -> None:
    queue = SendQueue()
    data(queue, [b"data"])
    queue.buffers(0.0, 100)
    if change == "control":
        queue.control(b"hello")
    elif change == "data":
        data(queue, [b"more"])
    else:
        queue.expire(100.0)
    with pytest.raises(QueueError, match="4 bytes sent of 0 offered"):
        queue.sent(4)


@pytest.mark.parametrize("boundaries", [[], [0, 5], [-1, 5], [4], [6], [2, 2, 5], [3, 2, 5]])
def test_boundaries_that_do_not_cut_the_payload_are_refused(boundaries: list[int]) -> None:
    with pytest.raises(QueueError, match="boundaries"):
        SendQueue().data(memoryview(b"12345"), boundaries, 0.0)


def test_control_packet_without_bytes_is_refused() -> None:
    with pytest.raises(QueueError, match="without bytes"):
        SendQueue().control(b"")


@pytest.mark.parametrize("limits", [{"control_packets": 0}, {"control_bytes": 0}, {"data_bytes": -1}, {"max_age": 0.0}])
def test_send_limit_that_lets_nothing_through_is_refused(limits: dict[str, int]) -> None:
    with pytest.raises(QueueError, match="above zero"):
        SendLimits(**limits)


@dataclass(eq=False)
class Waiting:
    """A packet of the model, `written` of its bytes out."""

    packet: bytes
    since: float
    run: int | None
    written: int = 0

    @property
    def rest(self) -> bytes:
        return self.packet[self.written :]


@dataclass
class ObviousQueue:
    """What `SendQueue` does, packet by packet and byte by byte."""

    limits: SendLimits
    torn: list[Waiting] = field(default_factory=list)
    control: list[Waiting] = field(default_factory=list)
    data: list[Waiting] = field(default_factory=list)
    dropped_age: int = 0
    dropped_full: int = 0

    def order(self) -> list[Waiting]:
        return self.torn + self.control + self.data

    def add_control(self, packet: bytes) -> bool:
        if (
            len(self.control) == self.limits.control_packets
            or sum(len(waiting.packet) for waiting in self.control) + len(packet) > self.limits.control_bytes
        ):
            return False
        self.control.append(Waiting(packet, 0.0, None))
        return True

    def add_data(self, packets: list[bytes], now: float, run: int) -> None:
        self.data += [Waiting(packet, now, run) for packet in packets]
        while sum(len(waiting.packet) for waiting in self.data) > self.limits.data_bytes:
            self.data.pop(0)
            self.dropped_full += 1

    def expire(self, now: float) -> None:
        while self.data and now - self.data[0].since > self.limits.max_age:
            self.data.pop(0)
            self.dropped_age += 1

    def offer(self, limit: int) -> bytes:
        offer = b""
        for waiting in self.order():
            if offer and len(offer) + len(waiting.rest) > limit:
                break
            offer += waiting.rest
        return offer

    def sent(self, count: int) -> None:
        for _ in range(count):
            waiting = self.order()[0]
            for queue in (self.torn, self.control, self.data):
                if waiting in queue:
                    queue.remove(waiting)
            waiting.written += 1
            if waiting.rest:
                self.torn = [waiting]

    def leases(self) -> set[int]:
        return {waiting.run for waiting in self.torn + self.data if waiting.run is not None}


def packets_of(kind: bytes) -> st.SearchStrategy[bytes]:
    """Packets that say how long they are and of which kind, so that the stream can be read again."""
    return st.integers(0, 9).map(lambda length: bytes([length]) + kind * (length + 1))


operations = st.lists(
    st.tuples(st.just("control"), packets_of(b"c"))
    | st.tuples(st.just("data"), st.lists(packets_of(b"d"), min_size=1, max_size=5))
    | st.tuples(st.just("pass"), st.sampled_from([0.0, 0.3, 0.6]))
    | st.tuples(st.just("write"), st.tuples(st.integers(0, 60), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))),
    max_size=40,
)


@given(operations)
def test_stream_is_that_of_the_obvious_queue_for_any_short_writes(steps: list[tuple[str, Any]]) -> None:
    limits = SendLimits(control_packets=4, control_bytes=30, data_bytes=60, max_age=1.0)
    queue, model = SendQueue(limits), ObviousQueue(limits)
    now, stream, refused = 0.0, b"", 0
    leased: set[object] = set()
    for number, (step, argument) in enumerate(steps):
        if step == "control":
            accepted = queue.control(argument)
            assert accepted == model.add_control(argument)
            refused += not accepted
        elif step == "data":
            data(queue, argument, now, lease=number)
            model.add_data(argument, now, number)
            leased.add(number)
        elif step == "pass":
            now += argument
        else:
            limit, share = argument
            model.expire(now)
            offer = offered(queue, now, limit)
            assert offer == model.offer(limit)
            count = round(len(offer) * share)
            queue.sent(count)
            model.sent(count)
            stream += offer[:count]
        leased -= set(queue.released())
        assert leased == model.leases()
        assert queue.pending_bytes == sum(len(waiting.rest) for waiting in model.order())
        assert queue.oldest == (model.data[0].since if model.data else None)
    assert (queue.dropped_age, queue.dropped_full, queue.dropped_control) == (
        model.dropped_age,
        model.dropped_full,
        refused,
    )
    assert_whole_packets(stream)


def assert_whole_packets(stream: bytes) -> None:
    while stream:
        packet, stream = stream[: stream[0] + 2], stream[stream[0] + 2 :]
        assert set(packet[1:]) <= {ord("c")} or set(packet[1:]) <= {ord("d")}


NEAR, FAR = bytes(8), bytes([5] * 8)


def test_packets_come_back_in_order_of_arrival() -> None:
    waiting = WaitingPackets()
    for packet in (b"one", b"two", b"three"):
        assert waiting.add(NEAR, packet, 0.0)
    assert waiting.add(FAR, b"other", 0.0)
    assert waiting.prefixes() == [NEAR, FAR]
    assert NEAR in waiting
    assert waiting.take(NEAR) == [b"one", b"two", b"three"]
    assert waiting.take(NEAR) == []
    assert NEAR not in waiting
    assert (len(waiting), waiting.pending_bytes, waiting.prefixes()) == (1, 5, [FAR])


def test_full_prefix_refuses_the_newest() -> None:
    waiting = WaitingPackets(WaitLimits(prefix_packets=2))
    assert [waiting.add(NEAR, bytes([number]), 0.0) for number in range(3)] == [True, True, False]
    assert waiting.add(FAR, b"x", 0.0)
    assert waiting.take(NEAR) == [b"\0", b"\1"]
    assert (waiting.refused, waiting.evicted) == (1, 0)


def test_prefix_that_has_waited_longest_makes_room_when_there_are_too_many() -> None:
    waiting = WaitingPackets(WaitLimits(total_packets=3))
    for prefix, packet in ((NEAR, b"1"), (NEAR, b"2"), (FAR, b"3"), (FAR, b"4"), (FAR, b"5")):
        assert waiting.add(prefix, packet, 0.0)
    assert waiting.prefixes() == [FAR]
    assert waiting.take(FAR) == [b"3", b"4", b"5"]
    assert waiting.evicted == 2


def test_prefix_that_has_waited_longest_makes_room_when_there_are_too_many_bytes() -> None:
    waiting = WaitingPackets(WaitLimits(total_bytes=10))
    waiting.add(NEAR, bytes(6), 0.0)
    waiting.add(FAR, bytes(4), 0.0)
    assert waiting.add(NEAR, bytes(5), 0.0)
    assert (waiting.take(NEAR), waiting.take(FAR), waiting.evicted) == ([bytes(5)], [bytes(4)], 1)


def test_packet_larger_than_all_room_is_refused() -> None:
    waiting = WaitingPackets(WaitLimits(total_bytes=10))
    waiting.add(NEAR, bytes(6), 0.0)
    assert not waiting.add(FAR, bytes(11), 0.0)
    assert (len(waiting), waiting.refused) == (1, 1)


def test_packets_that_waited_too_long_are_given_back() -> None:
    waiting = WaitingPackets()
    waiting.add(NEAR, b"old", 0.0)
    waiting.add(FAR, b"young", 2.0)
    waiting.add(NEAR, b"younger", 2.5)
    assert waiting.expire(3.0, 3.0) == []
    assert waiting.expire(3.5, 3.0) == [(NEAR, [b"old"])]
    assert waiting.expire(10.0, 3.0) == [(NEAR, [b"younger"]), (FAR, [b"young"])]
    assert (len(waiting), waiting.pending_bytes) == (0, 0)


@pytest.mark.parametrize("limits", [{"prefix_packets": 0}, {"total_packets": 0}, {"total_bytes": 0}])
def test_wait_limit_that_lets_nothing_wait_is_refused(limits: dict[str, int]) -> None:
    with pytest.raises(QueueError, match="above zero"):
        WaitLimits(**limits)


waits = st.lists(
    st.tuples(st.just("add"), st.integers(0, 3), st.binary(max_size=12))
    | st.tuples(st.just("take"), st.integers(0, 3), st.none())
    | st.tuples(st.just("expire"), st.integers(0, 5), st.none()),
    max_size=60,
)


@given(waits)
def test_waiting_packets_are_those_of_an_obvious_list(steps: list[tuple[str, int, bytes]]) -> None:
    limits = WaitLimits(prefix_packets=4, total_packets=8, total_bytes=60)
    waiting = WaitingPackets(limits)
    model: list[tuple[bytes, bytes, float]] = []
    order: list[bytes] = []
    for now, (step, number, packet) in enumerate(steps):
        prefix = bytes([number] * 8)
        if step == "add":
            room = sum(held == prefix for held, _, _ in model) < limits.prefix_packets
            assert waiting.add(prefix, packet, now) == room
            while room and (len(model) == limits.total_packets or size(model) + len(packet) > limits.total_bytes):
                model.remove(next(held for held in model if held[0] == order[0]))
                order = [held for held in order if any(entry[0] == held for entry in model)]
            if room:
                model.append((prefix, packet, now))
                order += [prefix] if prefix not in order else []
        elif step == "take":
            assert waiting.take(prefix) == [held for owner, held, _ in model if owner == prefix]
            model = [entry for entry in model if entry[0] != prefix]
        else:
            old = [entry for entry in model if now - entry[2] > number]
            model = [entry for entry in model if entry not in old]
            owners = [owner for owner in order if any(entry[0] == owner for entry in old)]
            assert waiting.expire(now, number) == [
                (owner, [held for prefix, held, _ in old if prefix == owner]) for owner in owners
            ]
        order = [held for held in order if any(entry[0] == held for entry in model)]
        assert waiting.prefixes() == order
        assert (len(waiting), waiting.pending_bytes) == (len(model), size(model))


def size(entries: list[tuple[bytes, bytes, float]]) -> int:
    return sum(len(packet) for _, packet, _ in entries)
