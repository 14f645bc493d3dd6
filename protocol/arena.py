"""A writer's book-keeping of its arena, and the descriptors that tell readers where in it packets lie.

An arena is shared memory in slots of equal size. Its writer takes a slot, fills it, leases pieces of it to readers and
closes it; the slot is free again once it is closed and every piece came back. Nothing here touches the memory itself.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable, Iterable
from operator import ge
from typing import Final, NamedTuple, TypeAlias

SLOT_BYTES: Final = 256 << 10
"""Three super-packets and more, or what one read of a busy socket returns."""
SMALLEST_SHARE: Final = 2
"""One slot that a reader works on and one that fills meanwhile."""
MAX_PIECES: Final = 4096
"""In one batch: a slot full of the smallest packets (40 bytes), every other of which goes elsewhere, has 3277."""
MAX_BATCH_BYTES: Final = 64 << 10
"""Of descriptors: 16 000 packets, more than any round moves."""

Reader: TypeAlias = Hashable
"""Whatever the actor calls a reader by, for example its name in bytes."""


class ArenaError(ValueError):
    """A lease or a descriptor that can't be: the message of a confused or hostile process, or a slip of our own."""


class Arena:
    """Which slots are free, which are being filled, and who still reads in which.

    A slot is *open* from `take` to `close`, and *pinned* while any reader leases a piece of it; it is free when it is
    neither. No operation takes longer the more slots there are; `idle`, `reader_left` and `release` take time for each
    slot that they deal with.

    A reader may pin its share: all slots but one, divided by the active readers. The one is the writer's: with all its
    readers stuck it can still read its socket, drop the data and act on the control packets in between. The share is
    never below `SMALLEST_SHARE`; with so many readers that this promises more slots than there are, `take` may find
    none. A reader that pins more than its share because others joined keeps what it has.

    When a reader's process dies, what it leased stays pinned, and counts towards its successor's share, until
    `release`: the successor may have to finish a packet that was torn.
    """

    def __init__(self, slots: int) -> None:
        """Raises `ArenaError` for fewer slots than one reader's smallest share."""
        if slots < SMALLEST_SHARE:
            raise ArenaError(f"an arena of {slots} slots, at least {SMALLEST_SHARE}")
        self._slots = slots
        self._free = list(range(slots - 1, -1, -1))
        self._open = bytearray(slots)
        self._pins = [0] * slots
        self._held: dict[Reader, dict[int, int]] = {}
        self._left_behind: dict[Reader, dict[int, int]] = {}
        self._share = self._new_share()
        # The free slots are a stack, so the lowest level it had since the last `idle` separates those below, which
        # nobody used, from those above. Of those, so many hold no memory: never used, or given back already.
        self._low_water = slots
        self._without_memory = slots

    @property
    def free(self) -> int:
        """How many slots can be taken."""
        return len(self._free)

    @property
    def share(self) -> int:
        """How many slots each reader may pin now."""
        return self._share

    def pinned(self, reader: Reader) -> int:
        """How many slots count towards the share of `reader`, those that its dead predecessors left included."""
        return len(self._held.get(reader, ())) + len(self._left_behind.get(reader, ()))

    def take(self) -> int | None:
        """A free slot, now open: the one freed last, for its memory is warmest. None when no slot is free."""
        free = self._free
        if not free:
            return None
        slot = free.pop()
        if len(free) < self._low_water:
            self._low_water = len(free)
        self._open[slot] = True
        return slot

    def close(self, slot: int) -> None:
        """The writer fills `slot` no more. Raises `ArenaError` where it isn't open."""
        if not 0 <= slot < self._slots or not self._open[slot]:
            raise ArenaError(f"slot {slot} can't be closed: it is not open")
        self._open[slot] = False
        if not self._pins[slot]:
            self._free.append(slot)

    def lease(self, slot: int, reader: Reader) -> bool:
        """Gives one more piece of `slot` to `reader`; False when that would pin more than its share.

        A reader that hasn't joined, or has left, has no share. Raises `ArenaError` where the slot is free.
        """
        if not 0 <= slot < self._slots or not (self._open[slot] or self._pins[slot]):
            raise ArenaError(f"slot {slot} can't be leased to {reader!r}: it was not taken")
        held = self._held.get(reader)
        if held is None:
            return False
        pieces = held.get(slot)
        if pieces is not None:
            held[slot] = pieces + 1
            return True
        if self.pinned(reader) >= self._share:
            return False
        held[slot] = 1
        self._pins[slot] += 1
        return True

    def returned(self, slot: int, reader: Reader, pieces: int = 1) -> None:
        """`reader` is done with so many pieces of `slot`.

        Raises `ArenaError` where it doesn't lease that many, and changes nothing then.
        """
        held = self._held.get(reader, {})
        leased = held.get(slot, 0)
        if not 0 < pieces <= leased:
            raise ArenaError(f"{reader!r} returned {pieces} pieces of slot {slot}, of which it leases {leased}")
        if pieces < leased:
            held[slot] = leased - pieces
            return
        del held[slot]
        self._unpin(slot)

    def reader_joined(self, reader: Reader) -> None:
        """`reader` may lease from now on; every share changes. Raises `ArenaError` where it had joined."""
        if reader in self._held:
            raise ArenaError(f"{reader!r} joined twice")
        self._held[reader] = {}
        self._share = self._new_share()

    def reader_left(self, reader: Reader) -> None:
        """The process of `reader` died: what it leased stays pinned until `release`.

        Raises `ArenaError` for a reader that had not joined.
        """
        held = self._held.pop(reader, None)
        if held is None:
            raise ArenaError(f"{reader!r} left, who had not joined")
        self._share = self._new_share()
        left_behind = self._left_behind.setdefault(reader, held)
        if left_behind is not held:
            for slot in held:
                if slot in left_behind:
                    # Pinned by two incarnations, of which one entry remains.
                    self._pins[slot] -= 1
            left_behind.update(held)
        if not left_behind:
            del self._left_behind[reader]

    def release(self, reader: Reader) -> None:
        """Frees what the dead predecessors of `reader` left pinned; nothing to do where they left nothing."""
        for slot in self._left_behind.pop(reader, ()):
            self._unpin(slot)

    def idle(self) -> list[int]:
        """Free slots that nobody used since the last call and that still hold memory, to be given back to the system.

        Each is named once until it is used again. The caller punches holes in the arena's file there before its next
        `take`.
        """
        idle = self._free[self._without_memory : self._low_water]
        self._without_memory = self._low_water
        self._low_water = len(self._free)
        return idle

    def _new_share(self) -> int:
        return max(SMALLEST_SHARE, (self._slots - 1) // max(1, len(self._held)))

    def _unpin(self, slot: int) -> None:
        self._pins[slot] -= 1
        if not self._pins[slot] and not self._open[slot]:
            self._free.append(slot)


class Piece(NamedTuple):
    """Packets that lie one behind the other in one slot of an arena."""

    offset: int
    """Of the first byte, from the beginning of the arena."""
    ends: tuple[int, ...]
    """Where each packet ends, from `offset`; the last is the length of the piece."""


def pack_pieces(pieces: Iterable[tuple[int, tuple[int, ...]]]) -> bytes:
    """Descriptors of one batch: for each piece its offset, how many packets it holds, and where each ends.

    All of them are 32-bit little-endian words. The ends travel although every data packet's header tells its length:
    to take 46 ends from a descriptor costs a reader 2 µs, to take them from 46 headers 10 µs, and a reader believes no
    length in memory that somebody else can still write to.

    Raises `ArenaError` where there are more pieces or packets than one batch may have.
    """
    words: list[int] = []
    count = 0
    for offset, ends in pieces:
        words += (offset, len(ends), *ends)
        count += 1
    if count > MAX_PIECES or 4 * len(words) > MAX_BATCH_BYTES:
        raise ArenaError(
            f"{count} pieces with {len(words) - 2 * count} packets in one batch, "
            f"at most {MAX_PIECES} pieces and {MAX_BATCH_BYTES // 4} words"
        )
    return struct.pack(f"<{len(words)}I", *words)


def unpack_pieces(data: bytes, arena_bytes: int, slot_bytes: int = SLOT_BYTES) -> list[Piece]:
    """The inverse of `pack_pieces`, for an arena of `arena_bytes` in slots of `slot_bytes`.

    Raises `ArenaError` unless every piece has packets, none of them empty, and lies in one slot of the arena: a lease
    covers one slot.
    """
    if not data or len(data) % 4 or len(data) > MAX_BATCH_BYTES:
        raise ArenaError(f"{len(data)} bytes of descriptors, a batch has 1 to {MAX_BATCH_BYTES // 4} words of 4")
    words = struct.unpack(f"<{len(data) // 4}I", data)
    pieces: list[Piece] = []
    position, size = 0, len(words)
    while position < size:
        first = position + 2
        position = first + words[position + 1] if first < size else first
        if first >= position or position > size or len(pieces) == MAX_PIECES:
            raise ArenaError(f"descriptor {len(pieces)} of a batch has no packets, is cut short, or is one too many")
        offset, ends = words[first - 2], words[first:position]
        if not ends[0] or (len(ends) > 1 and any(map(ge, ends, ends[1:]))):
            raise ArenaError(f"descriptor {len(pieces)} of a batch has an empty packet")
        if offset + ends[-1] > arena_bytes or offset % slot_bytes + ends[-1] > slot_bytes:
            raise ArenaError(
                f"a piece of {ends[-1]} bytes at {offset} is not in one slot of {slot_bytes} bytes "
                f"of an arena of {arena_bytes}"
            )
        pieces.append(Piece(offset, ends))
    return pieces
