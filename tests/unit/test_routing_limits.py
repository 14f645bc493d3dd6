"""Bounded tables: what happens when each is full, and that floods cost counters instead of memory (wire spec Q30)."""

from __future__ import annotations

import hashlib
import tracemalloc

import pytest

from protocol.frames import RouteState
from protocol.mycelium.routing.events import RouteChanged
from protocol.mycelium.routing.limits import Limits
from protocol.mycelium.routing.requests import RouteRequestCache, SeqnoRequestCache
from protocol.mycelium.routing.state import FeasibilityDistance
from protocol.mycelium.tlv import RouteRequest
from protocol.prefix import Prefix
from tests.unit.router_rig import INFINITE, Owner, Rig

ANNA = Owner.named("anna")
BERT = Owner.named("bert")


def subnet(number: int) -> Prefix:
    """A made-up /64 inside the overlay."""
    return Prefix(b"\x04" + hashlib.sha256(b"%d" % number).digest()[:7] + bytes(8), 64)


def test_a_limit_below_one_is_an_error() -> None:
    with pytest.raises(ValueError, match="limit queries is 0"):
        Limits(queries=0)


def test_a_full_routing_table_learns_only_what_is_being_queried() -> None:
    rig = Rig.make(links=2, limits=Limits(prefixes=1))
    rig.hear(1, Owner.named("the first").update())

    rig.hear(1, ANNA.update())
    assert rig.state(ANNA.prefix) is RouteState.FORGOTTEN
    assert rig.count("updates_over_prefix_limit") == 1
    rig.resolve(ANNA.prefix)
    rig.hear(1, ANNA.update())

    assert rig.state(ANNA.prefix) is RouteState.SELECTED


def test_above_the_entry_limit_the_costliest_fallback_is_dropped() -> None:
    rig = Rig.make(links=4, limits=Limits(entries_per_prefix=2))
    rig.hear(1, ANNA.update(metric=10))
    rig.hear(2, ANNA.update(metric=30))

    rig.hear(3, ANNA.update(metric=20))
    rig.hear(4, ANNA.update(metric=40))

    assert rig.selected_link(ANNA.prefix) == 1
    assert rig.fallback_links(ANNA.prefix) == [3]
    assert rig.count("updates_over_entry_limit") == 2


def test_above_the_entry_limit_a_better_route_still_takes_over() -> None:
    rig = Rig.make(links=2, limits=Limits(entries_per_prefix=1))
    rig.hear(1, ANNA.update(metric=100))

    rig.hear(2, ANNA.update(metric=10))

    assert rig.selected_link(ANNA.prefix) == 2
    assert rig.fallback_links(ANNA.prefix) == []


def test_with_the_query_table_full_a_new_query_is_given_up_at_once() -> None:
    rig = Rig.make(links=1, limits=Limits(queries=2))
    rig.resolve(subnet(1))
    rig.resolve(subnet(2))
    rig.take()

    rig.resolve(subnet(3))

    assert rig.take() == [RouteChanged(subnet(3), RouteState.FORGOTTEN, None, None, clean=False)]
    assert rig.count("queries_over_limit") == 1


def test_one_neighbour_cannot_take_all_queries() -> None:
    rig = Rig.make(links=2, limits=Limits(queries=10, queries_per_link=3))

    rig.hear(1, *(RouteRequest(subnet(number)) for number in range(5)))
    rig.hear(2, RouteRequest(subnet(100)))

    assert len(list(rig.router.queried(rig.now))) == 4
    assert rig.count("route_requests_over_limit") == 2


def test_a_neighbours_share_of_queries_comes_back() -> None:
    rig = Rig.make(links=2, limits=Limits(queries_per_link=1))
    rig.hear(1, RouteRequest(subnet(1)))
    rig.wait(15.0)
    rig.take()

    rig.hear(1, RouteRequest(subnet(2)))

    assert rig.take_route_requests() == {2: [RouteRequest(subnet(2), 1)]}


def test_with_the_source_table_full_the_one_announced_longest_ago_goes() -> None:
    rig = Rig.make(links=2, limits=Limits(sources=1))
    rig.hear(1, ANNA.update())
    rig.take()

    rig.hear(1, BERT.update())

    assert FeasibilityDistance(*ANNA.prefix, ANNA.router_id, None, 0) in rig.take_records()
    assert rig.count("sources_over_limit") == 1


def test_the_route_request_cache_forgets_the_oldest() -> None:
    cache = RouteRequestCache(2)
    for number in range(3):
        cache.note(subnet(number), 0, frozenset({1}), 0.0)

    assert len(cache) == 2
    assert cache.note(subnet(0), 0, frozenset({1}), 1.0) == {1}
    assert cache.note(subnet(2), 0, frozenset({1}), 1.0) == set()


def test_the_route_request_cache_forgets_what_is_old() -> None:
    cache = RouteRequestCache(100)
    for number in range(50):
        cache.note(subnet(number), 0, frozenset({1}), float(number))

    assert len(cache) == 15


def test_a_request_of_a_smaller_generation_goes_out_again() -> None:
    cache = RouteRequestCache(100)
    cache.note(subnet(0), 5, frozenset({1}), 0.0)

    assert cache.note(subnet(0), 6, frozenset({1}), 1.0) == set()
    assert cache.note(subnet(0), 0, frozenset({1}), 1.0) == {1}


def test_the_seqno_request_cache_forgets_the_oldest() -> None:
    cache = SeqnoRequestCache(2)
    for number in range(3):
        cache.note((ANNA.router_id, subnet(number), 1), 1, None, 0.0)

    assert len(cache) == 2
    assert cache.get((ANNA.router_id, subnet(0), 1), 0.0) is None


def test_the_seqno_request_cache_forgets_what_is_old() -> None:
    cache = SeqnoRequestCache(100)
    for number in range(100):
        cache.note((ANNA.router_id, subnet(number), 1), 1, None, float(number))

    assert len(cache) == 60


def test_a_hundred_thousand_random_destinations_cost_a_few_megabytes() -> None:
    rig = Rig.make(links=2)
    prefixes = [subnet(number) for number in range(100_000)]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]

    for prefix in prefixes:
        rig.router.resolve(prefix, rig.now)
        for _ in rig.router.events():
            pass
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()

    assert grown < 8 << 20
    assert rig.count("queries_over_limit") == 100_000 - Limits().queries


def test_a_flood_of_requests_from_a_neighbour_costs_its_share_only() -> None:
    rig = Rig.make(links=2)

    for number in range(10_000):
        rig.router.receive(1, RouteRequest(subnet(number)), rig.now)
        for _ in rig.router.events():
            pass

    assert len(list(rig.router.queried(rig.now))) == Limits().queries_per_link


def test_a_prefix_that_flaps_leaves_no_deadlines_behind() -> None:
    rig = Rig.make(links=1)
    rig.neighbours_answer = True
    for number in range(300):
        rig.hear(1, ANNA.update(seqno=number), ANNA.update(INFINITE))
        rig.refresh(ANNA.prefix)
        rig.wait(7.0)
        rig.take()

    assert len(rig.router._core.table.expiries) == 0
    assert len(rig.router._resolution._renewals) == 0
