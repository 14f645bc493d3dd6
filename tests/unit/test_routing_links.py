"""Links: what is said when one comes up, Hello and IHU, cost, liveness, death (wire spec 7.3, 7.4, 7.5, 7.16, 7.17)."""

from __future__ import annotations

import pytest

from protocol.frames import RouteState
from protocol.mycelium.routing.events import LinkDead, RouteChanged, Saved, Send
from protocol.mycelium.routing.links import SELF_MOST_PATIENCE, SELF_PATIENCE
from protocol.mycelium.routing.state import LinkCost
from protocol.mycelium.tlv import Hello, Ihu, RouteRequest, SeqnoRequest, Update
from tests.unit.router_rig import FRESH_COST, INFINITE, ME, Owner, Rig, hellos

ANNA = Owner.named("anna")
BERT = Owner.named("bert")


def test_a_new_neighbour_gets_the_own_prefix_and_is_asked_for_everything() -> None:
    rig = Rig.make()

    rig.up(1)

    assert [event for event in rig.take() if isinstance(event, Send)] == [
        Send(1, ME.update(0)),
        Send(1, RouteRequest(None)),
    ]


def test_a_new_neighbour_is_asked_for_what_is_being_resolved() -> None:
    rig = Rig.make(links=1)
    rig.resolve(ANNA.prefix)
    rig.take()

    rig.up(2)

    assert rig.take_route_requests() == {2: [RouteRequest(None), RouteRequest(ANNA.prefix)]}


def test_learned_routes_are_not_dumped_to_a_new_neighbour() -> None:
    rig = Rig.make(links=1)
    rig.hear(1, ANNA.update())
    rig.take()

    rig.up(2)

    assert rig.take_updates() == {2: [ME.update(0)]}


def test_a_link_cannot_come_up_twice() -> None:
    rig = Rig.make(links=1)

    with pytest.raises(ValueError, match="link 1 is up already"):
        rig.up(1)


def test_a_static_cost_must_be_a_metric() -> None:
    with pytest.raises(ValueError, match="static cost 65535"):
        Rig.make().up(1, 0xFFFF)


def test_every_hello_is_answered_by_one_ihu_at_once() -> None:
    rig = Rig.make(links=1)

    rig.hear(1, Hello(0), Hello(77))

    assert rig.take() == [Send(1, Ihu(FRESH_COST))] * 2


def test_hellos_go_to_every_link_every_20_seconds_of_one_timer() -> None:
    rig = Rig.make(links=1)
    rig.wait(5.0)
    rig.up(2)
    rig.take()

    rig.wait(35.0)

    assert [(at, tlv.seqno) for at, tlv in rig.take_timed(Hello)] == [(120.0, 0), (120.0, 0), (140.0, 1), (140.0, 1)]


def test_hello_numbers_start_at_0_on_each_link() -> None:
    rig = Rig.make(links=1)
    rig.wait(21.0)
    rig.up(2)
    rig.take()

    rig.wait(20.0)

    assert hellos(rig.take()) == [(1, Hello(1)), (2, Hello(0))]


def test_hello_numbers_wrap() -> None:
    rig = Rig.make(links=1)
    rig.router._core.links.get(1).hello_seqno = 0xFFFF  # type: ignore[union-attr]

    for _ in range(2):
        rig.wait(20.0)
        rig.hear(1, Ihu(0))

    assert [hello.seqno for _, hello in hellos(rig.take())] == [0xFFFF, 0]


def test_an_idle_router_has_no_deadline() -> None:
    rig = Rig.make()

    assert rig.router.next_deadline() is None

    rig.up(1)
    rig.down(1)

    assert rig.router.next_deadline() is None


def test_timers_that_passed_while_no_link_was_up_are_not_made_up_for() -> None:
    rig = Rig.make()
    rig.wait(305.0)
    rig.up(1)
    rig.take()

    rig.router.handle_timer(rig.now)
    assert rig.take() == []
    rig.wait(15.0)

    assert [at for at, _ in rig.take_timed(Hello)] == [420.0]


def test_the_cost_follows_the_round_trips() -> None:
    rig = Rig.make(links=1)
    rig.wait(20.0)

    rig.answer_hellos(1, round_trip=0.25)

    assert rig.router.smoothed_rtt(1) == (9 * 1000 + 250) // 10
    assert rig.router.link_cost(1) == 925 + 15


def test_an_ihu_that_nobody_asked_for_is_a_sample_since_the_last_hello() -> None:
    rig = Rig.make(links=1)
    rig.wait(5.0)

    rig.hear(1, Ihu(0))

    assert rig.router.smoothed_rtt(1) == (9 * 1000 + 5000) // 10


def test_a_sample_never_exceeds_16_bits() -> None:
    rig = Rig.make(links=1)
    rig.now += 100.0

    rig.hear(1, Ihu(0))

    assert rig.router.smoothed_rtt(1) == (9 * 1000 + 0xFFFF) // 10


def test_the_cost_of_a_link_is_always_a_finite_metric() -> None:
    rig = Rig.make()
    rig.up(1, 0xFFFE)

    assert rig.router.link_cost(1) == 0xFFFE
    rig.hear(1, Hello(0))
    assert rig.take()[-1] == Send(1, Ihu(0xFFFE))


def test_a_link_that_is_not_up_costs_infinitely_and_has_no_round_trip() -> None:
    rig = Rig.make()

    assert rig.router.link_cost(9) == INFINITE
    assert rig.router.smoothed_rtt(9) is None


def test_a_changed_cost_alone_announces_nothing() -> None:
    rig = Rig.make(links=2)
    rig.hear(1, ANNA.update())
    rig.wait(20.0)
    rig.take()

    rig.answer_hellos(1)

    assert rig.take() == [Saved(LinkCost(1, 900))]


def test_a_neighbour_that_never_answers_a_hello_is_dead_after_43_seconds_at_the_next_look() -> None:
    rig = Rig.make(links=1)

    rig.wait(49.9)
    assert rig.take_dead() == []
    rig.wait(0.2)

    dead = [event for event in rig.take() if isinstance(event, LinkDead)]
    assert dead == [LinkDead(1, "no IHU for 50 s (wire spec 7.5)")]
    assert rig.router.link_cost(1) == INFINITE


def test_only_ihus_keep_a_neighbour_alive() -> None:
    rig = Rig.make(links=2)
    for _ in range(12):
        rig.wait(10.0)
        rig.hear(1, Ihu(0))
        rig.hear(2, Hello(0), ANNA.update())

    assert rig.take_dead() == [2]


def test_the_routes_of_a_dead_neighbour_are_gone_at_once() -> None:
    rig = Rig.make(links=1)
    rig.hear(1, ANNA.update())

    rig.wait(50.5)

    assert rig.state(ANNA.prefix) is RouteState.UNREACHABLE
    assert rig.count("links_dead") == 1


def test_tlvs_of_a_link_that_is_not_up_are_ignored_and_counted() -> None:
    rig = Rig.make(links=1)

    rig.hear(2, Hello(0), ANNA.update())

    assert rig.take() == []
    assert rig.count("tlvs_from_unknown_link") == 2


def test_a_link_that_goes_twice_goes_once() -> None:
    rig = Rig.make(links=1)
    rig.down(1)
    rig.down(1)

    assert rig.count("links_down") == 1


def test_a_link_that_is_reported_gone_again_leaves_the_hold_time_alone() -> None:
    rig = Rig.make(links=1)
    rig.hear(1, ANNA.update())
    rig.down(1)
    rig.down(1)

    assert rig.state(ANNA.prefix) is RouteState.UNREACHABLE


def test_when_a_peer_dies_another_route_takes_over_and_is_announced() -> None:
    rig = Rig.make(links=3)
    rig.hear(1, ANNA.update(metric=10))
    rig.hear(2, ANNA.update(metric=20))
    rig.take()

    rig.down(1)

    events = [event for event in rig.take() if not isinstance(event, Saved)]
    assert events == [
        RouteChanged(ANNA.prefix, RouteState.SELECTED, 2, ANNA.public_key, clean=False),
        Send(3, ANNA.update(metric=20 + FRESH_COST)),
    ]


def test_when_a_peer_dies_without_alternative_the_others_are_asked_and_told() -> None:
    rig = Rig.make(links=3)
    rig.hear(2, ANNA.update(metric=2000))
    rig.hear(1, ANNA.update(metric=10))
    rig.take()

    rig.down(1)

    events = [event for event in rig.take() if not isinstance(event, Saved)]
    assert events == [
        RouteChanged(ANNA.prefix, RouteState.UNREACHABLE, None, ANNA.public_key, clean=False),
        Send(2, SeqnoRequest(ANNA.prefix, ANNA.router_id, 1)),
        Send(2, ME.update(INFINITE, prefix=ANNA.prefix)),
        Send(3, ME.update(INFINITE, prefix=ANNA.prefix)),
    ]


def test_fallbacks_of_a_dead_peer_vanish_silently() -> None:
    rig = Rig.make(links=3)
    rig.hear(1, ANNA.update(metric=10))
    rig.hear(2, ANNA.update(metric=20))
    rig.take()

    rig.down(2)

    assert [event for event in rig.take() if not isinstance(event, Saved)] == []
    assert rig.fallback_links(ANNA.prefix) == []


def test_a_prefix_vanishes_six_seconds_after_its_only_neighbour() -> None:
    rig = Rig.make(links=1)
    rig.hear(1, ANNA.update())
    rig.down(1)
    rig.take()

    rig.wait(5.9)
    assert rig.take_changes() == []
    rig.wait(0.2)

    assert rig.take_changes() == [RouteChanged(ANNA.prefix, RouteState.FORGOTTEN, None, None, clean=False)]


def test_a_retracted_entry_vanishes_with_its_link() -> None:
    rig = Rig.make(links=1)
    rig.hear(1, ANNA.update(), ANNA.update(INFINITE))
    rig.take()

    rig.down(1)

    assert [change.state for change in rig.take_changes()] == [RouteState.FORGOTTEN]


def test_a_node_that_comes_back_over_a_new_link_makes_us_probe_the_old_one() -> None:
    rig = Rig.make(links=1)
    rig.hear(1, ANNA.update())
    rig.wait(1.0)
    rig.up(2)
    rig.take()

    rig.hear(2, ANNA.restarted().update())

    assert hellos(rig.take()) == [(1, Hello(0))]
    rig.wait(2.1)
    assert [event.link for event in rig.take() if isinstance(event, LinkDead)] == [1]
    assert rig.selected_link(ANNA.prefix) == 2


def test_a_probed_link_that_answers_lives_on() -> None:
    rig = Rig.make(links=1)
    rig.hear(1, ANNA.update())
    rig.wait(1.0)
    rig.up(2)
    rig.hear(2, ANNA.restarted().update())

    rig.answer_hellos(1, round_trip=0.1)
    rig.wait(5.0)

    assert rig.take_dead() == []


def test_a_link_is_probed_at_most_every_ten_seconds() -> None:
    rig = Rig.make(links=1)
    rig.hear(1, ANNA.update())
    rig.wait(1.0)
    rig.up(2)
    newer = ANNA
    for _ in range(5):
        newer = newer.restarted()
        rig.hear(2, newer.update())
        rig.answer_hellos(1, round_trip=0.1)

    assert rig.count("probes") == 1
    rig.wait(10.0)
    rig.hear(2, newer.restarted().update())
    assert rig.count("probes") == 2


def test_an_older_link_is_no_reason_to_probe_a_newer_one() -> None:
    rig = Rig.make(links=1)
    rig.wait(1.0)
    rig.up(2)
    rig.hear(2, ANNA.update())
    rig.take()

    rig.hear(1, ANNA.restarted().update())

    assert hellos(rig.take()) == []


def test_a_probed_link_that_goes_down_is_not_reported_dead() -> None:
    rig = Rig.make(links=1)
    rig.hear(1, ANNA.update())
    rig.wait(1.0)
    rig.up(2)
    rig.hear(2, ANNA.restarted().update())

    rig.down(1)
    rig.wait(5.0)

    assert rig.take_dead() == []


def test_a_link_that_is_silent_and_probed_is_reported_dead_once() -> None:
    rig = Rig.make(links=1)
    rig.hear(1, ANNA.update())
    rig.now = 149.5
    rig.router.handle_timer(146.0)
    rig.up(2)
    rig.hear(2, ANNA.restarted().update())
    rig.now = 155.0
    rig.router.handle_timer(rig.now)

    assert rig.take_dead() == [1]


def test_both_ends_of_a_connection_to_oneself_are_seen_before_they_are_ended_together() -> None:
    rig = Rig.make(links=3)
    rig.hear(1, ME.update())
    rig.wait(SELF_PATIENCE / 2)
    rig.hear(2, ME.update())
    rig.hear(2, ME.update())
    assert rig.take_dead() == []

    rig.wait(SELF_PATIENCE - 0.01)
    assert rig.take_dead() == []
    rig.wait(0.01)

    assert sorted(rig.take_dead()) == [1, 2]
    rig.wait(5.0)
    assert rig.take_dead() == []


def test_connections_to_oneself_that_come_and_come_do_not_keep_each_other() -> None:
    links = int(2 * SELF_MOST_PATIENCE / SELF_PATIENCE) + 2
    rig = Rig.make(links=links)
    ended: list[int] = []
    for link in range(1, links + 1):
        rig.hear(link, ME.update())
        rig.wait(SELF_PATIENCE / 2)
        ended += rig.take_dead()
    assert ended[0] == 1
    assert len(ended) == SELF_MOST_PATIENCE / (SELF_PATIENCE / 2)


def test_end_of_a_connection_to_oneself_that_goes_by_itself_is_not_reported() -> None:
    rig = Rig.make(links=1)
    rig.hear(1, ME.update())
    rig.down(1)
    rig.wait(5.0)
    assert rig.take_dead() == []


@pytest.mark.parametrize("metric", [1, 0xFFFF])
def test_own_prefix_from_a_neighbour_who_only_passes_it_on_ends_nothing(metric: int) -> None:
    rig = Rig.make(links=1)
    rig.hear(1, ME.update(metric=metric))
    rig.hear(1, ME.restarted().update())
    rig.wait(5.0)
    assert rig.take_dead() == []


def test_two_connections_to_one_neighbour_are_two_routes() -> None:
    rig = Rig.make(links=1)
    rig.up(2, 2)
    rig.hear(1, BERT.update())
    rig.hear(2, BERT.update())

    assert rig.selected_link(BERT.prefix) == 2
    rig.down(2)
    assert rig.selected_link(BERT.prefix) == 1


def test_an_ihu_says_the_cost_as_it_is_now() -> None:
    rig = Rig.make(links=1)
    rig.wait(20.0)
    rig.answer_hellos(1)
    rig.take()

    rig.hear(1, Hello(5))

    assert rig.take() == [Send(1, Ihu(915))]


def test_announcements_of_the_own_prefix_repeat_every_300_seconds() -> None:
    rig = Rig.make(links=1)
    for _ in range(31):
        rig.wait(20.0)
        rig.hear(1, Ihu(0))

    assert [at for at, _ in rig.take_timed(Update)] == [400.0, 700.0]
