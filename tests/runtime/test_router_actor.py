"""The router's process: what it tells data actors, and how it answers those who read slowly."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from actors import router
from actors.router import REMIND_FOR_SECONDS, REMIND_SECONDS, RouterConfig
from protocol.codec import unpack
from protocol.frames import Ready, Resolve, RouteDelta, TableEpoch, TableSerial
from tests.runtime.children import PATIENCE, Child, born, run_folder
from tests.runtime.outside import Outside

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

PUBLIC_KEY = bytes(range(32))
NETWORK = bytes.fromhex("04aa000000000001") + bytes(8)


@pytest.fixture
def run() -> Iterator[Path]:
    with run_folder() as folder:
        yield folder


@pytest.fixture
def actor(run: Path) -> Iterator[Child]:
    """A router that is ready."""
    memory = os.memfd_create("router")
    config = RouterConfig(PUBLIC_KEY, memory, ())
    with born(run, router.main, name="router", prepare=lambda: config, descriptors=(memory,)) as child:
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


def test_number_of_a_change_is_said_again_for_some_seconds_and_then_no_more(actor: Child, outside: Outside) -> None:
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
