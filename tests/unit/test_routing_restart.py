"""A router's successor: the journal, the state it adds up to, and the restart phase."""

from __future__ import annotations

import pytest

from protocol.codec import pack
from protocol.frames import AskTable, RouteState
from protocol.mycelium.routing.events import RouteChanged, Saved, Send
from protocol.mycelium.routing.limits import Limits
from protocol.mycelium.routing.publication import Publisher, Turn
from protocol.mycelium.routing.router import Router
from protocol.mycelium.routing.routes import RoutingError
from protocol.mycelium.routing.state import (
    FeasibilityDistance,
    LinkCost,
    OwnState,
    PublishedEntry,
    Record,
    SavedState,
    StateError,
    pack_record,
    unpack_record,
)
from protocol.mycelium.tlv import RouteRequest, SeqnoRequest, Update
from tests.unit.router_rig import FRESH_COST, INFINITE, ME, Owner, Rig

ANNA = Owner.named("anna")
BERT = Owner.named("bert")
CARL = Owner.named("carl")
NEIGHBOUR_1 = Owner.named("neighbour 1")
NEIGHBOUR_2 = Owner.named("neighbour 2")

ALL_KINDS: list[Record] = [
    OwnState(ME.router_id, 7, 12.5),
    FeasibilityDistance(*ANNA.prefix, ANNA.router_id, 1022, 3),
    FeasibilityDistance(*BERT.prefix, BERT.router_id, None, 0),
    LinkCost(4, 812),
    LinkCost(5, None),
    PublishedEntry(*ANNA.prefix, RouteState.SELECTED, 4, ANNA.public_key, True),
    PublishedEntry(*BERT.prefix, RouteState.FORGOTTEN, None, None, False),
]


# --- the journal ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", ALL_KINDS, ids=lambda record: type(record).__name__)
def test_a_record_is_read_as_it_was_written(record: Record) -> None:
    assert unpack_record(pack_record(record)) == record


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"garbage",
        pack_record(ALL_KINDS[0])[:-1],
        pack(AskTable()),
        b"\x94\x7b\xc4\x01x\x00\xcb" + bytes(8),
    ],
    ids=["empty", "a number", "garbage", "cut off", "a frame", "a short router-id"],
)
def test_what_is_no_record_is_one_clear_error(data: bytes) -> None:
    with pytest.raises(StateError, match="a router's journal"):
        unpack_record(data)


def test_the_state_is_what_the_records_add_up_to() -> None:
    state = SavedState.replay(
        [
            *ALL_KINDS,
            OwnState(ME.router_id, 8, 20.0),
            FeasibilityDistance(*CARL.prefix, CARL.router_id, 5, 0),
            FeasibilityDistance(*CARL.prefix, CARL.router_id, None, 0),
            LinkCost(4, 700),
            LinkCost(6, 1000),
            LinkCost(6, None),
            PublishedEntry(*CARL.prefix, RouteState.RESOLVING, None, None, False),
            PublishedEntry(*CARL.prefix, RouteState.FORGOTTEN, None, None, False),
        ]
    )

    assert state.own == OwnState(ME.router_id, 8, 20.0)
    assert state.distances == {(ANNA.prefix, ANNA.router_id): (1022, 3)}
    assert state.link_costs == {4: 700}
    assert state.published == {ANNA.prefix: (RouteState.SELECTED, 4, ANNA.public_key, True)}


def test_a_journal_without_a_router_id_is_an_error() -> None:
    with pytest.raises(StateError, match="no record of the router's own id"):
        SavedState.replay(ALL_KINDS[1:])


def test_the_first_record_says_who_the_router_is() -> None:
    router = Router(ME.router_id, ME.prefix, 100.0)

    assert next(router.events()) == Saved(OwnState(ME.router_id, 0, 100.0))


def test_the_state_of_another_node_is_refused() -> None:
    state = SavedState.replay([OwnState(ANNA.router_id, 0, 0.0)])

    with pytest.raises(ValueError, match="belongs to a node with another key"):
        Router(ME.router_id, ME.prefix, 0.0, restored=state)


# --- a life before ----------------------------------------------------------------------------------------------------


def busy_rig() -> tuple[Rig, list[Record]]:
    """A router with two neighbours and three routes, and everything it has written."""
    rig = Rig(Router(ME.router_id, ME.prefix, 100.0), 100.0)
    rig.neighbours_answer = True
    rig.up(1)
    rig.up(2)
    rig.wait(30.0)
    rig.hear(1, NEIGHBOUR_1.update(), ANNA.update(metric=7))
    rig.hear(2, NEIGHBOUR_2.update(), BERT.update(metric=8))
    rig.hear(1, SeqnoRequest(ME.prefix, ME.router_id, 1))
    return rig, rig.take_records()


def state_of(records: list[Record]) -> SavedState:
    return SavedState.replay(records)


def test_a_snapshot_adds_up_to_the_same_state_as_the_whole_journal() -> None:
    rig, records = busy_rig()

    assert state_of(list(rig.router.snapshot())) == state_of(records)


def test_every_record_of_a_busy_life_survives_packing() -> None:
    _, records = busy_rig()

    assert [unpack_record(pack_record(record)) for record in records] == records


def restart(records: list[Record], now: float = 140.0) -> Rig:
    rig = Rig.restored(records, now)
    rig.neighbours_answer = True
    rig.take()
    return rig


def test_a_successor_has_the_same_router_id_and_seqno() -> None:
    _, records = busy_rig()

    successor = restart(records)

    assert successor.router.router_id == ME.router_id
    assert successor.router.seqno == 1
    successor.up(1)
    assert successor.take_updates() == {1: [ME.update(0, seqno=1)]}


def test_a_successor_does_not_increase_the_seqno_sooner_than_its_predecessor() -> None:
    _, records = busy_rig()
    successor = restart(records, now=132.0)
    successor.up(1)

    successor.hear(1, SeqnoRequest(ME.prefix, ME.router_id, 2))
    assert successor.router.seqno == 1
    successor.wait(2.0)
    successor.hear(1, SeqnoRequest(ME.prefix, ME.router_id, 2))

    assert successor.router.seqno == 2


def test_a_successor_keeps_the_feasibility_distances() -> None:
    rig, records = busy_rig()
    cost = rig.router.link_cost(1)
    successor = restart(records)
    successor.up(2)
    successor.take()

    successor.hear(2, ANNA.update(metric=7 + cost))

    assert successor.take_seqno_requests() == {2: [SeqnoRequest(ANNA.prefix, ANNA.router_id, 1)]}


def test_a_successor_keeps_the_link_costs() -> None:
    rig, records = busy_rig()
    successor = restart(records)

    successor.up(1)

    assert successor.router.link_cost(1) == rig.router.link_cost(1) == 900 + 15


def test_a_link_that_is_new_after_a_restart_costs_what_a_new_link_costs() -> None:
    _, records = busy_rig()
    successor = restart(records)

    successor.up(3)

    assert successor.router.link_cost(3) == FRESH_COST


def test_a_successor_says_nothing_until_it_knows_better() -> None:
    _, records = busy_rig()
    successor = restart(records)

    successor.up(1)
    successor.up(2)
    successor.wait(1.9)

    events = successor.take()
    assert [event for event in events if isinstance(event, RouteChanged)] == []
    assert [event.tlv for event in events if isinstance(event, Send)] == [
        ME.update(0, seqno=1),
        RouteRequest(None),
    ] * 2


def test_a_successor_serves_the_old_table() -> None:
    rig, records = busy_rig()

    assert sorted(restart(records).router.published(), key=str) == sorted(rig.router.published(), key=str)


def test_routes_that_are_learned_again_unchanged_are_not_published_again() -> None:
    _, records = busy_rig()
    successor = restart(records)
    successor.up(1)
    successor.up(2)

    successor.hear(1, ANNA.update(metric=7), NEIGHBOUR_1.update())
    successor.hear(2, BERT.update(metric=8), NEIGHBOUR_2.update())
    successor.wait(3.0)

    events = successor.take()
    assert [event for event in events if isinstance(event, RouteChanged)] == []
    retractions = [e for e in events if isinstance(e, Send) and isinstance(e.tlv, Update) and e.tlv.metric == INFINITE]
    assert retractions == []


def test_a_route_that_is_learned_differently_is_published_at_once() -> None:
    _, records = busy_rig()
    successor = restart(records)
    successor.up(1)
    successor.up(2)
    successor.take()

    successor.hear(2, ANNA.update(metric=6))

    assert successor.take_changes() == [RouteChanged(ANNA.prefix, RouteState.SELECTED, 2, ANNA.public_key, clean=False)]


def test_what_no_neighbour_repeats_is_taken_back_as_soon_as_all_have_answered() -> None:
    _, records = busy_rig()
    successor = restart(records)
    successor.up(1)
    successor.up(2)
    successor.hear(1, NEIGHBOUR_1.update())
    successor.take()

    successor.hear(2, BERT.update(metric=8), NEIGHBOUR_2.update())

    events = successor.take()
    gone = RouteChanged(ANNA.prefix, RouteState.FORGOTTEN, None, None, clean=False)
    assert [event for event in events if isinstance(event, RouteChanged)] == [gone]
    retraction = ME.update(INFINITE, seqno=1, prefix=ANNA.prefix)
    assert Send(1, retraction) in events
    assert Send(2, retraction) in events


def test_a_silent_neighbour_is_waited_for_two_seconds() -> None:
    _, records = busy_rig()
    successor = restart(records)
    successor.up(1)
    successor.up(2)
    successor.hear(1, ANNA.update(metric=7), NEIGHBOUR_1.update())
    successor.wait(1.9)
    successor.take()

    successor.wait(0.2)

    assert {change.prefix for change in successor.take_changes()} == {BERT.prefix, NEIGHBOUR_2.prefix}


def test_a_link_that_is_gone_takes_its_old_routes_along_at_once() -> None:
    _, records = busy_rig()
    successor = restart(records)
    successor.up(2)
    successor.take()

    successor.down(1)

    changes = successor.take_changes()
    assert {(change.prefix, change.state) for change in changes} == {
        (ANNA.prefix, RouteState.FORGOTTEN),
        (NEIGHBOUR_1.prefix, RouteState.FORGOTTEN),
    }


def test_links_that_are_all_gone_end_the_restart() -> None:
    _, records = busy_rig()
    successor = restart(records)

    successor.down(1)
    successor.down(2)

    assert list(successor.router.published()) == []
    assert successor.router._restart.next_deadline() is None


def test_a_link_that_does_not_come_back_is_forgotten_by_the_journal() -> None:
    _, records = busy_rig()
    successor = restart(records)
    successor.up(2)
    successor.down(1)

    assert LinkCost(1, None) in successor.take_records()
    assert state_of(list(successor.router.snapshot())).link_costs == {2: 900}


def test_a_neighbour_whose_link_comes_up_late_hears_what_was_taken_back() -> None:
    _, records = busy_rig()
    successor = restart(records)
    successor.down(1)

    successor.up(2)

    taken_back = {update.prefix for update in successor.take_updates()[2] if update.metric == INFINITE}
    assert taken_back == {ANNA.prefix, NEIGHBOUR_1.prefix}


def test_a_neighbour_whose_link_comes_up_after_the_restart_hears_only_what_is_still_lost() -> None:
    _, records = busy_rig()
    successor = restart(records)
    successor.up(1)
    successor.wait(2.1)
    successor.hear(1, BERT.update(metric=7, seqno=1))
    successor.take()

    successor.up(2)

    taken_back = {update.prefix for update in successor.take_updates()[2] if update.metric == INFINITE}
    assert taken_back == {ANNA.prefix, NEIGHBOUR_1.prefix, NEIGHBOUR_2.prefix}


def test_a_new_link_after_a_restart_has_nothing_to_be_told() -> None:
    _, records = busy_rig()
    successor = restart(records)
    successor.down(1)

    successor.up(3)

    assert successor.take_updates() == {3: [ME.update(0, seqno=1)]}


def test_a_retraction_by_the_old_next_hop_counts_at_once() -> None:
    _, records = busy_rig()
    successor = restart(records)
    successor.up(1)
    successor.up(2)
    successor.take()

    successor.hear(1, NEIGHBOUR_1.update(INFINITE, prefix=ANNA.prefix))

    assert [(change.prefix, change.state) for change in successor.take_changes()] == [
        (ANNA.prefix, RouteState.FORGOTTEN)
    ]


def test_a_retraction_by_another_neighbour_counts_for_nothing() -> None:
    _, records = busy_rig()
    successor = restart(records)
    successor.up(1)
    successor.up(2)
    successor.take()

    successor.hear(2, NEIGHBOUR_2.update(INFINITE, prefix=ANNA.prefix))

    assert successor.take_changes() == []


def test_a_snapshot_in_the_middle_of_a_restart_loses_nothing() -> None:
    _, records = busy_rig()
    successor = restart(records)
    successor.up(1)

    assert state_of(list(successor.router.snapshot())) == state_of(records)


def test_what_was_being_resolved_still_is() -> None:
    rig, records = busy_rig()
    rig.resolve(CARL.prefix)
    records += rig.take_records()
    successor = restart(records)

    successor.up(1)

    assert RouteRequest(CARL.prefix) in successor.take_route_requests()[1]
    successor.wait(15.1)
    gone = RouteChanged(CARL.prefix, RouteState.FORGOTTEN, None, None, clean=False)
    assert gone in successor.take_changes()


def test_what_was_being_resolved_is_given_up_where_there_is_no_room() -> None:
    rig, records = busy_rig()
    rig.resolve(CARL.prefix)
    rig.resolve(Owner.named("dora").prefix)
    records += rig.take_records()

    successor = Router(ME.router_id, ME.prefix, 140.0, limits=Limits(queries=1), restored=state_of(records))

    assert sum(change.state is RouteState.RESOLVING for change in successor.published()) == 1


def test_an_unreachable_prefix_that_packets_wait_for_is_resolved_after_the_restart() -> None:
    rig, records = busy_rig()
    rig.hear(1, ANNA.update(INFINITE))
    records += rig.take_records()
    successor = restart(records)
    successor.up(1)
    successor.up(2)

    successor.resolve(ANNA.prefix)
    successor.hear(1, NEIGHBOUR_1.update())
    successor.hear(2, BERT.update(metric=8), NEIGHBOUR_2.update())

    assert [(change.prefix, change.state) for change in successor.take_changes()] == [
        (ANNA.prefix, RouteState.RESOLVING)
    ]


def test_a_route_that_is_lost_again_after_it_was_confirmed_is_unreachable() -> None:
    _, records = busy_rig()
    successor = restart(records)
    successor.up(1)
    successor.hear(1, ANNA.update(metric=7), ANNA.update(INFINITE))

    assert [change.state for change in successor.take_changes()] == [RouteState.UNREACHABLE]


def test_a_successor_without_earlier_links_starts_at_once() -> None:
    successor = restart([OwnState(ME.router_id, 3, 50.0)])
    successor.wait(0.0)

    assert successor.router.next_deadline() is None


def test_a_successor_can_be_succeeded_in_the_middle_of_its_restart() -> None:
    rig, records = busy_rig()
    first = restart(records)
    first.up(1)
    first.hear(1, ANNA.update(metric=7))
    second = restart(records + first.take_records(), now=141.0)

    assert sorted(second.router.published(), key=str) == sorted(rig.router.published(), key=str)


def test_a_step_that_no_prefix_can_take_is_an_error_with_a_name() -> None:
    publisher = Publisher(Rig.make().router._core.events, {})

    with pytest.raises(RoutingError, match="is FORGOTTEN and can't be LOST"):
        publisher.happened(ANNA.prefix, Turn.LOST)
