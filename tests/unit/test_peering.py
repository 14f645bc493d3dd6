"""The peer table: whom to dial and when, what a broken connection means, and guests."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from protocol.peering import (
    DISCOVERED_FAILURES,
    JITTER,
    LEADS_TO_SELF,
    MAX_PEERS,
    PAUSES_SECONDS,
    SELF_PAUSE_SECONDS,
    SHORTEST_LIFE_SECONDS,
    TRANSITIONS,
    AlreadyKnown,
    Kind,
    NotKnown,
    Peer,
    PeeringError,
    PeerTable,
    Saw,
    State,
)

A = "tcp://192.0.2.1:9651"
B = "tcp://192.0.2.2:9651"
MIDDLE = 0.5
"""The random number that leaves a pause as it is."""


def _peer(table: PeerTable, endpoint: str = A) -> Peer:
    return next(peer for peer in table if peer.endpoint == endpoint)


def _connected(link: int = 1, now: float = 0.0) -> PeerTable:
    table = PeerTable()
    table.add(A, now)
    table.take_due(now)
    assert table.connected(A, link, now)
    return table


def test_table_of_moves_is_the_one_that_was_thought_through() -> None:
    assert {
        (State.DEAD, Saw.DUE): State.CONNECTING,
        (State.CONNECTING, Saw.CONNECTED): State.ALIVE,
        (State.CONNECTING, Saw.FAILED): State.DEAD,
        (State.ALIVE, Saw.BROKE): State.DEAD,
    } == TRANSITIONS


def test_new_peer_is_dialled_at_once_and_once() -> None:
    table = PeerTable()
    table.add(A, 10.0)
    assert table.next_deadline() == 10.0
    assert table.take_due(10.0) == [A]
    assert _peer(table).state is State.CONNECTING
    assert table.take_due(1000.0) == []
    assert table.next_deadline() is None


def test_peer_is_not_dialled_before_it_is_due() -> None:
    table = PeerTable()
    table.add(A, 10.0)
    assert table.take_due(9.9) == []


def test_peer_that_is_never_dialled_is_listed_with_the_reason() -> None:
    table = PeerTable()
    table.add(A, 0.0, never="QUIC links do not exist")
    assert table.take_due(1e9) == []
    assert _peer(table).reason == "QUIC links do not exist"
    assert _peer(table).state is State.DEAD


def test_known_peer_is_not_added_again() -> None:
    table = PeerTable()
    table.add(A, 0.0)
    with pytest.raises(AlreadyKnown, match=A):
        table.add(A, 0.0)
    assert len(table) == 1


def test_table_has_a_bound() -> None:
    table = PeerTable()
    for number in range(MAX_PEERS):
        table.add(f"tcp://192.0.2.1:{number}", 0.0)
    with pytest.raises(PeeringError, match=f"{MAX_PEERS} peers are known; remove one first"):
        table.add(A, 0.0)


def test_connection_that_stands_is_alive_with_its_link_and_no_reason() -> None:
    table = PeerTable()
    table.add(A, 0.0)
    table.take_due(0.0)
    table.failed(A, "refused", 0.0, MIDDLE)
    table.take_due(100.0)
    assert table.connected(A, 7, 100.0)
    peer = _peer(table)
    assert (peer.state, peer.link, peer.connected, peer.reason) == (State.ALIVE, 7, 100.0, "")


def test_broken_connection_is_dialled_again_at_once() -> None:
    table = _connected(link=1, now=0.0)
    gone = table.link_gone(1, "reset by peer", 50.0, MIDDLE)
    assert gone is _peer(table)
    assert (gone.state, gone.link, gone.reason, gone.failures) == (State.DEAD, 0, "reset by peer", 0)
    assert table.next_deadline() == 50.0
    assert table.take_due(50.0) == [A]


def test_failures_make_the_next_try_wait_longer_up_to_a_bound() -> None:
    table = PeerTable()
    table.add(A, 0.0)
    now = 0.0
    pauses = []
    for failures in range(1, 7):
        table.take_due(now)
        assert table.failed(A, "refused", now, MIDDLE) == failures
        deadline = table.next_deadline()
        assert deadline is not None
        pauses.append(deadline - now)
        now = deadline
    assert pauses == [*PAUSES_SECONDS, PAUSES_SECONDS[-1], PAUSES_SECONDS[-1]]


@pytest.mark.parametrize(("spread", "factor"), [(0.0, 1 - JITTER), (0.5, 1.0), (1.0, 1 + JITTER)])
def test_pauses_spread_around_their_length(spread: float, factor: float) -> None:
    table = PeerTable()
    table.add(A, 0.0)
    table.take_due(0.0)
    table.failed(A, "refused", 0.0, spread)
    assert table.next_deadline() == PAUSES_SECONDS[0] * factor


def test_connection_that_breaks_right_away_counts_as_a_failure() -> None:
    table = _connected(link=1, now=0.0)
    table.link_gone(1, "garbage", SHORTEST_LIFE_SECONDS - 0.1, MIDDLE)
    assert _peer(table).failures == 1
    assert table.next_deadline() == SHORTEST_LIFE_SECONDS - 0.1 + PAUSES_SECONDS[0]


def test_short_connections_in_a_row_wait_longer_and_longer() -> None:
    table = _connected(link=1, now=0.0)
    now = 0.0
    pauses = []
    for link in range(1, 5):
        table.link_gone(link, "garbage", now, MIDDLE)
        deadline = table.next_deadline()
        assert deadline is not None
        pauses.append(deadline - now)
        now = deadline
        table.take_due(now)
        table.connected(A, link + 1, now)
    assert pauses == list(PAUSES_SECONDS)


def test_connection_that_lasted_makes_failures_forgotten() -> None:
    table = PeerTable()
    table.add(A, 0.0)
    table.take_due(0.0)
    table.failed(A, "refused", 0.0, MIDDLE)
    table.take_due(10.0)
    table.connected(A, 1, 10.0)
    table.link_gone(1, "reset", 100.0, MIDDLE)
    table.take_due(100.0)
    assert table.failed(A, "refused", 100.0, MIDDLE) == 1


def test_peer_that_was_removed_is_neither_connected_nor_failed() -> None:
    table = PeerTable()
    table.add(A, 0.0)
    table.take_due(0.0)
    assert table.remove(A) == 0
    assert not table.connected(A, 1, 1.0)
    assert table.failed(A, "refused", 1.0, MIDDLE) == 0
    assert list(table) == []


def test_removing_a_connected_peer_says_which_link_to_close() -> None:
    table = _connected(link=7)
    assert table.remove(A) == 7
    assert table.link_gone(7, "removed", 1.0, MIDDLE) is None
    assert table.take_due(1e9) == []


def test_unknown_peer_can_not_be_removed() -> None:
    with pytest.raises(NotKnown, match=A):
        PeerTable().remove(A)


def test_end_of_an_unknown_link_is_harmless() -> None:
    table = _connected(link=1)
    assert table.link_gone(99, "ended", 5.0, MIDDLE) is None
    assert _peer(table).state is State.ALIVE


def test_bytes_add_up_over_connections() -> None:
    table = _connected(link=1)
    table.moved(1, 10, 20)
    table.link_gone(1, "reset", 50.0, MIDDLE)
    table.take_due(50.0)
    table.connected(A, 2, 50.0)
    table.moved(2, 1, 2)
    table.moved(99, 1000, 1000)
    assert (_peer(table).received_octets, _peer(table).sent_octets) == (11, 22)


@pytest.mark.parametrize(
    ("state", "saw"),
    [(state, saw) for state in State for saw in Saw if (state, saw) not in TRANSITIONS],
)
def test_move_that_is_not_in_the_table_is_an_error_that_names_itself(state: State, saw: Saw) -> None:
    table = _connected()
    peer = _peer(table)
    peer.state = state
    with pytest.raises(PeeringError, match=f"peer {A} is {state.value}, and {saw.value}"):
        PeerTable._move(peer, saw)
    assert peer.state is state


# --- guests -----------------------------------------------------------------------------------------------------------


def test_guest_is_listed_while_it_is_there_and_never_dialled() -> None:
    table = PeerTable()
    table.accepted(A, 3, 5.0)
    peer = _peer(table)
    assert (peer.kind, peer.state, peer.link, peer.connected) == (Kind.INBOUND, State.ALIVE, 3, 5.0)
    assert table.take_due(1e9) == []
    assert table.link_gone(3, "ended", 10.0, MIDDLE) is peer
    assert list(table) == []


def test_guest_can_be_removed() -> None:
    table = PeerTable()
    table.accepted(A, 3, 5.0)
    assert table.remove(A) == 3
    assert list(table) == []


def test_guest_from_the_same_port_again_replaces_the_one_whose_end_we_missed() -> None:
    table = PeerTable()
    table.accepted(A, 1, 0.0)
    table.accepted(A, 2, 60.0)
    table.link_gone(1, "no answer", 90.0, MIDDLE)
    assert [(peer.endpoint, peer.link) for peer in table] == [(A, 2)]
    table.moved(2, 5, 6)
    assert _peer(table).received_octets == 5
    table.link_gone(2, "ended", 100.0, MIDDLE)
    assert list(table) == []


def test_guest_from_the_port_that_we_dial_does_not_cost_us_the_peer() -> None:
    table = _connected(link=1)
    table.accepted(A, 2, 60.0)
    table.link_gone(1, "replaced", 61.0, MIDDLE)
    table.link_gone(2, "ended", 62.0, MIDDLE)
    assert _peer(table).kind is Kind.STATIC
    assert table.take_due(61.0) == [A]


# --- a new table over old connections ---------------------------------------------------------------------------------


def test_kept_link_of_a_peer_is_not_dialled_again() -> None:
    table = PeerTable()
    table.add(A, 100.0)
    table.kept(A, 4, True, 100.0, age=30.0)
    assert table.take_due(1e9) == []
    peer = _peer(table)
    assert (peer.kind, peer.state, peer.link, peer.connected) == (Kind.STATIC, State.ALIVE, 4, 70.0)


def test_of_several_kept_links_of_one_dial_only_the_first_is_the_peer_s() -> None:
    table = PeerTable()
    table.add("quic://peer:1", 0.0)
    assert table.kept("quic://peer:1", 1, True, 5.0, 1.0)
    assert not table.kept("quic://peer:1", 2, True, 5.0, 0.5)
    assert table.link_gone(2, "not needed", 6.0, 0.5) is None
    (peer,) = table
    assert (peer.state, peer.link) == (State.ALIVE, 1)


def test_kept_link_that_breaks_is_dialled_again_at_once() -> None:
    table = PeerTable()
    table.add(A, 100.0)
    table.kept(A, 4, True, 100.0, age=30.0)
    table.link_gone(4, "reset", 100.5, MIDDLE)
    assert table.take_due(100.5) == [A]


def test_kept_guest_stays_a_guest() -> None:
    table = PeerTable()
    table.kept(B, 5, False, 100.0, age=30.0)
    peer = _peer(table, B)
    assert (peer.kind, peer.state, peer.link, peer.connected) == (Kind.INBOUND, State.ALIVE, 5, 70.0)
    table.link_gone(5, "ended", 101.0, MIDDLE)
    assert list(table) == []


def test_kept_link_of_a_peer_that_was_removed_stays_until_it_ends() -> None:
    table = PeerTable()
    table.kept(A, 4, True, 100.0, age=30.0)
    assert _peer(table).kind is Kind.INBOUND
    table.link_gone(4, "ended", 101.0, MIDDLE)
    assert table.take_due(1e9) == []


def test_kept_guest_from_the_port_that_we_dial_does_not_cost_us_the_peer() -> None:
    table = PeerTable()
    table.add(A, 100.0)
    table.kept(A, 4, False, 100.0, age=30.0)
    assert table.take_due(100.0) == [A]


# --- anything in any order --------------------------------------------------------------------------------------------


class Peering(RuleBasedStateMachine):
    """The actor's side of the table: dials, links and guests that come and go, in any order."""

    endpoints = st.sampled_from([f"tcp://192.0.2.{n}:9651" for n in range(4)])
    spreads = st.floats(0.0, 1.0)

    def __init__(self) -> None:
        super().__init__()
        self.table = PeerTable()
        self.now = 0.0
        self.links: dict[int, str] = {}
        self.dialling: list[str] = []
        self.next_link = 1

    def _link(self, endpoint: str) -> int:
        number, self.next_link = self.next_link, self.next_link + 1
        self.links[number] = endpoint
        return number

    @rule(seconds=st.floats(0.0, 10.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(endpoint=endpoints)
    def add(self, endpoint: str) -> None:
        known = {peer.endpoint for peer in self.table}
        try:
            self.table.add(endpoint, self.now)
        except AlreadyKnown:
            assert endpoint in known
        else:
            assert endpoint not in known

    @rule(endpoint=endpoints)
    def remove(self, endpoint: str) -> None:
        try:
            link = self.table.remove(endpoint)
        except NotKnown:
            return
        self.links.pop(link, None)
        # The actor lets a dial that nobody wants any more run out.
        self.dialling = [other for other in self.dialling if other != endpoint]

    @rule()
    def dial(self) -> None:
        due = self.table.take_due(self.now)
        assert not set(due) & set(self.dialling), "two dials at once"
        assert len(set(due)) == len(due)
        self.dialling += due

    @precondition(lambda self: self.dialling)
    @rule(data=st.data(), spread=spreads)
    def dial_ends(self, data: Any, spread: float) -> None:
        endpoint = self.dialling.pop(data.draw(st.integers(0, len(self.dialling) - 1)))
        if data.draw(st.booleans()):
            assert self.table.connected(endpoint, self._link(endpoint), self.now)
        else:
            assert self.table.failed(endpoint, "refused", self.now, spread) >= 1
            deadline = self.table.next_deadline()
            assert deadline is not None

    @rule(endpoint=endpoints)
    def guest(self, endpoint: str) -> None:
        self.table.accepted(endpoint, self._link(endpoint), self.now)

    @rule(data=st.data(), spread=spreads)
    def link_ends(self, data: Any, spread: float) -> None:
        link = data.draw(st.sampled_from([*sorted(self.links), self.next_link]))
        gone = self.table.link_gone(link, "ended", self.now, spread)
        if link not in self.links:
            assert gone is None
        else:
            endpoint = self.links.pop(link)
            assert gone is None or gone.endpoint == endpoint

    @invariant()
    def who_is_alive_has_a_link_that_lives(self) -> None:
        for peer in self.table:
            assert (peer.state is State.ALIVE) == (peer.link in self.links)
            assert (peer.state is State.CONNECTING) == (peer.endpoint in self.dialling)

    @invariant()
    def who_is_static_and_dead_is_dialled_within_the_longest_pause(self) -> None:
        for peer in self.table:
            if peer.kind is Kind.STATIC and peer.state is State.DEAD:
                assert peer.due is not None
                assert peer.due <= self.now + PAUSES_SECONDS[-1] * (1 + JITTER)


TestPeering = Peering.TestCase
TestPeering.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


# --- discovered peers, and a peer that is this node itself ------------------------------------------------------------


def _found(table: PeerTable) -> None:
    table.add(A, 0.0, kind=Kind.DISCOVERED)
    assert table.take_due(0.0) == [A]


def test_discovered_peer_is_forgotten_with_its_third_failure_and_a_configured_one_never() -> None:
    found, configured = PeerTable(), PeerTable()
    _found(found)
    configured.add(A, 0.0)
    configured.take_due(0.0)
    for table in (found, configured):
        for failure in range(1, DISCOVERED_FAILURES + 1):
            assert table.failed(A, "refused", 0.0, 0.5) == failure
            table.take_due(100.0)
    assert A not in found
    assert A in configured


def test_discovered_peer_whose_connection_broke_is_dialled_again_at_once() -> None:
    table = PeerTable()
    _found(table)
    table.connected(A, 1, 0.0)
    table.link_gone(1, "broke", 50.0, 0.5)
    assert table.take_due(50.0) == [A]


def test_peer_that_is_this_node_itself_rests_for_long() -> None:
    table = _connected(now=0.0)
    table.link_gone(1, f"ended: {LEADS_TO_SELF}", 0.1, 0.5)
    assert table.take_due(SELF_PAUSE_SECONDS) == []
    assert table.take_due(SELF_PAUSE_SECONDS + 0.1) == [A]


def test_link_of_discovery_stays_one_of_discovery_for_a_successor() -> None:
    table = PeerTable()
    table.kept("tcp://[fe80::1%2]:9651", 4, True, 10.0, 5.0, discovered=True)
    (peer,) = table
    assert peer.kind is Kind.DISCOVERED
    table.link_gone(4, "broke", 20.0, 0.5)
    assert table.take_due(20.0) == [peer.endpoint]
