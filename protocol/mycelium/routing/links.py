"""The links to neighbours: their smoothed cost, and whether the neighbour still answers (wire spec 7.4, 7.5).

IHUs are not matched to Hellos: every one is a sample of the time since the last Hello, and a sign of life. Nothing else
is a sign of life.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from protocol.mycelium.routing.arithmetic import METRIC_LARGEST_FINITE, smoothed_cost
from protocol.mycelium.routing.deadlines import Tick
from protocol.mycelium.tlv import METRIC_INFINITE, Hello
from protocol.peering import LEADS_TO_SELF

INITIAL_COST: Final = 1000
HELLO_PERIOD: Final = 20.0
"""Seconds between Hellos, one timer for all links, first tick one period after start (wire spec 7.4)."""
LIVENESS_PERIOD: Final = 10.0
"""Seconds between looks at which neighbours went silent (wire spec 7.5)."""
SILENCE_LIMIT: Final = 43.0
"""Seconds without an IHU after which a neighbour is dead: two Hello intervals and 3 s (wire spec 7.5)."""
PROBE_PATIENCE: Final = 2.0
"""Seconds that a probed link has for its IHU (wire spec 7.17)."""
PROBE_PAUSE: Final = 10.0
"""Seconds between two probes of one link, so that a neighbour can't make us flood another with Hellos."""
MEASURE_PERIOD: Final = 1.0
"""Seconds between Hellos on a new link beside another one to the same neighbour."""
MEASURED_SAMPLES: Final = 41
"""After which a link costs what its round trip is: what was left of the initial cost is 13 (wire spec 7.4)."""
SELF_PATIENCE: Final = 0.5
"""Seconds without another link that leads to this node itself, after which all that do are ended. For the other end of
each is a link of ours, too; known for one it ends for the same reason, where it would dial again if it only saw the
connection close."""
SELF_MOST_PATIENCE: Final = 2.0
"""Seconds after the first one, whatever others come."""

_MAX_SAMPLE_MS: Final = 0xFFFF
_SEQNO_SPACE: Final = 1 << 16


@dataclass(slots=True)
class Link:
    """One connection to a neighbour. Times are monotonic seconds."""

    id: int
    static_cost: int
    any_size: bool
    """Whether it carries packets of every size."""
    since: float
    smoothed: int
    hello_sent: float
    """The Hello clock: when the last Hello left, at first when the link came up."""
    ihu_received: float
    """The IHU clock, likewise."""
    hello_seqno: int = 0
    round_trip: int | None = None
    """The last sample, ms."""
    samples: int = 0
    probe_allowed: float = 0.0
    """When the next probe may be sent (wire spec 7.17)."""

    @property
    def cost(self) -> int:
        """What the link adds to a metric: smoothed round trip in ms and static cost, always finite."""
        return min(self.smoothed + self.static_cost, METRIC_LARGEST_FINITE)

    def hello(self, now: float) -> Hello:
        """The next Hello; starts the Hello clock."""
        seqno = self.hello_seqno
        self.hello_seqno = (seqno + 1) % _SEQNO_SPACE
        self.hello_sent = now
        return Hello(seqno)


class Links:
    """All links by id, and the two timers that they share."""

    def __init__(self, now: float, costs: Mapping[int, int]) -> None:
        """`costs`: link → smoothed cost that a predecessor had measured."""
        self._links: dict[int, Link] = {}
        self._known_costs = dict(costs)
        self._hello_tick = Tick(HELLO_PERIOD, now)
        self._liveness_tick = Tick(LIVENESS_PERIOD, now)
        self._probed: dict[int, float] = {}
        """Link → when a probe was sent that has had no answer yet."""
        self._to_self: dict[int, float] = {}
        """Link that leads to this node itself → since when that is known."""
        self._measured: set[int] = set()
        """Links whose Hellos come quickly."""
        self._next_measure = now
        self.everyone: frozenset[int] = frozenset()
        """The ids of all links: one object until a link comes or goes, so that request caches can share it."""

    def __iter__(self) -> Iterator[Link]:
        return iter(self._links.values())

    def __len__(self) -> int:
        return len(self._links)

    def __contains__(self, link: int) -> bool:
        return link in self._links

    def get(self, link: int) -> Link | None:
        """The link with this id, if it is up."""
        return self._links.get(link)

    def cost(self, link: int) -> int:
        """The link's current cost, infinite if it is not up."""
        found = self._links.get(link)
        return METRIC_INFINITE if found is None else found.cost

    def up(self, link: int, static_cost: int, any_size: bool, now: float) -> Link:
        """Adds a link. Raises `ValueError` if it is up already or its static cost is no metric."""
        if link in self._links:
            raise ValueError(f"link {link} is up already")
        if not 0 <= static_cost <= METRIC_LARGEST_FINITE:
            raise ValueError(f"static cost {static_cost} of link {link} is not between 0 and {METRIC_LARGEST_FINITE}")
        smoothed = self._known_costs.pop(link, INITIAL_COST)
        made = Link(link, static_cost, any_size, now, smoothed, hello_sent=now, ihu_received=now)
        if not self._links:
            self._skip_idle_ticks(now)
        self._links[link] = made
        self.everyone = frozenset(self._links)
        return made

    def down(self, link: int) -> Link | None:
        """Takes a link out, if it is up."""
        self._known_costs.pop(link, None)
        self._probed.pop(link, None)
        self._to_self.pop(link, None)
        self._measured.discard(link)
        gone = self._links.pop(link, None)
        if gone is not None:
            self.everyone = frozenset(self._links)
        return gone

    def known_costs(self) -> dict[int, int]:
        """Link → smoothed cost of all links, those that have not come up again included."""
        return self._known_costs | {link.id: link.smoothed for link in self}

    def heard_ihu(self, link: Link, now: float) -> bool:
        """An IHU came: one more sample of the cost, and the neighbour lives. Returns whether the cost changed."""
        sample = min(int((now - link.hello_sent) * 1000), _MAX_SAMPLE_MS)
        before = link.smoothed
        link.round_trip = sample
        link.samples += 1
        link.smoothed = smoothed_cost(before, sample)
        link.ihu_received = now
        self._probed.pop(link.id, None)
        return link.smoothed != before

    def may_probe(self, link: Link, now: float) -> bool:
        """Whether a probe may be sent now; if so it counts as sent."""
        if now < link.probe_allowed:
            return False
        link.probe_allowed = now + PROBE_PAUSE
        self._probed[link.id] = now
        return True

    def measure(self, link: Link, now: float) -> None:
        """Another link leads to the same neighbour: what this one costs should be known soon.

        By a Hello in 20 s it would take nine minutes until a link of 1 ms is taken for cheaper than one of 80 ms.
        """
        if link.samples < MEASURED_SAMPLES and link.id not in self._measured:
            if not self._measured:
                self._next_measure = now + MEASURE_PERIOD
            self._measured.add(link.id)

    def take_measures(self, now: float) -> tuple[list[Link], list[Link]]:
        """The links on which it is time for a quick Hello, and those that have had enough of them.

        A link whose last Hello has no answer yet gets none.
        """
        if not self._measured or now < self._next_measure:
            return [], []
        self._next_measure = now + MEASURE_PERIOD
        links = [self._links[link] for link in sorted(self._measured)]
        done = [link for link in links if link.samples >= MEASURED_SAMPLES]
        self._measured.difference_update(link.id for link in done)
        return [link for link in links if link not in done and link.ihu_received >= link.hello_sent], done

    def leads_to_self(self, link: Link, now: float) -> None:
        """Our own announcement came back over this link: it is `dead` in a moment."""
        self._to_self.setdefault(link.id, now)

    def hello_due(self, now: float) -> bool:
        """Whether it is time for a Hello to every link."""
        return bool(self._links) and self._hello_tick.passed(now)

    def dead(self, now: float) -> list[tuple[int, str]]:
        """(link, reason) of every neighbour that is found dead at `now`."""
        found: list[tuple[int, str]] = []
        if self._links and self._liveness_tick.passed(now):
            for link in self:
                silence = now - link.ihu_received
                if silence > SILENCE_LIMIT:
                    found.append((link.id, f"no IHU for {silence:.0f} s (wire spec 7.5)"))
        silent = {link for link, _ in found}
        for probed_link, probed in self._probed.items():
            if now >= probed + PROBE_PATIENCE and probed_link not in silent:
                reason = f"its node came back over another link, and no IHU within {PROBE_PATIENCE:.0f} s of a Hello"
                found.append((probed_link, f"{reason} (wire spec 7.17)"))
                silent.add(probed_link)
        if self._to_self and now >= self._selves_end():
            found += [(link, f"ended: {LEADS_TO_SELF}") for link in self._to_self if link not in silent]
        return found

    def next_deadline(self) -> float | None:
        """When something is due here, `None` without links."""
        if not self._links:
            return None
        deadline = min(self._hello_tick.next, self._liveness_tick.next)
        for probed in self._probed.values():
            deadline = min(deadline, probed + PROBE_PATIENCE)
        if self._to_self:
            deadline = min(deadline, self._selves_end())
        if self._measured:
            deadline = min(deadline, self._next_measure)
        return deadline

    def _selves_end(self) -> float:
        known = self._to_self.values()
        return min(max(known) + SELF_PATIENCE, min(known) + SELF_MOST_PATIENCE)

    def _skip_idle_ticks(self, now: float) -> None:
        self._hello_tick.passed(now)
        self._liveness_tick.passed(now)
