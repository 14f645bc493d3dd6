"""The pinger: ICMPv6 echo requests at a fixed pace, every answer and every error accounted for.

As a program, inside a namespace: `python -m tests.lab.ping ADDRESS --interval 0.01 --count 500 --json`. It ends after
the last request's wait, at the first reply under `--until-reply`, or early on SIGTERM, and always prints its report.
As a library: `Pinger` runs that program in a namespace, `PingReport` reads what it printed. All times are seconds of
CLOCK_MONOTONIC, which all processes of a machine share, so they can be compared with the caller's.
"""

import argparse
import errno
import itertools
import json
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

from tests.lab import icmpv6
from tests.lab.namespaces import LabError, Namespace, stop_process

MAX_ERRORS_KEPT: Final = 1000
FINAL_WAIT: Final = 2.0
BEGIN_TIMEOUT: Final = 10.0
GAP_FACTOR: Final = 3.0


@dataclass(frozen=True, slots=True)
class Echo:
    """One echo request: when it was sent, and its round trip in seconds, None when no reply came."""

    sequence: int
    sent: float
    rtt: float | None

    @property
    def arrived(self) -> float | None:
        """When the reply came."""
        return None if self.rtt is None else self.sent + self.rtt


@dataclass(frozen=True, slots=True)
class IcmpError:
    """An ICMPv6 error that one of our requests provoked."""

    kind: int
    code: int
    source: str
    sequence: int
    time: float


@dataclass(frozen=True, slots=True)
class Gap:
    """A time without any reply, from one reply (or the first request) to the next."""

    begin: float
    end: float

    @property
    def seconds(self) -> float:
        """How long it was."""
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class PingReport:
    """All that one run of the pinger saw."""

    address: str
    interval: float
    echoes: tuple[Echo, ...]
    duplicates: int = 0
    errors: tuple[IcmpError, ...] = ()
    errors_not_kept: int = 0
    send_failures: dict[str, int] = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Reads the line that `--json` prints."""
        raw: dict[str, Any] = json.loads(text)
        return cls(
            address=raw["address"],
            interval=raw["interval"],
            echoes=tuple(Echo(**echo) for echo in raw["echoes"]),
            duplicates=raw["duplicates"],
            errors=tuple(IcmpError(**error) for error in raw["errors"]),
            errors_not_kept=raw["errors_not_kept"],
            send_failures=raw["send_failures"],
        )

    def to_json(self) -> str:
        """One line; the inverse of `from_json`, with the sums that a reader wants first."""
        sums = {"sent": self.sent, "received": self.received, "lost": self.lost}
        return json.dumps({**sums, **asdict(self), "gaps": [asdict(gap) for gap in self.gaps()]})

    @property
    def sent(self) -> int:
        """How many requests left."""
        return len(self.echoes)

    @property
    def round_trips(self) -> list[float]:
        """The round trips in seconds, in order of sending."""
        return [echo.rtt for echo in self.echoes if echo.rtt is not None]

    @property
    def received(self) -> int:
        """How many requests were answered."""
        return len(self.round_trips)

    @property
    def lost(self) -> int:
        """How many were not."""
        return self.sent - self.received

    def average(self) -> float:
        """Mean round trip in seconds; NaN when nothing came back."""
        trips = self.round_trips
        return sum(trips) / len(trips) if trips else math.nan

    def percentile(self, share: float) -> float:
        """The round trip, in seconds, that `share` (0..1) of the replies did not exceed; NaN when nothing came back."""
        trips = sorted(self.round_trips)
        return trips[min(len(trips) - 1, math.ceil(share * len(trips)) - 1)] if trips else math.nan

    def between(self, begin: float, end: float) -> Self:
        """The part of the report about requests sent in that time."""
        return type(self)(
            self.address,
            self.interval,
            tuple(echo for echo in self.echoes if begin <= echo.sent < end),
            0,
            tuple(error for error in self.errors if begin <= error.time < end),
        )

    def gaps(self) -> list[Gap]:
        """Times without a reply that are longer than `GAP_FACTOR` intervals, oldest first."""
        return [gap for gap in self._silences() if gap.seconds > GAP_FACTOR * self.interval]

    def longest_gap(self) -> float:
        """Seconds of the longest time without a reply: about one interval when all is well, infinite without reply."""
        return max((gap.seconds for gap in self._silences()), default=math.inf)

    def _silences(self) -> list[Gap]:
        arrivals = sorted(echo.arrived for echo in self.echoes if echo.arrived is not None)
        if not arrivals:
            return []
        marks = [self.echoes[0].sent, *arrivals]
        last = self.echoes[-1]
        if last.rtt is None:
            marks.append(max(last.sent, arrivals[-1]))
        return [Gap(begin, end) for begin, end in itertools.pairwise(marks)]


class _Run:
    """One run: the requests under way and what came of them."""

    def __init__(self, address: str, interval: float, size: int, announces: bool) -> None:
        self.address = address
        self.interval = interval
        self.size = size
        self.announces = announces
        self.identifier = os.getpid() & 0xFFFF
        self.socket = icmpv6.open_socket()
        self.sent: list[float] = []
        self.trips: dict[int, float] = {}
        self.duplicates = 0
        self.errors: list[IcmpError] = []
        self.errors_not_kept = 0
        self.send_failures: Counter[str] = Counter()
        self.stopped = False

    def announce(self, what: str, now: float) -> None:
        """Tells whoever runs this program what happened just now."""
        if self.announces:
            print(json.dumps({what: now}), flush=True)

    def stop(self, *_: object) -> None:
        """Ends the run early; a signal handler."""
        self.stopped = True

    def send(self) -> None:
        """Sends the next request. One that the kernel refuses counts as sent and lost, and is counted by reason."""
        sequence = len(self.sent)
        request = icmpv6.echo_request(self.identifier, sequence, self.size)
        self.sent.append(time.monotonic())
        try:
            self.socket.sendto(request, (self.address, 0))
        except OSError as error:
            self.send_failures[errno.errorcode.get(error.errno or 0, str(error.errno))] += 1

    def receive(self, patience: float) -> None:
        """Waits up to `patience` seconds for answers and takes in all that are there."""
        if not select.select([self.socket], [], [], max(0.0, patience))[0]:
            return
        while True:
            try:
                packet, origin = self.socket.recvfrom(65536)
            except BlockingIOError:
                return
            except OSError as error:
                self.send_failures[errno.errorcode.get(error.errno or 0, str(error.errno))] += 1
                return
            now = time.monotonic()
            answer = icmpv6.parse_answer(packet, origin[0], self.identifier)
            if answer is not None:
                self.take(answer, now)

    def take(self, answer: icmpv6.Answer, now: float) -> None:
        """Enters one answer into the books."""
        sequence = answer.sequence
        if answer.kind != icmpv6.ECHO_REPLY:
            if len(self.errors) < MAX_ERRORS_KEPT:
                self.errors.append(IcmpError(answer.kind, answer.code, answer.source, sequence, now))
            else:
                self.errors_not_kept += 1
        elif sequence in self.trips:
            self.duplicates += 1
        elif sequence < len(self.sent):
            self.trips[sequence] = now - self.sent[sequence]
            if len(self.trips) == 1:
                self.announce("first_reply", now)

    def run(self, count: int, until_reply: float | None) -> None:
        """Sends `count` requests at the run's pace and waits for the last; or ends at the first reply."""
        begin = time.monotonic()
        self.announce("begun", begin)
        while not self.stopped and len(self.sent) < count:
            if until_reply is not None and (self.trips or time.monotonic() - begin > until_reply):
                return
            self.send()
            due = begin + len(self.sent) * self.interval
            while not self.stopped and (patience := due - time.monotonic()) > 0:
                self.receive(patience)
            self.receive(0)
        end = time.monotonic() + FINAL_WAIT
        while len(self.trips) < len(self.sent) and (patience := end - time.monotonic()) > 0:
            self.receive(patience)

    def report(self) -> PingReport:
        """What the run saw."""
        echoes = tuple(Echo(number, sent, self.trips.get(number)) for number, sent in enumerate(self.sent))
        return PingReport(
            self.address,
            self.interval,
            echoes,
            self.duplicates,
            tuple(self.errors),
            self.errors_not_kept,
            dict(self.send_failures),
        )


class Pinger:
    """The pinger as a program in a namespace; it is sending when the constructor returns."""

    def __init__(
        self,
        namespace: Namespace,
        address: str,
        *,
        interval: float = 0.01,
        count: int = 1_000_000,
        size: int = 56,
        until_reply: float | None = None,
    ) -> None:
        arguments = [address, "--json", f"--interval={interval}", f"--count={count}", f"--size={size}"]
        if until_reply is not None:
            arguments.append(f"--until-reply={until_reply}")
        self._title = f"ping {address} from {namespace.label}"
        self._process = namespace.start_tool("tests.lab.ping", *arguments)
        self._read_line("begun", BEGIN_TIMEOUT)

    def wait_first_reply(self, timeout: float) -> float:
        """Waits up to `timeout` seconds for the first reply and returns its time. Raises LabError when none came."""
        return self._read_line("first_reply", timeout)

    def finish(self, timeout: float = 60.0) -> PingReport:
        """Waits until the pinger has sent its count, and returns the report."""
        return self._read(timeout)

    def stop(self) -> PingReport:
        """Tells the pinger to end now, and returns the report."""
        self._process.send_signal(signal.SIGTERM)
        return self._read(FINAL_WAIT + 5.0)

    def kill(self) -> None:
        """Ends the pinger at once, without a report."""
        self._process.kill()
        stop_process(self._process)

    def _read_line(self, expected: str, timeout: float) -> float:
        output = self._process.stdout
        assert output is not None
        if select.select([output], [], [], timeout)[0]:
            said: dict[str, Any] = json.loads(output.readline() or b"{}")
            if expected in said:
                return float(said[expected])
        stop_process(self._process)
        raise LabError(f"{self._title}: no {expected.replace('_', ' ')} within {timeout:g} s")

    def _read(self, timeout: float) -> PingReport:
        try:
            output = self._process.communicate(timeout=timeout)[0]
        except subprocess.TimeoutExpired:
            stop_process(self._process)
            raise LabError(f"{self._title}: did not end within {timeout:g} s") from None
        if not output:
            raise LabError(f"{self._title}: ended with code {self._process.returncode} and no report")
        return PingReport.from_json(output.splitlines()[-1])


def ping(namespace: Namespace, address: str, *, count: int = 5, interval: float = 0.02, size: int = 56) -> PingReport:
    """Pings `address` from `namespace`, `count` times, and returns the report."""
    pinger = Pinger(namespace, address, count=count, interval=interval, size=size)
    return pinger.finish(FINAL_WAIT + count * interval + 10)


def ping_until_reply(namespace: Namespace, address: str, timeout: float, interval: float = 0.01) -> float:
    """Pings `address` until it answers, returns when it did. Raises LabError when `timeout` seconds were not enough."""
    report = Pinger(namespace, address, interval=interval, until_reply=timeout).finish(timeout + 10.0)
    for echo in report.echoes:
        if echo.arrived is not None:
            return echo.arrived
    reasons = dict(Counter(f"ICMPv6 type {e.kind} code {e.code} from {e.source}" for e in report.errors))
    raise LabError(
        f"ping {address} from {namespace.label}: no reply within {timeout:g} s, {report.sent} sent, "
        f"refused by the kernel: {report.send_failures or 'none'}, errors received: {reasons or 'none'}"
    )


def _print_for_people(report: PingReport) -> None:
    for echo in report.echoes:
        print(f"seq {echo.sequence}: " + ("lost" if echo.rtt is None else f"{echo.rtt * 1e3:.3f} ms"))
    for error in report.errors:
        print(f"seq {error.sequence}: ICMPv6 type {error.kind} code {error.code} from {error.source}")
    print(
        f"{report.sent} sent, {report.received} received, {report.duplicates} duplicates, average "
        f"{report.average() * 1e3:.3f} ms, p99 {report.percentile(0.99) * 1e3:.3f} ms, "
        f"longest gap {report.longest_gap() * 1e3:.1f} ms"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; exit code 0 when at least one reply came, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab.ping", description="Ping an IPv6 address.")
    parser.add_argument("address")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between requests")
    parser.add_argument("--count", type=int, default=5, help="requests to send")
    parser.add_argument("--size", type=int, default=56, help="payload bytes")
    parser.add_argument("--until-reply", type=float, help="end at the first reply, or after so many seconds")
    parser.add_argument("--json", action="store_true", help="print lines of JSON: begun, first_reply, the report")
    given = parser.parse_args(arguments)
    run = _Run(given.address, given.interval, given.size, announces=given.json)
    signal.signal(signal.SIGTERM, run.stop)
    signal.signal(signal.SIGINT, run.stop)
    with run.socket:
        run.run(given.count, given.until_reply)
    report = run.report()
    if given.json:
        print(report.to_json(), flush=True)
    else:
        _print_for_people(report)
    return 0 if report.received else 1


if __name__ == "__main__":
    sys.exit(main())
