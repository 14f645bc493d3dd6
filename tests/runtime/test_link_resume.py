"""A link that goes on where another was killed: whatever that one had read, written or torn, its peer sees no seam.

The test plays everybody else: the dead predecessor, whose reads, writes and ledger it leaves behind; the supervisor;
the router; and the peer.
"""

from __future__ import annotations

import mmap
import os
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import zmq

from actors import link
from actors.keepsakes import Arenas
from actors.link.config import HostConfig, LinkConfig, OldArena
from actors.runtime.exchange import ArenaConfig
from actors.runtime.pages import fixed
from actors.runtime.positions import positions
from protocol.arena import SLOT_BYTES
from protocol.codec import unpack
from protocol.frames import ControlArrived, EndLink, LinkUp, Ready
from protocol.ledger import LEDGER_BYTES, Ledger, place
from protocol.mycelium.endpoint import Protocol
from tests.runtime.children import PATIENCE, Child, born, run_folder
from tests.unit import wire_factory as factory

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

SLOTS: Final = 4
ENDED: Final = 0


class Scene:
    """One connection between its links."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self._arenas = Arenas()
        self._arenas.renew("link-1", SLOTS)
        self._old = self._arenas.current("link-1")
        self._old_memory = memoryview(mmap.mmap(self._old.writable, SLOTS * SLOT_BYTES))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.peer = socket.create_connection(listener.getsockname())
            self._connection, _ = listener.accept()
        self.peer.settimeout(PATIENCE)
        self._base = positions(self._connection)
        self._ledger_memory = fixed("ledger", LEDGER_BYTES)
        self._ledger = Ledger.begin(memoryview(mmap.mmap(self._ledger_memory, LEDGER_BYTES)))
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._router = self._context.socket(zmq.ROUTER)
        self._router.bind(f"ipc://{run / 'router'}")
        self._control = b""
        self.introduced: list[LinkUp] = []

    def close(self) -> None:
        self.peer.close()
        self._connection.close()
        self._context.destroy(linger=0)

    def limit_what_the_kernel_holds(self, octets: int) -> None:
        """Of what the link writes."""
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, octets)

    # --- the predecessor ----------------------------------------------------------------------------------------------

    def predecessor_read(self, data: bytes) -> None:
        """It read so much into its first slot, and died before it cut a packet."""
        self._ledger.rx_boundary(0, place(self._old.number, 0))
        self.peer.sendall(data)
        memory = self._old_memory[: len(data)]
        while len(memory):
            memory = memory[self._connection.recv_into(memory) :]

    def predecessor_wrote(self, packets: list[bytes], octets: int) -> None:
        """It was about to write these packets, and got so far."""
        batch = b"".join(packets)
        self._old_memory[: len(batch)] = batch
        self._ledger.begin_batch(0, [place(self._old.number, 0), len(batch)])
        assert self._connection.send(batch[:octets]) == octets

    # --- the successor ------------------------------------------------------------------------------------------------

    def successor(self) -> Any:
        """The next link, as the supervisor bears it."""
        old = OldArena(self._old.number, os.dup(self._old.readable))
        self._arenas.renew("link-1", SLOTS)
        arena: ArenaConfig = self._arenas.current("link-1")
        config = LinkConfig(
            number=1,
            connection=self._connection.fileno(),
            endpoint="tcp://192.0.2.1:9651",
            outbound=False,
            transport=Protocol.TCP,
            opening=b"",
            ledger=self._ledger_memory,
            base=self._base,
            resumed=True,
            old_arenas=(old,),
        )
        descriptors = (config.connection, config.ledger, old.descriptor, arena.writable, arena.readable)
        host = HostConfig(bytes(32), None, arena, (config,))
        return born(self.run, link.main, name="link-1", prepare=lambda: host, descriptors=descriptors)

    def control(self, octets: int) -> bytes:
        """What the router has got, once it is so much; more is waited for a moment."""
        deadline = time.monotonic() + PATIENCE
        while len(self._control) < octets and time.monotonic() < deadline:
            self._listen(1000)
        self._listen(100)
        return self._control

    def _listen(self, milliseconds: int) -> None:
        while self._router.poll(milliseconds):
            message = unpack(self._router.recv_multipart()[-1])
            if isinstance(message, ControlArrived):
                self._control += message.packets
            elif isinstance(message, LinkUp):
                self.introduced.append(message)
            milliseconds = 0


@pytest.fixture
def scene() -> Iterator[Scene]:
    with run_folder() as folder:
        made = Scene(folder)
        yield made
        made.close()


def hellos(count: int) -> bytes:
    return b"".join(factory.hello(number % 60_000) for number in range(count))


def exactly(octets: int) -> bytes:
    """So many bytes of Hellos, the last of which is not whole where it doesn't come out even."""
    return hellos(octets // len(factory.hello()) + 1)[:octets]


@pytest.mark.parametrize("octets", [SLOT_BYTES, SLOT_BYTES - 1, SLOT_BYTES - 70_000, 5], ids=str)
def test_whatever_a_predecessor_had_read_reaches_the_router_once_and_in_order(scene: Scene, octets: int) -> None:
    everything = exactly(octets) + exactly(octets + 1000)[octets:]
    whole = len(everything) // len(factory.hello()) * len(factory.hello())
    scene.predecessor_read(everything[:octets])
    with scene.successor() as child:
        child.hear(Ready)
        scene.peer.sendall(everything[octets:])
        assert scene.control(whole) == everything[:whole]
    assert [up.resumed for up in scene.introduced] == [True]


def test_whole_packets_that_a_predecessor_had_read_wait_for_nothing_else_to_arrive(scene: Scene) -> None:
    scene.predecessor_read(hellos(5) + factory.hello()[:3])
    with scene.successor() as child:
        child.hear(Ready)
        assert scene.control(len(hellos(5))) == hellos(5)


@pytest.mark.parametrize("octets", [1, 41, 5039, 5041, 9000])
def test_packet_that_a_predecessor_tore_is_finished_and_the_rest_is_dropped(scene: Scene, octets: int) -> None:
    packets = [factory.data(bytes((number,)) * 5000) for number in range(3)]
    scene.predecessor_wrote(packets, octets)
    torn = b"".join(packets[: octets // 5040 + 1])
    with scene.successor() as child:
        child.hear(Ready)
        arrived = b""
        while len(arrived) < len(torn):
            arrived += scene.peer.recv(65_536)
        assert arrived == torn
        assert not select.select([scene.peer], [], [], 0.2)[0]


def test_successor_that_finds_garbage_ends_the_link_in_good_order(
    scene: Scene, capfd: pytest.CaptureFixture[str]
) -> None:
    scene.predecessor_read(hellos(2) + b"\x09" * 100)
    with scene.successor() as child:
        assert "it sent garbage" in last_words(child)
        assert child.ended() == ENDED
    assert "Traceback" not in capfd.readouterr().err


def test_successor_of_a_connection_that_was_reset_meanwhile_ends_the_link_in_good_order(
    scene: Scene, capfd: pytest.CaptureFixture[str]
) -> None:
    scene.predecessor_wrote([factory.data(bytes(5000))], 100)
    scene.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    scene.peer.close()
    with scene.successor() as child:
        assert "connection lost" in last_words(child)
        assert child.ended() == ENDED
    assert "Traceback" not in capfd.readouterr().err


def last_words(child: Child) -> str:
    """Why it says that its link is over."""
    return child.hear(EndLink).reason
