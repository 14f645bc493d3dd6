"""The ledger of a connection: what a dead link's successor needs, with the kernel's counts, to go on in mid-packet.

It lies in shared memory that outlives the link. The kernel counts the bytes of both streams; the ledger says which
bytes those were. Positions are bytes of a stream since the connection was new. A *place* is one word: which arena, and
the offset in it. A *piece* is a place and a length: whole packets one behind the other, as one buffer of a `sendmsg`.

    out    position of the batch being written, its pieces, and a copy of those that lie in no arena
    in     position up to which the stream was cut into packets, and the place of what was read beyond it

Each of the two has two records and a count of how often it changed, whose last bit says which record holds. A change
fills the other record and then stores the count: one store of one aligned word, so that a kill leaves the old record or
the new one. One record, invalidated while it is filled, would not do: a short write may have torn a packet, and a kill
in that moment would leave nobody who knows its rest.

Why words are stored through a `memoryview` cast to `Q`: that is one store. `struct.pack_into` zeroes its target first,
and a kill between the two was seen.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from protocol.buffers import Buffer

MAX_PIECES: Final = 1024
"""In one batch: what `sendmsg` takes at most (Linux UIO_MAXIOV)."""
OWN_BYTES: Final = 1 << 20
"""Room for the pieces of one batch that lie in no arena: a whole offer of a send queue, whose control alone may be as
much. Small runs of packets come without an arena, and behind a slow link thousands of them wait."""
OWN_MEMORY: Final = 0
"""The number that no arena has: the piece's offset counts in the ledger's own copy."""

_WORD: Final = 8
_FORMAT_WORD: Final = int.from_bytes(b"SPTLDGR\x01", "big")
"""Its last byte is the version of this layout."""

# Words from the beginning of the memory.
_FORMAT: Final = 0
_BATCHES: Final = 1
_BOUNDARIES: Final = 2
_IN_RECORDS: Final = (4, 6)
"""Position, place."""
_OUT_RECORDS: Final = (8, 8 + 4 + 2 * MAX_PIECES)
"""Position, lead, count of pieces, nothing; then each piece's place and length."""
_PIECES: Final = 4
_OWN_START: Final = 4096 * -(-_WORD * (_OUT_RECORDS[1] + _PIECES + 2 * MAX_PIECES) // 4096)
_OWN_STARTS: Final = (_OWN_START, _OWN_START + OWN_BYTES)
"""In bytes. Two copies, for the same reason as two records. At a page's beginning: untouched pages cost nothing."""

LEDGER_BYTES: Final = _OWN_START + 2 * OWN_BYTES
"""The size of a ledger's memory."""

_ARENA_SHIFT: Final = 32
_OFFSET_MASK: Final = (1 << _ARENA_SHIFT) - 1


class LedgerError(Exception):
    """The ledger and the kernel tell different stories, or it was used against its rules.

    A connection whose ledger can't be trusted is closed: a guess would put its framing out of step.
    """


def place(arena: int, offset: int) -> int:
    """The word for `offset` in the arena of number `arena`; both fit 32 bits. Add to it to move on in the arena."""
    return arena << _ARENA_SHIFT | offset


@dataclass(frozen=True, slots=True)
class Survey:
    """Where both streams stood at a death, as far as it shows without a look into any arena."""

    boundary: int
    """Position up to which the incoming stream was cut into packets."""
    uncut: int
    """Bytes read beyond it."""
    sent: int
    """Position up to which the outgoing stream was written."""
    unwritten: int
    """Bytes of the last batch that were not written."""
    arenas: tuple[int, ...]
    """Numbers of the arenas, two at most, that `Ledger.recover` will look into; the others may go."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a successor begins with."""

    torn: bytes
    """To be written before anything else: the rest of the packet that was torn; empty where none was.

    A copy, so that the arena it came from can be released as soon as the successor's first batch names the copy."""
    dropped: int
    """Bytes of the last batch behind that packet, which nobody will write."""
    boundary: int
    """Position in the incoming stream of the first byte of `uncut`."""
    uncut: memoryview
    """What was read but not cut into packets, in the predecessor's arena.

    To be copied to where the successor reads; then `Ledger.rx_boundary` says so, and the old arena may go."""


class Ledger:
    """Both sides of a ledger over its `LEDGER_BYTES` of memory, which belongs to one connection for good.

    A link writes:
        1. `rx_boundary` before the first byte is read, whenever the bytes behind the boundary have moved, and when
           packets were cut: before they are passed on, so that none is passed on twice.
        2. `begin_batch` before every `sendmsg`. A piece's lease may be returned when the stream is written up to the
           piece's end; where it ends in the piece, between two packets, and the rest is given up, after `end_batch` or
           the next `begin_batch`: until then a successor looks for packets from the piece's beginning.

    Its successor asks `recover` before it writes anything, and then goes on like its predecessor.
    """

    __slots__ = ("_batches", "_boundaries", "_memory", "_words")

    def __init__(self, memory: memoryview) -> None:
        """Takes over the ledger that lies in `memory`: as many bytes as `LEDGER_BYTES`, aligned to 8.

        Read-only memory will do for `survey` and `recover`. Raises `LedgerError` where no ledger of this layout lies.
        """
        _check_size(memory)
        self._memory: Final = memory.cast("B")
        self._words: Final = self._memory.cast("Q")
        found = self._words[_FORMAT]
        if found != _FORMAT_WORD:
            raise LedgerError(f"no ledger of this layout: it begins with {found:#x}, not {_FORMAT_WORD:#x}")
        self._batches = self._words[_BATCHES]
        self._boundaries = self._words[_BOUNDARIES]

    @classmethod
    def begin(cls, memory: memoryview) -> Ledger:
        """The ledger of a new connection, in `memory` full of zeros."""
        _check_size(memory)
        memory.cast("B").cast("Q")[_FORMAT] = _FORMAT_WORD
        return cls(memory)

    # --- the link's side --------------------------------------------------------------------------------------------

    def begin_batch(self, position: int, pieces: Sequence[int], own: Buffer = b"", lead: int = 0) -> None:
        """Says what the next `sendmsg`, which begins at `position` of the outgoing stream, is about to write.

        `pieces` are place, length, place, length… in the order of the buffers; no length is 0. `own` is copied: it
        holds the bytes of all pieces that lie in no arena, whose place is `place(OWN_MEMORY, offset in own)`; it must
        not be this ledger's memory. The first `lead` bytes of the first piece are the rest of a packet that an earlier
        `sendmsg` tore; packets begin behind it and at every other piece's beginning.

        Raises `LedgerError` for more than `MAX_PIECES` pieces or `OWN_BYTES` bytes; then nothing has changed.
        """
        count = len(pieces)
        if count > 2 * MAX_PIECES or count & 1 or len(own) > OWN_BYTES:
            raise LedgerError(
                f"a batch of {count / 2:g} pieces, {len(own)} of its bytes in no arena; "
                f"at most {MAX_PIECES} and {OWN_BYTES}: write less at a time"
            )
        batches = self._batches + 1
        if own:
            start = _OWN_STARTS[batches & 1]
            self._memory[start : start + len(own)] = own
        record = _OUT_RECORDS[batches & 1]
        words = self._words
        words[record] = position
        words[record + 1] = lead
        words[record + 2] = count >> 1
        words[record + _PIECES : record + _PIECES + count] = array("Q", pieces)
        words[_BATCHES] = self._batches = batches

    def end_batch(self, position: int) -> None:
        """Says that the outgoing stream is written up to `position`, a packet's end, and the rest won't be."""
        self.begin_batch(position, ())

    def rx_boundary(self, position: int, where: int) -> None:
        """Says up to which `position` the incoming stream is cut, and the place `where` its next bytes lie or will.

        Everything read beyond `position` lies there in one piece.
        """
        boundaries = self._boundaries + 1
        record = _IN_RECORDS[boundaries & 1]
        words = self._words
        words[record] = position
        words[record + 1] = where
        words[_BOUNDARIES] = self._boundaries = boundaries

    # --- after a death ----------------------------------------------------------------------------------------------

    def survey(self, sent: int, received: int) -> Survey:
        """Where the streams stand, by the kernel's count of bytes `sent` and `received` (read by the dead process).

        Raises `LedgerError` where the ledger contradicts the kernel or itself.
        """
        batch = self._batch(sent)
        boundary, where, uncut = self._unread(received)
        needed = [where >> _ARENA_SHIFT] if uncut else []
        reached = batch.piece_at(sent)
        if reached is not None and reached.where >> _ARENA_SHIFT != OWN_MEMORY:
            needed.append(reached.where >> _ARENA_SHIFT)
        return Survey(boundary, uncut, sent, batch.end - sent, tuple(dict.fromkeys(needed)))

    def recover(
        self,
        sent: int,
        received: int,
        arenas: Mapping[int, memoryview],
        packet_end: Callable[[memoryview, int], int],
    ) -> Recovery:
        """What to begin with, by the kernel's count of bytes `sent` and `received`.

        `arenas` has at least those that `survey` named, by number. `packet_end(piece, start)` is where the packet that
        begins at `start` of `piece` ends, 0 where none begins. Asking again gives the same answer until the next
        `begin_batch` or `rx_boundary`; so a successor that dies while it writes `torn` is followed like any other.

        Raises `LedgerError` where the ledger contradicts the kernel, the arenas or itself.
        """
        batch = self._batch(sent)
        torn = self._torn(batch, sent, arenas, packet_end)
        boundary, where, uncut = self._unread(received)
        memory = self._look_up(where, uncut, arenas) if uncut else memoryview(b"")
        return Recovery(torn, batch.end - sent - len(torn), boundary, memory)

    def _batch(self, sent: int) -> _Batch:
        words = self._words
        if words[_BATCHES] == 0:
            if sent:
                raise LedgerError(f"{sent} bytes were written that no batch names")
            return _Batch(0, 0, 0, [])
        record = _OUT_RECORDS[words[_BATCHES] & 1]
        start, lead, count = words[record], words[record + 1], words[record + 2]
        if count > MAX_PIECES:
            raise LedgerError(f"a batch of {count} pieces, at most {MAX_PIECES}")
        pieces = words[record + _PIECES : record + _PIECES + 2 * count].tolist()
        lengths = pieces[1::2]
        if 0 in lengths or lead > (lengths[0] if lengths else 0):
            raise LedgerError(f"a batch that makes no sense: pieces of {lengths[:8]}… bytes, {lead} to lead")
        end = start + sum(lengths)
        if not start <= sent <= end:
            raise LedgerError(f"{sent} bytes were written, but the last batch goes from {start} to {end}")
        return _Batch(start, end, lead, pieces)

    def _torn(
        self,
        batch: _Batch,
        sent: int,
        arenas: Mapping[int, memoryview],
        packet_end: Callable[[memoryview, int], int],
    ) -> bytes:
        reached = batch.piece_at(sent)
        if reached is None:
            return b""
        piece = self._look_up(reached.where, reached.length, arenas)
        end = reached.lead
        while end < reached.written:
            start, end = end, packet_end(piece, end)
            if not start < end <= len(piece):
                raise LedgerError(f"no packet lies at {start} of the torn piece of {len(piece)} bytes")
        if end - reached.written > OWN_BYTES:
            raise LedgerError(f"the rest of the torn packet has {end - reached.written} bytes, at most {OWN_BYTES}")
        return bytes(piece[reached.written : end])

    def _unread(self, received: int) -> tuple[int, int, int]:
        """Boundary, place of what lies behind it, and how much that is."""
        words = self._words
        if words[_BOUNDARIES] == 0:
            if received:
                raise LedgerError(f"{received} bytes were read to a place that nobody named")
            return 0, 0, 0
        record = _IN_RECORDS[words[_BOUNDARIES] & 1]
        boundary, where = words[record], words[record + 1]
        if boundary > received:
            raise LedgerError(f"the stream was cut up to {boundary}, but only {received} bytes were read")
        if boundary < received and where >> _ARENA_SHIFT == OWN_MEMORY:
            raise LedgerError(f"{received - boundary} bytes were read to no arena")
        return boundary, where, received - boundary

    def _look_up(self, where: int, length: int, arenas: Mapping[int, memoryview]) -> memoryview:
        arena, offset = where >> _ARENA_SHIFT, where & _OFFSET_MASK
        if arena == OWN_MEMORY:
            start = _OWN_STARTS[self._words[_BATCHES] & 1]
            memory = self._memory[start : start + OWN_BYTES]
        elif arena in arenas:
            memory = arenas[arena]
        else:
            raise LedgerError(f"arena {arena}, which holds what is needed, is gone")
        if offset + length > len(memory):
            raise LedgerError(f"{length} bytes at {offset} of arena {arena}, which has only {len(memory)}")
        return memory[offset : offset + length]


@dataclass(frozen=True, slots=True)
class _Reached:
    """The piece in whose middle, or in front of whose lead, the stream stands."""

    where: int
    length: int
    written: int
    lead: int


@dataclass(frozen=True, slots=True)
class _Batch:
    """The record of the last batch: positions of its start and end, and its pieces."""

    start: int
    end: int
    lead: int
    pieces: Sequence[int]

    def piece_at(self, sent: int) -> _Reached | None:
        """None where the stream stands between two pieces, and so between two packets."""
        written, lead = sent - self.start, self.lead
        for where, length in self._walk():
            if written < length:
                return _Reached(where, length, written, lead) if written or lead else None
            written -= length
            lead = 0
        return None

    def _walk(self) -> Iterator[tuple[int, int]]:
        return zip(self.pieces[::2], self.pieces[1::2], strict=True)


class NoLedger:
    """The ledger of a connection that ends with its process: nobody will read it, so nothing is written."""

    __slots__ = ()

    def begin_batch(self, position: int, pieces: Sequence[int], own: Buffer = b"", lead: int = 0) -> None:
        """As `Ledger.begin_batch`."""

    def end_batch(self, position: int) -> None:
        """As `Ledger.end_batch`."""

    def rx_boundary(self, position: int, where: int) -> None:
        """As `Ledger.rx_boundary`."""


class PoisonGuard:
    """Closes a connection whose bytes kill whoever touches them: the second time, not for ever.

    One per connection, kept where deaths are seen. A connection at rest has nothing that could be poison, however often
    its process dies.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: Survey | None = None

    def died(self, survey: Survey) -> bool:
        """Whether a successor may go on after the death at which the streams stood like this."""
        last, self._last = self._last, survey
        if last is None:
            return True
        same_uncut = survey.uncut > 0 and last.uncut > 0 and survey.boundary == last.boundary
        same_unwritten = survey.unwritten > 0 and last.unwritten > 0 and survey.sent == last.sent
        return not (same_uncut or same_unwritten)


def _check_size(memory: memoryview) -> None:
    if memory.nbytes != LEDGER_BYTES:
        raise LedgerError(f"memory of {memory.nbytes} bytes, a ledger has {LEDGER_BYTES}")
