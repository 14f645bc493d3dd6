"""Sending Updates: split horizon, the source table, dumps, the clean mark (wire spec 7.13, 7.9 step 1)."""

from __future__ import annotations

from protocol.frames import RouteState
from protocol.mycelium.routing.announcements import DUMP_STEP
from protocol.mycelium.routing.events import RouteChanged, Saved, Send
from protocol.mycelium.tlv import UPDATE_FLAG_CLEAN, RouteRequest, SeqnoRequest, Update
from tests.unit.router_rig import FRESH_COST, INFINITE, ME, Owner, Rig

ANNA = Owner.named("anna")
BERT = Owner.named("bert")
EVERYTHING = RouteRequest(None)


def clean(update: Update) -> Update:
    return Update(
        update.prefix, update.router_id, update.seqno, update.metric, update.interval_cs, flags=UPDATE_FLAG_CLEAN
    )


def test_a_route_is_not_announced_to_its_next_hop() -> None:
    rig = Rig.make(links=2)

    rig.hear(1, ANNA.update())

    assert set(rig.take_updates()) == {2}


def test_a_relay_never_announces_the_metric_of_an_owner() -> None:
    rig = Rig.make()
    rig.up(1, 0)
    rig.up(2, 0)
    for _ in range(100):
        rig.wait(20.0)
        rig.answer_hellos(1)
        rig.answer_hellos(2)
    assert rig.router.link_cost(1) == 0
    rig.take()

    rig.hear(1, ANNA.update())

    assert rig.take_updates() == {2: [ANNA.update(metric=1)]}


def test_an_announced_metric_stays_finite() -> None:
    rig = Rig.make(links=2)

    rig.hear(1, ANNA.update(metric=0xFFF0))

    assert rig.take_updates() == {2: [ANNA.update(metric=0xFFFE)]}


def test_what_is_announced_is_feasible_no_more() -> None:
    rig = Rig.make(links=3)
    rig.hear(1, ANNA.update(metric=10))
    announced = rig.take_updates()[2][0]
    rig.hear(1, ANNA.update(INFINITE))

    rig.hear(3, announced)

    assert rig.selected_link(ANNA.prefix) is None


def test_a_wildcard_request_is_answered_by_every_selected_route_and_then_the_own_prefix() -> None:
    rig = Rig.make(links=3)
    rig.hear(1, ANNA.update(metric=7))
    rig.hear(2, BERT.update(metric=8))
    rig.hear(1, BERT.update(metric=9))
    rig.take()

    rig.hear(3, EVERYTHING)

    assert rig.take_updates() == {3: [ANNA.update(7 + FRESH_COST), BERT.update(8 + FRESH_COST), ME.update(0)]}


def test_a_wildcard_request_is_not_answered_by_routes_that_lead_to_the_asker() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.update(metric=7))
    rig.take()

    rig.hear(1, EVERYTHING)

    assert rig.take_updates() == {1: [ME.update(0)]}


def test_retracted_prefixes_are_not_part_of_a_dump() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.update(metric=7), ANNA.update(INFINITE))
    rig.take()

    rig.hear(2, EVERYTHING)

    assert rig.take_updates() == {2: [ME.update(0)]}


def full_rig(count: int) -> Rig:
    rig = Rig.make(links=2)
    rig.hear(1, *(Owner.named(f"owner {number}").update(metric=7) for number in range(count)))
    rig.take()
    return rig


def test_a_large_dump_is_sent_in_steps_and_ends_with_the_own_prefix() -> None:
    rig = full_rig(2 * DUMP_STEP)

    rig.hear(2, EVERYTHING)
    assert len(rig.take_updates()[2]) == DUMP_STEP
    rig.wait(1.0)

    rest = rig.take_updates()[2]
    assert len(rest) == DUMP_STEP + 1
    assert rest[-1] == ME.update(0)


def test_routes_lost_during_a_dump_are_left_out() -> None:
    rig = full_rig(DUMP_STEP + 1)
    rig.hear(2, EVERYTHING)
    rig.take()

    rig.down(1)
    rig.take()
    rig.wait(1.0)

    assert rig.take_updates() == {2: [ME.update(0)]}


def test_a_dump_ends_with_its_link() -> None:
    rig = full_rig(DUMP_STEP + 1)
    rig.hear(2, EVERYTHING)
    rig.down(2)
    rig.take()

    rig.wait(1.0)

    assert rig.take_updates() == {}


def test_a_second_wildcard_request_during_a_dump_is_the_same_one() -> None:
    rig = full_rig(2 * DUMP_STEP)

    rig.hear(2, EVERYTHING, EVERYTHING)
    rig.wait(5.0)

    assert len(rig.take_updates()[2]) == 2 * DUMP_STEP + 1
    assert rig.count("wildcard_requests_while_answering") == 1


def test_dumps_start_at_most_once_a_second() -> None:
    rig = Rig.make(links=2)

    rig.hear(2, EVERYTHING)
    rig.hear(2, EVERYTHING)
    assert len(rig.take_updates()[2]) == 1
    rig.wait(1.1)

    assert len(rig.take_updates()[2]) == 1


# --- the clean mark ---------------------------------------------------------------------------------------------------


def test_the_own_prefix_is_marked_clean_on_links_that_carry_any_size() -> None:
    rig = Rig.make()

    rig.up(1, any_size=True)
    rig.up(2, any_size=False)

    assert rig.take_updates() == {1: [clean(ME.update(0))], 2: [ME.update(0)]}


def test_a_clean_route_stays_clean_through_links_that_carry_any_size() -> None:
    rig = Rig.make()
    rig.up(1, any_size=True)
    rig.up(2, any_size=True)
    rig.up(3, any_size=False)
    rig.take()

    rig.hear(1, clean(ANNA.update(metric=7)))

    events = rig.take()
    assert RouteChanged(ANNA.prefix, RouteState.SELECTED, 1, ANNA.public_key, clean=True) in events
    assert Send(2, clean(ANNA.update(7 + FRESH_COST))) in events
    assert Send(3, ANNA.update(7 + FRESH_COST)) in events


def test_a_mark_that_came_over_a_link_of_limited_size_counts_for_nothing() -> None:
    rig = Rig.make(links=1)
    rig.up(2, any_size=True)
    rig.take()

    rig.hear(1, clean(ANNA.update(metric=7)))

    events = rig.take()
    assert RouteChanged(ANNA.prefix, RouteState.SELECTED, 1, ANNA.public_key, clean=False) in events
    assert Send(2, ANNA.update(7 + FRESH_COST)) in events


def test_an_unmarked_route_is_not_clean() -> None:
    rig = Rig.make(links=2, any_size=True)

    rig.hear(1, ANNA.update(metric=7))

    assert rig.take_updates() == {2: [ANNA.update(7 + FRESH_COST)]}


def test_a_changed_mark_alone_is_published_and_announced_where_it_can_travel() -> None:
    rig = Rig.make(links=2, any_size=True)
    rig.up(3, any_size=False)
    rig.hear(1, clean(ANNA.update(metric=7)))
    rig.take()

    rig.hear(1, ANNA.update(metric=7))

    assert [event for event in rig.take() if not isinstance(event, Saved)] == [
        RouteChanged(ANNA.prefix, RouteState.SELECTED, 1, ANNA.public_key, clean=False),
        Send(2, ANNA.update(7 + FRESH_COST)),
    ]


def test_a_changed_mark_is_not_announced_over_links_of_limited_size() -> None:
    rig = Rig.make(links=2)
    rig.up(3, any_size=True)
    rig.hear(3, clean(ANNA.update(metric=7)))
    rig.take()

    rig.hear(3, ANNA.update(metric=7))

    assert rig.take_updates() == {}


def test_a_mark_that_is_taken_away_counts_even_in_an_unfeasible_update() -> None:
    rig = Rig.make(links=2, any_size=True)
    rig.hear(1, clean(ANNA.update(metric=7)))
    rig.take()

    rig.hear(1, ANNA.update(metric=5000))

    assert [event for event in rig.take() if not isinstance(event, Saved)] == [
        Send(1, SeqnoRequest(ANNA.prefix, ANNA.router_id, 1)),
        RouteChanged(ANNA.prefix, RouteState.SELECTED, 1, ANNA.public_key, clean=False),
        Send(2, ANNA.update(7 + FRESH_COST)),
    ]


def test_a_mark_that_is_granted_in_an_unfeasible_update_counts_for_nothing() -> None:
    rig = Rig.make(links=2, any_size=True)
    rig.hear(1, ANNA.update(metric=7))
    rig.take()

    rig.hear(1, clean(ANNA.update(metric=5000)))

    assert rig.take_changes() == []
