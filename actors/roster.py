"""The list of a node's processes and how they are, for whoever asks; what they counted before they were gone, too."""

from __future__ import annotations

import os
import resource
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from actors.births import links_title
from actors.child import Child
from actors.runtime.channel import ChannelClosed, ChannelFull
from actors.runtime.figures import proportional_kib
from protocol.frames import ActorList, ActorRow, Role
from protocol.restarts import Life

ROWS_PER_PART: Final = 16
MOST_PARTS: Final = 256
"""Parts of answers that wait for one child; who asks on without reading gets no more."""
PAUSE_SECONDS: Final = 0.01


class Roster:
    """Answers AskActors with rows of the supervisor and its children."""

    def __init__(
        self,
        children: Mapping[str, Child],
        ready: Callable[[], bool],
        after: Callable[[float, Callable[[], None]], None],
    ) -> None:
        """`children` is the supervisor's own table; `after(seconds, call)` its timer."""
        self._children = children
        self._ready = ready
        self._after = after
        self._started = time.monotonic()
        self._gone: Counter[str] = Counter()

    @property
    def age(self) -> float:
        """Of the node, in seconds."""
        return time.monotonic() - self._started

    def gone(self, child: Child) -> None:
        """A process of links is no more: a link that ended over garbage must not take its counter along."""
        self._gone.update(child.figures.counters)

    def asked(self, asker: Child, token: int) -> None:
        """A child wants the list. It comes in parts, as fast as its channel takes them."""
        if len(asker.answers) > MOST_PARTS:
            return
        rows = [self._own_row(), *(_row(child) for child in self._children.values())]
        idle = not asker.answers
        for start in range(0, len(rows), ROWS_PER_PART):
            part = tuple(rows[start : start + ROWS_PER_PART])
            asker.answers.append(ActorList(token, part, start + ROWS_PER_PART < len(rows)))
        if idle:
            self._send(asker)

    def _send(self, asker: Child) -> None:
        # Hundreds of links are more rows than a channel holds.
        while asker.answers and asker.channel is not None:
            try:
                asker.channel.send(asker.answers[0])
            except ChannelFull:
                self._after(PAUSE_SECONDS, lambda: self._send(asker))
                return
            except ChannelClosed:
                return
            asker.answers.popleft()

    def _own_row(self) -> ActorRow:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return ActorRow(
            name="supervisor",
            role=Role.SUPERVISOR,
            title="supervisor",
            pid=os.getpid(),
            age_seconds=round(self.age, 3),
            restarts=0,
            ready=self._ready(),
            cpu_seconds=round(usage.ru_utime + usage.ru_stime, 3),
            pss_kib=proportional_kib("self"),
            queues={},
            counters={f"gone_links.{name}": count for name, count in self._gone.items()},
        )


def _row(child: Child) -> ActorRow:
    start, figures = child.birth.start, child.figures
    return ActorRow(
        name=start.name,
        role=start.role,
        title=links_title(child.links) if child.links else start.title,
        pid=child.pid,
        age_seconds=round(time.monotonic() - child.started, 3),
        restarts=child.policy.restarts,
        ready=child.policy.life is Life.READY,
        cpu_seconds=figures.cpu_seconds,
        pss_kib=figures.pss_kib,
        queues=figures.queues,
        counters=figures.counters,
    )
