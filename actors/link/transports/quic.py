"""QUIC (wire spec 5.3 to 5.6): control on one stream, data in datagrams, or on the stream where it doesn't fit.

The way of packets:
 1. the socket gives bunches of datagrams; the session opens them
 2. what came on the stream is cut into packets; each datagram is one; in this order they wait for the link to read
 3. the link's packets go to the session while the congestion window has room, each where it fits
 4. what the session has to send leaves in bunches; what the socket doesn't take waits, and nothing new is accepted
"""

from __future__ import annotations

import errno
from collections import deque
from ipaddress import IPv6Address
from typing import Final

import msgpack

from actors.link.transports.interface import Setup, Transport, TransportError
from actors.link.transports.qh3_inside import MOST_PATHS
from actors.link.transports.quic_session import SMALLEST_PAYLOAD, Happened, QuicSession, QuicSessionError, identity_of
from actors.runtime import udp
from actors.runtime.loop import READABLE, WRITABLE, Timer
from actors.runtime.udp import Address
from protocol.frames import ConnectionIds, LastWill
from protocol.mycelium.endpoint import SocketAddress
from protocol.mycelium.framing import KIND_DATA
from protocol.mycelium.resume import cut_packets, packet_end
from protocol.quic.path_mtu import PathMtu
from protocol.quic.vigil import SILENT_SECONDS, Verdict, Vigil

COST_IPV6: Final = 7
COST_IPV4: Final = 12
HANDSHAKE_SECONDS: Final = 10.0
"""Also until the client's first byte on the stream, as the reference has it (wire spec 5.4)."""
READS_PER_TURN: Final = 16
"""Bunches of up to 64 KiB."""
STREAM_BACKLOG: Final = 128 << 10
"""Bytes that wait in the session for the stream's turn: control can't overtake them any more."""
BUNCH_BYTES: Final = 32 << 10
"""Who waited for room is told when there is so much, or a quarter of the window."""
IDS_SECONDS: Final = 5.0
"""The listener is told again so often which connection is whose: it may be a new process."""
WILL_SECONDS: Final = 1.0
"""At least between two wills: a peer may update keys as often as it likes."""
REFUSED_SECONDS: Final = 2.0
"""A peer that is silent for so long while its machine says that nobody listens there is gone."""
_AROUND: Final = 32
_TOO_LARGE: Final = frozenset({errno.EMSGSIZE, errno.EINVAL})
"""Of one datagram, and of a bunch."""
_GONE_ADDRESS: Final = frozenset(
    {
        *(errno.EADDRNOTAVAIL, errno.EINVAL, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH),
        # After an attempt to connect anew that found no way either.
        *(errno.EDESTADDRREQ, errno.ENOTCONN),
    }
)


class QuicTransport(Transport):
    """A QUIC connection on a connected UDP socket of its own."""

    def __init__(self, setup: Setup) -> None:
        """Raises `TransportError` where what it is to begin with is of no use."""
        super().__init__(setup)
        udp.prepare(self._socket)
        self._loop = setup.runtime.loop
        self._counters = setup.runtime.counters
        self._tell_peers = setup.tell_peers
        self._number = setup.number
        self.send = self._send
        self.receive_into = self._receive_into
        self.opened = False
        self._outbound = setup.outbound
        self._peer: Address = self._socket.getpeername()
        self._session, self._first = self._make_session(setup)
        self._unsent: deque[tuple[bytes, Address]] = deque()
        self._stream = bytearray()
        self._packets: deque[bytes] = deque()
        self._reading = True
        self._waiting = self._closed = False
        self._end = ""
        self._vigil = Vigil(self._loop.now())
        self._timer: Timer | None = None
        self._deadline: Timer | None = None
        self._telling: Timer | None = None
        self._path = PathMtu()
        self._tell_supervisor = setup.runtime.tell_supervisor
        self._will = b""
        self._will_due = 0.0
        self._addresses = {self._peer[:2]}
        """All that the peer has had."""
        self._next_look: Timer | None = None

    def _describe(self, setup: Setup) -> tuple[str, int]:
        remote = SocketAddress.of_sockaddr(setup.connection.getpeername())
        if remote.is_ipv6 and not remote.is_mapped:
            return f"QUIC -> {remote}", COST_IPV6
        # As the reference shows it, whose one socket speaks IPv6 (API spec 3.1).
        host = remote.host if isinstance(remote.host, IPv6Address) else IPv6Address(f"::ffff:{remote.host}")
        return f"QUIC -> {SocketAddress(host, remote.port)}", COST_IPV4

    def _make_session(self, setup: Setup) -> tuple[QuicSession, tuple[bytes, ...]]:
        if setup.outbound:
            return QuicSession.dial(self._peer, self._loop.now()), ()
        try:
            original, retried, datagrams = msgpack.unpackb(setup.opening)
        except (ValueError, msgpack.UnpackException) as error:
            raise TransportError(f"nothing to begin with: {error}") from None
        largest = udp.largest_payload(self._socket)
        return QuicSession.accept(identity_of(setup.public_key), original, retried, largest), tuple(datagrams)

    def start(self) -> None:
        """Sends the client's first packets, or opens those that the listener got."""
        reason = "handshake failed: no answer in 10 s" if self._outbound else "handshake failed: it went silent"
        self._deadline = self._loop.call_after(HANDSHAKE_SECONDS, lambda: self._over(reason))
        self._announce()
        for datagram in self._first:
            self._feed(datagram, len(datagram), self._peer)
        self._first = ()
        self._proceed()

    def wanted(self, *, reading: bool, writing: bool) -> int:
        """Readable while the link reads; writable while the socket owes us room. `room` follows acknowledgements."""
        self._reading, self._waiting = reading, writing
        if reading and (self._packets or self._end):
            self._loop.defer(self._arrived)
        return (READABLE if reading or not self.opened else 0) | (WRITABLE if self._unsent else 0)

    def on_events(self, events: int) -> None:
        """See `Transport`."""
        if events & ~WRITABLE:
            self._read()
        self._proceed()

    def forwarded(self, datagram: bytes, sender: Address) -> None:
        """The listener got this: our peer has another address now."""
        self._counters["quic.forwarded"] += 1
        if sender[:2] not in self._addresses and len(self._addresses) == MOST_PATHS:
            self._part_from(sender)
            return
        self._feed(datagram, len(datagram), sender)
        self._proceed()
        if not self._closed:
            self._follow()

    def _part_from(self, sender: Address) -> None:
        """The session follows no further: at its new address the peer hears of the end, and may begin anew."""
        if self._will:
            try:
                udp.send(self._socket, [self._will], sender)
            except OSError:
                self._counters["quic.closes_unsent"] += 1
        self._over(f"its address changed {MOST_PATHS} times, which is once too often")

    def close(self) -> None:
        """Tells the peer, if it can be told at once."""
        if self._closed:
            return
        self._closed = True
        for timer in (self._timer, self._deadline, self._telling, self._next_look):
            if timer is not None:
                timer.cancel()
        try:
            self._session.close()
            self._unsent.extend(self._session.transmit(self._loop.now()))
            self._push()
        except (QuicSessionError, OSError):
            self._counters["quic.closes_unsent"] += 1
        super().close()

    # --- from the network -----------------------------------------------------------------------------------------

    def _read(self) -> None:
        for _ in range(READS_PER_TURN):
            try:
                data, size, sender = udp.receive(self._socket)  # 1
            except BlockingIOError:
                return
            except ConnectionRefusedError:
                self._refused()
                return
            except OSError:
                # What a packet of ours met on its way, or a device that went down: the session's clock judges that.
                self._counters["quic.errors"] += 1
                continue
            self._feed(data, size, sender)

    def _feed(self, data: bytes, size: int, sender: Address) -> None:
        now = self._loop.now()
        self._vigil.heard(now)
        try:
            self._session.receive(data, size, sender, now)
        except QuicSessionError as error:
            self._counters["quic.failed"] += 1
            self._over(str(error))

    def _refused(self) -> None:
        """The peer's machine says that nobody listens there: of a stranger's making, perhaps, or a moment's matter."""
        self._counters["quic.refused"] += 1
        if not self.opened:
            self._over("Connection refused")
        elif self._loop.now() - self._vigil.silent_since > REFUSED_SECONDS:
            self._over("connection lost: nobody listens there any more")

    def _proceed(self) -> None:
        """Takes what the session found, sends what it has to send, and plans its next deadline."""
        if self._closed:
            return
        happened = self._session.happened()
        self._take(happened)
        for size in happened.answered:
            self._path.answered(size, self._loop.now())
        if not self._closed:
            self._transmit()
        if not self._closed:
            self._question_path()
        if not self._closed:
            self._make_will()
            self._plan()
            if happened.ids_changed:
                self._announce()
            if self._packets and self._reading and self.opened:
                self._owner.arrived()
        if not self._closed:
            if self._waiting and not self._unsent and self._has_room_again():
                self._owner.room()
            self._owner.poll()

    def _take(self, happened: Happened) -> None:
        if happened.stream:
            self._stream += happened.stream
            self._packets += cut_packets(self._stream)  # 2
        for datagram in happened.datagrams:
            end = packet_end(datagram, 0)
            if not 0 < end <= len(datagram):
                self._counters["wire.garbage"] += 1
                self._end = self._end or "it sent garbage: a datagram without a whole packet (wire spec 5.4)"
                break
            # What lies behind its first packet is ignored.
            self._packets.append(datagram[:end])
        if (happened.handshake and self._outbound) or (happened.stream and not self._outbound):
            self._open()
        if happened.closed is not None:
            self._end = self._end or (happened.closed if self.opened else f"handshake failed: {happened.closed}")
        elif happened.stream_ended:
            self._end = self._end or "the peer closed the connection"
        if self._end and not self._packets:
            self._over(self._end)

    def _open(self) -> None:
        if not self.opened and not self._closed:
            self.opened = True
            if self._deadline is not None:
                self._deadline.cancel()
            if not self._outbound:
                # It began with what the kernel knows of the path, which need not be the truth.
                session = self._session
                self._path.begin(session.path_mtu, session.losses, session.round_trip, self._loop.now())
            self._plan_look()
            self._owner.opened()

    def _receive_into(self, memory: memoryview) -> int:
        packets = self._packets
        if not packets:
            if self._end:
                raise TransportError(self._end)
            raise BlockingIOError
        chosen, size = [], 0
        while packets and size + len(packets[0]) <= len(memory):
            chosen.append(packets.popleft())
            size += len(chosen[-1])
        memory[:size] = b"".join(chosen)
        if packets or self._end:
            self._loop.defer(self._arrived)
        return size

    def _arrived(self) -> None:
        if self._reading and not self._closed and (self._packets or self._end):
            self._owner.arrived()

    # --- to the network ---------------------------------------------------------------------------------------------

    def _has_room(self) -> bool:
        return self._session.room > 0 and self._session.stream_backlog < STREAM_BACKLOG

    def _has_room_again(self) -> bool:
        # Not for every acknowledgement: a bunch costs the kernel little more than a datagram. More acknowledgements are
        # on their way as long as the window is not all there.
        session = self._session
        return session.room >= min(session.window // 4, BUNCH_BYTES) and session.stream_backlog < STREAM_BACKLOG

    def _send(self, buffers: list[memoryview | bytes]) -> int:
        if self._unsent or not self.opened or not self._has_room():
            self._waiting = True
            raise BlockingIOError
        try:
            taken = self._hand_over(buffers)
        except QuicSessionError as error:
            raise TransportError(str(error)) from None
        self._transmit()
        if self._closed:
            raise TransportError(self._end)
        self._plan()
        return taken

    def _hand_over(self, buffers: list[memoryview | bytes]) -> int:
        session = self._session
        room, backlog, limit = session.room, STREAM_BACKLOG - session.stream_backlog, session.datagram_limit
        taken = 0
        for buffer in buffers:
            view = memoryview(buffer)
            start, size = 0, len(view)
            while start < size:
                end = packet_end(view, start)
                length = end - start
                if room <= 0 or backlog <= 0:
                    return taken
                if view[start + 1] == KIND_DATA and length <= limit:  # 3
                    session.send_datagram(bytes(view[start:end]))
                else:
                    session.send_stream(view[start:end])
                    backlog -= length
                room -= length + _AROUND
                taken += length
                start = end
        return taken

    def _transmit(self) -> None:
        try:
            self._unsent.extend(self._session.transmit(self._loop.now()))
            self._push()  # 4
        except QuicSessionError as error:
            self._over(str(error))
        except OSError as error:
            self._send_failed(error)
        if not self._vigil.waits and not self._closed and self._session.in_flight:
            self._vigil.asked(self._loop.now())
            if self._next_look is not None and self._next_look.when > self._vigil.deadline:
                self._plan_look()

    def _push(self) -> None:
        unsent, largest = self._unsent, self._session.path_mtu
        while unsent:
            address = unsent[0][1]
            run: list[bytes] = []
            for datagram, where in unsent:
                if where != address or len(run) == udp.MOST_SEGMENTS:
                    break
                run.append(datagram)
                if len(datagram) > largest:
                    # The session asks the path how much it carries.
                    break
            if len(run[0]) > largest:
                run = run[:1]
            elif len(run[-1]) > largest:
                run.pop()
            try:
                count = udp.send(self._socket, run, None if address[:2] == self._peer[:2] else address)
            except BlockingIOError:
                self._counters["quic.socket_full"] += 1
                return
            except ConnectionRefusedError:
                # An answer to what was sent before; this was not sent.
                self._refused()
                if self._closed:
                    return
                continue
            except OSError as error:
                if error.errno != errno.EMSGSIZE or len(run[0]) <= largest:
                    raise
                # Our own machine says how much it is.
                self._counters["quic.probes_too_large"] += 1
                count = 1
            for _ in range(count):
                unsent.popleft()

    def _send_failed(self, error: OSError) -> None:
        # What could not be sent counts as lost on its way.
        self._unsent.clear()
        self._counters["quic.sends_failed"] += 1
        if error.errno in _TOO_LARGE and (largest := self._smaller_path()):
            self._make_smaller(largest)
        elif error.errno in _GONE_ADDRESS:
            if self._outbound:
                self._move()
        else:
            self._over(f"connection lost: {error.strerror}")

    def _smaller_path(self) -> int:
        """What the kernel knows by now that the path carries, where the session sends more; else 0."""
        try:
            largest = udp.largest_payload(self._socket)
        except OSError:
            return 0
        return largest if largest < self._session.path_mtu else 0

    def _question_path(self) -> None:
        """Finds out whether a path that loses packets loses the large ones."""
        path, session, now = self._path, self._session, self._loop.now()
        if not self.opened:
            return
        path.look(session.path_mtu, session.losses, session.round_trip, now)
        found = path.verdict(now)
        if found is not None:
            self._make_smaller(found)
            return
        self._ask_path(path.take_due(now))

    def _ask_path(self, sizes: tuple[int, ...]) -> None:
        if self._closed:
            return
        try:
            for size in sizes:
                question = self._session.question(size, self._loop.now())
                if question is not None:
                    self._counters["quic.path_questions"] += 1
                    self._unsent.append(question)
            self._push()
        except QuicSessionError as error:
            self._over(str(error))
        except OSError as error:
            self._send_failed(error)

    def _make_smaller(self, largest: int) -> None:
        if largest < SMALLEST_PAYLOAD:
            self._over(f"the path carries datagrams of at most {largest} bytes, QUIC needs {SMALLEST_PAYLOAD}")
            return
        self._counters["quic.path_smaller"] += 1
        try:
            self._session.cap(largest)
        except QuicSessionError as error:
            self._over(str(error))

    def _move(self) -> None:
        """Our address or way is gone: the connection goes on from another, if there is one."""
        try:
            udp.connect_anew(self._socket, self._peer)
        except OSError as error:
            if not self.opened:
                self._over(f"connection lost: {error.strerror}")
            # Else the next deadline tries again, until the session or the router gives the peer up.
            return
        self._counters["quic.moved"] += 1

    def _follow(self) -> None:
        """Where the session sends to another address now, so does the kernel, and takes nothing from the old one."""
        current = self._session.remote
        if current is None or current[:2] == self._peer[:2]:
            return
        try:
            self._socket.connect(current)
        except OSError as error:
            self._over(f"connection lost: {error.strerror}")
            return
        self._peer = self._socket.getpeername()
        self._addresses.add(self._peer[:2])
        self._counters["quic.followed"] += 1

    # --- time -------------------------------------------------------------------------------------------------------

    def _plan(self) -> None:
        deadlines = [when for when in (self._session.deadline(), self._path.next_deadline()) if when is not None]
        timer = self._timer
        if not deadlines or (timer is not None and not timer.cancelled and timer.when <= min(deadlines)):
            # One that comes too early finds out.
            return
        if timer is not None:
            timer.cancel()
        self._timer = self._loop.call_at(min(deadlines), self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        now = self._loop.now()
        deadline = self._session.deadline()
        if deadline is not None and deadline <= now:
            try:
                self._session.on_time(now)
            except QuicSessionError as error:
                self._over(str(error))
        self._proceed()

    def _plan_look(self) -> None:
        if self._next_look is not None:
            self._next_look.cancel()
        self._next_look = self._loop.call_at(self._vigil.deadline, self._look_for_life)

    def _look_for_life(self) -> None:
        now = self._loop.now()
        match self._vigil.judge(now, listening=self._reading):
            case Verdict.GIVE_UP:
                self._counters["quic.silent"] += 1
                self._over(f"connection lost: nothing heard for {SILENT_SECONDS:g} s")
            case Verdict.ASK:
                self._counters["quic.asked"] += 1
                self._vigil.asked(now)
                try:
                    self._session.ping()
                except QuicSessionError as error:
                    self._over(str(error))
                self._proceed()
            case Verdict.INSIST:
                self._counters["quic.insisted"] += 1
                self._proceed()
                self._ask_path((SMALLEST_PAYLOAD,))
            case Verdict.WAIT:
                pass
        if not self._closed:
            self._plan_look()

    def _announce(self) -> None:
        """Tells the listener by which ids packets for us are known, should they come to it."""
        if self._outbound:
            # On a port of its own, which no listener shares.
            return
        if self._telling is not None:
            self._telling.cancel()
        self._tell_peers(ConnectionIds(self._number, tuple(self._session.ids), self._session.reset_token))
        self._telling = self._loop.call_after(IDS_SECONDS, self._announce)

    def _make_will(self) -> None:
        """Leaves with the supervisor what tells the peer that this process was killed."""
        now = self._loop.now()
        if now < self._will_due:
            return
        will = self._session.last_will()
        if will is not None:
            self._will, self._will_due = will, now + WILL_SECONDS
            self._tell_supervisor(LastWill(self._number, will))

    def _over(self, reason: str) -> None:
        if not self._closed:
            self._end = reason
            self._owner.end(reason)
