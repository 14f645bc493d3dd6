"""Anything in any order: the router never raises, keeps its tables bounded and consistent, and can be succeeded."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from protocol.frames import RouteState
from protocol.mycelium.routing.events import LinkDead, RouteChanged, Saved, Send
from protocol.mycelium.routing.limits import Limits
from protocol.mycelium.routing.router import Router
from protocol.mycelium.routing.state import Record, SavedState, pack_record, unpack_record
from protocol.mycelium.tlv import Hello, Ihu, RouteRequest, SeqnoRequest, Tlv, Update
from protocol.prefix import Prefix
from tests.unit.router_rig import INFINITE, ME, Owner

LIMITS = Limits(
    prefixes=4, entries_per_prefix=2, queries=3, queries_per_link=2, sources=5, route_requests=3, seqno_requests=3
)
OWNERS = [Owner.named(f"owner {number}") for number in range(7)]
IDENTITIES = [*OWNERS, *(owner.restarted() for owner in OWNERS[:3]), ME, ME.restarted()]

owners = st.sampled_from(IDENTITIES)
links = st.integers(1, 5)
prefixes = st.one_of(
    owners.map(lambda owner: owner.prefix),
    st.builds(lambda owner, length: Prefix.of(owner.address, length), owners, st.sampled_from([1, 7, 56, 63, 65, 128])),
    st.builds(Prefix.of, st.binary(min_size=16, max_size=16), st.integers(1, 128)),
)
seqnos = st.one_of(st.integers(0, 4), st.sampled_from([0x7FFF, 0x8000, 0xFFFF]))
metrics = st.one_of(st.integers(0, 30), st.sampled_from([0, 1000, 3000, INFINITE - 1, INFINITE]))
intervals = st.sampled_from([0, 1, 100, 500, 30000, 0xFFFF])
tlvs = st.one_of(
    st.builds(
        lambda owner, *rest: Update(owner.prefix, owner.router_id, *rest),
        owners,
        seqnos,
        metrics,
        intervals,
        st.integers(0, 1),
    ),
    st.builds(lambda owner, *rest: Update(owner.prefix, owner.router_id, *rest), owners, seqnos, metrics),
    st.builds(lambda prefix, owner, *rest: Update(prefix, owner.router_id, *rest), prefixes, owners, seqnos, metrics),
    st.builds(RouteRequest, st.one_of(st.none(), prefixes), st.integers(0, 15)),
    st.builds(
        lambda prefix, owner, *rest: SeqnoRequest(prefix, owner.router_id, *rest),
        prefixes,
        owners,
        seqnos,
        st.integers(1, 255),
    ),
    st.builds(lambda owner, *rest: SeqnoRequest(owner.prefix, owner.router_id, *rest), owners, seqnos),
    st.builds(Hello, seqnos),
    st.builds(Ihu, seqnos),
)


class Anything(RuleBasedStateMachine):
    """One router; its neighbours, its data actors and the clock do as they please."""

    @initialize(at=st.floats(0, 1e6))
    def start(self, at: float) -> None:
        self.now = at
        self.up: set[int] = set()
        self.table: dict[Prefix, RouteChanged] = {}
        self.journal: list[Record] = []
        self.router = Router(ME.router_id, ME.prefix, self.now, limits=LIMITS)
        self.drain()

    def drain(self) -> None:
        for event in self.router.events():
            match event:
                case Saved(record):
                    self.journal.append(unpack_record(pack_record(record)))
                case RouteChanged():
                    self.table[event.prefix] = event
                    if event.state is RouteState.FORGOTTEN:
                        del self.table[event.prefix]
                case LinkDead(link):
                    self.up.discard(link)
                    self.router.link_down(link, self.now)
                case Send(link):
                    assert link in self.up

    @rule(link=links, cost=st.sampled_from([0, 5, 15, 0xFFFE]), any_size=st.booleans())
    def link_up(self, link: int, cost: int, any_size: bool) -> None:
        if link not in self.up:
            self.up.add(link)
            self.router.link_up(link, cost, any_size, self.now)
            self.drain()

    @rule(link=links)
    def link_down(self, link: int) -> None:
        self.up.discard(link)
        self.router.link_down(link, self.now)
        self.drain()

    @rule(link=links, heard=st.lists(tlvs, max_size=6))
    def receive(self, link: int, heard: list[Tlv]) -> None:
        for tlv in heard:
            self.router.receive(link, tlv, self.now)
        self.drain()

    @rule(prefix=prefixes)
    def resolve(self, prefix: Prefix) -> None:
        self.router.resolve(prefix, self.now)
        self.drain()

    @rule(prefix=prefixes)
    def refresh(self, prefix: Prefix) -> None:
        self.router.refresh(prefix, self.now)
        self.drain()

    @rule(seconds=st.sampled_from([0.0, 0.01, 1.0, 2.5, 6.0, 15.0, 44.0, 1050.0, 1800.0]), steps=st.integers(1, 30))
    def wait(self, seconds: float, steps: int) -> None:
        end = self.now + seconds
        for _ in range(steps):
            deadline = self.router.next_deadline()
            if deadline is None or deadline > end:
                break
            self.now = max(self.now, deadline)
            self.router.handle_timer(self.now)
            self.drain()
        self.now = end

    @rule()
    def succeed(self) -> None:
        state = SavedState.replay(self.journal)
        assert state == SavedState.replay(list(self.router.snapshot()))
        self.router = Router(ME.restarted().router_id, ME.prefix, self.now, limits=LIMITS, restored=state)
        self.drain()
        for link in self.up:
            self.router.link_up(link, 15, True, self.now)
        self.drain()

    @invariant()
    def data_actors_know_what_the_router_published(self) -> None:
        assert {change.prefix: change for change in self.router.published()} == self.table

    @invariant()
    def routes_in_use_are_published(self) -> None:
        for route in self.router.selected():
            assert self.table[route.prefix].state is RouteState.SELECTED
            assert self.table[route.prefix].link == route.link
            assert route.link in self.up
            assert route.metric != INFINITE

    @invariant()
    def every_table_stays_within_its_limits(self) -> None:
        core = self.router._core
        assert len(core.table) <= LIMITS.prefixes + LIMITS.queries
        assert all(len(found.entries) <= LIMITS.entries_per_prefix for _, found in core.table.items())
        assert len(list(self.router.queried(self.now))) <= LIMITS.queries
        assert len(list(core.sources.items())) <= LIMITS.sources
        assert len(self.router._resolution._sent) <= LIMITS.route_requests
        assert len(self.router._starvation._cache) <= LIMITS.seqno_requests
        assert len(core.table.expiries) == len(core.table)


TestAnything = Anything.TestCase
TestAnything.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
