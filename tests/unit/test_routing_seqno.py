"""Seqno Requests: sent, answered, bumped, forwarded, handed back (wire spec 7.15)."""

from __future__ import annotations

import pytest

from protocol.mycelium.routing.events import Saved, Send
from protocol.mycelium.routing.state import OwnState
from protocol.mycelium.tlv import SeqnoRequest, Update
from protocol.prefix import Prefix
from tests.unit.router_rig import FRESH_COST, INFINITE, ME, Owner, Rig

ANNA = Owner.named("anna")
BERT = Owner.named("bert")


def request(owner: Owner, seqno: int, hop_count: int = 64) -> SeqnoRequest:
    return SeqnoRequest(owner.prefix, owner.router_id, seqno, hop_count)


def settled(links: int = 1) -> Rig:
    """A router that has been up for long enough to increase its seqno."""
    rig = Rig.make(links=links)
    rig.wait(4.0)
    return rig


# --- asking -----------------------------------------------------------------------------------------------------------


def test_the_seqno_after_the_recorded_one_is_asked_for() -> None:
    rig = Rig.make(links=1)
    rig.hear(1, ANNA.update(metric=7, seqno=41))
    rig.take()

    rig.hear(1, ANNA.update(metric=5000, seqno=41))

    assert rig.take_seqno_requests() == {1: [request(ANNA, 42)]}


def test_one_is_asked_for_where_nothing_was_announced() -> None:
    rig = Rig.make(links=1)
    younger = ANNA.restarted()
    rig.hear(1, ANNA.update(metric=7), younger.update(metric=7))
    rig.router._core.sources.pop_expired(rig.now + 1e6)
    rig.take()

    rig.hear(1, ANNA.restarted().restarted().update(INFINITE))

    assert rig.take_seqno_requests() == {1: [SeqnoRequest(ANNA.prefix, younger.router_id, 1)]}


def test_a_neighbour_is_asked_for_the_same_at_most_every_four_seconds() -> None:
    rig = Rig.make(links=1)
    rig.hear(1, ANNA.update(metric=7))
    rig.take()

    for _ in range(10):
        rig.hear(1, ANNA.update(metric=5000))
        rig.wait(1.0)

    assert [at for at, _ in rig.take_timed(SeqnoRequest)] == [100.0, 104.0, 108.0]


def test_a_neighbour_that_waits_for_the_same_is_not_asked() -> None:
    rig = Rig.make(links=2)
    rig.hear(2, ANNA.update(metric=2000))
    rig.hear(1, ANNA.update(metric=10))
    rig.hear(2, request(ANNA, 1))
    assert rig.take_seqno_requests() == {1: [request(ANNA, 1, hop_count=63)]}

    rig.wait(5.0)
    rig.hear(1, ANNA.update(INFINITE))

    assert rig.take_seqno_requests() == {1: [request(ANNA, 1)]}


# --- answering --------------------------------------------------------------------------------------------------------


def test_a_request_that_the_table_can_answer_is_answered() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.update(metric=7, seqno=5))
    rig.take()

    rig.hear(2, request(ANNA, 5))

    assert rig.take_updates() == {2: [ANNA.update(7 + FRESH_COST, seqno=5)]}
    assert rig.count("seqno_requests_answered") == 1


def test_a_request_for_another_router_id_is_answered_with_the_route_there_is() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.restarted().update(metric=7, seqno=0))
    rig.take()

    rig.hear(2, request(ANNA, 99))

    assert rig.take_updates() == {2: [ANNA.restarted().update(7 + FRESH_COST, seqno=0)]}


def test_the_announced_metric_is_that_of_the_next_hops_link() -> None:
    rig = Rig.make()
    rig.up(1, 100)
    rig.up(2, 5)
    rig.hear(1, ANNA.update(metric=7))
    rig.take()

    rig.hear(2, request(ANNA, 0))

    assert rig.take_updates() == {2: [ANNA.update(7 + 1100)]}


def test_even_the_next_hop_is_answered() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.update(metric=7, seqno=5))
    rig.take()

    rig.hear(1, request(ANNA, 5))

    assert rig.take_updates() == {1: [ANNA.update(7 + FRESH_COST, seqno=5)]}


def test_a_request_is_answered_although_this_node_asked_the_same_lately() -> None:
    rig = Rig.make(links=3)
    rig.hear(1, ANNA.update(metric=7), ANNA.update(metric=5000))
    assert rig.take_seqno_requests() == {1: [request(ANNA, 1)]}
    rig.hear(1, ANNA.update(metric=12, seqno=1))
    rig.take()

    rig.hear(2, request(ANNA, 1))

    assert set(rig.take_updates()) == {2}


# --- the own seqno ----------------------------------------------------------------------------------------------------


def test_a_request_for_a_newer_own_seqno_increases_it_by_one_and_tells_everyone() -> None:
    rig = settled(links=2)

    rig.hear(1, request(ME, 50))

    assert rig.take() == [
        Saved(OwnState(ME.router_id, 1, 104.0)),
        Send(1, ME.update(0, seqno=1)),
        Send(2, ME.update(0, seqno=1)),
    ]
    assert rig.router.seqno == 1


def test_the_own_seqno_is_increased_at_most_every_four_seconds() -> None:
    rig = settled()
    rig.hear(1, request(ME, 1))
    rig.take()
    rig.wait(3.9)

    rig.hear(1, request(ME, 2))
    assert rig.take() == []
    rig.wait(0.2)
    rig.hear(1, request(ME, 2))

    assert rig.router.seqno == 2
    assert rig.count("seqno_requests_bump_too_soon") == 1


def test_the_own_seqno_is_not_increased_in_the_first_four_seconds() -> None:
    rig = Rig.make(links=1)

    rig.hear(1, request(ME, 1))

    assert rig.router.seqno == 0


@pytest.mark.parametrize(
    "asked",
    [
        request(ME, 0),
        request(ME, 0x8000),
        request(ME.restarted(), 1),
        SeqnoRequest(Prefix.of(ME.address, 128), ME.router_id, 1),
        SeqnoRequest(BERT.prefix, ME.router_id, 1),
    ],
    ids=["not newer", "half the space away", "an older self", "a part of the own prefix", "a foreign prefix"],
)
def test_other_requests_about_this_node_get_no_answer(asked: SeqnoRequest) -> None:
    rig = settled(links=2)

    rig.hear(1, asked)

    assert rig.take() == []
    assert rig.count("seqno_requests_unhandled") == 1


def test_the_hop_count_does_not_matter_at_the_origin() -> None:
    rig = settled()

    rig.hear(1, request(ME, 1, hop_count=1))

    assert rig.router.seqno == 1


# --- forwarding -------------------------------------------------------------------------------------------------------


def test_a_request_is_forwarded_along_the_route_with_a_smaller_hop_count() -> None:
    rig = Rig.make(links=3)
    rig.hear(1, ANNA.update(metric=7))
    rig.take()

    rig.hear(2, request(ANNA, 1, hop_count=9))

    assert rig.take_seqno_requests() == {1: [request(ANNA, 1, hop_count=8)]}


def test_a_request_with_hop_count_one_is_not_forwarded() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.update(metric=7))
    rig.take()

    rig.hear(2, request(ANNA, 1, hop_count=1))

    assert rig.take() == []
    assert rig.count("seqno_requests_too_far") == 1


def test_a_request_never_goes_back_to_the_asker() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.update(metric=7))
    rig.hear(2, ANNA.update(metric=9))
    rig.take()

    rig.hear(1, request(ANNA, 1))

    assert rig.take_seqno_requests() == {2: [request(ANNA, 1, hop_count=63)]}


def test_a_feasible_route_is_preferred_for_forwarding() -> None:
    rig = Rig.make(links=4)
    rig.hear(2, ANNA.update(metric=2000))
    rig.hear(3, ANNA.update(metric=2001))
    rig.hear(1, ANNA.update(metric=10))
    rig.hear(3, ANNA.update(metric=11))
    rig.hear(1, ANNA.update(INFINITE))
    rig.take()

    rig.hear(4, request(ANNA, 1))

    assert rig.selected_link(ANNA.prefix) == 3
    assert rig.take_seqno_requests() == {3: [request(ANNA, 1, hop_count=63)]}


def test_an_unfeasible_route_will_do_for_forwarding() -> None:
    rig = Rig.make(links=3)
    rig.hear(2, ANNA.update(metric=2000))
    rig.hear(1, ANNA.update(metric=10), ANNA.update(INFINITE))
    rig.wait(5.0)
    rig.take()

    rig.hear(3, request(ANNA, 7))

    assert rig.take_seqno_requests() == {2: [request(ANNA, 7, hop_count=63)]}
    assert rig.count("seqno_requests_forwarded_unfeasible") == 1


def test_a_request_for_an_unknown_prefix_is_dropped() -> None:
    rig = Rig.make(links=2)

    rig.hear(1, request(ANNA, 1))

    assert rig.take() == []
    assert rig.count("seqno_requests_unhandled") == 1


def test_a_request_that_only_the_asker_could_answer_is_dropped() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.update(metric=7))
    rig.take()

    rig.hear(1, request(ANNA, 1))

    assert rig.take() == []


def test_the_same_request_is_forwarded_at_most_every_four_seconds() -> None:
    rig = Rig.make(links=3)
    rig.neighbours_answer = True
    rig.hear(1, ANNA.update(metric=7))
    rig.take()

    for _ in range(10):
        rig.hear(2, request(ANNA, 1))
        rig.wait(1.0)

    assert [at for at, _ in rig.take_timed(SeqnoRequest)] == [100.0, 104.0, 108.0]
    assert rig.count("seqno_requests_repeated") == 7


def test_a_request_that_went_elsewhere_before_is_forwarded_to_the_next_hop_there_is_now() -> None:
    rig = Rig.make(links=3)
    rig.hear(1, ANNA.update(metric=7), ANNA.update(INFINITE))
    assert rig.take_seqno_requests() == {1: [request(ANNA, 1)]}
    rig.hear(2, ANNA.update(metric=6))

    rig.hear(3, request(ANNA, 1))

    assert rig.take_seqno_requests() == {2: [request(ANNA, 1, hop_count=63)]}


def test_requests_for_prefixes_outside_the_overlay_are_denied() -> None:
    rig = Rig.make(links=2)

    rig.hear(1, SeqnoRequest(Prefix.parse("200::/64"), ANNA.router_id, 1))
    rig.hear(1, SeqnoRequest(Prefix.of(ANNA.address, 48), ANNA.router_id, 1))

    assert rig.take() == []
    assert rig.count("seqno_requests_denied") == 2


# --- handing back -----------------------------------------------------------------------------------------------------


def test_the_asker_gets_the_answer_although_it_is_not_worth_telling_everyone() -> None:
    rig = Rig.make(links=3)
    rig.hear(1, ANNA.update(metric=7))
    rig.hear(2, request(ANNA, 1))
    rig.take()

    rig.hear(1, ANNA.update(metric=7, seqno=1))

    assert rig.take_updates() == {2: [ANNA.update(7 + FRESH_COST, seqno=1)]}


def test_a_neighbour_whose_repetition_was_suppressed_gets_the_answer_too() -> None:
    rig = Rig.make(links=4)
    rig.hear(1, ANNA.update(metric=7))
    rig.hear(2, request(ANNA, 1))
    rig.hear(3, request(ANNA, 1))
    assert rig.count("seqno_requests_repeated") == 1
    rig.take()

    rig.hear(1, ANNA.update(metric=7, seqno=1))

    assert set(rig.take_updates()) == {2, 3}


def test_only_the_exact_seqno_is_handed_back() -> None:
    rig = Rig.make(links=3)
    rig.hear(1, ANNA.update(metric=7))
    rig.hear(2, request(ANNA, 1))
    rig.take()

    rig.hear(1, ANNA.update(metric=7, seqno=2))

    assert rig.take_updates() == {}


def test_an_asker_that_is_gone_is_not_answered() -> None:
    rig = Rig.make(links=3)
    rig.hear(1, ANNA.update(metric=7))
    rig.hear(2, request(ANNA, 1))
    rig.down(2)
    rig.take()

    rig.hear(1, ANNA.update(metric=7, seqno=1))

    assert rig.take_updates() == {}


def test_a_request_may_be_forwarded_again_when_the_link_it_went_to_is_gone() -> None:
    rig = Rig.make(links=3)
    rig.hear(1, ANNA.update(metric=7))
    rig.hear(3, ANNA.update(metric=8))
    rig.hear(2, request(ANNA, 1))
    rig.down(1)
    rig.take()

    rig.hear(2, request(ANNA, 1))

    assert rig.take_seqno_requests() == {3: [request(ANNA, 1, hop_count=63)]}


def test_what_was_asked_by_this_node_alone_still_counts_as_announced_when_it_comes() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.update(metric=7), ANNA.update(INFINITE))
    rig.hear(1, ANNA.update(metric=7), ANNA.update(metric=7, seqno=1))
    rig.take()

    rig.hear(1, ANNA.update(metric=7))

    assert rig.take_seqno_requests() == {1: [request(ANNA, 2)]}


def test_an_own_update_of_a_neighbour_is_nothing_to_answer() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ME.update(0))

    assert rig.take_sent(Update) == {}
