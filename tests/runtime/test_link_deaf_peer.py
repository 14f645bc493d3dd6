"""A peer that reads nothing: what waits for it grows old at its link, and the memory of others comes back."""

from __future__ import annotations

import os
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate

import pytest

from actors.runtime.lane import Lane, LaneHub
from actors.runtime.loop import Loop
from actors.runtime.pages import shared
from protocol.arena import SLOT_BYTES, pack_pieces
from protocol.codec import pack, unpack
from protocol.frames import SCHEMA, LaneHello, Packets, Ready, Returned
from tests.runtime.children import PATIENCE
from tests.runtime.test_link_resume import Scene
from tests.runtime.test_link_resume import scene as scene
from tests.unit import wire_factory as factory

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

SLOTS = 8
PACKET = factory.data(bytes(50_000))
PACKETS = 4


class Tun:
    """The end of the lane where the host's packets come from."""

    def __init__(self, scene: Scene) -> None:
        self.writable, readable = shared("tun", SLOTS * SLOT_BYTES)
        self.descriptors = (self.writable, readable)
        self.loop = Loop()
        self.lanes: list[Lane] = []
        self.returned: list[int] = []
        self.hub = LaneHub(
            self.loop,
            scene.run,
            "tun",
            Counter(),
            on_frame=self._on_frame,
            on_open=self._on_open,
            on_close=lambda _lane: None,
            attach=readable,
        )
        self.hub.listen()

    def lend(self, slot: int) -> None:
        """Fills a slot and sends it to the link."""
        os.pwrite(self.writable, PACKET * PACKETS, slot * SLOT_BYTES)
        ends = tuple(accumulate([len(PACKET)] * PACKETS))
        self.lanes[0].send(pack(Packets(1, b"", b"", pack_pieces([(slot * SLOT_BYTES, ends)]))))

    def turn_until_returned(self, count: int) -> None:
        deadline = self.loop.now() + PATIENCE
        while len(self.returned) < count and self.loop.now() < deadline:
            self.turn()

    def turn(self) -> None:
        self.loop.call_after(0.02, lambda: None)
        self.loop.turn()

    def close(self) -> None:
        self.hub.close()
        for descriptor in self.descriptors:
            os.close(descriptor)

    def _on_open(self, lane: Lane) -> None:
        lane.send(pack(LaneHello(SCHEMA, 99, SLOTS)))
        self.lanes.append(lane)

    def _on_frame(self, _lane: Lane, data: bytes) -> None:
        message = unpack(data)
        if isinstance(message, Returned):
            self.returned += [word for (word, _link) in struct.iter_unpack("<QQ", message.pieces)]


@pytest.fixture
def tun(scene: Scene) -> Iterator[Tun]:
    made = Tun(scene)
    yield made
    made.close()


def test_link_gives_back_what_its_peer_never_reads(scene: Scene, tun: Tun) -> None:
    scene.peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)
    scene.limit_what_the_kernel_holds(16 << 10)
    with scene.successor() as child:
        child.hear(Ready)
        while not tun.lanes:
            tun.turn()
        for slot in range(SLOTS):
            tun.lend(slot)
        # The first is torn by a short write: its rest has to follow whenever the peer reads again.
        tun.turn_until_returned(SLOTS - 1)
        assert sorted(tun.returned) == list(range(1, SLOTS))
        arrived = b""
        while len(arrived) < len(PACKET) or len(arrived) % len(PACKET):
            arrived += scene.peer.recv(65_536)
        assert arrived == PACKET * (len(arrived) // len(PACKET))
        tun.turn_until_returned(SLOTS)
        assert sorted(tun.returned) == list(range(SLOTS))
