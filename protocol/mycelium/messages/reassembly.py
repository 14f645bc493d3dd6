"""One incoming message until it is complete: which chunks are taken, and when they are the whole (messages spec 5)."""

from __future__ import annotations

import enum
from typing import Final

from blake3 import blake3

from protocol.mycelium.messages.chunking import SMALLEST_CHUNK, highest_index
from protocol.mycelium.messages.core import Key
from protocol.mycelium.messages.packets import Chunk, Done

MAX_MISMATCHES: Final = 8
"""Sets of chunks whose digest was wrong, until the message is given up. No node makes one; hashing costs."""


class Taken(enum.Enum):
    """What became of a chunk."""

    REFUSED = enum.auto()
    KNOWN = enum.auto()
    """The same bytes are there already."""
    NEW = enum.auto()


class Verdict(enum.Enum):
    """What a DONE says about the chunks that are there."""

    INCOMPLETE = enum.auto()
    MISMATCH = enum.auto()
    COMPLETE = enum.auto()


class Pending:
    """An incoming message: at most as many bytes as its INIT announced, in at most one chunk for each 250 of them."""

    __slots__ = (
        "_chunks",
        "_digest",
        "_held",
        "_top",
        "destination",
        "heard",
        "id",
        "key",
        "large",
        "length",
        "mismatches",
        "number",
        "reply",
        "source",
        "topic",
    )

    def __init__(
        self,
        number: int,
        message_id: bytes,
        source: bytes,
        destination: bytes,
        length: int,
        topic: bytes,
        reply: bool,
        large: bool,
        heard: float,
    ) -> None:
        """What its INIT said, which came at `heard`, monotonic seconds. Addresses have 16 bytes."""
        self.number: Final = number
        self.id: Final = message_id
        self.source: Final = source
        self.destination: Final = destination
        self.length: Final = length
        self.topic: Final = topic
        self.reply: Final = reply
        self.large: Final = large
        """Its sender may use large chunks (our extension E4)."""
        self.key: Final = Key.of(source, message_id)
        self.heard = heard
        """When the sender last sent something for it."""
        self.mismatches = 0
        self._chunks: dict[int, bytes] = {}
        self._held = 0
        self._top = -1
        self._digest: bytes | None = None

    def take(self, chunk: Chunk) -> Taken:
        """Stores a chunk under its index, in place of what was there (5.2).

        Refused is what a reference node refuses, but for the small last chunk of its own senders (Q1), and what makes
        all chunks together longer than the message: such a set could never become complete.
        """
        size = len(chunk.data)
        end = chunk.offset + size
        highest = highest_index(self.length)
        if end > self.length or chunk.index > highest:
            return Taken.REFUSED
        if size < SMALLEST_CHUNK and chunk.index != highest and end != self.length:
            return Taken.REFUSED
        return self.put(chunk.index, chunk.data)

    def put(self, index: int, data: bytes) -> Taken:
        """Stores `data` under an index that is known to be good, unless all would be too long."""
        before = self._chunks.get(index)
        if before == data:
            return Taken.KNOWN
        held = self._held - len(before or b"") + len(data)
        if held > self.length:
            return Taken.REFUSED
        self._chunks[index] = data
        self._held = held
        self._top = max(self._top, index)
        self._digest = None
        return Taken.NEW

    def judge(self, done: Done) -> Verdict:
        """Whether the chunks are what `done` describes (5.3). They are joined in the order of their indices.

        A reference node wants at least one for each 1300 bytes; here any layout will do (our extension E4).
        """
        slots = len(self._chunks)
        if not (done.count == slots == self._top + 1 and self._held == self.length):
            return Verdict.INCOMPLETE
        if self._digest is None:
            hasher = blake3()
            for index in range(slots):
                hasher.update(self._chunks[index])
            self._digest = hasher.digest()
            if self._digest != done.digest:
                self.mismatches += 1
        return Verdict.COMPLETE if self._digest == done.digest else Verdict.MISMATCH

    def chunks(self) -> tuple[bytes, ...]:
        """The whole of a message that was judged to be complete, in order."""
        return tuple(self._chunks[index] for index in range(len(self._chunks)))
