"""The lane beside pyzmq: small frames between the poll loops of two processes, in one run, repetitions interleaved.

`python -m bench.lane [--repetitions N]`. Both contenders are run by the same loop, as an actor runs them. Prints one
table of medians; on a busy machine the ratio says more than the figures.
"""

import argparse
import itertools
import os
import resource
import shutil
import statistics
import tempfile
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgpack
import zmq

from actors.runtime.actor import FRAMES_PER_TURN
from actors.runtime.lane import Lane, LaneHub
from actors.runtime.loop import Loop

FRAME: Final = bytes(64)
"""About what a batch of packets is between actors: a few descriptors."""
WARM_UP: Final = 300
EXCHANGES: Final = 3000
FRAMES: Final = 100_000
WINDOW: Final = 1024
ACKNOWLEDGE_EVERY: Final = 256
GIVEN_UP_SECONDS: Final = 60.0
MICROSECONDS: Final = 1e6


class Port(ABC):
    """One end of a connection, in a loop. `on_frame` gets what arrives, `on_open` is called when the other is there."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.on_frame: Callable[[bytes], None] = lambda _data: None
        self.on_open: Callable[[], None] = lambda: None

    @abstractmethod
    def bind(self, run: Path) -> None:
        """Waits for the other end."""

    @abstractmethod
    def connect(self, run: Path) -> None:
        """Goes to the other end."""

    @abstractmethod
    def send(self, data: bytes) -> None:
        """Sends one frame; more of them than can wait are an error here."""


class LanePort(Port):
    """A lane."""

    def __init__(self, loop: Loop) -> None:
        super().__init__(loop)
        self._lane: Lane | None = None

    def bind(self, run: Path) -> None:
        self._hub(run, "server").listen()

    def connect(self, run: Path) -> None:
        self._hub(run, "client").connect("server")

    def send(self, data: bytes) -> None:
        if self._lane is None or not self._lane.send(data):
            raise RuntimeError("the lane does not take a frame")

    def _hub(self, run: Path, name: str) -> LaneHub:
        return LaneHub(
            self.loop,
            run,
            name,
            Counter(),
            on_frame=lambda _lane, data: self.on_frame(data),
            on_open=self._opened,
            on_close=lambda _lane: self.loop.stop(),
        )

    def _opened(self, lane: Lane) -> None:
        self._lane = lane
        self.on_open()


class PyzmqPort(Port):
    """ROUTER and DEALER of pyzmq, read as the runtime reads an inbox."""

    def __init__(self, loop: Loop) -> None:
        super().__init__(loop)
        self._context = zmq.Context(io_threads=1)
        self._socket: zmq.Socket[bytes] | None = None
        self._to: tuple[bytes, ...] = ()

    def bind(self, run: Path) -> None:
        self._watch(zmq.ROUTER).bind(f"ipc://{run / 'inbox'}")

    def connect(self, run: Path) -> None:
        self._watch(zmq.DEALER).connect(f"ipc://{run / 'inbox'}")
        self.loop.call_after(0, lambda: self.on_open())

    def send(self, data: bytes) -> None:
        assert self._socket is not None
        self._socket.send_multipart((*self._to, data), zmq.NOBLOCK)

    def _watch(self, kind: int) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, 2 * WINDOW)
        socket.setsockopt(zmq.RCVHWM, 2 * WINDOW)
        self._socket = socket
        self.loop.watch(socket, lambda _events: self._drain(socket))
        return socket

    def _drain(self, socket: zmq.Socket[bytes]) -> None:
        for _ in range(FRAMES_PER_TURN):
            try:
                *sender, data = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._to = tuple(sender)
            self.on_frame(data)


CONTENDERS: Final[dict[str, type[Port]]] = {"lane": LanePort, "pyzmq": PyzmqPort}


def echo(port: Port) -> None:
    """Sends back what comes."""
    port.on_frame = port.send


def ask(port: Port) -> list[float]:
    """One frame there and back, again and again; the seconds that each took."""
    taken: list[float] = []
    begin = 0.0

    def again(_data: bytes = b"") -> None:
        nonlocal begin
        now = time.perf_counter()
        taken.append(now - begin)
        if len(taken) > WARM_UP + EXCHANGES:
            port.loop.stop()
            return
        begin = now
        port.send(FRAME)

    port.on_frame = again
    port.on_open = again
    port.loop.run()
    return taken[WARM_UP + 1 :]


def count(port: Port) -> None:
    """Acknowledges what comes, many frames at a time."""
    arrived = itertools.count(1)

    def one(_data: bytes) -> None:
        if next(arrived) % ACKNOWLEDGE_EVERY == 0:
            port.send(FRAME)

    port.on_frame = one


def pour(port: Port) -> list[float]:
    """Sends frames as fast as they are acknowledged; the seconds for all of them."""
    sent = acknowledged = 0
    begin = time.perf_counter()

    def more() -> None:
        nonlocal sent
        until = min(FRAMES, acknowledged + WINDOW)
        for _ in range(until - sent):
            port.send(FRAME)
        sent = until

    def one(_data: bytes) -> None:
        nonlocal acknowledged
        acknowledged += ACKNOWLEDGE_EVERY
        if acknowledged + ACKNOWLEDGE_EVERY > FRAMES:
            port.loop.stop()
        more()

    port.on_frame = one
    port.on_open = more
    port.loop.run()
    return [time.perf_counter() - begin]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one pair of processes: what the client measured, and the processor time of both, in seconds."""

    seconds: list[float]
    cpu_seconds: float


def run_pair(contender: type[Port], serve: Callable[[Port], None], measure: Callable[[Port], list[float]]) -> Outcome:
    """Runs a server and a client, and waits for both."""
    run = Path(tempfile.mkdtemp(prefix="lane-"))
    before = _children_seconds()
    server = os.fork()
    if server == 0:
        try:
            port = contender(Loop())
            serve(port)
            port.bind(run)
            port.loop.call_after(GIVEN_UP_SECONDS, port.loop.stop)
            port.loop.run()
        finally:
            os._exit(0)
    results, ours = os.pipe()
    client = os.fork()
    if client == 0:
        try:
            port = contender(Loop())
            port.connect(run)
            port.loop.call_after(GIVEN_UP_SECONDS, port.loop.stop)
            with os.fdopen(ours, "wb") as out:
                out.write(msgpack.packb(measure(port)))
        finally:
            os._exit(0)
    os.close(ours)
    with os.fdopen(results, "rb") as answers:
        data = answers.read()
    os.kill(server, 9)
    for pid in (client, server):
        os.waitpid(pid, 0)
    shutil.rmtree(run)
    if not data:
        raise RuntimeError(f"the client of {contender.__name__} gave no figures")
    return Outcome(msgpack.unpackb(data), _children_seconds() - before)


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def figures(contender: type[Port]) -> dict[str, float]:
    """One repetition: a figure for each row."""
    asked = run_pair(contender, echo, ask)
    poured = run_pair(contender, count, pour)
    ordered = sorted(asked.seconds)
    return {
        "round trip, median, µs": statistics.median(ordered) * MICROSECONDS,
        "round trip, p99, µs": ordered[len(ordered) * 99 // 100] * MICROSECONDS,
        "CPU per round trip, µs": asked.cpu_seconds / (WARM_UP + EXCHANGES) * MICROSECONDS,
        "frames per second, thousands": FRAMES / poured.seconds[0] / 1000,
        "CPU per frame, µs": poured.cpu_seconds / FRAMES * MICROSECONDS,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.lane", description="The lane beside pyzmq.")
    parser.add_argument("--repetitions", type=int, default=5)
    given = parser.parse_args(arguments)
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    for _ in range(given.repetitions):
        for name, contender in CONTENDERS.items():
            measured[name].append(figures(contender))
    print(f"{len(FRAME)}-byte frames, median of {given.repetitions}")
    print(f"{'':32}{'lane':>10}{'pyzmq':>10}{'lane/pyzmq':>12}")
    for row in measured["lane"][0]:
        lane, pyzmq = (statistics.median(one[row] for one in measured[name]) for name in CONTENDERS)
        print(f"{row:32}{lane:10.1f}{pyzmq:10.1f}{lane / pyzmq:12.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
