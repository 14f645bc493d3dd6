"""From the overlay to the host: the inward half of the tun actor (numbers: the packet path in `__init__.py`)."""

from __future__ import annotations

from typing import Final

import numpy as np
from cryptography.exceptions import InvalidTag

from actors.runtime.actor import Outlet, Runtime
from actors.runtime.budget import Budget
from actors.runtime.exchange import Packed
from actors.runtime.pages import untouched
from actors.tun.device import Device
from actors.tun.messages import Messages
from protocol.admission.gate import Gate
from protocol.forwarding import ForwardingTable
from protocol.frames import Direction, PacketsSeen, Resolve
from protocol.mycelium.errors import WireError
from protocol.mycelium.framing import (
    DATA_HEADER,
    DESTINATION_OFFSET,
    FEWEST_IN_ROW,
    HOP_LIMIT_OFFSET,
    SOURCE_OFFSET,
)
from protocol.mycelium.identity import OVERLAY_FIRST_BYTES
from protocol.mycelium.remotes import Remote, Remotes
from protocol.mycelium.reports import open_report
from protocol.mycelium.rows import open_rows, stretches
from protocol.mycelium.sealing import (
    INNER_HEADER,
    INNER_ICMP,
    INNER_L3,
    INNER_MESSAGE,
    INNER_VERSION,
    MARK_SUPER_PACKET,
    NONCE,
    TAG,
    Cipher,
    parse_inner,
)
from protocol.offload.coalesce import Coalescer
from protocol.offload.trailer import split_trailer
from protocol.offload.vnet import OffloadError
from protocol.prefix import ADDRESS_BYTES
from protocol.waiting import WaitingPackets

MAX_SOURCES: Final = 4096
RESOLVES_PER_SECOND: Final = 256
WAIT_SECONDS: Final = 20.0
IPV6_HEADER: Final = 40
IPV6_HOP_LIMIT: Final = 7
IPV6_ADDRESSES: Final = 8
MEMORY_BYTES: Final = 1 << 20


class Inbound:
    """Opens what arrives and gives it to the host."""

    def __init__(
        self,
        runtime: Runtime,
        device: Device,
        udp_offload: bool,
        address: bytes,
        remotes: Remotes,
        table: ForwardingTable,
        router: Outlet,
        messages: Messages,
    ) -> None:
        self._messages = messages
        self._runtime = runtime
        self._counters = runtime.counters
        self._device = device
        self._own = address[:8]
        self._remotes = remotes
        self._table = table
        self._router = router
        self.gate: Gate | None = None
        """Who may come in, where not everybody may."""
        self._sources: dict[bytes, Remote] = {}
        self._waiting = WaitingPackets(tally=runtime.counters, name="unopened")
        self.resolves = Budget(RESOLVES_PER_SECOND)
        """New senders that peers may have us ask for."""
        self._coalescer = Coalescer(udp=udp_offload)
        self._opened = untouched(MEMORY_BYTES)
        runtime.gauges.queue("unopened_packets", lambda: len(self._waiting))

    # --- the path ---------------------------------------------------------------------------------------------------

    def on_run(self, run: Packed) -> None:
        """Packets for this node."""
        free = 0
        if self._runtime.watched(PacketsSeen):
            starts = (0, *run.ends[:-1])
            headers = b"".join(bytes(run.memory[start : start + DATA_HEADER]) for start in starts)
            self._runtime.publish(PacketsSeen(self._runtime.start.name, Direction.IN, headers))
        now = self._runtime.loop.now()
        for start, size, count in stretches(run.ends):
            if free + size * count > MEMORY_BYTES:
                self._write_out()
                free = 0
            end = start + size * count
            taken = self._row(run.memory[start:end], size, free, now) if count >= FEWEST_IN_ROW else 0
            if taken:
                free += taken
                continue
            for at in range(start, end, size):
                free += self._packet(run.memory, at, at + size, free, now)
        self._write_out()

    def _row(self, packets: memoryview, size: int, free: int, now: float) -> int:
        """Handles packets of `size` bytes each together, opening them at `free`; the bytes that must stay there.

        0 where they are not all alike: between the same addresses, of a known sender, ordinary packets of his host.
        """
        outer = np.frombuffer(packets, np.uint8).reshape(-1, size)
        pair = bytes(packets[SOURCE_OFFSET:DATA_HEADER])
        remote = self._sources.get(pair)  # 7
        length = size - DATA_HEADER - TAG - NONCE
        if remote is None or self.gate is not None or length < INNER_HEADER + IPV6_HEADER:
            return 0
        addresses = outer[:, SOURCE_OFFSET:DATA_HEADER]
        opened = self._opened[free : free + length * len(outer)]
        if (addresses != addresses[0]).any() or not open_rows(remote.cipher, packets[:size], size, opened):  # 8
            return 0
        if opened[1] != INNER_L3 or not open_rows(remote.cipher, packets[size:], size, opened[length:]):
            return 0
        inner = np.frombuffer(opened, np.uint8).reshape(-1, length)
        if (
            (inner[:, 0] != INNER_VERSION).any()
            or (inner[:, 1] != INNER_L3).any()
            or (inner[:, 3] & MARK_SUPER_PACKET).any()
            or (inner[:, INNER_HEADER] >> 4 != 6).any()
            # The 32 bytes of source and destination lie together in both headers.
            or (inner[:, INNER_HEADER + IPV6_ADDRESSES : INNER_HEADER + IPV6_HEADER] != addresses).any()
        ):
            return 0
        remote.heard(int(inner[-1, 2]), now)
        inner[:, INNER_HEADER + IPV6_HOP_LIMIT] = outer[:, HOP_LIMIT_OFFSET]
        self._coalescer.add_row(opened, length, INNER_HEADER)
        return len(opened)

    def _packet(self, memory: memoryview, start: int, end: int, free: int, now: float) -> int:
        """Handles the data packet at these offsets, opening it at `free`; returns the bytes that must stay there.

        Two hundred thousand of these a second come from a node that cuts its packets small: hence no calls that can be
        avoided, and `parse_inner` spelled out.
        """
        sealed, nonce = start + DATA_HEADER, end - NONCE
        length = nonce - TAG - sealed
        if length < INNER_HEADER:
            self._counters["dropped.unopenable"] += 1
            return 0
        pair = bytes(memory[start + SOURCE_OFFSET : sealed])
        remote = self._sources.get(pair)  # 7
        if remote is None:
            remote = self._find(pair[:ADDRESS_BYTES])
            if remote is None:
                self._wait(pair[:ADDRESS_BYTES], memory[start:end])
                return 0
            self._remember(pair, remote)
        opened = self._opened
        body_start, body_end = free + INNER_HEADER, free + length
        try:
            remote.cipher.decrypt_into(memory[nonce:end], memory[sealed:nonce], None, opened[free:body_end])  # 8
        except InvalidTag:
            self._counters["dropped.unopenable"] += 1
            return 0
        if opened[free] != INNER_VERSION or opened[free + 1] != INNER_L3:
            self._other(memory[start:end], opened[free:body_end])
            return 0
        # The 32 bytes of source and destination lie together in both headers.
        addresses = opened[body_start + IPV6_ADDRESSES : body_start + IPV6_HEADER]
        if length < INNER_HEADER + IPV6_HEADER or opened[body_start] >> 4 != 6 or addresses != pair:
            self._counters["dropped.inner_mismatch"] += 1
            return 0
        remote.heard(opened[free + 2], now)
        opened[body_start + IPV6_HOP_LIMIT] = memory[start + HOP_LIMIT_OFFSET]
        body = opened[body_start:body_end]
        if self.gate is not None and not self.gate.admits(body, remote.public_key, now):
            return 0
        if opened[free + 3] & MARK_SUPER_PACKET:
            self._super_packet(body)
            return 0
        self._coalescer.add(body)
        return length

    def _super_packet(self, body: memoryview) -> None:
        try:
            packet, header = split_trailer(body)
        except OffloadError:
            self._counters["dropped.bad_offload"] += 1
            return
        # What came before it must not be overtaken.
        self._write_out()
        self._device.write_pieces((header.pack(), packet))  # 9

    def _other(self, packet: memoryview, plain: memoryview) -> None:
        """What is no packet of the other host."""
        try:
            kind = parse_inner(plain).kind
        except WireError:
            self._counters["dropped.unopenable"] += 1
            return
        if kind == INNER_ICMP:
            self._report(packet, bytes(packet[SOURCE_OFFSET:DESTINATION_OFFSET]), plain[INNER_HEADER:])
        elif kind == INNER_MESSAGE:
            self._messages.opened(packet, plain)

    def _write_out(self) -> None:
        for pieces in self._coalescer.take():
            self._device.write_pieces(pieces)  # 9

    def _report(self, packet: memoryview, source: bytes, body: memoryview) -> None:
        destination = bytes(packet[DESTINATION_OFFSET:DATA_HEADER])
        try:
            self._device.write(open_report(body, source, destination, packet[HOP_LIMIT_OFFSET], self._cipher_of))
        except WireError:
            self._counters["dropped.bad_report"] += 1
            return
        self._counters["reports.delivered"] += 1

    def _cipher_of(self, address: bytes) -> Cipher | None:
        remote = self._find(address)
        return None if remote is None else remote.cipher

    # --- keys -------------------------------------------------------------------------------------------------------

    def forget_routes(self) -> None:
        """The table changed: the next packet of each source looks again."""
        self._sources.clear()

    def _find(self, source: bytes) -> Remote | None:
        # Any entry will do, even one without a usable route: its key is as good (wire spec 2.4).
        route = self._table.lookup(source)
        if route is None or not route.public_key:
            return None
        return self._remotes.owner(route.public_key, source)

    def _remember(self, pair: bytes, remote: Remote) -> None:
        if len(self._sources) >= MAX_SOURCES:
            self._sources.clear()
        self._sources[pair] = remote

    def _wait(self, source: bytes, packet: memoryview) -> None:
        if source[0] not in OVERLAY_FIRST_BYTES or source.startswith(self._own):
            self._counters["dropped.foreign_source"] += 1
            return
        route = self._table.lookup(source)
        if route is not None and route.public_key:
            self._counters["dropped.bad_key"] += 1
            return
        prefix = source[:8]
        asked = prefix in self._waiting
        if not asked and not self.resolves.take():
            self._counters["resolves.over_limit"] += 1
        elif not self._waiting.add(prefix, bytes(packet), self._runtime.loop.now()):
            self._counters["dropped.unopened_full"] += 1
        elif not asked:
            self._router.send(Resolve(prefix + bytes(8), 64))

    def release(self, prefix: bytes) -> None:
        """The key of this /64 (8 bytes) is known: what waited for it is opened."""
        for packet in self._waiting.take(prefix):
            self._packet(memoryview(packet), 0, len(packet), 0, self._runtime.loop.now())
            self._write_out()

    def give_up(self, prefix: bytes) -> None:
        """Nobody knows this /64."""
        self._counters["dropped.unopened"] += len(self._waiting.take(prefix))

    def ask_again(self) -> None:
        """Asks for every source that packets wait for."""
        for prefix in self._waiting.prefixes():
            self._router.send(Resolve(prefix + bytes(8), 64))

    def expire(self) -> None:
        """Gives up what waited longer than any answer takes; the reference keeps it for ever (quirk Q14)."""
        for _, packets in self._waiting.expire(self._runtime.loop.now(), WAIT_SECONDS):
            self._counters["dropped.unopened"] += len(packets)
