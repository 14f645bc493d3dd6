"""A node's message box: own messages go out, those of others come in, and each arrives once (messages spec).

    packets, chunking     what is on the wire; how a message is cut
    sender                own messages: outgoing (one of them), ways, pacing, records
    receiver              incoming messages: reassembly (one of them), completions, topics
    inbox                 complete messages and who reads them

The box decides; the actor around it stores, seals and answers what the events say, in the order that `events` promises.
It restores a box from its store before anything else happens: own messages, pending ones, the inbox.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from protocol.buffers import Buffer
from protocol.mycelium.identity import address_of
from protocol.mycelium.messages.completions import Completions, Known
from protocol.mycelium.messages.core import SUBNET_BYTES, Core
from protocol.mycelium.messages.events import Event, Message, Place, StoreMessage
from protocol.mycelium.messages.inbox import Inbox, InboxEntry, Stored
from protocol.mycelium.messages.limits import Limits
from protocol.mycelium.messages.packets import Aborted, Chunk, Done, Init, MessageError, Packet, decode
from protocol.mycelium.messages.reassembly import Pending
from protocol.mycelium.messages.receiver import Receiver, Rules, SavedPending
from protocol.mycelium.messages.records import Progress, SavedOutgoing, Status
from protocol.mycelium.messages.sender import OutboxFull, Sender
from protocol.mycelium.messages.topics import TopicRules

_LOCAL_STEP: Final = 256
"""Packets to this node itself that are handled in one call; the rest is due again at once."""


class MessageBox:
    """Messages of one node, without I/O: packets and wishes go in, events come out.

    `now` is monotonic seconds and never decreases. After every call, or every batch of calls, the actor drains
    `events()`; `handle_timer` is due at `next_deadline()`. Nothing that another node sends raises an error or makes a
    table grow beyond `Limits`; `counters` says what was refused (names: `limits.COUNTERS`).
    """

    def __init__(
        self,
        public_key: bytes,
        known: Known,
        stored: Stored,
        *,
        topics: TopicRules | None = None,
        limits: Limits | None = None,
    ) -> None:
        """`public_key`: the node's own; `known` asks the store for completed messages, see `StoreMessage`, and `stored`
        for those that wait to be read. Both have to know what the events of earlier calls said.

        Raises `IdentityError` on a key of another size.
        """
        self._core = Core(address_of(public_key), public_key, limits if limits is not None else Limits())
        self.topics: Final = topics if topics is not None else TopicRules()
        """The rules for incoming messages; changed in place."""
        self.counters: Final = self._core.counters
        self._sender = Sender(self._core)
        self._inbox = Inbox(self._core, stored)
        rules = Rules(self.topics, self._sender.has_sent, self._inbox.holds)
        self._receiver = Receiver(self._core, rules, Completions(self._core.limits.completions, known))
        self._waiters: dict[bytes, bytes] = {}
        """Message id → the /64 from which a reply is waited for."""
        self._last_number = 0
        self._local_due: float | None = None

    # --- an earlier life ----------------------------------------------------------------------------------------------

    def restore_outgoing(self, saved: SavedOutgoing, now: float) -> None:
        """Goes on with an own message; they are given in the order of their numbers, before the first `push`.

        Raises `MessageBoxError` for a number out of order.
        """
        self._sender.restore(saved, now)
        self._handle_local(now)

    def restore_pending(self, saved: SavedPending) -> None:
        """Goes on with an incoming message; the one heard of longest ago is given first.

        Raises `MessageBoxError` on chunks that can't be part of it.
        """
        self._receiver.restore(saved)

    def restore_inbox(self, subnet: bytes, count: int, octets: int) -> None:
        """So many messages of the /64 `subnet` (8 bytes) are stored, with so much data, whatever their places were."""
        self._inbox.restore(subnet, count, octets)

    def restore_numbers(self, outgoing: int, pending: int, message: int) -> None:
        """The last numbers that were given to own, pending and stored messages: none is given twice."""
        self._sender.restore_number(outgoing)
        self._receiver.restore_number(pending)
        self._last_number = max(self._last_number, message)

    def wait_again(self, message_id: bytes, destination: bytes) -> None:
        """As `push` with `wait`, for a message that was pushed before. Raises `OutboxFull` likewise."""
        self._may_wait()
        self._waiters[message_id] = destination[:SUBNET_BYTES]

    # --- own messages -------------------------------------------------------------------------------------------------

    def push(
        self,
        message_id: bytes,
        destination: bytes,
        data: bytes,
        now: float,
        *,
        topic: bytes = b"",
        reply: bool = False,
        wait: bool = False,
    ) -> int:
        """Sends a message; returns its number in the outbox.

        `message_id`: 8 random bytes, or with `reply` the id of the message that is answered; the topic of a reply is
        empty whatever is given. `destination`: 16 bytes; one that is no overlay address is never sent to. With `wait`
        the first message with this id from there is not put into the inbox but into a `DeliverReply`, until
        `stop_waiting`. Raises `OutboxFull` where there is no room, and `MessageRefused` for a topic above 255 bytes.
        """
        if wait:
            self._may_wait()
        number = self._sender.push(message_id, destination, topic, reply, data, now)
        if wait:
            self._waiters[message_id] = destination[:SUBNET_BYTES]
        self._handle_local(now)
        return number

    def stop_waiting(self, message_id: bytes) -> None:
        """Nobody waits for a reply to this message any more: one that still comes belongs into the inbox."""
        self._waiters.pop(message_id, None)

    def status(self, message_id: bytes) -> Status | None:
        """Of the latest own message with this id; None when there is none of the last 600 s."""
        return self._sender.status(message_id)

    def outbox(self) -> list[Status]:
        """Of all own messages of the last 600 s, in the order in which they were pushed."""
        return self._sender.all()

    def cancel(self, message_id: bytes, now: float) -> bool | None:
        """Gives up the latest own message with this id; None where there is none, False where it is finished."""
        cancelled = self._sender.cancel(message_id, now)
        self._handle_local(now)
        return cancelled

    def progress(self) -> list[Progress]:
        """How far own messages are that moved since the last call; stored now and then, for `SavedOutgoing.acked`."""
        return self._sender.progress()

    def route(self, subnet: bytes, clean: bool, now: float) -> None:
        """Whether packets of any size may go to the /64 `subnet` (8 bytes) from now on: at first they may not."""
        self._sender.route(subnet, clean, now)

    # --- messages of others -------------------------------------------------------------------------------------------

    def read(self, reader: int, topic: bytes | None, take: bool, until: float, now: float) -> None:
        """Asks for the oldest message; the answer is a `Deliver`, or at `until` a `DeliverNothing`, for `reader`.

        `reader`: a number that the actor chooses. `until`: monotonic seconds; inf waits for ever. `topic`: messages of
        exactly this topic, of none (empty), or all (None). Without `take` the message stays. Its sender is told that
        it was read in either case. Raises `MessageBoxError` for a reader that waits already.
        """
        self._inbox.read(reader, topic, take, until, now)
        self._handle_local(now)

    def stop_reading(self, reader: int) -> None:
        """Nobody waits for this answer any more."""
        self._inbox.stop(reader)

    def taken(self, number: int, now: float) -> None:
        """Who was given message `number` (`Deliver` with take, `DeliverReply`, `Forward`) has it.

        Its sender is told, where it was read. Raises `MessageBoxError` for a message in nobody's hands.
        """
        self._inbox.taken(number)
        self._handle_local(now)

    def put_back(self, number: int, now: float) -> None:
        """He can't have it: it is the next one's. Raises as `taken` does."""
        self._inbox.put_back(number)
        self._handle_local(now)

    def not_forwarded(self, number: int, now: float) -> None:
        """The socket of a `Forward` can't be reached: whoever likes may read the message until `forward` is called.

        Raises as `taken` does.
        """
        self._inbox.not_forwarded(number)
        self._handle_local(now)

    def forward(self, entry: InboxEntry, path: str) -> None:
        """Tries again to forward a stored message; nothing happens to one that is in somebody's hands."""
        self._inbox.forward_again(entry, path)

    def expire(self, entry: InboxEntry) -> None:
        """A stored message is too old, and goes unless somebody is just being given it."""
        if self._inbox.expire(entry):
            self.counters["messages_expired"] += 1

    # --- packets ------------------------------------------------------------------------------------------------------

    def receive(
        self,
        source: bytes,
        destination: bytes,
        source_key: bytes,
        body: Buffer,
        now: float,
        inner_reserved: int = 0,
    ) -> None:
        """The body of an opened inner type 1 packet, from and to these outer addresses (16 bytes each).

        `source_key`: the 32-byte public key that opened it; `inner_reserved`: bytes 2 and 3 of its inner header.
        """
        try:
            packet = decode(body, inner_reserved)
        except MessageError:
            self.counters["packets_malformed"] += 1
            return
        self._receive(source, destination, source_key, packet, now)
        self._handle_local(now)

    def next_deadline(self) -> float | None:
        """When `handle_timer` has something to do, monotonic seconds; None while nothing is to come."""
        deadlines = (
            self._sender.next_deadline(),
            self._receiver.next_deadline(),
            self._inbox.next_deadline(),
            self._local_due,
        )
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Does what is due."""
        self._sender.handle_timer(now)
        self._receiver.handle_timer(now)
        self._inbox.handle_timer(now)
        self._handle_local(now)

    def events(self) -> Iterator[Event]:
        """Drains what is to be done, in order; see `protocol.mycelium.messages.events`."""
        events = self._core.events
        while events:
            yield events.popleft()

    def figures(self) -> dict[str, int]:
        """How much there is now, by name."""
        return {
            "outbox_messages": len(self._sender),
            "outbox_bytes": self._sender.data_bytes,
            "pending_messages": len(self._receiver),
            "pending_bytes": self._receiver.announced_bytes,
            "inbox_messages": len(self._inbox),
            "inbox_bytes": self._inbox.stored_bytes,
            "inbox_in_hands": self._inbox.in_hands,
        }

    # --- inside -------------------------------------------------------------------------------------------------------

    def _receive(self, source: bytes, destination: bytes, source_key: bytes, packet: Packet, now: float) -> None:
        match packet:
            case Init() | Chunk() | Aborted():
                self._receiver.receive(source, destination, packet, now)
            case Done():
                self._done(source, destination, source_key, packet, now)
            case _:
                self._sender.receive(source, packet, now)

    def _done(self, source: bytes, destination: bytes, source_key: bytes, packet: Done, now: float) -> None:
        pending = self._receiver.done(source, destination, packet, now)
        if pending is None:
            return
        place, path = self._place(pending)
        if place is not Place.WAITER and not self._inbox.has_room(pending.source, pending.length):
            self.counters["dones_without_room"] += 1
            return
        self._last_number += 1
        number = self._last_number
        self.counters["messages_received"] += 1
        message = Message(
            number,
            pending.id,
            pending.source,
            source_key,
            pending.destination,
            pending.topic,
            pending.reply,
            pending.length,
            pending.chunks(),
        )
        self._core.events.append(StoreMessage(pending.number, message, place, packet.count, packet.digest))
        self._receiver.conclude(pending, packet, now)
        # Before the READ that may follow: a reference sender ignores one that overtakes this acknowledgement.
        self._core.send(destination, source, packet.acknowledgement())
        entry = InboxEntry(number, pending.id, pending.source, pending.destination, pending.topic, pending.length)
        if place is Place.WAITER:
            del self._waiters[pending.id]
            self._inbox.reply(entry)
        elif place is Place.FORWARD:
            self._inbox.forward(entry, path)
        else:
            self._inbox.add(entry)

    def _may_wait(self) -> None:
        if len(self._waiters) >= self._core.limits.readers:
            raise OutboxFull(f"{len(self._waiters)} replies are waited for; try again later")

    def _place(self, pending: Pending) -> tuple[Place, str]:
        # Like the reference, anything with the id will do; but from the node that was asked (Q4), and a message to
        # oneself does not answer itself.
        may_answer = pending.reply or not self._core.is_own(pending.source)
        if may_answer and self._waiters.get(pending.id) == pending.key.subnet:
            return Place.WAITER, ""
        path = self.topics.forward_path(pending.topic)
        # A reply did not have to pass the rules, but that must not open somebody's socket to it (Q2).
        if path is None or (pending.reply and not self.topics.accepts(pending.topic, pending.source)):
            return Place.INBOX, ""
        return Place.FORWARD, path

    def _handle_local(self, now: float) -> None:
        """Hands over what this node sent to itself (Q12)."""
        local = self._core.local
        for _ in range(_LOCAL_STEP):
            if not local:
                break
            source, destination, packet = local.popleft()
            self._receive(source, destination, self._core.public_key, packet, now)
        self._local_due = now if local else None
