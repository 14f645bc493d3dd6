"""Received Updates: filters, feasibility, selection, hold times (wire spec 7.6, 7.7, 7.8, 7.11, 7.12)."""

from __future__ import annotations

import pytest

from protocol.frames import RouteState
from protocol.mycelium.routing.events import RouteChanged, Saved, Send
from protocol.mycelium.routing.routes import EntryState, Happening, RouteEntry, RoutingError
from protocol.mycelium.routing.state import FeasibilityDistance
from protocol.mycelium.tlv import Hello, Ihu, SeqnoRequest, Update
from protocol.prefix import Prefix
from tests.unit.router_rig import FRESH_COST, INFINITE, ME, Owner, Rig

ANNA = Owner.named("anna")
BERT = Owner.named("bert")
RETRACTED = ANNA.update(INFINITE)


def seqno_request(owner: Owner, seqno: int, hop_count: int = 64) -> SeqnoRequest:
    return SeqnoRequest(owner.prefix, owner.router_id, seqno, hop_count)


# --- filters (7.6) ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prefix",
    [
        Prefix.of(ANNA.address, 56),
        Prefix.of(ANNA.address, 63),
        Prefix.parse("fc00::/64"),
        Prefix.parse("200::/64"),
        BERT.prefix,
    ],
    ids=["a /56", "a /63", "outside the overlay", "another overlay", "of another key"],
)
def test_an_update_for_a_prefix_that_its_origin_cannot_own_is_denied(prefix: Prefix) -> None:
    rig = Rig.make(links=2)

    rig.hear(1, ANNA.update(prefix=prefix))

    assert rig.take() == []
    assert rig.count("updates_denied") == 1


@pytest.mark.parametrize("length", [64, 65, 100, 128])
def test_any_prefix_of_64_bits_or_more_around_the_origins_address_is_believed(length: int) -> None:
    rig = Rig.make(links=1)
    prefix = Prefix.of(ANNA.address, length)

    rig.hear(1, ANNA.update(prefix=prefix))

    assert rig.selected_link(prefix) == 1


def test_a_retraction_is_believed_whoever_signs_it() -> None:
    rig = Rig.make(links=1)
    rig.hear(1, ANNA.update())

    rig.hear(1, BERT.update(INFINITE, prefix=ANNA.prefix))

    assert rig.state(ANNA.prefix) is RouteState.UNREACHABLE


def test_the_own_prefix_never_enters_the_table() -> None:
    rig = Rig.make(links=2)

    rig.hear(1, ME.restarted().update(metric=7), ME.restarted().update(prefix=Prefix.of(ME.address, 128)))

    assert rig.take() == []
    assert list(rig.router.selected()) == []


# --- a new prefix (7.8 step 4) ----------------------------------------------------------------------------------------


def test_a_new_prefix_is_selected_published_and_announced_to_the_others() -> None:
    rig = Rig.make(links=3)

    rig.hear(1, ANNA.update(metric=7, seqno=3))

    announced = ANNA.update(metric=7 + FRESH_COST, seqno=3)
    events = rig.take()
    assert [event for event in events if not isinstance(event, Saved)] == [
        RouteChanged(ANNA.prefix, RouteState.SELECTED, 1, ANNA.public_key, clean=False),
        Send(2, announced),
        Send(3, announced),
    ]
    assert list(rig.router.selected()) == [(ANNA.prefix, 1, 7, 3)]


def test_the_journal_knows_the_feasibility_distance_before_a_neighbour_does() -> None:
    rig = Rig.make(links=2)

    rig.hear(1, ANNA.update(metric=7))

    events = rig.take()
    distance = Saved(FeasibilityDistance(*ANNA.prefix, ANNA.router_id, 7 + FRESH_COST, 0))
    assert events.index(distance) < events.index(Send(2, ANNA.update(metric=7 + FRESH_COST)))


def test_a_retraction_of_nothing_is_nothing() -> None:
    rig = Rig.make(links=2)

    rig.hear(1, RETRACTED)

    assert rig.take() == []
    assert rig.count("updates_not_interesting") == 1


def test_an_unfeasible_update_for_an_unknown_prefix_asks_for_a_newer_seqno() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.update(metric=7, seqno=5))
    rig.hear(1, RETRACTED)
    rig.wait(6.1)
    assert rig.state(ANNA.prefix) is RouteState.FORGOTTEN
    rig.take()

    rig.hear(2, ANNA.update(metric=3000, seqno=5))

    assert rig.take_seqno_requests() == {2: [seqno_request(ANNA, 6)]}
    assert rig.selected_link(ANNA.prefix) is None


# --- a known neighbour (7.8 step 5) -----------------------------------------------------------------------------------


def test_an_unfeasible_update_from_the_next_hop_keeps_the_old_route_and_asks_for_a_newer_seqno() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.update(metric=7))
    rig.take()

    rig.hear(1, ANNA.update(metric=2000))

    assert rig.take() == [Send(1, seqno_request(ANNA, 1))]
    assert list(rig.router.selected()) == [(ANNA.prefix, 1, 7, 0)]


def test_an_unfeasible_update_does_not_prolong_a_route() -> None:
    rig = Rig.make(links=1)
    rig.hear(1, ANNA.update(metric=7, interval_cs=500))
    rig.wait(10.0)

    rig.hear(1, ANNA.update(metric=2000, interval_cs=500))
    rig.wait(7.6)

    assert rig.state(ANNA.prefix) is RouteState.UNREACHABLE


def test_a_feasible_update_prolongs_a_route() -> None:
    rig = Rig.make(links=1)
    rig.hear(1, ANNA.update(metric=7, interval_cs=500))
    rig.wait(10.0)

    rig.hear(1, ANNA.update(metric=7, interval_cs=500))
    rig.wait(17.0)

    assert rig.selected_link(ANNA.prefix) == 1


def test_a_repeated_retraction_does_not_prolong_the_hold_time() -> None:
    rig = Rig.make(links=1)
    rig.hear(1, ANNA.update(), RETRACTED)
    rig.wait(5.0)

    rig.hear(1, RETRACTED)
    rig.wait(1.1)

    assert rig.state(ANNA.prefix) is RouteState.FORGOTTEN


def test_a_new_router_id_from_the_next_hop_is_announced_at_once() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.update(seqno=9))
    rig.take()

    rig.hear(1, ANNA.restarted().update(seqno=0))

    assert rig.take_updates() == {2: [ANNA.restarted().update(metric=FRESH_COST, seqno=0)]}


def test_an_unfeasible_update_with_another_router_id_unselects_the_route() -> None:
    rig = Rig.make(links=2)
    younger = ANNA.restarted()
    rig.hear(1, younger.update(metric=7))
    rig.hear(1, ANNA.update(metric=7))
    rig.take()

    rig.hear(1, younger.update(metric=3000))

    assert rig.state(ANNA.prefix) is RouteState.UNREACHABLE
    events = [event for event in rig.take() if isinstance(event, Send)]
    assert events == [
        Send(1, SeqnoRequest(ANNA.prefix, ANNA.router_id, 1)),
        Send(1, ME.update(INFINITE, prefix=ANNA.prefix)),
        Send(2, ME.update(INFINITE, prefix=ANNA.prefix)),
    ]


def test_an_unfeasible_update_from_a_fallback_only_overwrites_it() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.update(metric=7))
    rig.hear(2, ANNA.update(metric=8))
    rig.take()

    rig.hear(2, ANNA.update(metric=5000))

    assert rig.take() == []
    assert [(route.link, route.metric) for route in rig.router.fallback()] == [(2, 5000)]


def test_an_unfeasible_update_over_a_retracted_one_asks_for_a_newer_seqno() -> None:
    rig = Rig.make(links=1)
    rig.hear(1, ANNA.update(metric=7), RETRACTED)
    rig.take()
    rig.wait(4.0)

    rig.hear(1, ANNA.update(metric=5000))

    assert rig.take_seqno_requests() == {1: [seqno_request(ANNA, 1)]}
    assert rig.state(ANNA.prefix) is RouteState.UNREACHABLE


# --- a further neighbour (7.8 step 6) ---------------------------------------------------------------------------------


def test_a_further_feasible_route_waits_as_fallback() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.update(metric=7))
    rig.take()

    rig.hear(2, ANNA.update(metric=7))

    assert [event for event in rig.take() if not isinstance(event, Saved)] == []
    assert rig.fallback_links(ANNA.prefix) == [2]


def test_a_further_unfeasible_route_is_not_kept() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.update(metric=7))
    rig.take()

    rig.hear(2, ANNA.update(metric=7 + FRESH_COST))

    assert rig.take() == []
    assert rig.fallback_links(ANNA.prefix) == []


def test_a_further_unfeasible_route_asks_for_a_newer_seqno_if_nothing_is_selected() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.update(metric=7), RETRACTED)
    rig.take()

    rig.hear(2, ANNA.update(metric=5000))

    assert rig.take_seqno_requests() == {2: [seqno_request(ANNA, 1)]}


def test_a_further_retraction_is_not_kept() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.update(metric=7))

    rig.hear(2, RETRACTED)

    assert rig.fallback_links(ANNA.prefix) == []


# --- the choice (7.11) ------------------------------------------------------------------------------------------------


def test_a_route_that_is_cheaper_by_ten_does_not_take_over() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.update(metric=500))

    rig.hear(2, ANNA.update(metric=490))

    assert rig.selected_link(ANNA.prefix) == 1


def test_a_route_that_is_cheaper_by_eleven_takes_over() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.update(metric=500))

    rig.hear(2, ANNA.update(metric=489))

    assert rig.selected_link(ANNA.prefix) == 2


def test_of_two_equally_cheap_routes_the_one_earlier_in_the_list_wins() -> None:
    rig = Rig.make(links=3)
    for link in (1, 2, 3):
        rig.hear(link, ANNA.update(metric=100))
    rig.hear(3, ANNA.update(metric=50))
    assert rig.selected_link(ANNA.prefix) == 3

    rig.hear(3, RETRACTED)

    # Link 3 swapped places with link 1 when it was selected (wire spec 7.2).
    assert rig.selected_link(ANNA.prefix) == 2


def test_a_retracted_fallback_of_a_prefix_without_route_changes_nothing() -> None:
    rig = Rig.make(links=2)
    rig.hear(2, ANNA.update(metric=2000))
    rig.hear(1, ANNA.update(metric=10), RETRACTED)
    rig.take()

    rig.hear(2, RETRACTED)

    assert rig.take() == []
    assert rig.state(ANNA.prefix) is RouteState.UNREACHABLE


def test_the_owner_itself_always_takes_over() -> None:
    rig = Rig.make()
    rig.up(1, 10)
    rig.up(2, 10)
    rig.hear(1, ANNA.update(metric=5))

    rig.hear(2, ANNA.update(metric=0))

    assert rig.selected_link(ANNA.prefix) == 2


def test_the_cost_of_the_link_counts() -> None:
    rig = Rig.make()
    rig.up(1, 500)
    rig.up(2, 5)
    rig.hear(1, ANNA.update(metric=10))

    rig.hear(2, ANNA.update(metric=400))

    assert rig.selected_link(ANNA.prefix) == 2


def test_an_unfeasible_update_is_never_selected() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.update(metric=7), RETRACTED)

    rig.hear(2, ANNA.update(metric=7 + FRESH_COST))

    assert rig.selected_link(ANNA.prefix) is None


def test_a_fallback_that_has_become_unfeasible_is_not_selected_when_the_route_is_lost() -> None:
    rig = Rig.make(links=3)
    rig.hear(2, ANNA.update(metric=2000))
    rig.hear(1, ANNA.update(metric=10))
    rig.take()

    rig.hear(1, RETRACTED)

    assert rig.selected_link(ANNA.prefix) is None
    assert rig.fallback_links(ANNA.prefix) == [1, 2]
    sent = [(event.link, type(event.tlv)) for event in rig.take() if isinstance(event, Send)]
    assert sent == [(1, SeqnoRequest), (2, SeqnoRequest), (1, Update), (2, Update), (3, Update)]


def test_a_newer_seqno_makes_a_dearer_route_usable_again() -> None:
    rig = Rig.make(links=2)
    rig.hear(2, ANNA.update(metric=2000))
    rig.hear(1, ANNA.update(metric=10), RETRACTED)

    rig.hear(2, ANNA.update(metric=2000, seqno=1))

    assert rig.selected_link(ANNA.prefix) == 2


# --- triggered Updates (7.8 step 8) -----------------------------------------------------------------------------------


def test_a_metric_that_changes_by_ten_is_kept_to_ourselves() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.update(metric=100))
    rig.take()

    rig.hear(1, ANNA.update(metric=110, seqno=1))

    assert rig.take_updates() == {}


def test_a_metric_that_changes_by_eleven_is_announced() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.update(metric=100))
    rig.take()

    rig.hear(1, ANNA.update(metric=111, seqno=1))

    assert rig.take_updates() == {2: [ANNA.update(metric=111 + FRESH_COST, seqno=1)]}


def test_a_new_next_hop_alone_is_not_announced() -> None:
    rig = Rig.make(links=1)
    rig.up(2, 5)
    rig.up(3)
    rig.hear(1, ANNA.update(metric=100))
    rig.wait(20.0)
    rig.hear(2, Ihu(0))
    rig.take()

    rig.hear(2, ANNA.update(metric=100))

    assert rig.selected_link(ANNA.prefix) == 2
    assert rig.take_updates() == {}


def test_a_creeping_metric_is_never_announced() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.update(metric=100))
    rig.take()

    for step in range(1, 12):
        rig.hear(1, ANNA.update(metric=100 + 9 * step, seqno=step))

    assert rig.take_updates() == {}


def test_a_lost_route_is_retracted_with_the_own_router_id_and_seqno() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.update(metric=7))
    rig.take()

    rig.hear(1, RETRACTED)

    retraction = ME.update(INFINITE, prefix=ANNA.prefix)
    assert rig.take_updates() == {1: [retraction], 2: [retraction]}


def test_a_retraction_leaves_the_key_to_open_packets_with() -> None:
    rig = Rig.make(links=1)
    rig.hear(1, ANNA.update(metric=7))
    rig.take()

    rig.hear(1, RETRACTED)

    assert rig.take_changes() == [RouteChanged(ANNA.prefix, RouteState.UNREACHABLE, None, ANNA.public_key, clean=False)]


# --- hold times (7.12) ------------------------------------------------------------------------------------------------


def test_a_route_lasts_three_and_a_half_intervals() -> None:
    rig = Rig.make(links=1)
    rig.hear(1, ANNA.update(interval_cs=200))

    rig.wait(6.9)
    assert rig.state(ANNA.prefix) is RouteState.SELECTED
    rig.wait(0.2)

    assert rig.state(ANNA.prefix) is RouteState.UNREACHABLE


def test_an_expired_route_is_retracted_and_nobody_is_asked() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.update(interval_cs=200))
    rig.take()

    rig.wait(7.1)

    sends = [event for event in rig.take() if isinstance(event, Send)]
    retraction = ME.update(INFINITE, prefix=ANNA.prefix)
    assert sends == [Send(1, retraction), Send(2, retraction)]


def test_an_expired_route_stays_unreachable_for_six_seconds() -> None:
    rig = Rig.make(links=1)
    rig.hear(1, ANNA.update(interval_cs=200))

    rig.wait(12.9)
    assert rig.state(ANNA.prefix) is RouteState.UNREACHABLE
    rig.wait(0.2)

    assert rig.state(ANNA.prefix) is RouteState.FORGOTTEN


def test_when_the_selected_route_expires_the_fallback_takes_over_and_is_announced() -> None:
    rig = Rig.make(links=3)
    rig.hear(1, ANNA.update(metric=7, interval_cs=200))
    rig.hear(2, ANNA.update(metric=8))
    rig.take()

    rig.wait(7.1)

    assert rig.selected_link(ANNA.prefix) == 2
    assert rig.take_updates() == {1: [ANNA.update(8 + FRESH_COST)], 3: [ANNA.update(8 + FRESH_COST)]}


def test_an_expired_fallback_goes_silently() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.update(metric=7))
    rig.hear(2, ANNA.update(metric=8, interval_cs=200))
    rig.take()

    rig.wait(7.1)

    assert rig.take() == []
    assert rig.fallback_links(ANNA.prefix) == []


def test_an_interval_of_zero_expires_at_once() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.update(metric=3, interval_cs=0))

    rig.wait(0.0)

    updates = rig.take_updates()[2]
    assert [update.metric for update in updates] == [3 + FRESH_COST, INFINITE]


def test_only_so_many_expiries_are_handled_in_one_call() -> None:
    rig = Rig.make(links=1)
    owners = [Owner.named(f"owner {number}") for number in range(1100)]
    rig.hear(1, *(owner.update(interval_cs=1) for owner in owners))
    rig.now += 1.0

    rig.router.handle_timer(rig.now)

    assert 0 < len(list(rig.router.selected())) < 100
    assert rig.router.next_deadline() <= rig.now  # type: ignore[operator]


def test_the_feasibility_distance_is_forgotten_after_half_an_hour() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.update(metric=7, interval_cs=100), RETRACTED)
    rig.take()
    for _ in range(90):
        rig.wait(20.0)
        rig.hear(1, Ihu(0))
        rig.hear(2, Ihu(0))

    assert rig.count("sources_expired") == 1
    assert FeasibilityDistance(*ANNA.prefix, ANNA.router_id, None, 0) in rig.take_records()
    rig.hear(2, ANNA.update(metric=5000))
    assert rig.selected_link(ANNA.prefix) == 2


# --- the entry's states -----------------------------------------------------------------------------------------------


def test_a_retracted_entry_cannot_be_selected() -> None:
    entry = RouteEntry(1, ANNA.router_id, 0, 7, False, 10.0)
    entry.lose(16.0)

    with pytest.raises(RoutingError, match="a RETRACTED route can't be CHOSEN"):
        entry.happened(Happening.CHOSEN)
    assert entry.state is EntryState.RETRACTED


def test_a_hello_between_updates_changes_nothing() -> None:
    rig = Rig.make(links=1)
    rig.hear(1, ANNA.update(metric=7), Hello(0), ANNA.update(metric=7))

    assert rig.selected_link(ANNA.prefix) == 1


def test_of_two_links_to_the_owner_the_one_in_use_is_kept_unless_the_other_is_clearly_better() -> None:
    rig = Rig.make()
    rig.up(1, 20)
    rig.up(2, 10)
    rig.hear(1, ANNA.update(metric=0))
    rig.hear(2, ANNA.update(metric=0))
    assert rig.selected_link(ANNA.prefix) == 1, "cheaper by ten"

    rig.up(3, 9)
    rig.hear(3, ANNA.update(metric=0))
    assert rig.selected_link(ANNA.prefix) == 3, "cheaper by eleven"
