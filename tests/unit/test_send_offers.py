"""What a send queue tells a ledger: where the pieces of an offer lie, what is torn, what a successor begins with."""

from __future__ import annotations

from itertools import accumulate
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.queues import Offer, SendQueue


def offered(queue: SendQueue) -> bytes:
    return b"".join(queue.buffers(0.0, 1 << 20))


def write(queue: SendQueue, count: int) -> bytes:
    piece = offered(queue)[:count]
    queue.sent(len(piece))
    return piece


def placed(queue: SendQueue, packets: list[bytes], place: int, pair: bytes = b"pair", lease: object = None) -> None:
    queue.data(memoryview(b"".join(packets)), list(accumulate(map(len, packets))), 0.0, lease, pair, place)


def by_place(offer: Offer) -> list[tuple[int, int]]:
    return list(zip(offer.pieces[::2], offer.pieces[1::2], strict=True))


def test_offer_says_where_each_buffer_lies() -> None:
    queue = SendQueue()
    queue.control(b"hello")
    placed(queue, [b"first", b"second"], 7000)
    placed(queue, [b"third"], 9000)
    offer = queue.offer(0.0, 1 << 20)
    assert offer.buffers == [b"hello", b"firstsecond", b"third"]
    assert by_place(offer) == [(0, 5), (7000, 11), (9000, 5)]
    assert (bytes(offer.own), offer.lead) == (b"hello", 0)


def test_offer_copies_what_lies_in_memory_of_this_process_alone() -> None:
    queue = SendQueue()
    queue.control(b"hello")
    placed(queue, [b"first"], 0)
    placed(queue, [b"second"], 7000)
    placed(queue, [b"third"], 0)
    offer = queue.offer(0.0, 1 << 20)
    assert by_place(offer) == [(0, 5), (5, 5), (7000, 6), (10, 5)]
    assert bytes(offer.own) == b"hellofirstthird"


def test_part_of_a_run_lies_where_its_first_packet_lies() -> None:
    queue = SendQueue()
    placed(queue, [b"first", b"second", b"third"], 7000)
    assert by_place(queue.offer(0.0, 5)) == [(7000, 5)]
    queue.sent(5)
    assert by_place(queue.offer(0.0, 6)) == [(7005, 6)]
    queue.sent(6)
    assert by_place(queue.offer(0.0, 1 << 20)) == [(7011, 5)]


def test_run_of_several_pairs_keeps_the_place_of_each_part() -> None:
    queue = SendQueue()
    packets = [bytes(8) + bytes((pair,)) * 32 + b"body" for pair in (1, 1, 2)]
    queue.data(memoryview(b"".join(packets)), list(accumulate(map(len, packets))), 0.0, None, None, 7000)
    assert by_place(queue.offer(0.0, 1 << 20)) == [(7000, 88), (7088, 44)]


def test_rest_of_a_torn_packet_leads_and_is_copied() -> None:
    queue = SendQueue()
    placed(queue, [b"first", b"second"], 7000)
    queue.offer(0.0, 1 << 20)
    queue.sent(2)
    queue.control(b"hello")
    offer = queue.offer(0.0, 1 << 20)
    assert offer.buffers == [b"rst", b"hello", b"second"]
    assert by_place(offer) == [(0, 3), (3, 5), (7005, 6)]
    assert (bytes(offer.own), offer.lead) == (b"rsthello", 3)


def test_resumed_queue_finishes_the_packet_that_its_predecessor_tore() -> None:
    queue = SendQueue()
    queue.resume(b"rest of it")
    queue.control(b"hello")
    placed(queue, [b"first"], 7000)
    offer = queue.offer(0.0, 1 << 20)
    assert offer.buffers == [b"rest of it", b"hello", b"first"]
    assert (by_place(offer)[0], offer.lead) == ((0, 10), 10)
    queue.sent(10)
    assert queue.offer(0.0, 1 << 20).lead == 0


def test_resumed_rest_that_is_torn_again_goes_on_where_it_was_torn() -> None:
    queue = SendQueue()
    queue.resume(b"rest of it")
    assert write(queue, 4) == b"rest"
    assert (queue.between_packets, queue.pending_bytes) == (False, 6)
    assert offered(queue) == b" of it"
    assert write(queue, 6) == b" of it"
    assert (queue.between_packets, queue.pending_bytes) == (True, 0)


def test_queue_stands_between_packets_only_where_a_packet_ends() -> None:
    queue = SendQueue()
    placed(queue, [b"first", b"second"], 7000)
    queue.control(b"hello")
    seen = []
    for _ in range(16):
        seen.append(queue.between_packets)
        write(queue, 1)
    # hello ends at 5, first at 10, second at 16.
    assert [position for position, between in enumerate(seen) if between] == [0, 5, 10]
    assert queue.between_packets


def test_lease_of_a_placed_run_comes_back_once_whatever_its_short_writes() -> None:
    queue = SendQueue()
    placed(queue, [b"first", b"second"], 7000, lease="lease")
    for _ in range(10):
        write(queue, 1)
        assert queue.released() == []
    write(queue, 1)
    assert queue.released() == ["lease"]


def test_queue_that_is_given_up_gives_every_lease_back_once_and_has_nothing_to_write() -> None:
    queue = SendQueue()
    queue.control(b"hello")
    for lease in ("one", "two"):
        placed(queue, [b"first", b"second"], 7000, pair=lease.encode(), lease=lease)
    queue.drop_all()
    assert sorted(map(str, queue.released())) == ["one", "two"]
    assert (queue.pending_bytes, queue.between_packets, queue.buffers(0.0, 100)) == (0, True, [])


@pytest.mark.parametrize("written", [2, 7], ids=["in the first packet", "in the last packet"])
def test_queue_that_is_given_up_in_the_middle_of_a_packet_gives_its_lease_back_once(written: int) -> None:
    queue = SendQueue()
    placed(queue, [b"first", b"second"], 7000, lease="lease")
    write(queue, written)
    queue.drop_all()
    assert (queue.released(), queue.released()) == (["lease"], [])
    assert (queue.pending_bytes, queue.between_packets, queue.buffers(0.0, 100)) == (0, True, [])


@given(st.data())
@settings(max_examples=150)
def test_places_lead_to_the_bytes_that_are_written_for_any_short_writes(draw: st.DataObject) -> None:
    """An arena of two runs' worth of packets, some packets elsewhere: places and copies name the same bytes."""
    arena = Random(9).randbytes(4000)
    base = 1 << 32
    queue = SendQueue()
    if draw.draw(st.booleans()):
        queue.resume(b"the rest of a torn packet")
    for _ in range(draw.draw(st.integers(1, 6))):
        kind = draw.draw(st.sampled_from(["control", "own", "arena"]))
        sizes = draw.draw(st.lists(st.integers(1, 60), min_size=1, max_size=4))
        start = draw.draw(st.integers(0, 3000))
        content = memoryview(arena)[start : start + sum(sizes)]
        if kind == "control":
            queue.control(bytes(content))
        else:
            place = base + start if kind == "arena" else 0
            queue.data(content, list(accumulate(sizes)), 0.0, None, draw.draw(st.sampled_from([b"1", b"2"])), place)
    while queue.pending_bytes:
        offer = queue.offer(0.0, draw.draw(st.integers(1, 200)))
        named = [
            arena[place - base : place - base + length] if place >= base else bytes(offer.own[place : place + length])
            for place, length in by_place(offer)
        ]
        assert named == [bytes(buffer) for buffer in offer.buffers]
        torn_before = not queue.between_packets
        assert bool(offer.lead) == torn_before
        queue.sent(draw.draw(st.integers(1, sum(map(len, named)))))
