"""Routes on demand: Route Requests sent, answered, flooded, given up; used routes renewed (wire spec 7.9)."""

from __future__ import annotations

import pytest

from protocol.frames import RouteState
from protocol.mycelium.routing.events import RouteChanged, Saved, Send
from protocol.mycelium.tlv import RouteRequest, SeqnoRequest
from protocol.prefix import Prefix
from tests.unit.router_rig import FRESH_COST, INFINITE, ME, Owner, Rig

ANNA = Owner.named("anna")
BERT = Owner.named("bert")
ASKED = RouteRequest(ANNA.prefix)


def states(changes: list[RouteChanged]) -> list[RouteState]:
    return [change.state for change in changes]


# --- asking -----------------------------------------------------------------------------------------------------------


def test_resolving_asks_every_neighbour_and_lets_packets_wait() -> None:
    rig = Rig.make(links=2)

    rig.resolve(ANNA.prefix)

    assert [event for event in rig.take() if not isinstance(event, Saved)] == [
        Send(1, ASKED),
        Send(2, ASKED),
        RouteChanged(ANNA.prefix, RouteState.RESOLVING, None, None, clean=False),
    ]


def test_while_a_prefix_is_being_resolved_it_is_not_asked_for_again() -> None:
    rig = Rig.make(links=2)
    rig.resolve(ANNA.prefix)
    rig.take()

    rig.wait(10.0)
    rig.resolve(ANNA.prefix)

    assert rig.take_route_requests() == {}
    assert list(rig.router.queried(rig.now)) == [(ANNA.prefix, 5.0)]


def test_a_query_without_answer_is_given_up_after_fifteen_seconds() -> None:
    rig = Rig.make(links=2)
    rig.resolve(ANNA.prefix)
    rig.wait(14.9)
    rig.take()

    rig.wait(0.2)

    assert rig.take_changes() == [RouteChanged(ANNA.prefix, RouteState.FORGOTTEN, None, None, clean=False)]
    assert list(rig.router.queried(rig.now)) == []


def test_nothing_remembers_that_a_query_failed() -> None:
    rig = Rig.make(links=1)
    rig.resolve(ANNA.prefix)
    rig.wait(15.0)
    rig.take()

    rig.resolve(ANNA.prefix)

    assert rig.take_route_requests() == {1: [ASKED]}


def test_an_answer_ends_the_query() -> None:
    rig = Rig.make(links=1)
    rig.resolve(ANNA.prefix)

    rig.hear(1, ANNA.update(metric=3))
    rig.wait(20.0)

    assert states(rig.take_changes()) == [RouteState.RESOLVING, RouteState.SELECTED]


@pytest.mark.parametrize(
    "prefix",
    [ME.prefix, Prefix.of(ME.address, 128), Prefix.parse("fc00::/64"), Prefix.of(ANNA.address, 48)],
    ids=["the own prefix", "an own address", "outside the overlay", "too short"],
)
def test_what_cannot_be_resolved_is_given_up_at_once(prefix: Prefix) -> None:
    rig = Rig.make(links=1)

    rig.resolve(prefix)

    assert rig.take() == [RouteChanged(prefix, RouteState.FORGOTTEN, None, None, clean=False)]
    assert rig.count("resolves_denied") == 1


def test_a_route_in_use_need_not_be_resolved() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.update())
    rig.take()

    rig.resolve(ANNA.prefix)

    assert rig.take() == []


def test_a_query_of_a_neighbour_becomes_ours_when_packets_wait_for_it_here_too() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ASKED)
    assert rig.take_changes() == []

    rig.resolve(ANNA.prefix)

    assert rig.take_route_requests() == {}
    assert rig.state(ANNA.prefix) is RouteState.RESOLVING
    rig.wait(15.1)
    assert rig.state(ANNA.prefix) is RouteState.FORGOTTEN


def test_a_new_query_is_not_silenced_by_a_request_that_is_still_remembered() -> None:
    rig = Rig.make(links=1)
    rig.hear(1, ANNA.update(interval_cs=200))
    rig.refresh(ANNA.prefix)
    rig.wait(13.1)
    assert rig.state(ANNA.prefix) is RouteState.FORGOTTEN
    rig.take()

    rig.resolve(ANNA.prefix)

    assert rig.take_route_requests() == {1: [ASKED]}


# --- a prefix that is known but unreachable (Q25) ---------------------------------------------------------------------


def test_where_only_retractions_are_left_a_route_request_goes_out_instead_of_a_seqno_request() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.update(), ANNA.update(INFINITE))
    rig.take()

    rig.resolve(ANNA.prefix)

    assert [event for event in rig.take() if isinstance(event, Send)] == [Send(1, ASKED), Send(2, ASKED)]


def test_packets_that_wait_for_an_unreachable_prefix_are_given_up_in_the_end() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.update(), ANNA.update(INFINITE))
    rig.take()

    rig.resolve(ANNA.prefix)
    rig.wait(30.0)

    assert states(rig.take_changes()) == [RouteState.RESOLVING, RouteState.FORGOTTEN]


def test_neighbours_are_asked_once_more_when_the_retractions_have_run_out_there_too() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.update(), ANNA.update(INFINITE))
    rig.resolve(ANNA.prefix)
    rig.take()

    rig.wait(20.0)

    assert rig.take_timed(RouteRequest) == [(107.0, ASKED), (107.0, ASKED)]


def test_neighbours_are_not_asked_once_more_for_what_has_been_found() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.update(), ANNA.update(INFINITE))
    rig.resolve(ANNA.prefix)
    rig.wait(6.5)
    rig.hear(2, ANNA.update(seqno=1))
    rig.take()

    rig.wait(5.0)

    assert rig.take_route_requests() == {}


def test_where_an_unfeasible_route_is_left_its_origin_is_asked_for_a_newer_seqno() -> None:
    rig = Rig.make(links=2)
    rig.hear(2, ANNA.update(metric=2000))
    rig.hear(1, ANNA.update(metric=10), ANNA.update(INFINITE))
    rig.wait(5.0)
    rig.take()

    rig.resolve(ANNA.prefix)

    request = SeqnoRequest(ANNA.prefix, ANNA.router_id, 1)
    assert [event for event in rig.take() if isinstance(event, Send)] == [Send(1, request), Send(2, request)]
    rig.wait(15.1)
    answer = RouteChanged(ANNA.prefix, RouteState.UNREACHABLE, None, ANNA.public_key, clean=False)
    assert rig.take_changes() == [answer]


def test_an_unreachable_prefix_that_nobody_waits_for_is_forgotten_silently() -> None:
    rig = Rig.make(links=2)
    rig.hear(2, ASKED)
    rig.hear(1, ANNA.update(), ANNA.update(INFINITE))
    rig.hear(2, ASKED)
    rig.take()

    rig.wait(16.0)

    assert states(rig.take_changes()) == [RouteState.FORGOTTEN]


# --- being asked ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [64, 65, 128])
def test_a_request_for_the_own_prefix_or_a_part_of_it_is_answered_with_the_own_prefix(length: int) -> None:
    rig = Rig.make(links=2)

    rig.hear(1, RouteRequest(Prefix.of(ME.address, length), generation=15))

    assert rig.take() == [Send(1, ME.update(0))]


def test_a_request_for_a_known_route_is_answered_to_the_asker() -> None:
    rig = Rig.make(links=3)
    rig.hear(1, ANNA.update(metric=7))
    rig.take()

    rig.hear(2, ASKED)

    assert rig.take_updates() == {2: [ANNA.update(7 + FRESH_COST)]}


def test_the_next_hop_is_not_answered_with_its_own_route() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.update(metric=7))
    rig.take()

    rig.hear(1, ASKED)

    assert rig.take() == []


def test_a_request_for_a_prefix_with_unfeasible_routes_only_asks_for_a_newer_seqno() -> None:
    rig = Rig.make(links=3)
    rig.hear(2, ANNA.update(metric=2000))
    rig.hear(1, ANNA.update(metric=10), ANNA.update(INFINITE))
    rig.wait(5.0)
    rig.take()

    rig.hear(3, ASKED)

    request = SeqnoRequest(ANNA.prefix, ANNA.router_id, 1)
    assert rig.take() == [Send(1, request), Send(2, request)]


def test_a_request_for_an_unknown_prefix_is_handed_on_to_everyone_else() -> None:
    rig = Rig.make(links=3)

    rig.hear(2, RouteRequest(ANNA.prefix, generation=4))

    assert rig.take() == [Send(1, RouteRequest(ANNA.prefix, 5)), Send(3, RouteRequest(ANNA.prefix, 5))]


def test_a_request_for_a_prefix_that_everyone_retracted_is_handed_on() -> None:
    rig = Rig.make(links=3)
    rig.hear(1, ANNA.update(), ANNA.update(INFINITE))
    rig.take()

    rig.hear(2, ASKED)

    assert set(rig.take_route_requests()) == {1, 3}


def test_the_asker_gets_the_answer_when_it_comes() -> None:
    rig = Rig.make(links=3)
    rig.hear(2, ASKED)
    rig.take()

    rig.hear(3, ANNA.update(metric=1))

    assert rig.take_updates()[2] == [ANNA.update(1 + FRESH_COST)]


def test_a_request_for_what_is_being_resolved_is_ignored() -> None:
    rig = Rig.make(links=3)
    rig.resolve(ANNA.prefix)
    rig.take()

    rig.hear(2, ASKED)

    assert rig.take() == []


def test_a_request_is_handed_on_with_generation_fifteen_at_most() -> None:
    rig = Rig.make(links=2)

    rig.hear(1, RouteRequest(ANNA.prefix, generation=14), RouteRequest(BERT.prefix, generation=15))

    assert rig.take_route_requests() == {2: [RouteRequest(ANNA.prefix, 15)]}
    assert rig.count("route_requests_too_far") == 1
    assert [prefix for prefix, _ in rig.router.queried(rig.now)] == [ANNA.prefix]


def test_a_neighbour_that_was_asked_lately_is_not_asked_on_behalf_of_another() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.update(interval_cs=200))
    rig.refresh(ANNA.prefix)
    rig.down(1)
    rig.up(3)
    rig.take()

    rig.hear(3, ASKED)

    assert rig.take_route_requests() == {}


def test_a_neighbour_that_came_later_is_asked_on_behalf_of_another() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.update(interval_cs=200))
    rig.refresh(ANNA.prefix)
    rig.down(1)
    rig.up(3)
    rig.up(4)
    rig.take()

    rig.hear(3, ASKED)

    assert rig.take_route_requests() == {4: [RouteRequest(ANNA.prefix, 1)]}


@pytest.mark.parametrize("text", ["::/1", "400::/7", "400::/63", "200::/64", "fe80::/64"])
def test_requests_for_short_or_foreign_prefixes_are_ignored(text: str) -> None:
    rig = Rig.make(links=2)

    rig.hear(1, RouteRequest(Prefix.parse(text)))

    assert rig.take() == []
    assert rig.count("route_requests_denied") == 1
    assert list(rig.router.queried(rig.now)) == []


def test_a_neighbours_queries_are_not_published() -> None:
    rig = Rig.make(links=2)

    rig.hear(1, ASKED)
    rig.wait(16.0)

    assert rig.take_changes() == []


# --- renewing used routes ---------------------------------------------------------------------------------------------


def test_a_route_that_is_used_in_its_last_fifteen_seconds_is_asked_for_again() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.update(interval_cs=500))
    rig.wait(10.0)
    rig.take()

    rig.refresh(ANNA.prefix)

    assert rig.take_route_requests() == {1: [ASKED], 2: [ASKED]}


def test_a_route_is_asked_for_again_once_in_fifteen_seconds_however_busy() -> None:
    rig = Rig.make(links=1)
    rig.neighbours_answer = True
    rig.hear(1, ANNA.update(interval_cs=1000))
    rig.take()

    for _ in range(40):
        rig.refresh(ANNA.prefix)
        rig.wait(1.0)

    assert [at for at, _ in rig.take_timed(RouteRequest)] == [120.0]


def test_a_route_used_a_while_ago_is_renewed_although_no_packet_passes_just_then() -> None:
    rig = Rig.make(links=1)
    rig.neighbours_answer = True
    rig.hear(1, ANNA.update(interval_cs=2000))
    rig.wait(10.0)
    rig.refresh(ANNA.prefix)
    rig.take()

    rig.wait(46.0)

    assert [at for at, _ in rig.take_timed(RouteRequest)] == [155.0]


def test_an_idle_route_is_not_renewed() -> None:
    rig = Rig.make(links=1)
    rig.neighbours_answer = True
    rig.hear(1, ANNA.update(interval_cs=4000))
    rig.refresh(ANNA.prefix)
    rig.take()

    rig.wait(139.0)

    assert rig.take_route_requests() == {}


def test_a_busy_route_never_stalls() -> None:
    rig = Rig.make(links=1)
    rig.neighbours_answer = True
    rig.hear(1, ANNA.update(interval_cs=1000))
    rig.take()

    for _ in range(200):
        rig.refresh(ANNA.prefix)
        rig.wait(5.0)
        if rig.take_route_requests():
            rig.hear(1, ANNA.update(interval_cs=1000))

    assert rig.state(ANNA.prefix) is RouteState.SELECTED


def test_renewal_follows_a_route_that_expires_earlier_than_before() -> None:
    rig = Rig.make(links=1)
    rig.hear(1, ANNA.update(metric=7))
    rig.refresh(ANNA.prefix)
    rig.take()

    rig.hear(1, ANNA.update(metric=7, interval_cs=1000))
    rig.wait(21.0)

    assert [at for at, _ in rig.take_timed(RouteRequest)] == [120.0]


def test_a_route_that_was_prolonged_is_not_renewed_too_early() -> None:
    rig = Rig.make(links=1)
    rig.hear(1, ANNA.update(interval_cs=1000))
    rig.refresh(ANNA.prefix)
    rig.wait(10.0)
    rig.hear(1, ANNA.update(interval_cs=1000))
    rig.take()

    rig.wait(19.0)
    assert rig.take_route_requests() == {}
    rig.wait(1.1)

    assert rig.take_route_requests() == {1: [ASKED]}


def test_a_lost_route_is_not_renewed() -> None:
    rig = Rig.make(links=1)
    rig.hear(1, ANNA.update(interval_cs=500))
    rig.refresh(ANNA.prefix)
    rig.hear(1, ANNA.update(INFINITE))
    rig.take()

    rig.wait(5.0)
    rig.refresh(ANNA.prefix)
    rig.refresh(BERT.prefix)

    assert rig.take_route_requests() == {}
