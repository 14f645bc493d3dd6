"""Rounds of tun: what is sealed in a slot, and when it is full."""

from __future__ import annotations

import struct
from collections import Counter
from types import SimpleNamespace
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from actors.runtime.runs import Run
from actors.tun.flows import Flow
from actors.tun.sealing import Sealer
from protocol.arena import SLOT_BYTES, Arena
from protocol.mycelium.remotes import Remote

KEY = bytes(range(32))
PAIR = bytes(range(32))
LINK = 7


class Slots:
    """An arena whose runs nobody takes."""

    def __init__(self) -> None:
        self.arena = Arena(4)
        self.memory = memoryview(bytearray(4 * SLOT_BYTES))
        self.passed: list[bytes] = []

    def slot(self, number: int) -> memoryview:
        return self.memory[number * SLOT_BYTES : (number + 1) * SLOT_BYTES]

    def pass_on(self, _link: int, slot: int, run: Run) -> bool:
        for start, ends in run.slices:
            before = 0
            for end in ends:
                self.passed.append(bytes(self.slot(slot)[start + before : start + end]))
                before = end
        return True


def sealer_over(slots: Slots) -> Sealer:
    runtime: Any = SimpleNamespace(counters=Counter(), watched=lambda _kind: False)
    exchange: Any = slots
    return Sealer(runtime, exchange)


def opened(packet: bytes) -> bytes:
    (length,) = struct.unpack("!I", packet[4:8])
    assert length >> 8 & 0xFFFF == len(packet) - 40
    assert packet[8:40] == PAIR
    return AESGCM(KEY).decrypt(packet[-12:], packet[40:-12], None)


def test_a_slot_of_messages_is_full_before_one_does_not_fit() -> None:
    slots = Slots()
    sealer = sealer_over(slots)
    flow = Flow(PAIR, LINK, Remote(AESGCM(KEY), bytes(32), PAIR[16:24]), clean=True)
    bodies = [bytes([number]) * 60_000 for number in range(8)]
    sealed = 0
    assert sealer.begin()
    while not sealer.full:
        sealer.seal_message(flow, 0x0102, memoryview(bodies[sealed]))
        sealed += 1
    sealer.finish()
    assert sealed == (SLOT_BYTES - 65_535) // 60_000 + 1
    assert [opened(packet) for packet in slots.passed] == [b"\x01\x01\x01\x02" + body for body in bodies[:sealed]]
    assert (flow.packets, flow.octets) == (sealed, sealed * (60_000 + 4 + 16 + 12))
