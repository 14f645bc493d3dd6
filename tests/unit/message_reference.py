"""A slow, obvious model of a Mycelium 0.7.10 node's message subsystem, with its quirks (messages spec 5, 6, 13)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from blake3 import blake3

from tests.unit import message_factory as factory
from tests.unit.message_factory import Who

Wire = tuple[bytes, bytes, bytes, int]
"""source, destination, body, bytes 2 and 3 of the inner header"""


@dataclass
class _Pending:
    source: bytes
    destination: bytes
    length: int
    slots: list[bytes | None]


@dataclass
class _Outgoing:
    destination: bytes
    data: bytes
    topic: bytes
    created: float
    state: str = "init"
    chunks: list[tuple[int, int, int]] = field(default_factory=list)
    sent_at: dict[int, float] = field(default_factory=dict)
    acked: set[int] = field(default_factory=set)
    tick: float = 0.0
    reply: bool = False


class ReferenceNode:
    """One node. Its application pops messages as soon as they come, unless told not to."""

    def __init__(self, who: Who, reads: bool = True) -> None:
        self.who = who
        self.reads = reads
        self.delivered: list[bytes] = []
        self.inbox: list[tuple[bytes, bytes]] = []
        self._pending: dict[bytes, _Pending] = {}
        self._outgoing: dict[bytes, _Outgoing] = {}
        self._wire: list[Wire] = []

    # --- what the network asks for ------------------------------------------------------------------------------------

    def take_wire(self) -> list[Wire]:
        wire, self._wire = self._wire, []
        return wire

    def next_deadline(self) -> float | None:
        return min((out.tick for out in self._outgoing.values() if out.state in ("init", "progress")), default=None)

    def handle_timer(self, now: float) -> None:
        for message_id, out in self._outgoing.items():
            if out.state in ("init", "progress") and out.tick <= now:
                out.tick = now + 0.1
                self._act(message_id, out, now)

    def receive(
        self, source: bytes, destination: bytes, _key: bytes, body: bytes, now: float, inner_reserved: int
    ) -> None:
        message_id, flags, _ = struct.unpack_from("!8sHH", body)
        if flags & 0x0100:
            self._acknowledged(message_id, flags, body, now)
            return

        def acknowledge(length: int) -> None:
            answer = body[:8] + struct.pack("!H", flags | 0x0100) + body[10:length]
            self._wire.append((destination, source, answer, inner_reserved))

        if flags & 0x8000:
            length = struct.unpack_from("!Q", body, 12)[0]
            if message_id not in [known for known, _ in self.inbox]:
                self._pending[message_id] = _Pending(source, destination, length, [None] * -(-length // 1300))
                acknowledge(21)
        elif flags & 0x1000:
            if self._chunk(message_id, body):
                acknowledge(36)
        elif flags & 0x4000:
            pending = self._pending.get(message_id)
            count, digest = struct.unpack_from("!Q32s", body, 12)
            if pending is None or count != len(pending.slots) or None in pending.slots:
                return
            data = b"".join(slot for slot in pending.slots if slot is not None)
            if len(data) != pending.length or blake3(data).digest() != digest:
                return
            del self._pending[message_id]
            acknowledge(52)
            self.delivered.append(data)
            if self.reads:
                self._wire.append((pending.destination, pending.source, factory.read(message_id), 0))
            else:
                self.inbox.append((message_id, data))
        elif flags & 0x0800:
            out = self._outgoing.get(message_id)
            if out is not None and out.state == "received":
                out.state = "read"
        elif flags & 0x2000:
            self._pending.pop(message_id, None)

    def _chunk(self, message_id: bytes, body: bytes) -> bool:
        pending = self._pending.get(message_id)
        if pending is None:
            return False
        index, offset, size = struct.unpack_from("!QQQ", body, 12)
        data = body[36 : 36 + size]
        highest = 0 if pending.length == 0 else -(-pending.length // 250) - 1
        if offset + len(data) > pending.length or index > highest or (len(data) < 250 and index != highest):
            return False
        pending.slots.extend([None] * (index + 1 - len(pending.slots)))
        pending.slots[index] = data
        return True

    # --- sending ------------------------------------------------------------------------------------------------------

    def push(self, message_id: bytes, destination: bytes, data: bytes, now: float, topic: bytes = b"") -> None:
        self._outgoing[message_id] = out = _Outgoing(destination, data, topic, now, tick=now + 0.1)
        self._act(message_id, out, now)

    def state(self, message_id: bytes) -> str:
        return self._outgoing[message_id].state

    def _send(self, out: _Outgoing, body: bytes) -> None:
        self._wire.append((self.who.address, out.destination, body, 0))

    def _act(self, message_id: bytes, out: _Outgoing, now: float) -> None:
        if out.state not in ("init", "progress"):
            return
        if now - out.created >= 300:
            out.state = "aborted"
            self._send(out, factory.aborted(message_id))
        elif out.state == "init":
            self._send(out, factory.init(len(out.data), out.topic, message_id=message_id))
        elif len(out.acked) == len(out.chunks):
            self._send(out, factory.done(len(out.chunks), out.data, message_id=message_id))
        else:
            for index, offset, size in out.chunks:
                if index not in out.acked and now - out.sent_at.get(index, -1.0) >= 0.1:
                    out.sent_at[index] = now
                    self._send(
                        out, factory.chunk(index, offset, out.data[offset : offset + size], message_id=message_id)
                    )

    def _acknowledged(self, message_id: bytes, flags: int, body: bytes, now: float) -> None:
        out = self._outgoing.get(message_id)
        if out is None:
            return
        if flags & 0x8000 and out.state == "init":
            out.state = "progress"
            out.chunks = factory.reference_plan(len(out.data))
            self._act(message_id, out, now)
        elif flags & 0x1000 and out.state == "progress":
            index = struct.unpack_from("!Q", body, 12)[0]
            if index < len(out.chunks):
                out.acked.add(index)
                if len(out.acked) == len(out.chunks):
                    self._act(message_id, out, now)
        elif flags & 0x4000 and out.state == "progress":
            out.state = "received"
