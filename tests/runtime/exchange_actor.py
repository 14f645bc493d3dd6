"""A data actor for tests: an exchange in a process of its own, which does what its test says and tells what it sees.

Orders and answers travel over its channel as JSON, in the one frame that both ends may send there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import mmap
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from actors.keepsakes import Arenas
from actors.runtime import exchange as exchange_module
from actors.runtime.actor import Runtime
from actors.runtime.exchange import ArenaConfig, Exchange, Packed
from actors.runtime.runs import Run
from protocol.arena import SLOT_BYTES
from protocol.frames import Ready, Stop, actor_of
from tests.lab.waiting import wait_until
from tests.runtime.children import PATIENCE, Child, born, tell

GAP_BYTES: Final = 16
"""Between the packets of a run that lies in many pieces."""


def packet(number: int, size: int) -> bytes:
    """The packet of this number: bytes that no other has."""
    return hashlib.shake_128(number.to_bytes(8, "big")).digest(size)


def fingerprint(packets: list[bytes]) -> str:
    """Of packets in order: where each ends counts too."""
    digest = hashlib.sha256()
    for content in packets:
        digest.update(len(content).to_bytes(4, "big") + content)
    return digest.hexdigest()


class Obedient:
    """The actor. Its orders are its public methods; each returns what the test is told."""

    def __init__(self, runtime: Runtime, config: ArenaConfig) -> None:
        self._runtime = runtime
        self._config = config
        self._exchange = Exchange(runtime, config, on_run=self._on_run, on_room=self._on_room)
        self._holding = False
        self._held: deque[Packed] = deque()
        self._runs: list[dict[str, Any]] = []
        self._rooms = 0
        runtime.on_channel(Stop, self._on_order)

    def _on_order(self, order: Stop, _descriptors: list[int]) -> None:
        asked = json.loads(order.reason)
        tell(self._runtime, getattr(self, asked.pop("what"))(**asked))

    def _on_run(self, link: int, run: Packed) -> None:
        starts = (0, *run.ends[:-1])
        packets = [bytes(run.memory[start:end]) for start, end in zip(starts, run.ends, strict=True)]
        self._runs.append({"link": link, "packets": len(packets), "fingerprint": fingerprint(packets)})
        if self._holding:
            self._held.append(run)
        elif run.lease is not None:
            self._exchange.give_back(run.lease)

    def _on_room(self) -> None:
        self._rooms += 1

    # --- orders -------------------------------------------------------------------------------------------------------

    def connect(self, to: str) -> None:
        """Keeps a lane to another actor."""
        self._exchange.connect(to)

    def send(self, link: int, first: int, sizes: list[int], gaps: bool = False, copy: bool = False) -> bool | None:
        """Sends packets from number `first` on to a link, or tun (0), in one slot or copied; None without a slot."""
        packets = [packet(first + index, size) for index, size in enumerate(sizes)]
        if copy:
            return self._exchange.pass_copy(link, sizes, b"".join(packets))
        slot = self._exchange.arena.take()
        if slot is None:
            return None
        memory, run, start = self._exchange.slot(slot), Run(), 0
        for content in packets:
            memory[start : start + len(content)] = content
            run.add(start, start + len(content))
            start += len(content) + (GAP_BYTES if gaps else 0)
        passed = self._exchange.pass_on(link, slot, run)
        self._exchange.arena.close(slot)
        return passed

    def hold(self, holding: bool) -> None:
        """From now on keeps what arrives, or gives it back at once."""
        self._holding = holding

    def held(self) -> list[str]:
        """What lies at this moment in the pieces that were kept, one fingerprint for each."""
        return [fingerprint([bytes(run.memory)]) for run in self._held]

    def give_back(self, count: int = 1 << 30) -> None:
        """Gives back the oldest pieces that were kept."""
        while self._held and count:
            run = self._held.popleft()
            if run.lease is not None:
                self._exchange.give_back(run.lease)
            count -= 1

    def pin_seconds(self, seconds: float) -> None:
        """How long a dead reader's leases wait from now on."""
        exchange_module.PIN_SECONDS = seconds  # type: ignore[misc]

    def runs(self) -> list[dict[str, Any]]:
        """Every run that arrived, in order."""
        return self._runs

    def state(self, links: list[int]) -> dict[str, Any]:
        """Free slots, the share, what the actor of each link pins and has to give back, counters, lanes."""
        arena = self._exchange.arena
        return {
            "free": arena.free,
            "share": arena.share,
            "pinned": [arena.pinned(actor_of(link)) for link in links],
            "busy": [self._exchange.busy(link) for link in links],
            "counters": dict(self._runtime.counters),
            "rooms": self._rooms,
            "lanes": sorted(lane.name for lane in _lanes(self._exchange)),
            "dialled": sorted(lane.name for lane in self._exchange._hub.unanswered()),
            "number": self._exchange.number,
        }

    def tamper(self, sender: str) -> dict[str, str]:
        """Tries to write to the arena of another actor, as its reader; says what came of each way."""
        (descriptor,) = [lane.attached for lane in _lanes(self._exchange) if lane.name == sender]

        def map_it(number: int) -> None:
            with mmap.mmap(number, SLOT_BYTES, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE) as memory:
                memory[0] = 255

        def change_mode() -> None:
            os.fchmod(descriptor, 0o600)
            open_again()

        def open_again() -> None:
            again = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR)
            with contextlib.closing(os.fdopen(again, "r+b")):
                map_it(again)

        ways: dict[str, Callable[[], object]] = {
            "write": lambda: os.pwrite(descriptor, b"\xff", 0),
            "map": lambda: map_it(descriptor),
            "open again": open_again,
            "change its mode": change_mode,
            "cut short": lambda: os.ftruncate(descriptor, 0),
            "punch": lambda: os.posix_fallocate(descriptor, 0, SLOT_BYTES),
            "lift flags": lambda: (
                fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_RDWR) or os.pwrite(descriptor, b"\xff", 0)
            ),
        }
        return {name: _attempt(way) for name, way in ways.items()}

    def view_is_read_only(self) -> bool:
        """Whether the first piece that was kept can't be written to."""
        return self._held[0].memory.readonly


def _lanes(exchange: Exchange) -> Any:
    return exchange._lanes


def _attempt(way: Callable[[], object]) -> str:
    try:
        way()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


# --- the test's side --------------------------------------------------------------------------------------------------


class Actor:
    """One obedient actor over all its incarnations, as its supervisor sees it."""

    def __init__(self, run: Path, arenas: Arenas, name: str, slots: int) -> None:
        self.name: Final = name
        self.link: Final = 0 if name == "tun" else int(name.rpartition("-")[2])
        """The number of the one link that lives in it, 0 for tun."""
        self._run = run
        self._arenas = arenas
        self._slots = slots
        self._life = contextlib.ExitStack()
        self._child: Child
        self.start()

    def start(self) -> None:
        """Gives birth to the next incarnation, with an arena of its own."""
        self._arenas.renew(self.name, self._slots)
        config = self._arenas.current(self.name)

        def main(runtime: Runtime, prepared: ArenaConfig) -> None:
            Obedient(runtime, prepared)
            runtime.serve()

        descriptors = (config.writable, config.readable)
        child = born(self._run, main, name=self.name, prepare=lambda: config, descriptors=descriptors)
        self._child = self._life.enter_context(child)
        self._child.hear(Ready)

    @property
    def pid(self) -> int:
        """Of the present incarnation."""
        return self._child.pid

    @property
    def arena(self) -> ArenaConfig:
        """Of the present incarnation."""
        return self._arenas.current(self.name)

    def do(self, what: str, **arguments: Any) -> Any:
        """Gives an order and returns the answer."""
        self._child.channel.send(Stop(json.dumps({"what": what, **arguments})))
        return self._child.told()

    def kill(self) -> None:
        """Ends the present incarnation by SIGKILL, and waits until it is gone."""
        os.kill(self._child.pid, signal.SIGKILL)
        assert self._child.ended() == -signal.SIGKILL
        self._life.close()

    def close(self) -> None:
        """Ends it for good."""
        self._life.close()

    # --- shorthand ----------------------------------------------------------------------------------------------------

    def state(self, *readers: Actor) -> dict[str, Any]:
        """See `Obedient.state`."""
        found: dict[str, Any] = self.do("state", links=[reader.link for reader in readers])
        return found

    def counter(self, name: str) -> int:
        """What it has counted."""
        return int(self.state()["counters"].get(name, 0))

    def free(self) -> int:
        """Slots that nobody uses."""
        return int(self.state()["free"])

    def try_to_send(self, link: int, first: int, sizes: list[int], **how: bool) -> bool:
        """Sends to a link or to tun (0); whether there was room for it."""
        return bool(self.do("send", link=link, first=first, sizes=sizes, **how))

    def send(self, reader: Actor, first: int, sizes: list[int], **how: bool) -> None:
        """Sends, again until there is room for it."""
        wait_until(
            f"{self.name}: room for {reader.name}",
            lambda: self.try_to_send(reader.link, first, sizes, **how),
            PATIENCE,
        )

    def wait_for_runs(self, count: int) -> list[dict[str, Any]]:
        """Waits until so many runs have arrived, and returns all."""

        def look() -> list[dict[str, Any]] | None:
            runs: list[dict[str, Any]] = self.do("runs")
            return runs if len(runs) >= count else None

        return wait_until(f"{self.name}: {count} runs", look, PATIENCE)

    def wait_for(self, what: str, wanted: Callable[[dict[str, Any]], bool], *readers: Actor) -> dict[str, Any]:
        """Waits until its state is as wanted, and returns it."""

        def look() -> dict[str, Any] | None:
            state = self.state(*readers)
            return state if wanted(state) else None

        return wait_until(f"{self.name}: {what}", look, PATIENCE)

    def wait_until_all_is_free(self) -> None:
        """Waits until no slot is in use."""
        self.wait_for("every slot free", lambda state: bool(state["free"] == self._slots))


@contextlib.contextmanager
def company(run: Path) -> Iterator[Callable[..., Actor]]:
    """A way to make actors that live in `run`; all end with the context."""
    arenas = Arenas()
    with contextlib.ExitStack() as stack:
        stack.callback(arenas.let_go, math.inf)

        def make(name: str, slots: int = 8) -> Actor:
            actor = Actor(run, arenas, name, slots)
            stack.callback(arenas.retire, name)
            stack.callback(actor.close)
            return actor

        yield make
