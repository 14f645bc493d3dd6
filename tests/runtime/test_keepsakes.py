"""What is kept for processes that may die: connections that outlive them, ledgers that may lie, arenas, their ends."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from actors import keepsakes
from actors.keepsakes import Arenas, Connection
from protocol.arena import SLOT_BYTES
from protocol.frames import ActorRow, SpawnLink
from protocol.ledger import LEDGER_BYTES, Ledger, place
from protocol.mycelium.endpoint import Protocol
from tests.lab.waiting import wait_until
from tests.runtime.children import PATIENCE
from tests.runtime.test_supervisor import Node, Start
from tests.runtime.test_supervisor import start as start
from tests.unit import wire_factory as factory

HALF_A_PACKET: Final = factory.data(bytes(1000))[:500]


class Scene:
    """A connection as the supervisor keeps it, its peer, and what its process does."""

    def __init__(self, stack: ExitStack) -> None:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.peer = stack.enter_context(socket.create_connection(listener.getsockname()))
        accepted, _ = listener.accept()
        # What the process has; the supervisor's is a duplicate.
        self.socket = stack.enter_context(accepted.dup())
        self.arenas = Arenas()
        self.arenas.renew("link-1", 2)
        self.arenas.renew("tun", 2)
        self.kept = Connection(
            SpawnLink(1, "tcp://192.0.2.1:9651", False, Protocol.TCP, b"", "tcp://192.0.2.1:9651"),
            accepted.detach(),
            self.arenas,
        )
        self._end = stack.enter_context(ExitStack())
        self._end.callback(self.kept.close)
        self.kept.base()
        self.memory = mmap.mmap(self.kept.ledger, LEDGER_BYTES)
        self.ledger = Ledger(memoryview(self.memory))
        self._read = self._written = 0

    def read(self, data: bytes, cut: int) -> None:
        """The peer sends; the process reads it all and cuts so much of it into packets."""
        self.peer.sendall(data)
        arrived = b""
        while len(arrived) < len(data):
            arrived += self.socket.recv(65_536)
        self._read += len(data)
        self.ledger.rx_boundary(self._read - len(data) + cut, place(self.number("link-1"), cut))

    def write(self, length: int, written: int, owner: str = "tun") -> None:
        """The process is about to write a piece of an arena, and gets so far."""
        self.ledger.begin_batch(self._written, [place(self.number(owner), 0), length])
        assert self.socket.send(bytes(written)) == written
        self._written += written

    def close(self) -> None:
        """The supervisor ends the connection."""
        self._end.close()

    def number(self, owner: str) -> int:
        return self.arenas.current(owner).number

    def needed(self) -> set[int]:
        return {arena.number for arena in self.kept.needed}


@pytest.fixture
def scene() -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(stack)


# --- connections ------------------------------------------------------------------------------------------------------


def test_connection_goes_on_after_the_death_of_its_process(scene: Scene) -> None:
    scene.read(bytes(100), cut=100)
    scene.write(200, written=200)
    assert scene.kept.died() == ""
    assert scene.kept.config().resumed
    scene.socket.close()
    scene.peer.sendall(b"more")
    with socket.socket(fileno=os.dup(scene.kept.descriptor)) as duplicate:
        assert duplicate.recv(4) == b"more"


def test_successor_is_shown_the_arenas_that_it_needs_and_no_others(scene: Scene) -> None:
    scene.read(bytes(100), cut=60)
    scene.write(200, written=50)
    scene.arenas.renew("link-2", 2)
    assert scene.kept.died() == ""
    assert scene.needed() == {scene.number("link-1"), scene.number("tun")}
    for arena in scene.kept.needed:
        assert os.fstat(arena.descriptor).st_size == 2 * SLOT_BYTES


def test_successor_of_a_connection_at_rest_needs_no_arena(scene: Scene) -> None:
    scene.read(bytes(100), cut=100)
    scene.write(200, written=200)
    assert (scene.kept.died(), scene.needed()) == ("", set())


def test_arena_of_a_dead_writer_is_still_shown(scene: Scene) -> None:
    scene.write(200, written=50)
    number = scene.number("tun")
    scene.arenas.renew("tun", 2)
    assert scene.number("tun") != number
    assert (scene.kept.died(), scene.needed()) == ("", {number})


@pytest.mark.parametrize("direction", ["in", "out"])
def test_two_deaths_at_the_same_place_of_a_stream_end_its_connection(scene: Scene, direction: str) -> None:
    if direction == "in":
        scene.read(bytes(100), cut=60)
    else:
        scene.write(200, written=50)
    assert scene.kept.died() == ""
    assert "twice at the same place" in scene.kept.died()


def test_two_deaths_at_different_places_do_not_end_a_connection(scene: Scene) -> None:
    for _ in range(5):
        scene.read(bytes(100), cut=60)
        scene.write(200, written=50)
        assert scene.kept.died() == ""


def test_connection_at_rest_outlives_any_number_of_deaths(scene: Scene) -> None:
    scene.read(bytes(100), cut=100)
    scene.write(200, written=200)
    assert [scene.kept.died() for _ in range(20)] == [""] * 20


def test_connection_that_its_peer_has_reset_ends_with_its_process(scene: Scene) -> None:
    scene.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    scene.peer.close()
    assert "over or not yet there" in scene.kept.died()


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        (lambda ledger: ledger.rx_boundary(500, place(1, 0)), "only 0 bytes were read"),
        (lambda ledger: ledger.begin_batch(10_000, [place(1, 0), 5]), "the last batch goes from 10000"),
    ],
    ids=["in", "out"],
)
def test_ledger_that_lies_ends_its_connection_and_nothing_else(
    scene: Scene, lie: Callable[[Ledger], None], words: str
) -> None:
    lie(scene.ledger)
    assert words in scene.kept.died()


def test_ledger_full_of_noise_ends_its_connection_and_nothing_else(scene: Scene) -> None:
    scene.memory[:4096] = os.urandom(4096)
    assert scene.kept.died()


@pytest.mark.parametrize("size", [0, 4096, 2 * LEDGER_BYTES])
def test_nobody_can_change_the_size_of_a_ledger(scene: Scene, size: int) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(scene.kept.ledger, size)


def test_closed_connection_tells_its_peer(scene: Scene) -> None:
    scene.socket.close()
    scene.close()
    scene.peer.settimeout(PATIENCE)
    assert scene.peer.recv(1) == b""


# --- arenas -----------------------------------------------------------------------------------------------------------


def open_memory(name: str) -> int:
    """How many descriptors of this process lead to memory of this name."""
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found += f"/memfd:{name} " in f"{entry.readlink()} "
        except FileNotFoundError:
            continue
    return found


def test_every_incarnation_has_an_arena_of_its_own() -> None:
    arenas = Arenas()
    arenas.renew("link-1", 2)
    first = arenas.current("link-1")
    os.pwrite(first.writable, b"of the dead", 0)
    arenas.renew("link-1", 4)
    second = arenas.current("link-1")
    assert (first.number, second.number) == (1, 2)
    assert os.pread(second.readable, 11, 0) == bytes(11)
    old = arenas.readable(1)
    assert old is not None
    assert os.pread(old, 11, 0) == b"of the dead"


def test_old_arenas_are_let_go_in_time_and_present_ones_never() -> None:
    arenas = Arenas()
    arenas.renew("let-go", 2)
    arenas.renew("let-go", 2)
    # Of the old one, nobody writes any more.
    assert open_memory("septate-arena-let-go") == 3
    died = time.monotonic()
    arenas.let_go(died + keepsakes.KEEP_SECONDS - 5)
    assert arenas.readable(1) is not None
    arenas.let_go(died + keepsakes.KEEP_SECONDS + 5)
    assert arenas.readable(1) is None
    assert open_memory("septate-arena-let-go") == 2
    arenas.let_go(died + 1e6)
    assert arenas.readable(2) is not None


def test_arena_of_a_link_that_is_over_is_let_go_too() -> None:
    arenas = Arenas()
    arenas.renew("link-over", 2)
    arenas.retire("link-over")
    arenas.retire("link-over")
    arenas.let_go(time.monotonic() + 1e6)
    assert open_memory("septate-arena-link-over") == 0


# --- a whole node -----------------------------------------------------------------------------------------------------


class Peer:
    """A neighbour that says little: one Hello at a time."""

    def __init__(self, port: int) -> None:
        self.socket = wait_until("the node listens", lambda: self._connect(port), PATIENCE)
        self.socket.settimeout(PATIENCE)
        self._unread = b""

    @staticmethod
    def _connect(port: int) -> socket.socket | None:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        except ConnectionRefusedError:
            return None

    def wait_for_an_answer(self) -> None:
        """Says Hello until there is an IHU behind it."""
        self.socket.sendall(factory.hello())
        self._unread = b""
        while factory.ihu()[:10] not in self._unread:
            data = self.socket.recv(65_536)
            assert data, "the node closed the connection"
            self._unread += data

    def is_closed(self) -> bool:
        """Waits for the end of the connection."""
        try:
            while self.socket.recv(65_536):
                pass
        except ConnectionResetError:
            return True
        return True


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def link_of(node: Node) -> ActorRow:
    (link,) = [row for row in node.actors().values() if row.name.startswith("link-")]
    return link


def kill_link(node: Node) -> None:
    """Kills the one link and waits for its successor."""
    before = node.wait_for(link_of(node).name, lambda row: row.ready)
    os.kill(before.pid, signal.SIGKILL)
    node.wait_for(before.name, lambda row: row.ready and row.pid != before.pid)


def sockets_of(node: Node, name: str) -> list[str]:
    return sorted(path.name for path in node.run.iterdir() if path.name.split(".")[0] == name)


@pytest.fixture
def linked(start: Start) -> Iterator[tuple[Node, Peer]]:
    port = free_port()
    node = start(port=port)
    node.wait_until_all_are_ready()
    peer = Peer(port)
    peer.wait_for_an_answer()
    yield node, peer
    peer.socket.close()


def test_peer_does_not_notice_that_its_links_process_dies_again_and_again(linked: tuple[Node, Peer]) -> None:
    node, peer = linked
    for _ in range(5):
        kill_link(node)
        peer.wait_for_an_answer()
    assert link_of(node).restarts == 5


def test_link_that_dies_twice_in_the_middle_of_the_same_packet_is_closed(linked: tuple[Node, Peer]) -> None:
    node, peer = linked
    before = link_of(node).counters.get("octets.received", 0)
    peer.socket.sendall(HALF_A_PACKET)
    name = link_of(node).name
    node.wait_for(name, lambda row: row.counters.get("octets.received", 0) >= before + len(HALF_A_PACKET))
    kill_link(node)
    os.kill(link_of(node).pid, signal.SIGKILL)
    assert peer.is_closed()
    node.wait_for_log("died twice at the same place of the stream")
    assert {row.name for row in node.actors().values()} >= {"router", "tun", "peers", "messagebox", "status"}


def test_sockets_of_a_link_that_is_over_vanish_from_the_runtime_folder(linked: tuple[Node, Peer]) -> None:
    node, peer = linked
    name = link_of(node).name
    assert sockets_of(node, name) == [name, f"{name}.events", f"{name}.lane"]
    kill_link(node)
    peer.socket.close()
    wait_until("no socket is left", lambda: sockets_of(node, name) == [], PATIENCE)
    assert sockets_of(node, "tun") == ["tun", "tun.events", "tun.lane"]


# --- last wills -------------------------------------------------------------------------------------------------------


def test_peer_of_a_killed_process_gets_its_last_will() -> None:
    with ExitStack() as opened:
        peer, own = (opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2))
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(PATIENCE)
        own.connect(peer.getsockname())
        message = SpawnLink(1, "quic://127.0.0.1:9", True, Protocol.QUIC, b"", "quic://127.0.0.1:9")
        kept = Connection(message, own.detach(), Arenas())
        opened.callback(kept.close)
        kept.will = b"sealed"
        assert "quic" in kept.died()
        assert peer.recv(100) == b"sealed"
