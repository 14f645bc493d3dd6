"""The queues, held against slow obvious models: lists of packets that know which kind they are."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.queues import MAX_BUFFERS, QueueError, SendLimits, SendQueue
from protocol.waiting import WaitingPackets, WaitLimits


def data(
    queue: SendQueue, packets: list[bytes], now: float = 0.0, lease: object = None, pair: bytes | None = b"pair"
) -> None:
    queue.data(memoryview(b"".join(packets)), list(accumulate(map(len, packets))), now, lease, pair)


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


def test_oldest_data_of_a_pair_that_has_too_much_makes_room() -> None:
    queue = SendQueue(SendLimits(pair_bytes=10))
    data(queue, [b"aaaa", b"bbbb"])
    data(queue, [b"cccc"])
    assert offered(queue) == b"bbbbcccc"
    data(queue, [b"ddd", b"eee", b"fff", b"ggg"])
    assert offered(queue) == b"eeefffggg"
    assert queue.dropped_full == 4


def test_rest_of_a_torn_packet_does_not_make_room() -> None:
    queue = SendQueue(SendLimits(pair_bytes=10))
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
    queue = SendQueue(SendLimits(pair_bytes=5, max_age=1.0))
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


@pytest.mark.parametrize(
    "limits",
    [
        {"control_packets": 0},
        {"control_bytes": 0},
        {"data_bytes": -1},
        {"pair_bytes": 0},
        {"queues": 0},
        {"quantum": 0},
        {"max_age": 0.0},
    ],
)
def test_send_limit_that_lets_nothing_through_is_refused(limits: dict[str, int]) -> None:
    with pytest.raises(QueueError, match="above zero"):
        SendLimits(**limits)


MANY = 1 << 40
"""So many queues that no two pairs of a test share one."""
A, B, C = (bytes([letter]) * 32 for letter in b"abc")


def data_packet(pair: bytes, length: int) -> bytes:
    """A data packet as far as queues look at it: the addresses lie in bytes 8 to 39. It says how long it is."""
    return length.to_bytes(8, "big") + pair + b"." * (length - 40)


def test_pairs_take_turns_of_a_quantum() -> None:
    queue = SendQueue(SendLimits(queues=MANY, quantum=4))
    data(queue, [b"a1", b"a2", b"a3", b"a4", b"a5"], pair=A)
    data(queue, [b"b1", b"b2", b"b3"], pair=B)
    assert write(queue, 100) == b"a1a2b1b2"
    assert write(queue, 100) == b"a3a4b3"
    assert write(queue, 100) == b"a5"


def test_turn_that_was_overdrawn_is_made_up_for() -> None:
    queue = SendQueue(SendLimits(queues=MANY, quantum=3))
    data(queue, [b"a1", b"a2", b"a3", b"a4"], pair=A)
    data(queue, [b"b1", b"b2", b"b3", b"b4"], pair=B)
    assert write(queue, 100) == b"a1a2b1b2"
    assert write(queue, 100) == b"a3b3"


def test_pair_whose_packet_is_many_turns_long_still_gets_its_next_turn() -> None:
    queue = SendQueue(SendLimits(queues=MANY, quantum=2))
    data(queue, [b"a long packet", b"a"], pair=A)
    data(queue, [b"b1", b"b2"], pair=B)
    assert write(queue, 100) == b"a long packetb1"
    assert write(queue, 100) == b"ab2"


def test_pair_alone_is_offered_whole() -> None:
    queue = SendQueue(SendLimits(quantum=4))
    data(queue, [b"a1", b"a2", b"a3"], pair=A)
    data(queue, [b"a4", b"a5", b"a6"], pair=A)
    assert queue.buffers(0.0, 100) == [b"a1a2a3", b"a4a5a6"]


def test_pair_that_wants_little_waits_for_one_turn_of_a_bulk_pair_only() -> None:
    queue = SendQueue(SendLimits(queues=MANY, quantum=100))
    for _ in range(10):
        data(queue, [b"a" * 50] * 10, pair=A)
    write(queue, 1000)
    data(queue, [b"hi"], pair=B)
    assert write(queue, 1000) == b"a" * 100 + b"hi"


def test_turn_goes_on_where_a_short_write_ended_it() -> None:
    queue = SendQueue(SendLimits(queues=MANY, quantum=6))
    data(queue, [b"a1", b"a2", b"a3", b"a4"], pair=A)
    data(queue, [b"b1", b"b2", b"b3", b"b4"], pair=B)
    assert write(queue, 3) == b"a1a"
    assert offered(queue) == b"2a3b1b2b3"
    assert write(queue, 6) == b"2a3b1b"
    assert offered(queue) == b"2b3a4"


def test_turn_that_the_limit_cuts_short_goes_on_with_the_next_write() -> None:
    queue = SendQueue(SendLimits(queues=MANY, quantum=6))
    data(queue, [b"a1", b"a2", b"a3", b"a4"], pair=A)
    data(queue, [b"b1"], pair=B)
    assert offered(queue, limit=5) == b"a1a2"
    queue.sent(4)
    assert offered(queue) == b"a3b1"


def test_pair_that_ran_out_comes_back_with_a_whole_turn() -> None:
    queue = SendQueue(SendLimits(queues=MANY, quantum=6))
    data(queue, [b"a1", b"a2"], pair=A)
    data(queue, [b"b1"] * 9, pair=B)
    assert write(queue, 2) + write(queue, 2) == b"a1a2"
    data(queue, [b"a3", b"a4", b"a5", b"a6"], pair=A)
    assert offered(queue) == b"b1b1b1a3a4a5"


def test_every_pairs_data_becomes_too_old_in_its_time() -> None:
    queue = SendQueue(SendLimits(queues=MANY, max_age=1.0))
    for since, pair in ((10.0, A), (10.5, B), (11.0, C)):
        data(queue, [b"packet"], since, pair=pair)
    dropped = []
    for now in (11.0, 11.1, 11.6, 12.1):
        queue.expire(now)
        dropped.append(queue.dropped_age)
    assert (dropped, queue.oldest) == ([0, 1, 2, 3], None)


def test_pair_that_has_too_much_loses_its_own_packets_alone() -> None:
    queue = SendQueue(SendLimits(queues=MANY, pair_bytes=4))
    data(queue, [b"b1"], pair=B)
    data(queue, [b"a1", b"a2", b"a3"], pair=A)
    assert (offered(queue), queue.dropped_full) == (b"b1a2a3", 1)


def test_pair_that_has_most_makes_room_when_all_have_too_much() -> None:
    queue = SendQueue(SendLimits(queues=MANY, data_bytes=20))
    data(queue, [b"b1"], pair=B)
    data(queue, [b"a%d" % number for number in range(8)], pair=A)
    data(queue, [b"c1", b"c2"], pair=C)
    # Half of what the fattest pair had goes at once.
    assert (offered(queue), queue.dropped_full) == (b"b1a4a5a6a7c1c2", 4)


def test_packet_larger_than_all_room_is_dropped() -> None:
    queue = SendQueue(SendLimits(queues=MANY, data_bytes=20))
    data(queue, [b"b1"], pair=B)
    data(queue, [b"a" * 21], lease=7, pair=A)
    assert (offered(queue), queue.dropped_full, queue.released()) == (b"b1", 1, [7])


def test_pairs_that_hash_to_the_same_queue_share_it() -> None:
    queue = SendQueue(SendLimits(queues=1, quantum=2))
    for pair, packet in ((A, b"a1"), (B, b"b1"), (C, b"c1"), (A, b"a2")):
        data(queue, [packet], pair=pair)
    assert offered(queue) == b"a1b1c1a2"


def test_run_of_several_pairs_is_queued_by_the_packets_own_addresses() -> None:
    queue = SendQueue(SendLimits(queues=MANY, quantum=90))
    packets = [data_packet(pair, 40 + number) for number, pair in enumerate([A, A, B, A, B, B])]
    data(queue, packets, pair=None)
    order = [packets[number] for number in (0, 1, 3, 2, 4, 5)]
    assert offered(queue) == b"".join(order[:3]) + b"".join(order[3:])
    data(queue, [data_packet(A, 60)], pair=A)
    assert write(queue, 10_000) == b"".join([*order[:3], *order[3:]])
    assert offered(queue) == data_packet(A, 60)


def test_lease_of_a_run_of_several_pairs_comes_back_with_its_last_packet() -> None:
    queue = SendQueue(SendLimits(queues=MANY, max_age=1.0))
    data(queue, [data_packet(pair, 50) for pair in (A, B, A, C)], lease=7, pair=None)
    write(queue, 60)
    assert queue.released() == []
    write(queue, 130)
    assert queue.released() == []
    write(queue, 10)
    assert queue.released() == [7]
    data(queue, [data_packet(pair, 50) for pair in (A, B)], lease=8, pair=None)
    data(queue, [data_packet(pair, 50) for pair in (A, B)], pair=None)
    queue.expire(9.0)
    assert queue.released() == [8]


def test_packet_without_a_whole_header_has_a_place_in_the_queue_too() -> None:
    queue = SendQueue(SendLimits(queues=MANY))
    data(queue, [b"short", data_packet(A, 40), b"short too"], pair=None)
    assert sorted(offered(queue)) == sorted(b"short" + data_packet(A, 40) + b"short too")


def test_offer_says_where_its_buffers_lie() -> None:
    queue = SendQueue(SendLimits(queues=MANY))
    mixed = [data_packet(A, 50), data_packet(B, 60)]
    queue.data(memoryview(b"".join(mixed)), [50, 110], 0.0, place=1000)
    queue.data(memoryview(b"inline"), [6], 0.0, pair=A)
    assert write(queue, 10) == mixed[0][:10]
    queue.control(b"hello")
    offer = queue.offer(0.0, 1 << 20)
    assert offer.buffers == [mixed[0][10:], b"hello", b"inline", mixed[1]]
    # What lies in our own memory is copied, and its places count in the copy.
    assert (offer.pieces, offer.lead) == ([0, 40, 40, 5, 45, 6, 1050, 60], 40)
    assert offer.own == mixed[0][10:] + b"hello" + b"inline"


def test_rest_that_a_predecessor_tore_goes_first() -> None:
    queue = SendQueue()
    queue.control(b"hello")
    queue.resume(b"rest")
    assert not queue.between_packets
    assert write(queue, 4) == b"rest"
    assert queue.between_packets
    assert offered(queue) == b"hello"


@pytest.mark.parametrize("seed", range(5))
def test_bulk_pairs_share_the_link_equally_whatever_their_packets(seed: int) -> None:
    random = Random(seed)
    queue = SendQueue(SendLimits(queues=MANY, data_bytes=1 << 40, pair_bytes=1 << 40))
    shares: Counter[bytes] = Counter()
    waiting: Counter[bytes] = Counter()
    sizes = {A: 1342, B: 65_575, C: random.randint(40, 65_575)}
    stream = bytearray()
    for _ in range(400):
        for pair, size in sizes.items():
            while waiting[pair] < 400_000:
                packets = [data_packet(pair, size)] * (65_575 // size)
                data(queue, packets, pair=pair)
                waiting[pair] += size * len(packets)
        stream += write(queue, random.randint(1, 300_000))
        while len(stream) >= 8 and len(stream) >= (length := int.from_bytes(stream[:8], "big")):
            pair = bytes(stream[8:40])
            assert sizes[pair] == length
            shares[pair] += length
            waiting[pair] -= length
            del stream[:length]
    assert max(shares.values()) < 1.1 * min(shares.values())


@dataclass(eq=False)
class Waiting:
    """A packet of the model, `written` of its bytes out. Control has no pair."""

    packet: bytes
    since: float = 0.0
    run: int | None = None
    pair: bytes | None = None
    written: int = 0

    @property
    def rest(self) -> bytes:
        return self.packet[self.written :]


def bytes_of(waiting: list[Waiting]) -> int:
    return sum(len(packet.rest) for packet in waiting)


@dataclass
class ObviousQueue:
    """What `SendQueue` does, packet by packet."""

    limits: SendLimits
    torn: list[Waiting] = field(default_factory=list)
    control: list[Waiting] = field(default_factory=list)
    pairs: dict[bytes, list[Waiting]] = field(default_factory=dict)
    ring: list[bytes] = field(default_factory=list)
    credit: dict[bytes, int] = field(default_factory=dict)
    offered: list[Waiting] = field(default_factory=list)
    dropped_age: int = 0
    dropped_full: int = 0

    def data(self) -> list[Waiting]:
        return [packet for pair in self.ring for packet in self.pairs[pair]]

    def add_control(self, packet: bytes) -> bool:
        if (
            len(self.control) == self.limits.control_packets
            or bytes_of(self.control) + len(packet) > self.limits.control_bytes
        ):
            return False
        self.control.append(Waiting(packet))
        return True

    def add_data(self, packets: list[bytes], now: float, run: int) -> None:
        for pair, neighbours in groupby(packets, key=lambda packet: packet[8:40]):
            if pair not in self.ring:
                self.ring.append(pair)
                self.pairs[pair] = []
                self.credit[pair] = self.limits.quantum
            self.pairs[pair] += [Waiting(packet, now, run, pair) for packet in neighbours]
            self.drop_oldest(pair, bytes_of(self.pairs[pair]) - self.limits.pair_bytes)
            while (surplus := bytes_of(self.data()) - self.limits.data_bytes) > 0:
                fattest = max(self.ring, key=lambda pair: bytes_of(self.pairs[pair]))
                half = bytes_of(self.pairs[fattest]) // 2
                self.drop_oldest(fattest, max(surplus, min(half, self.limits.quantum)))

    def drop_oldest(self, pair: bytes, surplus: int) -> None:
        while surplus > 0 and self.pairs[pair]:
            surplus -= len(self.pairs[pair].pop(0).packet)
            self.dropped_full += 1
        self.tidy()

    def expire(self, now: float) -> None:
        for pair in self.ring:
            young = [packet for packet in self.pairs[pair] if now - packet.since <= self.limits.max_age]
            self.dropped_age += len(self.pairs[pair]) - len(young)
            self.pairs[pair] = young
        self.tidy()

    def tidy(self) -> None:
        self.ring = [pair for pair in self.ring if self.pairs[pair]]

    def offer(self, limit: int) -> bytes:
        self.offered = []
        for packet in self.order():
            if self.offered and bytes_of([*self.offered, packet]) > limit:
                break
            self.offered.append(packet)
        return b"".join(packet.rest for packet in self.offered)

    def order(self) -> list[Waiting]:
        """One turn of each pair behind what goes before data."""
        order = self.torn + self.control
        for pair in self.ring:
            credit = self.credit[pair]
            for packet in self.pairs[pair]:
                if credit > 0 or len(self.ring) == 1:
                    order.append(packet)
                    credit -= len(packet.packet)
        return order

    def sent(self, count: int) -> None:
        alone = len(self.ring) == 1
        for packet in self.offered:
            if not count:
                break
            written = min(count, len(packet.rest))
            count -= written
            if packet in self.torn:
                self.torn = []
            elif packet.pair is None:
                self.control.remove(packet)
            else:
                self.sent_data(packet.pair, packet, alone)
            packet.written += written
            if packet.rest:
                self.torn = [packet]

    def sent_data(self, pair: bytes, packet: Waiting, alone: bool) -> None:
        self.pairs[pair].remove(packet)
        self.tidy()
        if pair in self.ring and not alone:
            self.credit[pair] -= len(packet.packet)
            if self.credit[pair] <= 0:
                self.credit[pair] = max(1, self.credit[pair] + self.limits.quantum)
                self.ring = [*self.ring[1:], pair]

    def leases(self) -> set[int]:
        return {packet.run for packet in self.torn + self.data() if packet.run is not None}


control_packets = st.integers(8, 20).map(lambda length: length.to_bytes(8, "big") + b"!" * (length - 8))
data_packets = st.tuples(st.sampled_from([A, B, C]), st.integers(40, 60)).map(lambda drawn: data_packet(*drawn))
operations = st.lists(
    st.tuples(st.just("control"), control_packets)
    | st.tuples(st.just("mixed"), st.lists(data_packets, min_size=1, max_size=6))
    | st.tuples(st.just("one pair"), st.tuples(st.sampled_from([A, B, C]), st.lists(st.integers(40, 60), min_size=1)))
    | st.tuples(st.just("pass"), st.sampled_from([0.0, 0.3, 0.6]))
    | st.tuples(st.just("write"), st.tuples(st.integers(0, 400), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))),
    max_size=40,
)


@settings(deadline=None)
@given(operations)
def test_stream_is_that_of_the_obvious_queue_for_any_short_writes(steps: list[tuple[str, Any]]) -> None:
    limits = SendLimits(
        control_packets=4, control_bytes=60, data_bytes=600, pair_bytes=400, max_age=1.0, queues=MANY, quantum=100
    )
    queue, model = SendQueue(limits), ObviousQueue(limits)
    now, stream, refused = 0.0, b"", 0
    leased: set[object] = set()
    for number, (step, argument) in enumerate(steps):
        if step == "control":
            accepted = queue.control(argument)
            assert accepted == model.add_control(argument)
            refused += not accepted
        elif step in ("mixed", "one pair"):
            pair, packets = None, argument
            if step == "one pair":
                pair = argument[0]
                packets = [data_packet(pair, length) for length in argument[1]]
            data(queue, packets, now, number, pair)
            model.add_data(packets, now, number)
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
        waiting = model.torn + model.control + model.data()
        assert queue.pending_bytes == bytes_of(waiting)
        assert queue.oldest == min((packet.since for packet in model.data()), default=None)
    assert (queue.dropped_age, queue.dropped_full, queue.dropped_control) == (
        model.dropped_age,
        model.dropped_full,
        refused,
    )
    assert_whole_packets(stream)


def assert_whole_packets(stream: bytes) -> None:
    """Nothing but packets, of which the last may be torn."""
    while len(stream) > 8:
        length = int.from_bytes(stream[:8], "big")
        body, stream = stream[8:length], stream[length:]
        assert body == b"!" * len(body) or body == (body[:1] * 32 + b"." * len(body))[: len(body)]


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
    tally: Counter[str] = Counter()
    waiting = WaitingPackets(WaitLimits(prefix_packets=2), tally, "w")
    assert [waiting.add(NEAR, bytes([number]), 0.0) for number in range(3)] == [True, True, False]
    assert waiting.add(FAR, b"x", 0.0)
    assert waiting.take(NEAR) == [b"\0", b"\1"]
    assert tally == {"w.enqueued": 3, "w.refused": 1, "w.dequeued": 2}


def test_prefix_that_has_waited_longest_makes_room_when_there_are_too_many() -> None:
    tally: Counter[str] = Counter()
    waiting = WaitingPackets(WaitLimits(total_packets=3), tally)
    for prefix, packet in ((NEAR, b"1"), (NEAR, b"2"), (FAR, b"3"), (FAR, b"4"), (FAR, b"5")):
        assert waiting.add(prefix, packet, 0.0)
    assert waiting.prefixes() == [FAR]
    assert waiting.take(FAR) == [b"3", b"4", b"5"]
    assert tally["waiting.evicted"] == 2


def test_prefix_that_has_waited_longest_makes_room_when_there_are_too_many_bytes() -> None:
    tally: Counter[str] = Counter()
    waiting = WaitingPackets(WaitLimits(total_bytes=10), tally)
    waiting.add(NEAR, bytes(6), 0.0)
    waiting.add(FAR, bytes(4), 0.0)
    assert waiting.add(NEAR, bytes(5), 0.0)
    assert (waiting.take(NEAR), waiting.take(FAR), tally["waiting.evicted"]) == ([bytes(5)], [bytes(4)], 1)


def test_packet_larger_than_all_room_is_refused() -> None:
    tally: Counter[str] = Counter()
    waiting = WaitingPackets(WaitLimits(total_bytes=10), tally)
    waiting.add(NEAR, bytes(6), 0.0)
    assert not waiting.add(FAR, bytes(11), 0.0)
    assert (len(waiting), tally["waiting.refused"]) == (1, 1)


def test_packets_that_waited_too_long_are_given_back() -> None:
    tally: Counter[str] = Counter()
    waiting = WaitingPackets(tally=tally)
    waiting.add(NEAR, b"old", 0.0)
    waiting.add(FAR, b"young", 2.0)
    waiting.add(NEAR, b"younger", 2.5)
    assert waiting.expire(3.0, 3.0) == []
    assert waiting.expire(3.5, 3.0) == [(NEAR, [b"old"])]
    assert waiting.expire(10.0, 3.0) == [(NEAR, [b"younger"]), (FAR, [b"young"])]
    assert (len(waiting), waiting.pending_bytes) == (0, 0)
    assert tally == {"waiting.enqueued": 3, "waiting.expired": 3}


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
