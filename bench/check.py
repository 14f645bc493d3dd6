"""The check that a long flow arrives whole: its SHA-256 at both ends, through two nodes, a relay, and a foreign relay.

Run by `python -m bench.run --check`. The bytes are those of `tests.lab.flow`: no two blocks alike.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from bench.contenders import REACH_TIMEOUT, Line, listening_and_dialling, three_in_line
from tests.lab.flow import FlowReport, transfer
from tests.lab.namespaces import LabError
from tests.lab.nodes import MyceliumNode, Node, SeptateNode
from tests.lab.ping import ping_until_reply

FLOW_BYTES: Final = 2_000_000_000
QUICK_FLOW_BYTES: Final = 200_000_000
FLOW_TIMEOUT: Final = 300.0
GIGA: Final = 1e9


@dataclass(frozen=True, slots=True)
class Way:
    """A way from one Septate node to another."""

    title: str
    build: Callable[[], AbstractContextManager[Line]]
    needs: type[Node] = SeptateNode


WAYS: Final = (
    Way("two nodes", lambda: listening_and_dialling(SeptateNode)),
    Way("through a relay", lambda: three_in_line(SeptateNode)),
    Way("through a Mycelium relay", lambda: three_in_line(SeptateNode, relaying=MyceliumNode), MyceliumNode),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the flow on one way: both ends' reports and the seconds it took, or why there are none."""

    way: Way
    sent: FlowReport | None = None
    arrived: FlowReport | None = None
    skipped: str | None = None
    failed: str | None = None

    @property
    def good(self) -> bool:
        """Whether what arrived is what was sent, or nothing could be sent for want of a program."""
        if self.skipped is not None:
            return True
        if self.sent is None or self.arrived is None:
            return False
        return (self.sent.bytes, self.sent.sha256) == (self.arrived.bytes, self.arrived.sha256)

    def __str__(self) -> str:
        if self.skipped is not None:
            return f"{self.way.title:<26} not checked: {self.skipped}"
        if self.sent is None or self.arrived is None:
            return f"{self.way.title:<26} FAILED: {self.failed}"
        verdict = "the same" if self.good else f"DIFFERENT: {self.arrived.bytes} bytes, sha256 {self.arrived.sha256}"
        return (
            f"{self.way.title:<26} {self.sent.bytes} bytes in {self.sent.seconds:.1f} s, "
            f"{self.sent.bits_per_second / GIGA:.2f} Gbit/s, sha256 {self.sent.sha256} at the sender, "
            f"{verdict} at the receiver"
        )


def send_along(way: Way, total: int) -> Verdict:
    """Sends `total` bytes along the way."""
    missing = SeptateNode.missing() or way.needs.missing()
    if missing is not None:
        return Verdict(way, skipped=missing)
    try:
        with way.build() as line:
            if len(line.nodes) == 2:
                line.first.start().wait_until_up()
                ping_until_reply(line.first.namespace, line.last.address, REACH_TIMEOUT)
            sent, arrived = transfer(
                line.first.namespace, line.last.namespace, line.last.address, total, timeout=FLOW_TIMEOUT
            )
    except LabError as error:
        return Verdict(way, failed=str(error).splitlines()[0])
    return Verdict(way, sent, arrived)


def check(total: int, ways: Sequence[Way] = WAYS) -> bool:
    """Sends `total` bytes along every way and prints each verdict; whether all are good."""
    begin = time.monotonic()
    good = True
    for way in ways:
        verdict = send_along(way, total)
        print(verdict, flush=True)
        good = good and verdict.good
    print(f"{time.monotonic() - begin:.0f} s in all")
    return good
