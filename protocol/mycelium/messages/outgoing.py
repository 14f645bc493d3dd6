"""One own message on its way: its state, and which of its chunks were sent and acknowledged (messages spec 6.1)."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Sequence
from typing import Final

from protocol.mycelium.messages.chunking import ChunkPlan
from protocol.mycelium.messages.core import REMEMBER_SECONDS, Key, MessageBoxError
from protocol.mycelium.messages.events import State
from protocol.mycelium.messages.packets import NO_ECHO, OFFER_LARGE, Chunk, Done, Echo, Init, digest_of

_OFFER: Final = Echo(inner=OFFER_LARGE)
SEND_WINDOW: Final = 300.0
"""Seconds from the creation of a message until its sender gives up (messages spec 4)."""
EAGER_SECONDS: Final = 3.0
"""For so long INIT and DONE are repeated at the pace of the way, then at `PATIENT_REPEAT`."""
PATIENT_REPEAT: Final = 1.0
SILENCE_SECONDS: Final = 5.0
SILENCE_LOSSES: Final = 8
"""With so many chunks lost and none acknowledged for so long, the receiver may have forgotten the message. The time
alone says nothing: among many messages on a slow link, one may wait longer for its turn."""


class Phase(enum.Enum):
    """Where an own message stands; finer than the states that the API knows."""

    QUEUED = "waits for an earlier message with the same id to the same node"
    PENDING = "INIT is not acknowledged"
    SENDING = "chunks are not acknowledged"
    CONCLUDING = "DONE is not acknowledged"
    RECEIVED = "is complete there"
    READ = "was read"
    ABORTED = "was given up"


class Saw(enum.Enum):
    """What happens to an own message."""

    FREE = "the earlier one is finished"
    FREE_AFTER_INIT = "likewise, and in an earlier life chunks of it were acknowledged"
    FREE_AFTER_DONE = "likewise, and in an earlier life a DONE was sent"
    INIT_ACKED = "its INIT is acknowledged"
    ALL_ACKED = "its chunks are all acknowledged"
    SILENT = "no chunk is acknowledged any more, and no DONE was sent"
    SILENT_AFTER_DONE = "no chunk is acknowledged any more, but a DONE was sent"
    LARGE_REFUSED = "the way does not carry its large chunks any more"
    CHUNKS_MISSING = "a chunk is acknowledged as one of a message that isn't complete"
    DONE_ACKED = "its DONE is acknowledged"
    READ = "it was read"
    EXPIRED = "its time is over"


TRANSITIONS: Final = {
    (Phase.QUEUED, Saw.FREE): Phase.PENDING,
    (Phase.QUEUED, Saw.FREE_AFTER_INIT): Phase.SENDING,
    (Phase.QUEUED, Saw.FREE_AFTER_DONE): Phase.CONCLUDING,
    (Phase.QUEUED, Saw.EXPIRED): Phase.ABORTED,
    (Phase.PENDING, Saw.INIT_ACKED): Phase.SENDING,
    (Phase.PENDING, Saw.EXPIRED): Phase.ABORTED,
    (Phase.SENDING, Saw.ALL_ACKED): Phase.CONCLUDING,
    (Phase.SENDING, Saw.SILENT): Phase.PENDING,
    (Phase.SENDING, Saw.LARGE_REFUSED): Phase.PENDING,
    (Phase.SENDING, Saw.SILENT_AFTER_DONE): Phase.CONCLUDING,
    (Phase.SENDING, Saw.DONE_ACKED): Phase.RECEIVED,
    (Phase.SENDING, Saw.EXPIRED): Phase.ABORTED,
    (Phase.CONCLUDING, Saw.CHUNKS_MISSING): Phase.SENDING,
    (Phase.CONCLUDING, Saw.DONE_ACKED): Phase.RECEIVED,
    (Phase.CONCLUDING, Saw.EXPIRED): Phase.ABORTED,
    (Phase.RECEIVED, Saw.READ): Phase.READ,
}

FINISHED: Final = frozenset({Phase.RECEIVED, Phase.READ, Phase.ABORTED})

FINAL_PHASES: Final = {State.RECEIVED: Phase.RECEIVED, State.READ: Phase.READ, State.ABORTED: Phase.ABORTED}
REPORTED: Final = {
    Phase.QUEUED: State.PENDING,
    Phase.PENDING: State.PENDING,
    Phase.SENDING: State.SENDING,
    Phase.CONCLUDING: State.SENDING,
    Phase.RECEIVED: State.RECEIVED,
    Phase.READ: State.READ,
    Phase.ABORTED: State.ABORTED,
}


_NO_CHUNKS: Final = ChunkPlan(0)
_NO_FLIGHT: Final[dict[int, float]] = {}
_NONE_LOST: Final[deque[int]] = deque()
_NONE_RESENT: Final[set[int]] = set()
"""Shared by all that are finished, so never written to."""


class Outgoing:
    """One own message. Times are monotonic seconds."""

    __slots__ = (
        "_acked",
        "_digest",
        "_lost",
        "_next",
        "_resent",
        "acked_count",
        "created",
        "data",
        "destination",
        "done_sent",
        "first_sent_at",
        "flight",
        "heard",
        "id",
        "in_ring",
        "key",
        "length",
        "losses",
        "number",
        "offered",
        "phase",
        "plan",
        "probed",
        "reply",
        "resumed",
        "sent_at",
        "sent_once",
        "since",
        "topic",
    )

    def __init__(
        self, number: int, message_id: bytes, destination: bytes, topic: bytes, reply: bool, data: bytes, created: float
    ) -> None:
        """A message that waits for its turn. `destination` has 16 bytes; a reply's topic is always empty."""
        self.number: Final = number
        self.id: Final = message_id
        self.destination: Final = destination
        self.topic: Final = topic
        self.reply: Final = reply
        self.created: Final = created
        self.key: Final = Key.of(destination, message_id)
        self.length = len(data)
        self.plan = ChunkPlan(self.length)
        self.data = data
        """Empty once it isn't needed any more."""
        self.phase = Phase.QUEUED
        self.since = created
        """When the phase began."""
        self.sent_at = created
        """When INIT or DONE was sent last in this phase."""
        self.first_sent_at = created
        """When it was sent first in this phase."""
        self.sent_once = False
        """Only once, so that its acknowledgement tells the round-trip time."""
        self.heard = created
        """When a chunk was last acknowledged."""
        self.losses = 0
        """Chunks that were lost since."""
        self.done_sent = False
        """The receiver may have delivered the message: it must not be begun again."""
        self.probed = False
        """The first chunk was sent again to see whether the receiver still lacks something."""
        self.offered = False
        """Its INIT asks whether large chunks may be used."""
        self.flight: dict[int, float] = {}
        """Chunk index → when it was sent, of those under way; the one sent longest ago first. While its INIT is not
        acknowledged: its only chunk, where that went right behind it."""
        self.resumed: Sequence[int] = ()
        """Chunks that were acknowledged in an earlier life."""
        self.in_ring = False
        self._digest: bytes | None = None
        self._lost: deque[int]
        self._resent: set[int]
        self._forget_chunks()

    # --- state --------------------------------------------------------------------------------------------------------

    def finished_before(self, state: State, length: int) -> None:
        """It had `length` bytes and came to a final state in an earlier life. Raises `KeyError` for another state."""
        self.phase = FINAL_PHASES[state]
        self.length = length
        self._let_go()

    def can(self, saw: Saw) -> bool:
        """Whether the table has an answer to this."""
        return (self.phase, saw) in TRANSITIONS

    def move(self, saw: Saw, now: float) -> None:
        """Takes the step of the table. Raises `MessageBoxError` where it has none."""
        following = TRANSITIONS.get((self.phase, saw))
        if following is None:
            raise MessageBoxError(f"message {self.id.hex()} {self.phase.value}, and {saw.value}")
        self.phase = following
        self.since = now
        self.probed = False
        if following in FINISHED:
            self._let_go()
        elif following is Phase.SENDING:
            self.heard = now
            self.losses = 0
            self._forget_chunks()

    @property
    def finished(self) -> bool:
        """Nothing of it will be sent any more."""
        return self.phase in FINISHED

    @property
    def state(self) -> State:
        """What the API calls it."""
        return REPORTED[self.phase]

    @property
    def abort_at(self) -> float:
        """When it is given up."""
        return self.created + SEND_WINDOW

    @property
    def forget_at(self) -> float:
        """When nobody can ask for it any more."""
        return self.created + REMEMBER_SECONDS

    # --- packets ------------------------------------------------------------------------------------------------------

    def init(self) -> Init:
        """Its first packet."""
        return Init(self.id, self.length, self.topic, self.reply, _OFFER if self.offered else NO_ECHO)

    def cut(self, largest: int) -> None:
        """Its chunks have at most `largest` bytes from now on; none of them is under way or arrived."""
        self.plan = ChunkPlan(self.length, largest)
        self._forget_chunks()

    @property
    def acked(self) -> bytes:
        """One byte for each chunk: 1 where it was acknowledged."""
        return bytes(self._acked)

    def chunk(self, index: int) -> Chunk:
        """Its chunk number `index`."""
        offset, size = self.plan.place(index)
        return Chunk(self.id, index, offset, self.data[offset : offset + size])

    def done(self) -> Done:
        """Its last packet."""
        if self._digest is None:
            self._digest = digest_of(self.data)
        return Done(self.id, self.plan.count, self._digest)

    def repeat_at(self, pause: float) -> float:
        """When INIT or DONE goes again, on a way where packets are repeated after `pause` seconds."""
        if self.sent_at - self.since > EAGER_SECONDS:
            pause = max(pause, PATIENT_REPEAT)
        return self.sent_at + pause

    # --- chunks -------------------------------------------------------------------------------------------------------

    @property
    def counts(self) -> tuple[int, int, int]:
        """Chunks (never sent, sent and not acknowledged, acknowledged)."""
        if self.phase is Phase.CONCLUDING:
            return 0, 0, self.plan.count
        never = max(0, self.plan.count - self._next - self._acked.count(1, self._next))
        return never, self.plan.count - never - self.acked_count, self.acked_count

    @property
    def complete(self) -> bool:
        """Whether all chunks were acknowledged."""
        return self.acked_count == self.plan.count

    def next_chunk(self) -> int | None:
        """Which chunk goes next, lost ones first; None when all are under way or arrived."""
        while self._lost and self._acked[self._lost[0]]:
            self._lost.popleft()
        if self._lost:
            return self._lost[0]
        while self._next < self.plan.count and self._acked[self._next]:
            self._next += 1
        return self._next if self._next < self.plan.count else None

    def sent(self, index: int, now: float) -> bool:
        """The chunk that `next_chunk` named was sent; whether for the first time."""
        self.flight[index] = now
        if self._lost and self._lost[0] == index:
            self._lost.popleft()
            self._resent.add(index)
            return False
        self._next = index + 1
        return True

    def lose(self, now: float, pause: float) -> list[int]:
        """Gives up the chunks that have been under way for `pause` seconds; they go again. Returns which."""
        lost = []
        for index, sent_at in self.flight.items():
            if sent_at + pause > now:
                break
            lost.append(index)
        self.losses += len(lost)
        for index in lost:
            del self.flight[index]
        self._lost.extend(lost)
        return lost

    def silent(self, now: float) -> bool:
        """Whether the receiver seems to have forgotten the message."""
        return self.losses >= SILENCE_LOSSES and now - self.heard >= SILENCE_SECONDS

    def leave_flight(self) -> int:
        """Gives up all chunks under way; returns their bytes."""
        size = sum(map(self.plan.size, self.flight))
        self.flight.clear()
        return size

    def acknowledge(self, index: int, now: float) -> tuple[bool, float | None]:
        """Chunk `index` arrived: (whether that is new, when it was sent if it was under way and sent only once)."""
        sent_at = self.flight.pop(index, None)
        if self._acked[index]:
            return False, None
        self._acked[index] = 1
        self.acked_count += 1
        self.heard = now
        self.losses = 0
        return True, None if index in self._resent else sent_at

    def _let_go(self) -> None:
        """Thousands of finished messages are remembered: each keeps what people may ask, and nothing else."""
        self.data = b""
        self.plan = _NO_CHUNKS
        self._acked = bytearray()
        self.acked_count = self._next = 0
        self.flight, self._lost, self._resent = _NO_FLIGHT, _NONE_LOST, _NONE_RESENT
        self.resumed = ()
        self._digest = None

    def _forget_chunks(self) -> None:
        self._acked = bytearray(self.plan.count)
        self.acked_count = 0
        self._next = 0
        self._lost = deque()
        self._resent = set()
