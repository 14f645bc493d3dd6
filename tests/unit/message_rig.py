"""Message boxes on a bench: a store that does what events ask, and a network that loses, doubles and reorders."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

from protocol.mycelium.messages.box import MessageBox
from protocol.mycelium.messages.chunking import CHUNK_BYTES
from protocol.mycelium.messages.completions import Completion
from protocol.mycelium.messages.core import Key
from protocol.mycelium.messages.events import (
    Deliver,
    DeliverNothing,
    DeliverReply,
    Event,
    ForgetMessage,
    ForgetOutgoing,
    ForgetPending,
    Forward,
    Message,
    Send,
    State,
    StateChanged,
    StoreChunk,
    StoreDoneSent,
    StoreMessage,
    StoreOutgoing,
    StorePending,
)
from protocol.mycelium.messages.inbox import InboxEntry
from protocol.mycelium.messages.limits import Limits
from protocol.mycelium.messages.receiver import SavedPending
from protocol.mycelium.messages.records import SavedOutgoing
from protocol.mycelium.messages.topics import TopicRules
from tests.unit.message_factory import Who
from tests.unit.message_reference import Wire

_T = TypeVar("_T")


class Store:
    """What a box's actor would keep in a database."""

    def __init__(self) -> None:
        self.outgoing: dict[int, tuple[StoreOutgoing, float]] = {}
        self.states: dict[int, State] = {}
        self.done_sent: set[int] = set()
        self.pending: dict[int, StorePending] = {}
        self.chunks: dict[int, dict[int, bytes]] = {}
        self.messages: dict[int, Message] = {}
        self.completions: dict[Key, Completion] = {}
        self.last_outgoing = self.last_pending = self.last_message = 0
        self.acked: dict[int, tuple[int, list[int]]] = {}

    def known(self, key: Key) -> Completion | None:
        return self.completions.get(key)

    def waiting(self, topic: bytes | None, above: int) -> list[InboxEntry]:
        found = [self.entry(number) for number in sorted(self.messages) if number > above]
        return [entry for entry in found if topic is None or entry.topic == topic]

    def holds(self, key: Key) -> bool:
        return any(key == Key(message.source[:8], message.id) for message in self.messages.values())

    def entry(self, number: int) -> InboxEntry:
        message = self.messages[number]
        size = len(message.data)
        return InboxEntry(number, message.id, message.source, message.destination, message.topic, size)

    def apply(self, event: Event, now: float) -> None:
        match event:
            case StoreOutgoing():
                self.last_outgoing = event.number
                self.outgoing[event.number] = (event, now)
                self.states[event.number] = State.PENDING
            case StoreDoneSent():
                self.done_sent.add(event.number)
            case StateChanged():
                self.states[event.number] = event.state
            case ForgetOutgoing():
                self.outgoing.pop(event.number, None)
                self.states.pop(event.number, None)
            case StorePending():
                self.last_pending = event.number
                self.pending[event.number] = event
                self.chunks[event.number] = {}
            case StoreChunk():
                self.chunks[event.number][event.index] = event.data
            case ForgetPending():
                del self.pending[event.number], self.chunks[event.number]
            case StoreMessage():
                del self.pending[event.pending], self.chunks[event.pending]
                message = event.message
                self.last_message = message.number
                self.messages[message.number] = message
                key = Key(message.source[:8], message.id)
                self.completions[key] = Completion(event.count, event.digest)
            case ForgetMessage():
                del self.messages[event.number]

    def restore(self, box: MessageBox, now: float) -> None:
        for message in self.messages.values():
            box.restore_inbox(message.source[:8], 1, len(message.data))
        for number, kept in self.pending.items():
            fields = kept.id, kept.source, kept.destination, kept.length, kept.topic, kept.reply
            box.restore_pending(SavedPending(number, *fields, now, tuple(self.chunks[number].items()), kept.large))
        for number, (out, created) in self.outgoing.items():
            names = out.id, out.destination, out.topic, out.reply, out.data
            done_sent = number in self.done_sent
            length = len(out.data)
            state = self.states[number]
            largest, acked = self.acked.get(number, (CHUNK_BYTES, []))
            saved = SavedOutgoing(number, *names, created, state, done_sent, acked, length, largest)
            box.restore_outgoing(saved, now)
        box.restore_numbers(self.last_outgoing, self.last_pending, self.last_message)


class Node:
    """A message box and its actor. Its application takes messages as soon as they come, unless told not to."""

    def __init__(
        self,
        who: Who,
        *,
        reads: bool = True,
        topics: TopicRules | None = None,
        limits: Limits | None = None,
        now: float = 0.0,
    ) -> None:
        self.who = who
        self.store = Store()
        self.reads = reads
        self.takes = True
        """Whether readers have at once what they are given."""
        self.delivered: list[bytes] = []
        self.messages: list[Message] = []
        self.replies: list[Message] = []
        self.answers: list[tuple[int, bytes | None]] = []
        self.forwards: list[Forward] = []
        self.states: list[tuple[bytes, State]] = []
        self.log: list[Event] = []
        self.dies_after: int | None = None
        """So many events later it dies, and the events behind are lost."""
        self.deaths = 0
        self._topics = topics
        self._limits = limits
        self._wire: list[Wire] = []
        self._asks_again = False
        self._given: dict[int, tuple[int, Message]] = {}
        self.box = self._make(now)

    def _make(self, now: float) -> MessageBox:
        box = MessageBox(self.who.key, self.store.known, self.store, topics=self._topics, limits=self._limits)
        self.store.restore(box, now)
        if self.reads:
            box.read(0, None, True, float("inf"), now)
        return box

    def die(self, now: float) -> None:
        self.deaths += 1
        self._given.clear()
        self._asks_again = False
        self.box = self._make(now)

    def act(self, now: float) -> None:
        """Does what the events ask, each by itself, and may die between any two."""
        self._act(now)
        while self._asks_again:
            self._asks_again = False
            self.box.read(0, None, True, float("inf"), now)
            self._act(now)

    def _act(self, now: float) -> None:
        events = self.box.events()
        for event in events:
            if self.dies_after is not None:
                self.dies_after -= 1
                if self.dies_after < 0:
                    self.dies_after = None
                    self.die(now)
                    self._act(now)
                    return
            self.log.append(event)
            self.store.apply(event, now)
            match event:
                case Send(source, destination, packet):
                    self._wire.append((source, destination, packet.encode(), packet.echo.inner))
                case StateChanged():
                    self.states.append((event.id, event.state))
                case ForgetMessage(number) if number in self._given:
                    self._had(*self._given.pop(number))
                case Deliver():
                    self._deliver(event, now)
                case DeliverNothing(reader):
                    self.answers.append((reader, None))
                case DeliverReply():
                    self.replies.append(self.store.messages[event.number])
                    self.box.taken(event.number, now)
                case Forward():
                    self.forwards.append(event)
                case _:
                    pass

    def _deliver(self, event: Deliver, now: float) -> None:
        if event.take and self.takes:
            # He has it for good when the store has forgotten it: until then a successor would give it to him again.
            self._given[event.number] = event.reader, self.store.messages[event.number]
            self.box.taken(event.number, now)
        else:
            self._had(event.reader, self.store.messages[event.number])

    def _had(self, reader: int, message: Message) -> None:
        self.delivered.append(message.data)
        self.messages.append(message)
        self.answers.append((reader, message.data))
        # Only when the store knows all of this: see `MessageBox`.
        self._asks_again |= self.reads and reader == 0

    # --- what the network asks for ------------------------------------------------------------------------------------

    def take_wire(self) -> list[Wire]:
        wire, self._wire = self._wire, []
        return wire

    def next_deadline(self) -> float | None:
        return self.box.next_deadline()

    def handle_timer(self, now: float) -> None:
        self.box.handle_timer(now)
        self.act(now)

    def receive(
        self, source: bytes, destination: bytes, key: bytes, body: bytes, now: float, inner_reserved: int = 0
    ) -> None:
        self.box.receive(source, destination, key, body, now, inner_reserved)
        self.act(now)

    # --- what tests ask for -------------------------------------------------------------------------------------------

    def hear(self, sender: Who, body: bytes, now: float = 0.0, **fields: Any) -> list[bytes]:
        """The bodies that are sent in answer to `body`."""
        source = fields.pop("source", sender.address)
        destination = fields.pop("destination", self.who.address)
        self.take_wire()
        self.receive(source, destination, sender.key, body, now, **fields)
        return self.sent()

    def sent(self) -> list[bytes]:
        return [body for _, _, body, _ in self.take_wire()]

    def push(self, message_id: bytes, destination: bytes, data: bytes, now: float = 0.0, **options: Any) -> int:
        number = self.box.push(message_id, destination, data, now, **options)
        self.act(now)
        return number

    def wait_until(self, now: float) -> list[bytes]:
        """Lets time pass, with every timer on time; the bodies that are sent."""
        while (deadline := self.box.next_deadline()) is not None and deadline <= now:
            self.handle_timer(deadline)
        return self.sent()

    def state(self, message_id: bytes) -> State | None:
        status = self.box.status(message_id)
        return None if status is None else status.state

    def events_of(self, kind: type[_T]) -> list[_T]:
        return [event for event in self.log if isinstance(event, kind)]


class Participant(Protocol):
    who: Who

    def take_wire(self) -> list[Wire]: ...
    def next_deadline(self) -> float | None: ...
    def handle_timer(self, now: float) -> None: ...
    def receive(
        self, source: bytes, destination: bytes, key: bytes, body: bytes, now: float, inner_reserved: int
    ) -> None: ...


class Network:
    """Nodes that hear each other after `delay` seconds, more or less `jitter`, if at all."""

    def __init__(
        self,
        *nodes: Participant,
        delay: float = 0.01,
        jitter: float = 0.0,
        loss: float = 0.0,
        duplication: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.now = 0.0
        self.nodes = {node.who.address[:8]: node for node in nodes}
        self.packets: list[tuple[float, bytes]] = []
        """When, and which body, of all that was sent."""
        self.loss = loss
        self._delay = delay
        self._jitter = jitter
        self._duplication = duplication
        self._random = random.Random(seed)
        self._flying: list[tuple[float, int, Wire]] = []
        self._count = 0

    def run(self, until: float, stop: Callable[[], bool] = lambda: False) -> None:
        """Lets time pass until then, or until `stop` says so."""
        self._collect()
        while not stop():
            due = min(self._moments(), default=float("inf"))
            if due > until:
                self.now = until
                return
            self.now = max(self.now, due)
            while self._flying and self._flying[0][0] <= self.now:
                source, destination, body, inner = heapq.heappop(self._flying)[2]
                receiver = self.nodes.get(destination[:8])
                if receiver is not None:
                    sender = self.nodes[source[:8]]
                    receiver.receive(source, destination, sender.who.key, body, self.now, inner)
            for node in self.nodes.values():
                deadline = node.next_deadline()
                if deadline is not None and deadline <= self.now:
                    node.handle_timer(self.now)
            self._collect()

    def _moments(self) -> Iterator[float]:
        if self._flying:
            yield self._flying[0][0]
        for node in self.nodes.values():
            deadline = node.next_deadline()
            if deadline is not None:
                yield deadline

    def _collect(self) -> None:
        for node in self.nodes.values():
            for wire in node.take_wire():
                self.packets.append((self.now, wire[2]))
                for _ in range(1 + (self._random.random() < self._duplication)):
                    if self._random.random() >= self.loss:
                        self._count += 1
                        when = self.now + self._delay + self._jitter * self._random.random()
                        heapq.heappush(self._flying, (when, self._count, wire))
