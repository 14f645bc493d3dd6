"""A TCP connection outlives its process: links are killed at random moments under load, and their peer notices nothing.

Three kinds of process, as in a node: the test is the supervisor, with a duplicate of the socket, the ledger and the
arenas; a link reads and writes until it is killed and the next one goes on; the peer is somebody else's node, which
checks each packet. What the link delivers upwards comes back through a pipe and is checked by the test.

Packets are Mycelium's, made and checked here without the code under test. Each direction's are numbered; a number says
all the packet's bytes, and in the peer's stream where it begins.

RESUME_KILLS and RESUME_SEED in the environment choose a longer run, and one that was seen to fail.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import random
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import accumulate
from types import FrameType
from typing import Any, Final, NoReturn

import pytest

from actors.runtime.positions import Positions, positions
from protocol import ledger, queues
from protocol.ledger import LEDGER_BYTES, OWN_MEMORY, Ledger, place
from protocol.mycelium import framing
from protocol.mycelium.framing import MAX_PACKET, StreamDecoder
from protocol.mycelium.resume import packet_end
from protocol.queues import SendLimits, SendQueue

KILLS: Final = int(os.environ.get("RESUME_KILLS", "200"))
LONGEST_LIFE: Final = 0.03
"""Seconds, most often since the link's first delivery, else since its birth, so that some die while they recover."""
LONGEST_BIRTH: Final = 0.5
MOST_INSTRUCTIONS: Final = 60_000
"""Of a link that kills itself: some ten reads and writes."""
SOCKET_BUFFER: Final = 16 << 10
"""Of what links write: small, so that most writes are short and tear a packet."""

SLOT_BYTES: Final = 128 << 10
SLOTS: Final = 6
READ_START: Final = SLOTS * SLOT_BYTES
READ_BYTES: Final = 4 * MAX_PACKET
"""Over three largest packets: what the decoder moves to the front never overlaps where it was."""
ARENA_BYTES: Final = READ_START + READ_BYTES
BATCH_BYTES: Final = 200 << 10
RUN_PACKETS: Final = 24
CONTROL_PER_RUN: Final = 3

SIZES: Final = tuple(random.Random(1).choices((8, 60, 700, 1400, 9000, 65535), (4, 4, 4, 20, 2, 1), k=60))
"""Raw bytes of the packet of number n, at n modulo 60."""
MAX_SKIPPED_OUT: Final = SLOTS * RUN_PACKETS + SLOTS * CONTROL_PER_RUN
"""What can wait in the link's queue, and dies with it."""
MAX_SKIPPED_IN: Final = READ_BYTES // (40 + min(SIZES))
"""What one read can bring: cut, but not passed on."""


def data_packet(number: int) -> bytes:
    raw = number.to_bytes(8, "big") + bytes((number & 0xFF,)) * (SIZES[number % 60] - 8)
    return struct.pack("!BBHBHB16s16s", 1, 0, 0, 0, len(raw), 64, b"\x05" * 16, b"\x04" * 16) + raw


def control_packet(number: int) -> bytes:
    body = number.to_bytes(8, "big") + bytes((number & 0xFF,)) * (number % 60 * 40)
    return struct.pack("!BBHBBH", 1, 1, 0, 42, 2, len(body)) + body


def peer_packet(number: int) -> bytes:
    """The peer's packets, of both kinds in one sequence without a gap."""
    return data_packet(number) if number % 4 else control_packet(number)


CYCLE_STARTS: Final = tuple(accumulate((len(peer_packet(number)) for number in range(60)), initial=0))


def position_of(number: int) -> int:
    """Where the packet `number` begins in the peer's stream."""
    cycles, rest = divmod(number, 60)
    return cycles * CYCLE_STARTS[60] + CYCLE_STARTS[rest]


def number_at(position: int) -> int:
    """The packet that begins at `position` in the peer's stream."""
    cycles, rest = divmod(position, CYCLE_STARTS[60])
    return cycles * 60 + CYCLE_STARTS.index(rest)


def fail(reason: str) -> NoReturn:
    """Ends a process that isn't the test."""
    print(reason, file=sys.stderr, flush=True)
    os._exit(9)


def fork(run: Callable[[], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        run()
        os._exit(0)
    except BaseException as error:  # noqa: BLE001 - the last frame of a process
        fail(f"{type(error).__name__}: {error}")


# --- the peer -------------------------------------------------------------------------------------------------------


class Peer:
    """Somebody else's node: sends its sequence as fast as it can, and checks each packet that it gets."""

    def __init__(self, connection: socket.socket, report: int, seed: int) -> None:
        self._connection = connection
        self._report = report
        self._dice = random.Random(seed)
        self._unread = bytearray()
        self._unsent = b""
        self._next = 0
        self._last = {0: -1, 1: -1}
        self._packets = 0
        self._skipped = 0
        self._largest_gap = 0

    def run(self) -> None:
        poller = select.poll()
        poller.register(self._connection, select.POLLIN | select.POLLOUT)
        self._connection.setblocking(False)
        while True:
            ((_, events),) = poller.poll()
            if events & select.POLLIN and not self._read():
                break
            if events & select.POLLOUT:
                self._write()
        figures = {"packets": self._packets, "skipped": self._skipped, "largest_gap": self._largest_gap}
        os.write(self._report, json.dumps(figures).encode())

    def _write(self) -> None:
        if not self._unsent:
            count = self._dice.randint(1, 40)
            self._unsent = b"".join(peer_packet(self._next + i) for i in range(count))
            self._next += count
        chunk = self._dice.choice((70, 30_000, len(self._unsent)))
        try:
            self._unsent = self._unsent[self._connection.send(self._unsent[:chunk]) :]
        except BlockingIOError:
            return

    def _read(self) -> bool:
        try:
            arrived = self._connection.recv(self._dice.choice((500, 20_000, 1 << 18)))
        except BlockingIOError:
            return True
        self._unread += arrived
        start = 0
        while len(self._unread) - start >= 8:
            version, kind, length = struct.unpack_from("!BB3xH", self._unread, start)
            if version != 1 or kind not in (0, 1):
                fail(
                    f"the peer lost the framing after {self._packets} packets: {self._unread[start : start + 8].hex()}"
                )
            if kind == 1:
                (length,) = struct.unpack_from("!H", self._unread, start + 6)
            end = start + (8 if kind else 40) + length
            if end > len(self._unread):
                break
            self._check(kind, bytes(self._unread[start:end]))
            start = end
        del self._unread[:start]
        return bool(arrived)

    def _check(self, kind: int, packet: bytes) -> None:
        header = 8 if kind else 40
        number = int.from_bytes(packet[header : header + 8], "big")
        if packet != (control_packet(number) if kind else data_packet(number)):
            fail(f"the peer got a damaged packet: kind {kind}, number {number}, {len(packet)} bytes")
        gap = number - self._last[kind] - 1
        if gap < 0:
            fail(f"the peer got packet {number} of kind {kind} after {self._last[kind]}")
        self._last[kind] = number
        self._packets += 1
        self._skipped += gap
        self._largest_gap = max(self._largest_gap, gap)


# --- the link -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inheritance:
    """What the supervisor hands to a link."""

    connection: socket.socket
    base: Positions
    ledger: int
    numbers: memoryview
    """Words in memory that outlives the link: next data packet, next control packet, packets finished for a dead."""
    upwards: int
    arena: int
    arena_number: int
    old_arenas: dict[int, int]
    instructions: int
    """After so many bytecode instructions the link kills itself; 0 leaves that to the supervisor."""
    seed: int


NEXT_DATA, NEXT_CONTROL, FINISHED = range(3)


class Link:
    """Reads and writes at full speed, the way a link actor does."""

    def __init__(self, inheritance: Inheritance) -> None:
        self._connection = inheritance.connection
        self._numbers = inheritance.numbers
        self._upwards = inheritance.upwards
        self._dice = random.Random(inheritance.seed)
        self._arena = memoryview(mmap.mmap(inheritance.arena, ARENA_BYTES))
        self._arena_number = inheritance.arena_number
        self._arena_address = ctypes.addressof(ctypes.c_char.from_buffer(self._arena))
        self._decoder = StreamDecoder(memory=self._arena[READ_START:])
        self._queue = SendQueue(SendLimits(max_age=60))
        self._free = list(range(SLOTS))
        self._packet_starts: dict[int, set[int]] = {}
        self._ledger = Ledger(memoryview(mmap.mmap(inheritance.ledger, LEDGER_BYTES)))
        self._resume(inheritance)

    def _resume(self, inheritance: Inheritance) -> None:
        here = positions(self._connection).since(inheritance.base)
        arenas = {
            number: memoryview(mmap.mmap(descriptor, ARENA_BYTES, prot=mmap.PROT_READ))
            for number, descriptor in inheritance.old_arenas.items()
        }
        recovery = self._ledger.recover(here.sent, here.received, arenas, packet_end)
        self._sent = here.sent
        self._boundary = recovery.boundary
        self._next = number_at(recovery.boundary)
        self._decoder.writable()[: len(recovery.uncut)] = recovery.uncut
        self._decoder.received(len(recovery.uncut))
        self._ledger.rx_boundary(self._boundary, place(self._arena_number, READ_START))
        self._rest = recovery.torn
        if recovery.torn:
            self._numbers[FINISHED] += 1
            self._queue.control(recovery.torn)

    def run(self) -> None:
        self._connection.setblocking(False)
        poller = select.poll()
        poller.register(self._connection, select.POLLIN | select.POLLOUT)
        self._cut()
        while True:
            ((_, events),) = poller.poll()
            if events & select.POLLOUT:
                self._fill()
                self._write()
            if events & select.POLLIN:
                self._read()

    def _read(self) -> None:
        room = self._decoder.writable()
        start = ARENA_BYTES - len(room) - self._decoder.buffered
        self._ledger.rx_boundary(self._boundary, place(self._arena_number, start))
        try:
            count = self._connection.recv_into(room)
        except BlockingIOError:
            return
        if not count:
            fail("the peer closed the connection")
        self._decoder.received(count)
        self._cut()

    def _cut(self) -> None:
        while cuts := self._decoder.cut():
            self._boundary += cuts[-1][2] - cuts[0][1]
            self._ledger.rx_boundary(self._boundary, place(self._arena_number, READ_START + cuts[-1][2]))
            first = self._next
            for _, start, end, count in cuts:
                size = (end - start) // count
                for at in range(start, end, size):
                    if self._decoder.view[at : at + size] != peer_packet(self._next):
                        fail(f"the link got a damaged packet in place of {self._next}")
                    self._next += 1
            os.write(self._upwards, struct.pack("QQQ", first, self._next, self._boundary))

    def _fill(self) -> None:
        while self._free:
            slot = self._free.pop()
            number = self._numbers[NEXT_DATA]
            packets: list[bytes] = []
            size = 0
            for _ in range(self._dice.randint(1, RUN_PACKETS)):
                packet = data_packet(number + len(packets))
                if size + len(packet) > SLOT_BYTES:
                    break
                packets.append(packet)
                size += len(packet)
            self._numbers[NEXT_DATA] = number + len(packets)
            start = slot * SLOT_BYTES
            self._arena[start : start + size] = b"".join(packets)
            ends = list(accumulate(map(len, packets)))
            self._packet_starts[slot] = {start, *(start + end for end in ends)}
            self._queue.data(self._arena[start : start + size], ends, time.monotonic(), slot)
            for _ in range(self._dice.randint(0, CONTROL_PER_RUN)):
                self._numbers[NEXT_CONTROL] += 1
                self._queue.control(control_packet(self._numbers[NEXT_CONTROL] - 1))

    def _write(self) -> None:
        buffers = self._queue.buffers(time.monotonic(), BATCH_BYTES)
        pieces, own, lead = self._name(buffers)
        self._ledger.begin_batch(self._sent, pieces, own, lead)
        self._take_back()
        try:
            count = self._connection.sendmsg(buffers)
        except BlockingIOError:
            return
        self._sent += count
        self._queue.sent(count)
        if count == sum(map(len, buffers)):
            self._take_back()

    def _take_back(self) -> None:
        self._free += [slot for slot in self._queue.released() if isinstance(slot, int)]

    def _name(self, buffers: list[memoryview | bytes]) -> tuple[list[int], bytes, int]:
        pieces: list[int] = []
        own: list[bytes] = []
        own_length = 0
        for buffer in buffers:
            if isinstance(buffer, bytes) or isinstance(buffer.obj, bytes):
                pieces += place(OWN_MEMORY, own_length), len(buffer)
                own.append(bytes(buffer))
                own_length += len(buffer)
            else:
                pieces += place(self._arena_number, self._offset(buffer)), len(buffer)
        lead = len(buffers[0]) if buffers and self._is_rest(buffers[0]) else 0
        return pieces, b"".join(own), lead

    def _is_rest(self, buffer: memoryview | bytes) -> bool:
        """Whether the packet of which this is the end began in an earlier write."""
        if isinstance(buffer, bytes):
            return buffer is self._rest
        if isinstance(buffer.obj, bytes):
            return True
        offset = self._offset(buffer)
        return offset not in self._packet_starts[offset // SLOT_BYTES]

    def _offset(self, buffer: memoryview) -> int:
        return ctypes.addressof(ctypes.c_char.from_buffer(buffer)) - self._arena_address


def live(inheritance: Inheritance) -> None:
    """A link from birth to its death."""
    if inheritance.instructions:
        die_after(inheritance.instructions)
    Link(inheritance).run()


def die_after(instructions: int) -> None:
    """Lets this process be killed by SIGKILL between two of its instructions.

    A kill at a random time almost always hits a system call or a copy; this one hits any two stores as easily.
    """
    ours = {file for file in (__file__, *(module.__file__ for module in (framing, ledger, queues))) if file}
    left = instructions

    def count(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in ours or frame.f_code.co_name.endswith("_packet"):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
        return count

    sys.settrace(count)


# --- the supervisor -------------------------------------------------------------------------------------------------


@dataclass
class Upwards:
    """What links delivered: each packet once at most, in order."""

    pipe: int
    next: int = 0
    packets: int = 0
    skipped: int = 0
    largest_gap: int = 0

    def read_until(self, deadline: float, pidfd: int, records: int = sys.maxsize) -> None:
        """Reads until `deadline`, or until as many `records` came, or the process died, whichever is first."""
        poller = select.poll()
        poller.register(self.pipe, select.POLLIN)
        poller.register(pidfd, select.POLLIN)
        while records > 0 and (ready := poller.poll(max(0.0, deadline - time.monotonic()) * 1000)):
            if (self.pipe, select.POLLIN) not in ready:
                break
            for first, following, position in struct.iter_unpack("QQQ", os.read(self.pipe, 24 * 256)):
                assert first >= self.next, f"packet {first} was delivered again after {self.next - 1}"
                assert position == position_of(following), f"the boundary is out of step at packet {following}"
                self.largest_gap = max(self.largest_gap, first - self.next)
                self.skipped += first - self.next
                self.packets += following - first
                self.next = following
                records -= 1


class Supervisor:
    """Holds what outlives a link, and replaces it."""

    def __init__(self, connection: socket.socket, upwards: tuple[int, int], seed: int) -> None:
        self._connection = connection
        self._base = positions(connection)
        self._dice = random.Random(seed)
        self._upwards = Upwards(upwards[0])
        self._upwards_end = upwards[1]
        self._ledger = os.memfd_create("ledger", os.MFD_CLOEXEC)
        os.ftruncate(self._ledger, LEDGER_BYTES)
        self._ledger_memory = memoryview(mmap.mmap(self._ledger, LEDGER_BYTES))
        Ledger.begin(self._ledger_memory)
        self._numbers = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
        self._arenas: dict[int, int] = {}
        self._born = 0

    def replace_link(self, instructions: int) -> None:
        """One link's life, from birth to SIGKILL: after so many `instructions`, or for 0 at a random time."""
        self._born += 1
        arena = os.memfd_create(f"arena-{self._born}", os.MFD_CLOEXEC)
        os.ftruncate(arena, ARENA_BYTES)
        seed = self._dice.getrandbits(32)
        inheritance = Inheritance(
            connection=self._connection,
            base=self._base,
            ledger=self._ledger,
            numbers=self._numbers,
            upwards=self._upwards_end,
            arena=arena,
            arena_number=self._born,
            old_arenas=self._arenas,
            instructions=instructions,
            seed=seed,
        )
        pid = fork(lambda: live(inheritance))
        pidfd = os.pidfd_open(pid)
        try:
            if instructions:
                self._upwards.read_until(time.monotonic() + LONGEST_BIRTH, pidfd)
            else:
                if self._dice.random() < 0.8:
                    self._upwards.read_until(time.monotonic() + LONGEST_BIRTH, pidfd, records=1)
                self._upwards.read_until(time.monotonic() + self._dice.uniform(0, LONGEST_LIFE), pidfd)
        finally:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            self._upwards.read_until(0.0, pidfd)
            os.close(pidfd)
        assert os.WIFSIGNALED(status), f"link {self._born} ended by itself; its last words stand above"
        self._arenas[self._born] = os.open(f"/proc/self/fd/{arena}", os.O_RDONLY | os.O_CLOEXEC)
        os.close(arena)
        self._keep_what_is_needed()

    def _keep_what_is_needed(self) -> None:
        here = positions(self._connection).since(self._base)
        needed = Ledger(self._ledger_memory.toreadonly()).survey(here.sent, here.received).arenas
        for number in self._arenas.keys() - set(needed):
            os.close(self._arenas.pop(number))

    def close(self) -> None:
        for descriptor in (self._ledger, *self._arenas.values()):
            os.close(descriptor)

    @property
    def upwards(self) -> Upwards:
        return self._upwards

    @property
    def finished(self) -> int:
        """Torn packets that a successor finished."""
        return self._numbers[FINISHED]


@dataclass(frozen=True)
class Scene:
    supervisor: Supervisor
    peer: int
    report: int
    connection: socket.socket
    seed: int


@pytest.fixture
def scene() -> Iterator[Scene]:
    seed = int(os.environ.get("RESUME_SEED", 0)) or random.SystemRandom().randrange(1, 1 << 32)
    print(f"RESUME_SEED={seed}")
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        report, report_end = os.pipe()
        upwards = os.pipe()
        for descriptor in (report, *upwards):
            stack.callback(os.close, descriptor)

        def run_peer() -> None:
            connection = socket.create_connection(listener.getsockname())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)
            Peer(connection, report_end, seed).run()

        peer = fork(run_peer)
        stack.callback(os.waitpid, peer, 0)
        stack.callback(os.kill, peer, signal.SIGKILL)
        os.close(report_end)
        connection, _ = listener.accept()
        stack.enter_context(connection)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
        supervisor = stack.enter_context(closing(Supervisor(connection, upwards, seed)))
        yield Scene(supervisor, peer, report, connection, seed)


@pytest.mark.timeout(max(120, KILLS // 4))
@pytest.mark.parametrize("instructions", [0, MOST_INSTRUCTIONS], ids=["at any time", "after any instruction"])
def test_killed_link_is_replaced_and_neither_stream_breaks(scene: Scene, instructions: int) -> None:
    dice = random.Random(scene.seed)
    for _ in range(KILLS):
        scene.supervisor.replace_link(instructions and dice.randint(1, instructions))
    scene.connection.shutdown(socket.SHUT_WR)
    report = os.read(scene.report, 1 << 16)
    assert report, "the peer saw what no peer may see; its last words stand above"
    peer = json.loads(report)
    upwards, finished = scene.supervisor.upwards, scene.supervisor.finished
    print(f"{KILLS} kills, {finished} torn packets finished; the peer: {peer}; upwards: {upwards}")
    assert min(peer["packets"], upwards.packets) > KILLS
    assert peer["skipped"] <= MAX_SKIPPED_OUT * KILLS
    assert upwards.skipped <= MAX_SKIPPED_IN * KILLS
    assert finished > KILLS // 10
