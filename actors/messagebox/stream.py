"""The stream endpoint: programs on this machine get messages as they come, and acknowledge each (`docs/messages.md`).

A message stays in the store until it is acknowledged, and what a consumer had when it went away is the next one's. Each
has a name that is never given twice, so that a consumer that remembers what it has dealt with deals with each once.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from math import inf
from typing import Final

import zmq

from actors.messagebox.readers import Readers
from actors.messagebox.rounds import Rounds
from actors.messagebox.store import Store
from actors.runtime.actor import FRAMES_PER_TURN, Runtime
from protocol.mycelium.messages.box import MessageBox
from protocol.mycelium.messages.events import Deliver, DeliverNothing
from protocol.mycelium.messages.stream import (
    MAX_WORD_BYTES,
    Acknowledge,
    StreamError,
    Subscribe,
    Unsubscribe,
    Word,
    pack_word,
    parse,
)

ENDPOINT: Final = "messagebox.stream"
"""Name of the socket in the runtime folder."""
MAX_CONSUMERS: Final = 64
WINDOW_BYTES: Final = 16 << 20
"""Data that a consumer may have without acknowledging it; one message always goes."""
HIGH_WATER: Final = 1024
PROBE_SECONDS: Final = 0.5


class _Consumer:
    """One subscription."""

    __slots__ = ("name", "octets", "reader", "topic", "unacknowledged", "window")

    def __init__(self, name: bytes, topic: bytes | None, window: int) -> None:
        self.name = name
        self.topic = topic
        self.window = window
        self.reader: int | None = None
        """The number under which it waits for its next message."""
        self.unacknowledged: dict[int, int] = {}
        """Number of the message → its bytes."""
        self.octets = 0


class Stream:
    """All consumers."""

    def __init__(self, runtime: Runtime, box: MessageBox, store: Store, rounds: Rounds, readers: Readers) -> None:
        self._loop = runtime.loop
        self._counters: Counter[str] = runtime.counters
        self._box = box
        self._store = store
        self._rounds = rounds
        self._readers = readers
        self._consumers: dict[bytes, _Consumer] = {}
        self._socket: zmq.Socket[bytes] = runtime.context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, HIGH_WATER)
        self._socket.setsockopt(zmq.RCVHWM, HIGH_WATER)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_WORD_BYTES)
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.bind(f"ipc://{runtime.start.run / ENDPOINT}")
        runtime.loop.watch(self._socket, self._on_words)
        runtime.loop.every(PROBE_SECONDS, self._probe)
        runtime.gauges.queue("stream_consumers", lambda: len(self._consumers))
        runtime.gauges.queue("stream_unacknowledged", self._count_unacknowledged)

    # --- what consumers say -------------------------------------------------------------------------------------------

    def _on_words(self, _events: int) -> None:
        for _ in range(FRAMES_PER_TURN):
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            if not parts[-1]:
                # A new connection, of a new consumer or to this new process.
                self._drop(parts[0])
                self._say(parts[0], pack_word("welcome"))
                continue
            try:
                self._hear(parts[0], parse(parts[-1]))
            except StreamError as error:
                self._counters["stream.malformed"] += 1
                self._say(parts[0], pack_word("refused", reason=str(error)))
        self._rounds.settle()

    def _hear(self, name: bytes, word: Word) -> None:
        match word:
            case Subscribe(topic, window):
                # Whoever comes under a known name has forgotten what its predecessor had.
                self._drop(name)
                if len(self._consumers) >= MAX_CONSUMERS:
                    self._counters["stream.refused"] += 1
                    raise StreamError(f"{MAX_CONSUMERS} consumers are there already; end one of them")
                consumer = self._consumers[name] = _Consumer(name, topic, window)
                # When the store knows what was put back.
                self._rounds.after_commit(self._go_on, consumer)
            case Unsubscribe():
                self._drop(name)
            case Acknowledge(uid):
                self._acknowledge(name, uid)

    def _acknowledge(self, name: bytes, uid: bytes) -> None:
        number = int.from_bytes(uid[8:], "big")
        consumer = self._consumers.get(name)
        if consumer is None or not uid.startswith(self._store.identity) or number not in consumer.unacknowledged:
            # For something that it had in an earlier life, of its own or ours: gone, or on its way again.
            if not self._store.has(number) or not uid.startswith(self._store.identity):
                self._rounds.after_commit(self._confirm, (name, uid))
            self._counters["stream.acknowledged_late"] += 1
            return
        consumer.octets -= consumer.unacknowledged.pop(number)
        self._counters["stream.acknowledged"] += 1
        self._box.taken(number, self._loop.now())
        self._rounds.settle()
        self._rounds.after_commit(self._confirm, (name, uid))
        self._rounds.after_commit(self._go_on, consumer)

    def _confirm(self, acknowledged: tuple[bytes, bytes]) -> None:
        name, uid = acknowledged
        self._say(name, pack_word("acknowledged", uid=uid))

    # --- what they get ------------------------------------------------------------------------------------------------

    def _go_on(self, consumer: _Consumer) -> None:
        """Waits for its next message, if it may have one."""
        held = consumer.unacknowledged
        if (
            self._consumers.get(consumer.name) is consumer
            and consumer.reader is None
            and len(held) < consumer.window
            and (not held or consumer.octets < WINDOW_BYTES)
        ):
            deliver = partial(self._deliver, consumer)
            consumer.reader = self._readers.read(consumer.topic, True, inf, self._loop.now(), deliver)
            self._rounds.settle()

    def _deliver(self, consumer: _Consumer, event: Deliver | DeliverNothing) -> None:
        consumer.reader = None
        if isinstance(event, DeliverNothing):
            # Too many wait for messages; a consumer can wait a little longer.
            self._loop.call_after(PROBE_SECONDS, lambda: self._go_on(consumer))
            return
        facts = self._store.facts(event.number)
        consumer.unacknowledged[event.number] = facts.length
        consumer.octets += facts.length
        word = pack_word(
            "message",
            uid=self._store.identity + event.number.to_bytes(8, "big"),
            id=facts.id,
            source=facts.source,
            source_key=facts.source_key,
            destination=facts.destination,
            topic=facts.topic,
            reply=facts.reply,
            data=self._store.data_of(event.number),
        )
        if self._say(consumer.name, word):
            self._counters["stream.messages"] += 1
            self._go_on(consumer)

    def _say(self, name: bytes, word: bytes) -> bool:
        self._loop.touched()
        try:
            self._socket.send_multipart((name, word), zmq.NOBLOCK)
        except zmq.Again:
            self._counters["stream.full"] += 1
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
        else:
            return True
        # What it can't be told it would wait for in vain.
        self._drop(name)
        return False

    def _drop(self, name: bytes) -> None:
        """Ends a subscription; what was not acknowledged is the next one's, in order."""
        consumer = self._consumers.pop(name, None)
        if consumer is None:
            return
        if consumer.reader is not None:
            self._readers.stop(consumer.reader)
        for number in sorted(consumer.unacknowledged):
            self._counters["stream.put_back"] += 1
            self._box.put_back(number, self._loop.now())
        self._rounds.settle()

    def _probe(self) -> None:
        for name in list(self._consumers):
            self._say(name, pack_word("probe"))

    def _count_unacknowledged(self) -> int:
        return sum(len(consumer.unacknowledged) for consumer in self._consumers.values())
