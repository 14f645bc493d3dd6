"""The lane: frames between hot actors over a Unix socket that the poll loop reads itself.

libzmq moves a frame through its I/O threads on both sides, which makes three wake-ups per hop; a socket that the poll
loop reads makes one. ZMTP is spoken on it: to anyone who comes with libzmq this is a ROUTER where it binds, a DEALER
where it connects.

The path of a frame:
 1. `Lane.send` puts its header and its bytes behind whatever else leaves in this round
 2. at the end of the round one sendmsg writes it all; what the kernel does not take waits, bounded, for POLLOUT
 3. the other process wakes up, reads once, and cuts messages
 4. each goes to `on_frame`; a lane is read once per round, so that no flood keeps the others waiting

With the first bytes of a connection either side may hand over one descriptor: its arena, for reading.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import itertools
import os
import select
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from actors.runtime.channel import close_all
from actors.runtime.folder import SOCKET_PATH_BYTES
from actors.runtime.loop import READABLE, WRITABLE, Loop, Timer
from protocol.buffers import Buffer
from protocol.zmtp import SocketType, ZmtpConnection, ZmtpError

SUFFIX: Final = ".lane"
MAX_DIALLED: Final = 256
MAX_ACCEPTED: Final = 256
"""512 lanes in all; counted apart, so that whoever comes in never takes the room of those we dial."""
MAX_MESSAGE_BYTES: Final = 1 << 20
OUT_BYTES: Final = 1 << 20
"""What may wait for one reader that is slow, before frames for it are dropped."""
PIECE_BYTES: Final = 64
"""What Python needs around each piece that waits. It counts, or empty frames would be a way past the bound."""
HANDSHAKE_SECONDS: Final = 2.0
RETRY_SECONDS: Final = 0.005
QUICK_RETRIES: Final = 400
"""Two seconds: ten times what a restart takes."""
SLOW_RETRY_SECONDS: Final = 0.1
"""After those, for an actor that stays away."""
ACCEPT_PAUSE_SECONDS: Final = 0.1
"""For how long nobody is let in after the system ran out of descriptors or memory for it."""

_READ_BYTES: Final = 1 << 16
_JOIN_BELOW: Final = 4096
"""A copy of so few bytes costs less than one more piece in sendmsg."""
_MAX_PIECES: Final = 1024
"""IOV_MAX of sendmsg(2)."""
_BACKLOG: Final = 128
_ACCEPTS_PER_ROUND: Final = 16
_ROOM_FOR_DESCRIPTOR: Final = socket.CMSG_LEN(array.array("i").itemsize)


class LaneError(Exception):
    """A lane can't be had; says which, why, and what to do."""


class Lane:
    """The way to one other actor. Comes from `LaneHub.connect`, or into being when somebody connects to us."""

    __slots__ = (
        "_blocked",
        "_flush_is_due",
        "_hub",
        "_out",
        "_out_bytes",
        "_socket",
        "_timer",
        "_tries",
        "_zmtp",
        "attached",
        "dialled",
        "is_open",
        "name",
    )

    def __init__(self, hub: LaneHub, name: str, *, dialled: bool) -> None:
        self.name = name
        """The actor's name: what we dialled, or the identity of who came in."""
        self.dialled: Final = dialled
        self.is_open = False
        """Whether both sides are ready: between `on_open` and `on_close`."""
        self.attached = -1
        """The descriptor that came with this connection, -1 for none. The lane closes it when it closes."""
        self._hub = hub
        self._socket: socket.socket | None = None
        self._zmtp: ZmtpConnection | None = None
        self._out: list[Buffer] = []
        self._out_bytes = 0
        self._flush_is_due = False
        self._blocked = False
        """Whether the kernel took less than all, and POLLOUT will say when to go on."""
        self._timer: Timer | None = None
        """Ends a handshake that hangs; while there is no connection, dials again."""
        self._tries = 0

    @property
    def is_orphaned(self) -> bool:
        """Whether nobody is at the other end any more, whatever was said there last and is not read yet."""
        if self._socket is None:
            return False
        poller = select.poll()
        # A hang-up is told of unasked.
        poller.register(self._socket, 0)
        return bool(poller.poll(0))

    @property
    def waiting(self) -> int:
        """Bytes that wait to be written, with what it costs to keep them."""
        return self._out_bytes + PIECE_BYTES * len(self._out)

    def send(self, frame: Buffer | Sequence[Buffer]) -> bool:
        """Sends one frame, whole or in pieces (views of single bytes) that follow each other, at the end of this round.

        Until then the memory behind it must stay as it is. False, and counted, where the lane is closed (nothing waits
        for an actor that is away), where `OUT_BYTES` wait for a slow reader, or for a frame over the hub's largest.
        """
        hub, zmtp = self._hub, self._zmtp
        if zmtp is None or not self.is_open:
            hub.counters["lanes.closed"] += 1
            return False
        pieces = (frame,) if isinstance(frame, (bytes, bytearray, memoryview)) else frame
        size = sum(map(len, pieces))
        if size > hub.max_message:
            hub.counters["lanes.oversize"] += 1
            return False
        out = self._out
        # One frame always finds room: the largest is as large as the bound.
        if out and self._out_bytes + size + PIECE_BYTES * len(out) > OUT_BYTES:
            hub.counters["lanes.full"] += 1
            return False
        header = zmtp.frame_header(size)
        # What waits longer than this round is copied: its memory belongs to the caller again.
        if size < _JOIN_BELOW or self._blocked:
            out.append(b"".join((header, *pieces)))
        else:
            out.append(header)
            out += pieces
        self._out_bytes += len(header) + size
        if not self._flush_is_due and not self._blocked:
            self._flush_is_due = True
            hub.loop.defer(self._end_round)
        return True

    def flush(self) -> None:
        """Writes now, as far as the kernel takes it, what would leave at the end of the round."""
        if self._out and not self._blocked:
            self._write()

    def close(self) -> None:
        """Ends the lane for good: what was dialled is not dialled again."""
        self._hub.drop(self)
        self.end()

    # --- between lane and hub -----------------------------------------------------------------------------------------

    def begin(self, end: socket.socket, socket_type: SocketType) -> None:
        """Greets over a fresh connection, which the lane owns from now on.

        Raises `OSError` where it is no more; then the caller still owns it.
        """
        hub = self._hub
        zmtp = ZmtpConnection(socket_type, hub.name.encode(), max_message=hub.max_message)
        # A fresh Unix socket takes these few bytes whole.
        socket.send_fds(end, [zmtp.outgoing()], [hub.attach] if hub.attach >= 0 else [])
        self._socket, self._zmtp = end, zmtp
        hub.loop.watch(end.fileno(), self._on_socket, priority=hub.priority)
        self._timer = hub.loop.call_after(HANDSHAKE_SECONDS, self._on_deadline)

    def dial_after(self, dial: Callable[[Lane], None]) -> None:
        """Calls `dial(self)` when it is time for the next try."""
        delay = RETRY_SECONDS if self._tries < QUICK_RETRIES else SLOW_RETRY_SECONDS
        self._tries += 1
        self._timer = self._hub.loop.call_after(delay, lambda: dial(self))

    def open(self) -> None:
        """Both sides are ready, and the lane has its name; unless a callback ended it meanwhile."""
        if self._socket is None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._tries = 0
        self.is_open = True
        self._hub.on_open(self)

    def end(self) -> None:
        """Ends the connection, if there is one, or the wait for the next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        end, was_open = self._socket, self.is_open
        if end is None:
            return
        self._socket = self._zmtp = None
        self.is_open = self._blocked = False
        self._forget_output()
        self._hub.loop.forget(end.fileno())
        end.close()
        self._hub.ended(self)
        if was_open:
            self._hub.on_close(self)
        if self.attached >= 0:
            os.close(self.attached)
            self.attached = -1

    # --- inside -------------------------------------------------------------------------------------------------------

    def _on_socket(self, events: int) -> None:
        if events & WRITABLE:
            self._write()
        if events & ~WRITABLE:
            self._read()

    def _on_deadline(self) -> None:
        self._hub.counters["lanes.late"] += 1
        self.end()

    def _end_round(self) -> None:
        self._flush_is_due = False
        self.flush()

    def _read(self) -> None:
        end, zmtp = self._socket, self._zmtp
        if end is None or zmtp is None:
            return
        try:
            # A descriptor that comes later than the handshake finds no room here, and the kernel closes it.
            data = end.recv(_READ_BYTES) if self.is_open else self._read_first(end)
            messages = zmtp.receive(data)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        except ZmtpError:
            self._hub.counters["lanes.garbage"] += 1
            self.end()
            return
        if not data:
            self.end()
            return
        self._answer(zmtp.outgoing())
        if not self.is_open:
            if not zmtp.ready:
                return
            self._hub.shook_hands(self, zmtp.peer_identity)
        on_frame = self._hub.on_frame
        for message in messages:
            # Any callback may have closed this lane.
            if self._zmtp is not zmtp:
                return
            on_frame(self, message)

    def _read_first(self, end: socket.socket) -> bytes:
        data, ancillary, _, _ = end.recvmsg(_READ_BYTES, _ROOM_FOR_DESCRIPTOR, socket.MSG_CMSG_CLOEXEC)
        descriptors = array.array("i")
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
        for descriptor in descriptors:
            if self.attached < 0:
                self.attached = descriptor
            else:
                self._hub.counters["lanes.descriptors"] += 1
                close_all((descriptor,))
        return data

    def _answer(self, data: bytes) -> None:
        """Answers to PING leave like frames, but at once. A reader so slow that there is no room gets none."""
        if data and self.waiting + len(data) <= OUT_BYTES:
            self._out.append(data)
            self._out_bytes += len(data)
            self.flush()

    def _write(self) -> None:
        end, out = self._socket, self._out
        if end is None or not out:
            return
        if len(out) > _MAX_PIECES:
            out = [b"".join(out)]
        try:
            sent = end.sendmsg(out)
        except BlockingIOError:
            sent = 0
        except OSError:
            # The other side is gone. What it said last may still wait to be read: the end comes behind that.
            self._forget_output()
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            return
        if sent == self._out_bytes:
            self._forget_output()
        else:
            self._out = _behind(out, sent)
            self._out_bytes -= sent
        if self._blocked != bool(self._out):
            self._blocked = not self._blocked
            self._hub.loop.want(end.fileno(), READABLE | WRITABLE if self._blocked else READABLE)

    def _forget_output(self) -> None:
        self._out.clear()
        self._out_bytes = 0


class LaneHub:
    """All lanes of one actor. Runs in its poll loop, and calls back from there.

    Counters: `lanes.full`, `lanes.oversize`, `lanes.closed` (frames that `send` did not take), `lanes.garbage` (closed
    for what is no ZMTP), `lanes.late` (closed as the handshake hung), `lanes.refused` (no room for who came in),
    `lanes.replaced` (closed as its actor came again), `lanes.descriptors` (that nobody expected).
    """

    def __init__(
        self,
        loop: Loop,
        run: Path,
        name: str,
        counters: Counter[str],
        *,
        on_frame: Callable[[Lane, bytes], None],
        on_open: Callable[[Lane], None],
        on_close: Callable[[Lane], None],
        attach: int = -1,
        max_message: int = MAX_MESSAGE_BYTES,
        priority: int = 5,
    ) -> None:
        """`run` is the runtime folder, `name` our own, `attach` a descriptor that everybody we talk to gets.

        `on_open` means that a lane can be sent to, `on_close` that what waited on it is lost; each may close lanes. No
        frame of more than `max_message` bytes goes or comes. `priority` is that of the loop.
        Raises `LaneError` where the others could write through `attach`.
        """
        if attach >= 0 and fcntl.fcntl(attach, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY:
            raise LaneError(f"descriptor {attach} that {name} hands to others can be written to; open it read-only")
        self.loop: Final = loop
        self.name: Final = name
        self.counters: Final = counters
        self.attach: Final = attach
        self.max_message: Final = min(max_message, OUT_BYTES)
        self.priority: Final = priority
        self.on_frame: Final = on_frame
        self.on_open: Final = on_open
        self.on_close: Final = on_close
        self._run = run
        self._listener: socket.socket | None = None
        self._dialled: dict[str, Lane] = {}
        self._accepted: dict[str, Lane] = {}
        self._strangers: set[Lane] = set()
        self._anonymous = itertools.count(1)

    # --- what an actor calls ------------------------------------------------------------------------------------------

    def listen(self) -> None:
        """Lets others in at `RUN/<name>.lane`, in place of whatever a dead process left there.

        Raises `LaneError`.
        """
        path = self._path(self.name)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.setblocking(False)
            path.unlink(missing_ok=True)
            listener.bind(os.fspath(path))
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            raise LaneError(f"cannot listen on {path}: {error.strerror}; is the runtime folder writable?") from error
        self._listener = listener
        self.loop.watch(listener.fileno(), self._on_connections, priority=self.priority)

    def connect(self, actor: str) -> Lane:
        """The lane to an actor that listens; dialled until it is there, and again whenever it comes back.

        The same lane for the same actor, until it is closed. Raises `LaneError` past `MAX_DIALLED`.
        """
        lane = self._dialled.get(actor)
        if lane is None:
            self._path(actor)
            if len(self._dialled) >= MAX_DIALLED:
                raise LaneError(f"no lane to {actor}: {MAX_DIALLED} are dialled already; close one")
            lane = self._dialled[actor] = Lane(self, actor, dialled=True)
            self._dial(lane)
        return lane

    def lane(self, name: str) -> Lane | None:
        """The open lane to the actor of this name: the one that we dialled, else the one by which it came in.

        Two actors that dial each other have both; neither replaces the other.
        """
        lane = self._dialled.get(name)
        if lane is not None and lane.is_open:
            return lane
        return self._accepted.get(name)

    def unanswered(self) -> list[Lane]:
        """The lanes that we dial to actors that are not there."""
        return [lane for lane in self._dialled.values() if not lane.is_open]

    def waiting(self) -> int:
        """Bytes that wait on all lanes."""
        return sum(lane.waiting for lane in (*self._dialled.values(), *self._accepted.values()))

    def close(self) -> None:
        """Closes every lane and lets nobody in any more."""
        listener, self._listener = self._listener, None
        if listener is not None:
            self.loop.forget(listener.fileno())
            listener.close()
            self._path(self.name).unlink(missing_ok=True)
        for lane in (*self._dialled.values(), *self._accepted.values(), *self._strangers):
            lane.close()

    # --- between lane and hub -----------------------------------------------------------------------------------------

    def shook_hands(self, lane: Lane, identity: bytes) -> None:
        """A connection stands. Who comes in under the name of one who is here takes its place."""
        if lane.dialled:
            self._bury(self._accepted.get(lane.name))
        else:
            # ZeroMQ, too, makes up a name for whoever brings none.
            name = identity.decode(errors="backslashreplace") or f"anonymous {next(self._anonymous)}"
            replaced = self._accepted.get(name)
            if replaced is not None:
                self.counters["lanes.replaced"] += 1
                replaced.end()
            self._bury(self._dialled.get(name))
            if lane in self._strangers:
                self._strangers.discard(lane)
                lane.name = name
                self._accepted[name] = lane
        lane.open()

    def _bury(self, other: Lane | None) -> None:
        # Where the process at both ends of two lanes was replaced, the end of the old one may still wait behind what
        # it said last. Its successor must not be taken for the same process.
        if other is not None and other.is_orphaned:
            other.end()

    def ended(self, lane: Lane) -> None:
        """A connection is over."""
        self._strangers.discard(lane)
        if self._accepted.get(lane.name) is lane:
            del self._accepted[lane.name]
        if self._dialled.get(lane.name) is lane:
            lane.dial_after(self._dial)

    def drop(self, lane: Lane) -> None:
        """A lane is not to be dialled any more."""
        if self._dialled.get(lane.name) is lane:
            del self._dialled[lane.name]

    # --- inside -------------------------------------------------------------------------------------------------------

    def _path(self, actor: str) -> Path:
        path = self._run / (actor + SUFFIX)
        length = len(os.fsencode(path))
        if length > SOCKET_PATH_BYTES:
            raise LaneError(
                f"the socket path {path} has {length} bytes, at most {SOCKET_PATH_BYTES}; use a shorter runtime folder"
            )
        return path

    def _dial(self, lane: Lane) -> None:
        end = None
        try:
            end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            end.setblocking(False)
            end.connect(os.fspath(self._path(lane.name)))
            lane.begin(end, SocketType.DEALER)
        except OSError:
            # Not there yet, or no more, or more of us knock than it lets wait.
            if end is not None:
                end.close()
            lane.dial_after(self._dial)

    def _on_connections(self, _events: int) -> None:
        for _ in range(_ACCEPTS_PER_ROUND):
            listener = self._listener
            if listener is None:
                return
            try:
                end, _ = listener.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                continue
            except OSError:
                self.counters["lanes.refused"] += 1
                self.loop.want(listener.fileno(), 0)
                self.loop.call_after(ACCEPT_PAUSE_SECONDS, self._accept_again)
                return
            self._accept(end)

    def _accept(self, end: socket.socket) -> None:
        if len(self._accepted) + len(self._strangers) >= MAX_ACCEPTED:
            self.counters["lanes.refused"] += 1
            end.close()
            return
        end.setblocking(False)
        lane = Lane(self, "", dialled=False)
        try:
            lane.begin(end, SocketType.ROUTER)
        except OSError:
            end.close()
            return
        self._strangers.add(lane)

    def _accept_again(self) -> None:
        if self._listener is not None:
            self.loop.want(self._listener.fileno(), READABLE)


def _behind(pieces: Sequence[Buffer], sent: int) -> list[Buffer]:
    """What is left of `pieces` after the first `sent` bytes, in memory of our own."""
    index = 0
    while sent >= len(pieces[index]):
        sent -= len(pieces[index])
        index += 1
    rest: list[Buffer] = [bytes(memoryview(pieces[index])[sent:])]
    rest += [piece if type(piece) is bytes else bytes(piece) for piece in pieces[index + 1 :]]
    return rest
