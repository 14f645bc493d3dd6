"""The host's own flows, whose replies may always come in: a bounded table that a successor finds again.

It lies in shared memory that outlives the process, one slot for each flow: a byte that says whether it is taken, and
the key. The byte is written last, so that a kill leaves a whole flow or none. How long a flow was silent is not kept
there: after a restart each gets its whole time again.
"""

from __future__ import annotations

from typing import Final

from protocol.admission.headers import TCP, UDP

MAX_FLOWS: Final = 16_384
SLOT_BYTES: Final = 64
FLOWS_BYTES: Final = MAX_FLOWS * SLOT_BYTES
"""The size of the table's memory."""
KEY_BYTES: Final = 1 + 16 + 16 + 4

TCP_SECONDS: Final = 7440.0
"""Silence after which a TCP flow is forgotten (RFC 5382 section 5: 2 h 4 min)."""
CLOSING_SECONDS: Final = 240.0
"""Likewise after the host sent FIN or RST (RFC 5382 section 5: 4 min)."""
UDP_SECONDS: Final = 300.0
"""RFC 4787 section 4.3: 5 min."""
OTHER_SECONDS: Final = 60.0
"""RFC 5508 section 3.2, for queries of ICMP: 60 s."""
MOST_CHANCES: Final = 64
"""When the table is full, so many flows are looked at for one that was not used since it was looked at last."""


class Flow:
    """One flow of the host. `last` is when it was used, monotonic seconds."""

    __slots__ = ("closing", "key", "last", "looked_at", "octets", "packets", "slot")

    def __init__(self, key: bytes, slot: int, now: float) -> None:
        self.key = key
        self.slot = slot
        self.last = now
        self.looked_at = now
        self.closing = False
        self.packets = 0
        """Replies, and their bytes."""
        self.octets = 0

    def lifetime(self) -> float:
        """Seconds of silence that it survives."""
        protocol = self.key[0]
        if protocol == TCP:
            return CLOSING_SECONDS if self.closing else TCP_SECONDS
        return UDP_SECONDS if protocol == UDP else OTHER_SECONDS


def flow_key(protocol: int, remote: bytes, local: bytes, ports: bytes) -> bytes:
    """What names a flow: protocol, both addresses, and the ports (or an ICMP identifier) as its replies carry them."""
    return bytes((protocol,)) + remote + local + ports


class FlowTable:
    """At most `MAX_FLOWS` flows by key, in `FLOWS_BYTES` of memory that begins as zeros."""

    def __init__(self, memory: memoryview, now: float) -> None:
        self._memory = memory
        self._flows: dict[bytes, Flow] = {}
        self._free: list[int] = []
        for slot in range(MAX_FLOWS - 1, -1, -1):
            start = slot * SLOT_BYTES
            key = bytes(memory[start + 1 : start + 1 + KEY_BYTES]) if memory[start] else b""
            if key and key not in self._flows:
                self._flows[key] = Flow(key, slot, now)
            else:
                self._free.append(slot)
        self.evicted = 0
        """Flows that had to make room."""

    def __len__(self) -> int:
        return len(self._flows)

    def get(self, key: bytes) -> Flow | None:
        """The flow with this key."""
        return self._flows.get(key)

    def open(self, key: bytes, now: float) -> Flow:
        """The flow with this key, which is made where there is none."""
        flow = self._flows.get(key)
        if flow is None:
            if not self._free:
                self._make_room()
            flow = self._flows[key] = Flow(key, self._free.pop(), now)
            start = flow.slot * SLOT_BYTES
            self._memory[start + 1 : start + 1 + KEY_BYTES] = key
            self._memory[start] = 1
        flow.last = now
        return flow

    def expire(self, now: float) -> bool:
        """Forgets flows that were silent for too long; whether there were any."""
        silent = [flow for flow in self._flows.values() if now - flow.last > flow.lifetime()]
        for flow in silent:
            self._remove(flow)
        return bool(silent)

    def clear(self) -> None:
        """Forgets all flows."""
        for flow in list(self._flows.values()):
            self._remove(flow)

    def _remove(self, flow: Flow) -> None:
        del self._flows[flow.key]
        self._memory[flow.slot * SLOT_BYTES] = 0
        self._free.append(flow.slot)

    def _make_room(self) -> None:
        # Second chance: the oldest goes, unless it was used since somebody looked; then it counts as new.
        for _ in range(MOST_CHANCES):
            flow = next(iter(self._flows.values()))
            if flow.last == flow.looked_at or flow.closing:
                break
            flow.looked_at = flow.last
            self._flows[flow.key] = self._flows.pop(flow.key)
        else:
            flow = next(iter(self._flows.values()))
        self._remove(flow)
        self.evicted += 1
