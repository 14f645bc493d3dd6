"""Sealing packets of the host where they lie, in a slot of tun's arena (numbers: the packet path in `__init__.py`)."""

from __future__ import annotations

import os
from typing import Final

from actors.runtime.actor import Runtime
from actors.runtime.exchange import Exchange
from actors.runtime.pages import untouched
from actors.runtime.runs import Runs
from actors.tun.flows import Flow
from protocol.arena import SLOT_BYTES
from protocol.frames import Direction, PacketsSeen
from protocol.mycelium.framing import DATA_HEADER, write_data_header
from protocol.mycelium.rows import BEFORE, BEHIND, seal_rows
from protocol.mycelium.sealing import (
    CAP_SUPER_PACKETS,
    INNER_HEADER,
    INNER_L3,
    INNER_MESSAGE,
    MARK_SUPER_PACKET,
    NONCE,
    seal_into,
    write_inner,
)
from protocol.offload import acks, merge
from protocol.offload.acks import AckRun
from protocol.offload.complete import complete_checksum
from protocol.offload.merge import DatagramRun
from protocol.offload.segment import count_segments, segment
from protocol.offload.trailer import append_trailer
from protocol.offload.vnet import HEADER_LENGTH, TCP, UDP, VnetHeader

LARGEST_READ: Final = 65_535
ROOM: Final = BEFORE + LARGEST_READ + HEADER_LENGTH + BEHIND
"""What the largest packet of the host takes."""
NONCES_AT_ONCE: Final = 512
MESSAGE_HOP_LIMIT: Final = 64
"""Of message packets (messages spec 1); one is counted down before the first link."""
_NO_OFFLOAD: Final = bytes(HEADER_LENGTH)
_UNFINISHED: Final = {UDP: VnetHeader.parse(merge.UNFINISHED), TCP: VnetHeader.parse(acks.UNFINISHED)}


def takes_whole(flow: Flow, now: float) -> bool:
    """Whether super-packets may go as they are: the whole way carries them, and the other end takes them."""
    return flow.clean and flow.remote.takes_super_packets(now)


class Sealer:
    """Packets of one round after the other. A round has one slot, and ends with frames to links."""

    def __init__(self, runtime: Runtime, exchange: Exchange) -> None:
        self._runtime = runtime
        self._exchange = exchange
        self._scratch = untouched(LARGEST_READ)
        self._runs = Runs()
        self._slot = -1
        self._memory = memoryview(b"")
        self._end = 0
        self._run: DatagramRun | AckRun | None = None
        self._run_flow: Flow | None = None
        self._next = 0
        """Where the next packet's headers go, behind a run that is not sealed yet."""
        self._nonces = b""
        self._nonce_at = 0

    # --- rounds -----------------------------------------------------------------------------------------------------

    def begin(self) -> bool:
        """Begins a round; False where no slot is free."""
        slot = self._exchange.arena.take()
        if slot is None:
            return False
        self._slot, self._memory, self._end, self._next = slot, self._exchange.slot(slot), 0, 0
        return True

    @property
    def full(self) -> bool:
        """Whether the slot may have no room for another packet, or was taken away in mid-packet."""
        return self._slot < 0 or self._next + ROOM > SLOT_BYTES

    @property
    def room(self) -> memoryview:
        """Where the next packet of the host belongs."""
        start = self._next + BEFORE
        return self._memory[start : start + LARGEST_READ]

    def finish(self) -> None:
        """Ends the round: what goes to the same link leaves in one frame. Nothing to do without a slot."""
        if self._slot < 0:
            return
        self._end_run()
        for lane, run in self._runs.items():
            self._exchange.pass_on(lane, self._slot, run)  # 6
        if self._runtime.watched(PacketsSeen):
            self._show()
        self._runs.clear()
        self._exchange.arena.close(self._slot)
        self._slot = -1

    # --- packets ----------------------------------------------------------------------------------------------------

    def seal(self, flow: Flow, header: bytes | bytearray, length: int, now: float) -> None:
        """Seals the packet of `length` bytes that lies in `room`, with its virtio header.

        Raises `OffloadError` for a header that lies.
        """
        body = self._next + BEFORE
        run = self._run
        if run is not None:
            if self._run_flow is flow and run.append(body, length, header):
                self._next = run.end + (HEADER_LENGTH if run.count > 1 else 0) + BEHIND
                return
            self._end_run()
        packet = self._memory[body : body + length]
        if DatagramRun.fits(packet, header):
            if takes_whole(flow, now):
                self._begin_run(flow, DatagramRun(self._memory, body, length))
                return
        elif AckRun.fits(packet, header):
            self._begin_run(flow, AckRun(self._memory, body, length))
            return
        if header == _NO_OFFLOAD:
            self._seal(flow, self._end, length, packet[7], 0)
            return
        parsed = VnetHeader.parse(header)
        if not parsed.gso_type:
            complete_checksum(packet, parsed)
            self._seal(flow, self._end, length, packet[7], 0)
        elif takes_whole(flow, now):  # 4
            length = append_trailer(self._memory[body:], length, parsed)
            self._seal(flow, self._end, length, packet[7], MARK_SUPER_PACKET)
        else:
            self._cut(flow, length, parsed)

    def seal_copy(self, flow: Flow, header: bytes, packet: bytes, now: float) -> None:
        """Seals a packet that lies elsewhere. Raises `OffloadError` for a header that lies."""
        self.room[: len(packet)] = packet
        self.seal(flow, header, len(packet), now)

    def seal_message(self, flow: Flow, reserved: int, body: memoryview) -> None:
        """Seals a message packet; `reserved` are bytes 2 and 3 of its inner header."""
        inner = self._end + DATA_HEADER
        first = inner + INNER_HEADER
        write_inner(self._memory, inner, INNER_MESSAGE, reserved >> 8, reserved & 0xFF)
        self._memory[first : first + len(body)] = body
        self._close(flow, self._end, len(body), MESSAGE_HOP_LIMIT)

    def nonce(self) -> bytes:
        """Twelve random bytes that were never used before."""
        at = self._nonce_at
        if at >= len(self._nonces):
            self._nonces = os.urandom(NONCE * NONCES_AT_ONCE)
            at = 0
        self._nonce_at = at + NONCE
        return self._nonces[at : at + NONCE]

    def _begin_run(self, flow: Flow, run: DatagramRun | AckRun) -> None:
        self._run, self._run_flow = run, flow
        self._next = run.end + BEHIND

    def _end_run(self) -> None:
        """Seals the datagrams that were merged, or the acknowledgement that was left; what is alone goes as it is."""
        run, flow = self._run, self._run_flow
        if run is None or flow is None:
            return
        self._run = self._run_flow = None
        memory, length = self._memory[run.start :], run.end - run.start
        if isinstance(run, DatagramRun) and run.count > 1:
            flow.packets += run.count - 1
            self._runtime.counters["merged.datagrams"] += run.count
            length = append_trailer(memory, length, run.finish())
            self._seal(flow, self._end, length, memory[7], MARK_SUPER_PACKET)
            return
        if isinstance(run, AckRun):
            self._runtime.counters["merged.acknowledgements"] += run.left_out
        complete_checksum(memory[:length], _UNFINISHED[memory[6]])
        self._seal(flow, self._end, length, memory[7], 0)

    def _cut(self, flow: Flow, length: int, header: VnetHeader) -> None:
        packet = self._scratch[:length]
        packet[:] = self.room[:length]
        hop_limit = packet[7]
        total, done = count_segments(packet, header), 0
        while done < total:
            base = self._end
            pieces = segment(packet, header, self._memory[base:], BEFORE, BEHIND, done)
            size = pieces[0][1]
            equal = len(pieces) - (pieces[-1][1] != size)
            self._seal_rows(flow, base, equal, size, hop_limit)
            for offset, size in pieces[equal:]:
                self._seal(flow, base + offset - BEFORE, size, hop_limit, 0)
            done += len(pieces)
            if done < total:
                # Very many very small segments: what is sealed leaves, and the rest gets a slot of its own.
                self.finish()
                if not self.begin():
                    self._runtime.counters["dropped.no_slot"] += total - done
                    return

    def _seal_rows(self, flow: Flow, start: int, count: int, length: int, hop_limit: int) -> None:
        """Seals so many bodies of the same length that lie one behind the other, with their room, from `start` on."""
        header, raw_length = bytearray(BEFORE), INNER_HEADER + length + BEHIND
        write_data_header(header, 0, raw_length, hop_limit - 1, flow.pair[:16], flow.pair[16:])
        write_inner(header, DATA_HEADER, INNER_L3, CAP_SUPER_PACKETS)
        ends = seal_rows(flow.remote.cipher, os.urandom(NONCE * count), self._memory[start:], header, length)  # 5
        self._end = self._next = start + ends[-1]
        flow.packets += count
        flow.octets += count * raw_length
        self._runs.add_row(flow.lane, start, ends)

    def _seal(self, flow: Flow, start: int, length: int, hop_limit: int, mark: int) -> None:
        write_inner(self._memory, start + DATA_HEADER, INNER_L3, CAP_SUPER_PACKETS, mark)
        self._close(flow, start, length, hop_limit)

    def _close(self, flow: Flow, start: int, length: int, hop_limit: int) -> None:
        """Seals the body of `length` bytes whose inner header is written, and puts the packet's own before it."""
        memory, inner, pair = self._memory, start + DATA_HEADER, flow.pair
        raw_length = seal_into(flow.remote.cipher, self.nonce(), memory, inner, INNER_HEADER + length)  # 5
        write_data_header(memory, start, raw_length, hop_limit - 1, pair[:16], pair[16:])
        self._end = self._next = inner + raw_length
        flow.packets += 1
        flow.octets += raw_length
        self._runs.add(flow.lane, start, self._end)

    def _show(self) -> None:
        headers = []
        for run in self._runs.values():
            for first, ends in run.slices:
                starts = [first, *[first + end for end in ends[:-1]]]
                headers += [bytes(self._memory[start : start + DATA_HEADER]) for start in starts]
        if headers:
            self._runtime.publish(PacketsSeen(self._runtime.start.name, Direction.OUT, b"".join(headers)))
