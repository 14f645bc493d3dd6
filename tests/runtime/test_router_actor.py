"""The router's process: what it tells data actors, and how it answers those who read slowly."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import zmq

from actors import router
from actors.router import REMIND_FOR_SECONDS, REMIND_SECONDS, RouterConfig
from actors.runtime.memory import MemoryFile
from protocol.codec import unpack
from protocol.frames import AskTable, Ready, Resolve, RouteDelta, RouteState, TableEpoch, TableSerial, parts
from protocol.mycelium.routing import restart
from protocol.mycelium.routing.state import LinkCost, OwnState, PublishedEntry, pack_record
from tests.runtime.children import PATIENCE, Child, born, run_folder
from tests.runtime.outside import Outside

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

PUBLIC_KEY = bytes(range(32))
NETWORK = bytes.fromhex("04aa000000000001") + bytes(8)
PARTS, ROWS = 200, 64


@pytest.fixture
def run() -> Iterator[Path]:
    with run_folder() as folder:
        yield folder


@contextlib.contextmanager
def _serving(run: Path, published: Sequence[PublishedEntry] = ()) -> Iterator[Child]:
    """A router that is ready; its predecessor had published something."""
    memory = os.memfd_create("router")
    if published:
        own = OwnState(PUBLIC_KEY + bytes(8), 0, time.monotonic())
        MemoryFile(memory).append([pack_record(own), pack_record(LinkCost(1, 1)), *map(pack_record, published)])

    def prepare() -> RouterConfig:
        # Parts of a table that is not too large for a test, but far larger than what queues and socket buffers hold.
        vars(parts).update(MAX_PART=ROWS)
        vars(restart).update(RESTART_PATIENCE=3600.0)
        return RouterConfig(PUBLIC_KEY, memory, (1,))

    with born(run, router.main, name="router", prepare=prepare, descriptors=(memory,)) as child:
        child.hear(Ready)
        yield child
    os.close(memory)


@pytest.fixture
def outside(run: Path) -> Iterator[Outside]:
    made = Outside(run, "router")
    yield made
    made.close()


def _next(events: zmq.Socket[bytes], *, within: float = PATIENCE) -> Any:
    """The next event, None where none comes."""
    return unpack(events.recv()) if events.poll(int(within * 1000)) else None


def test_table_that_a_slow_reader_can_not_take_at_once_reaches_it_whole(run: Path, outside: Outside) -> None:
    prefixes = [b"\x04" + number.to_bytes(7, "big") + bytes(8) for number in range(1, PARTS * ROWS + 1)]
    with _serving(run, [PublishedEntry(prefix, 64, RouteState.SELECTED, 1, bytes(32), False) for prefix in prefixes]):
        slow, quick = outside.neighbour("link-1", room=1), outside.neighbour("link-2")
        slow.send(AskTable())
        quick.send(AskTable())
        for reader in (quick, slow):
            parts = [reader.receive() for _ in range(PARTS)]
            assert [(part.serial, part.number) for part in parts] == [(parts[0].serial, n) for n in range(PARTS)]
            assert [part.more for part in parts] == [True] * (PARTS - 1) + [False]
            assert [entry.network for part in parts for entry in part.entries] == prefixes


def test_number_of_a_change_is_said_again_for_some_seconds_and_then_no_more(run: Path, outside: Outside) -> None:
    with _serving(run):
        events = outside.subscriber(TableEpoch, RouteDelta, TableSerial)
        epoch = _next(events).epoch
        outside.neighbour().send(Resolve(NETWORK, 64))
        last = _next(events)
        assert isinstance(last, RouteDelta)
        reminders = []
        while (event := _next(events, within=1.5 * REMIND_SECONDS)) is not None:
            reminders.append(event)
    assert set(reminders) == {TableSerial(epoch, last.serial)}
    assert 1 < len(reminders) <= REMIND_FOR_SECONDS / REMIND_SECONDS + 1
