"""Own messages on their way: what is sent when, and what an acknowledgement changes (messages spec 6).

Where it does better than the reference, without a reference node noticing:

 - chunks of equal size, so that every length arrives (Q1); a window and a timer instead of bursts (6.3)
 - messages to one node share its window in turns of equal bytes; an acknowledgement moves its own message only (Q8)
 - a READ that overtakes the acknowledgement of DONE counts for both (6.4)
 - a receiver that lost its memory, or some chunks to a late INIT (Q11), gets everything again: as long as no DONE was
   sent by beginning again; after that, since it may have delivered the message already, only when it acknowledges the
   first chunk as one of a message that it still lacks
 - two replies with one id to one node go one after the other (Q9)
 - the only chunk of a short message goes right behind its INIT, where the node was heard of lately: a receiver takes
   them one after the other, so that nothing but the wait between them is left out
"""

from __future__ import annotations

from typing import Final

from protocol.mycelium.messages.chunking import CHUNK_BYTES, LARGE_CHUNK_BYTES
from protocol.mycelium.messages.core import Core, Key, MessageBoxError, check_message
from protocol.mycelium.messages.events import ForgetOutgoing, State, StateChanged, StoreDoneSent, StoreOutgoing
from protocol.mycelium.messages.outgoing import EAGER_SECONDS, FINAL_PHASES, Outgoing, Phase, Saw
from protocol.mycelium.messages.packets import (
    ACCEPT_LARGE,
    OFFER_LARGE,
    Aborted,
    ChunkAck,
    DoneAck,
    FromReceiver,
    InitAck,
    Packet,
    Read,
    ReadAck,
)
from protocol.mycelium.messages.records import Progress, SavedOutgoing, Status, status_of
from protocol.mycelium.messages.ways import Way, Ways
from protocol.mycelium.routing.deadlines import Deadlines

MAX_CLEAN: Final = 4096
"""Remotes to which large packets may go. When full, all are forgotten: small ones get everywhere."""
MAX_UNDER_WAY: Final = 512
"""Messages to one remote that are announced and not finished; the others wait their turn. A receiver that has more to
do than it can answers none in time, and everything is repeated. One that is not answered for `STALLED_SECONDS` counts
no longer: its topic may be refused."""
STALLED_SECONDS: Final = 1.0
PROBE: Final = 0
"""Index of the chunk that asks a receiver, which doesn't answer DONE, whether it still lacks something."""
_STEP: Final = 256
"""Messages handled in one call of the timer; the rest is due again at once."""
_ANNOUNCING: Final = frozenset({Phase.PENDING, Phase.CONCLUDING})
"""One packet is repeated until it is acknowledged."""
_FINISHED_COUNTERS: Final = {State.RECEIVED: "messages_accepted", State.ABORTED: "messages_aborted"}


class OutboxFull(MessageBoxError):
    """There is no room for another own message."""


class Sender:
    """All own messages. `now` is monotonic seconds and never decreases; events go to `core.events`."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._messages: dict[int, Outgoing] = {}
        self._by_key: dict[Key, list[Outgoing]] = {}
        """In the order of creation."""
        self._active: dict[Key, Outgoing] = {}
        """The one of each key that is neither finished nor queued."""
        self._latest: dict[bytes, Outgoing] = {}
        """Message id → the latest with it."""
        self._ways = Ways()
        self._deadlines: Deadlines[int] = Deadlines()
        self._clean: set[bytes] = set()
        """The /64 to which packets of any size may go."""
        self._progressed: set[int] = set()
        self._last_number = 0
        self._bytes = 0

    def __len__(self) -> int:
        """How many messages are remembered."""
        return len(self._messages)

    @property
    def data_bytes(self) -> int:
        """Data of the messages that are not finished."""
        return self._bytes

    # --- what the node's own people ask for ---------------------------------------------------------------------------

    def push(self, message_id: bytes, destination: bytes, topic: bytes, reply: bool, data: bytes, now: float) -> int:
        """Sends a message; returns its number in the outbox. See `MessageBox.push`."""
        if reply:
            topic = b""
        check_message(message_id, (destination,), topic)
        self._make_room(len(data))
        number = self._last_number + 1
        self._core.counters["messages_pushed"] += 1
        self._core.events.append(StoreOutgoing(number, message_id, destination, topic, reply, data))
        self._take_in(Outgoing(number, message_id, destination, topic, reply, data, now), now)
        return number

    def restore(self, saved: SavedOutgoing, now: float) -> None:
        """Goes on with a message of an earlier life; they are given in the order of their numbers.

        One whose time is over is aborted or forgotten, a finished one only answers questions. Raises `MessageBoxError`
        for a number out of order.
        """
        if saved.number <= self._last_number:
            raise MessageBoxError(f"outbox number {saved.number} after {self._last_number}; restore them in order")
        message = Outgoing(
            saved.number, saved.id, saved.destination, saved.topic, saved.reply, saved.data, saved.created
        )
        message.done_sent = saved.done_sent
        if saved.state in FINAL_PHASES:
            message.finished_before(saved.state, saved.length)
        elif saved.state is State.SENDING and saved.acked:
            message.resumed = saved.acked
            message.cut(saved.largest)
        self._take_in(message, now)

    def restore_number(self, last: int) -> None:
        """Numbers up to this one were given in an earlier life."""
        self._last_number = max(self._last_number, last)

    def status(self, message_id: bytes) -> Status | None:
        """Of the latest own message with this id; None when there is none of the last 600 s."""
        message = self._latest.get(message_id)
        return None if message is None else status_of(message)

    def all(self) -> list[Status]:
        """Of every own message of the last 600 s, in the order in which they were pushed."""
        return [status_of(message) for message in self._messages.values()]

    def cancel(self, message_id: bytes, now: float) -> bool | None:
        """Gives up the latest own message with this id; None where there is none, False where it is finished."""
        message = self._latest.get(message_id)
        if message is None:
            return None
        if message.finished:
            return False
        self._core.counters["messages_cancelled"] += 1
        self._abort(message, now)
        return True

    def progress(self) -> list[Progress]:
        """How far those are of which a chunk was acknowledged since the last call; a successor is told by `restore`."""
        progressed, self._progressed = self._progressed, set()
        return [
            Progress(number, message.plan.largest, message.acked)
            for number in progressed
            if (message := self._messages.get(number)) is not None and message.phase is Phase.SENDING
        ]

    def route(self, subnet: bytes, clean: bool, now: float) -> None:
        """Whether packets of any size may go to the /64 `subnet` (8 bytes); as long as nothing is said they may not."""
        if clean:
            if len(self._clean) >= MAX_CLEAN:
                self._clean.clear()
            self._clean.add(subnet)
        elif subnet in self._clean:
            self._clean.discard(subnet)
            for message in [message for key, message in self._active.items() if key.subnet == subnet]:
                self._cut_small(message, now)

    def has_sent(self, key: Key) -> bool:
        """Whether a message of the last 600 s went to this node with this id: only then there can be a reply (Q2)."""
        return key in self._by_key

    # --- packets ------------------------------------------------------------------------------------------------------

    def receive(self, source: bytes, packet: FromReceiver, now: float) -> None:
        """The node of the 16-byte address `source` says something of a message that it gets from here."""
        key = Key.of(source, packet.id)
        if key not in self._by_key:
            self._core.counters["packets_of_no_message"] += 1
        elif not self._understood(key, packet, now):
            self._core.counters["packets_in_wrong_state"] += 1

    def _understood(self, key: Key, packet: FromReceiver, now: float) -> bool:
        if isinstance(packet, Read):
            return self._read(key, now)
        message = self._active.get(key)
        if message is None:
            return False
        match packet:
            case InitAck():
                return self._init_acked(message, packet, now)
            case ChunkAck():
                return self._chunk_acked(message, packet, now)
            case DoneAck():
                return self._done_acked(message, packet, now)
            case ReadAck():
                return False

    def _init_acked(self, message: Outgoing, packet: InitAck, now: float) -> bool:
        # The length tells acknowledgements for an earlier message of the same id apart.
        if message.phase is not Phase.PENDING or packet.length != message.length:
            return False
        accepted = packet.echo.inner == ACCEPT_LARGE
        if message.offered and not accepted and packet.echo.inner != OFFER_LARGE:
            # For an INIT from before the offer; the next one will say what became of that.
            return False
        if not message.offered and message.length > LARGE_CHUNK_BYTES and message.key.subnet in self._clean:
            # Nothing was known of the way before; a question more is less than a thousand packets more.
            self._announce_again(message, now)
            return True
        if accepted and message.offered:
            message.cut(LARGE_CHUNK_BYTES)
            self._way(message).pace.widen()
        if message.sent_once:
            self._way(message).pace.measured(now - message.sent_at)
        else:
            self._way(message).pace.bounded(now - message.first_sent_at)
        self._move(message, Saw.INIT_ACKED, now)
        if message.flight:
            message.sent(0, message.flight[0])
        self._go_on(message, now)
        return True

    def _chunk_acked(self, message: Outgoing, packet: ChunkAck, now: float) -> bool:
        place = packet.offset, packet.stated_size
        if packet.index >= message.plan.count or place != message.plan.place(packet.index):
            return False
        if message.phase is Phase.CONCLUDING and message.probed and packet.index == PROBE:
            self._core.counters["messages_started_over"] += 1
            self._move(message, Saw.CHUNKS_MISSING, now)
        if message.phase is not Phase.SENDING:
            return False
        pace = self._way(message).pace
        if packet.index in message.flight:
            pace.flight -= packet.stated_size
        new, sent_at = message.acknowledge(packet.index, now)
        if new:
            pace.acknowledged(packet.stated_size)
            self._progressed.add(message.number)
        if sent_at is not None:
            pace.measured(now - sent_at)
        self._go_on(message, now)
        return True

    def _done_acked(self, message: Outgoing, packet: DoneAck, now: float) -> bool:
        if not (message.done_sent and message.can(Saw.DONE_ACKED)) or packet.digest != message.done().digest:
            return False
        if message.phase is Phase.CONCLUDING and message.sent_once:
            self._way(message).pace.measured(now - message.sent_at)
        self._finish(message, Saw.DONE_ACKED, now)
        return True

    def _read(self, key: Key, now: float) -> bool:
        for message in reversed(self._by_key[key]):
            if message.can(Saw.READ):
                self._move(message, Saw.READ, now)
                self._core.counters["messages_read"] += 1
                return True
        under_way = self._active.get(key)
        if under_way is None or not under_way.done_sent:
            return False
        self._finish(under_way, Saw.DONE_ACKED, now)
        return self._read(key, now)

    # --- timers -------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When `handle_timer` has something to do."""
        return self._deadlines.next()

    def handle_timer(self, now: float) -> None:
        """Repeats, gives up and forgets what is due."""
        for number in self._deadlines.pop_due(now, _STEP):
            message = self._messages[number]
            if message.finished and now >= message.forget_at:
                self._forget(message)
                continue
            if not message.finished and now >= message.abort_at:
                self._abort(message, now)
            elif message.phase is Phase.SENDING:
                self._repeat_chunks(message, now)
            elif message.phase in _ANNOUNCING:
                pace = self._way(message).pace
                if now >= message.repeat_at(pace.repeat_after()):
                    pace.timed_out()
                    self._repeat(message, now)
                    self._see_stalled(message, now)
            self._arm(message)

    def _arm(self, message: Outgoing) -> None:
        when = message.forget_at if message.finished else message.abort_at
        if message.phase in _ANNOUNCING:
            when = min(when, message.repeat_at(self._way(message).pace.repeat_after()))
        elif message.flight:
            oldest = next(iter(message.flight.values()))
            when = min(when, oldest + self._way(message).pace.repeat_after())
        self._deadlines.arm(message.number, when)

    def _repeat_chunks(self, message: Outgoing, now: float) -> None:
        pace = self._way(message).pace
        lost = message.lose(now, pace.repeat_after())
        if lost:
            pace.flight -= sum(map(message.plan.size, lost))
            pace.timed_out()
            pace.lost(now)
        if message.silent(now):
            self._core.counters["messages_started_over"] += 1
            self._leave_flight(message)
            if message.done_sent:
                self._conclude(message, Saw.SILENT_AFTER_DONE, now)
            else:
                self._announce(message, Saw.SILENT, now)
            return
        self._go_on(message, now)

    def _see_stalled(self, message: Outgoing, now: float) -> None:
        if now - message.since > STALLED_SECONDS:
            way = self._way(message)
            way.under_way.discard(message.number)
            self._begin_waiting(way, now)

    def _repeat(self, message: Outgoing, now: float) -> None:
        self._core.counters["packets_repeated"] += 1
        message.sent_once = False
        message.sent_at = now
        if message.phase is Phase.PENDING:
            # It makes a reference node forget the chunk that went behind the first one (5.7), which goes again then.
            self._leave_flight(message)
            self._send(message, message.init())
            return
        self._send(message, message.done())
        if now - message.since > EAGER_SECONDS and message.plan.count:
            message.probed = True
            self._send(message, message.chunk(PROBE))

    # --- steps --------------------------------------------------------------------------------------------------------

    def _take_in(self, message: Outgoing, now: float) -> None:
        self._last_number = message.number
        self._messages[message.number] = message
        self._by_key.setdefault(message.key, []).append(message)
        self._latest[message.id] = message
        if not message.finished:
            self._bytes += message.length
            self._ways.enter(message.key.subnet)
            if now >= message.abort_at:
                self._abort(message, now)
            else:
                self._begin_next(message.key, now)
        self._arm(message)

    def _begin_next(self, key: Key, now: float) -> None:
        """Begins with the earliest message of this key that waits, unless one is under way."""
        if key in self._active:
            return
        message = next((message for message in self._by_key[key] if not message.finished), None)
        if message is None:
            return
        self._active[key] = message
        way = self._way(message)
        if len(way.under_way) >= MAX_UNDER_WAY:
            way.waiting.append(message)
        else:
            self._begin(message, way, now)

    def _begin_waiting(self, way: Way, now: float) -> None:
        """Begins with messages that waited their turn."""
        while way.waiting and len(way.under_way) < MAX_UNDER_WAY:
            message = way.waiting.popleft()
            if not message.finished:
                self._begin(message, way, now)

    def _begin(self, message: Outgoing, way: Way, now: float) -> None:
        way.under_way.add(message.number)
        if message.done_sent:
            self._conclude(message, Saw.FREE_AFTER_DONE, now)
        elif message.resumed:
            self._move(message, Saw.FREE_AFTER_INIT, now)
            for index in message.resumed:
                message.acknowledge(index, now)
            self._go_on(message, now)
        else:
            self._announce(message, Saw.FREE, now)

    def _announce(self, message: Outgoing, saw: Saw, now: float) -> None:
        self._move(message, saw, now)
        self._announce_again(message, now)

    def _announce_again(self, message: Outgoing, now: float) -> None:
        self._leave_flight(message)
        message.offered = message.length > CHUNK_BYTES and message.key.subnet in self._clean
        message.cut(CHUNK_BYTES)
        message.sent_at = message.first_sent_at = now
        message.sent_once = True
        self._send(message, message.init())
        pace = self._way(message).pace
        if message.plan.count == 1 and pace.is_known and pace.has_room:
            pace.flight += message.length
            message.flight[0] = now
            self._send(message, message.chunk(0))
        self._arm(message)

    def _cut_small(self, message: Outgoing, now: float) -> None:
        """Large packets don't get through any more."""
        if message.phase is Phase.PENDING and message.offered:
            self._announce_again(message, now)
        elif message.phase is Phase.SENDING and message.plan.largest > CHUNK_BYTES and not message.done_sent:
            self._core.counters["messages_started_over"] += 1
            self._leave_flight(message)
            self._announce(message, Saw.LARGE_REFUSED, now)

    def _go_on(self, message: Outgoing, now: float) -> None:
        """Sends what the window allows now, or DONE."""
        if message.complete:
            self._conclude(message, Saw.ALL_ACKED, now)
        elif not message.in_ring:
            message.in_ring = True
            self._way(message).ring.append(message)
        self._pump(self._way(message), now)
        self._arm(message)

    def _pump(self, way: Way, now: float) -> None:
        """Sends chunks to one node until its window is full, one of each message in turn.

        Those of long messages are of the same size, so that these are turns of equal bytes.
        """
        ring, pace = way.ring, way.pace
        while ring and pace.has_room:
            message = ring[0]
            index = message.next_chunk() if message.phase is Phase.SENDING else None
            if index is None:
                message.in_ring = False
                ring.popleft()
                continue
            ring.rotate(-1)
            pace.flight += message.plan.size(index)
            if not message.sent(index, now):
                self._core.counters["packets_repeated"] += 1
            self._send(message, message.chunk(index))
            if len(message.flight) == 1:
                self._arm(message)

    def _conclude(self, message: Outgoing, saw: Saw, now: float) -> None:
        self._move(message, saw, now)
        if not message.done_sent:
            message.done_sent = True
            self._core.events.append(StoreDoneSent(message.number))
        message.sent_at = now
        message.sent_once = True
        self._send(message, message.done())
        self._arm(message)

    def _finish(self, message: Outgoing, saw: Saw, now: float) -> None:
        self._leave_flight(message)
        self._bytes -= message.length
        self._move(message, saw, now)
        self._core.counters[_FINISHED_COUNTERS[message.state]] += 1
        self._arm(message)
        way = self._way(message)
        way.under_way.discard(message.number)
        if self._active.get(message.key) is message:
            del self._active[message.key]
            self._begin_next(message.key, now)
        self._begin_waiting(way, now)
        self._pump(way, now)
        self._ways.leave(message.key.subnet)

    def _abort(self, message: Outgoing, now: float) -> None:
        # One that never began has told the receiver nothing, and its ABORTED would hit the earlier one of the same id.
        began = message.phase is not Phase.QUEUED
        if began:
            self._send(message, Aborted(message.id))
        self._finish(message, Saw.EXPIRED, now)

    def _move(self, message: Outgoing, saw: Saw, now: float) -> None:
        before = message.state
        message.move(saw, now)
        if message.state is not before:
            self._core.events.append(StateChanged(message.number, message.id, message.state))

    def _leave_flight(self, message: Outgoing) -> None:
        self._way(message).pace.flight -= message.leave_flight()

    def _make_room(self, size: int) -> None:
        limits = self._core.limits
        if self._bytes + size > limits.outbox_bytes:
            raise OutboxFull(
                f"{self._bytes} bytes are on their way, {size} more are above {limits.outbox_bytes}; try again later"
            )
        if len(self._messages) < limits.outbox_messages:
            return
        oldest = next((message for message in self._messages.values() if message.finished), None)
        if oldest is None:
            raise OutboxFull(f"{limits.outbox_messages} messages are on their way; try again later")
        self._core.counters["outgoing_forgotten_early"] += 1
        self._forget(oldest)

    def _forget(self, message: Outgoing) -> None:
        del self._messages[message.number]
        self._progressed.discard(message.number)
        self._deadlines.disarm(message.number)
        of_key = self._by_key[message.key]
        of_key.remove(message)
        if not of_key:
            del self._by_key[message.key]
        if self._latest.get(message.id) is message:
            del self._latest[message.id]
        self._core.events.append(ForgetOutgoing(message.number, message.id))

    def _send(self, message: Outgoing, packet: Packet) -> None:
        self._core.send(self._core.address, message.destination, packet)

    def _way(self, message: Outgoing) -> Way:
        return self._ways[message.key.subnet]
