"""Cutting a peer's byte stream into packets, and the header of a data packet (wire spec 3.1 to 3.4).

Packet header (4): version 1, type 0 data / 1 control, two reserved bytes. A data packet goes on with reserved (1),
length of raw data (2), hop limit (1), source (16), destination (16), raw data. A control packet goes on with a Babel
header (4), whose last two bytes are the length of what follows. Reserved bytes are sent as zero and not looked at.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from protocol.buffers import Buffer
from protocol.mycelium.errors import WireError

PACKET_VERSION: Final = 1
KIND_DATA: Final = 0
KIND_CONTROL: Final = 1
PACKET_HEADER: Final = 4
DATA_HEADER: Final = 40
"""Packet header and data header together: raw data begins here."""
CONTROL_HEADER: Final = 8
"""Packet header and Babel header together: the TLV begins here."""
_LENGTH_OFFSET: Final = 5
HOP_LIMIT_OFFSET: Final = 7
SOURCE_OFFSET: Final = 8
DESTINATION_OFFSET: Final = 24
MAX_RAW_LENGTH: Final = 0xFFFF
MAX_PACKET: Final = DATA_HEADER + MAX_RAW_LENGTH
DEFAULT_CAPACITY: Final = 1 << 18
FEWEST_IN_ROW: Final = 16
"""Equal packets from which on they are found together: below that the look costs more than it saves."""

_FIRST_WORDS: Final = struct.Struct("!HHI")
"""Version and type in one; reserved; the word that holds the length (both kinds of packet have it in bytes 4 to 7)."""
_VERSION_AND_DATA: Final = PACKET_VERSION << 8 | KIND_DATA
_VERSION_AND_CONTROL: Final = PACKET_VERSION << 8 | KIND_CONTROL
_DATA_HEADER: Final = struct.Struct("!II16s16s")
_DATA_FIRST_WORD: Final = _VERSION_AND_DATA << 16
_LENGTH_MASK: Final = 0xFFFF
_HOP_LIMIT_MASK: Final = 0xFF
_LENGTH_SHIFT: Final = 8
_MAY_DIFFER: Final = (2, 3, 4)
"""Reserved bytes of a data packet's headers."""


class FramingError(WireError):
    """The stream doesn't hold a packet where one should begin: it is out of step for good, and the link is closed."""


class DataHeader(NamedTuple):
    """What a relay looks at: length of the raw data, hop limit, and the two 16-byte outer addresses."""

    raw_length: int
    hop_limit: int
    source: bytes
    destination: bytes


def write_data_header(
    out: memoryview | bytearray, offset: int, raw_length: int, hop_limit: int, source: bytes, destination: bytes
) -> None:
    """Writes the 40 bytes in front of `raw_length` bytes of raw data to `out` at `offset`.

    `raw_length` is 0…65535, `hop_limit` 0…255; the addresses have 16 bytes. Raises `struct.error` where `out` is too
    small.
    """
    _DATA_HEADER.pack_into(out, offset, _DATA_FIRST_WORD, raw_length << _LENGTH_SHIFT | hop_limit, source, destination)


def read_data_header(packet: Buffer, offset: int = 0) -> DataHeader:
    """The header of the data packet at `offset`, as `StreamDecoder.cut` found it."""
    _, word, source, destination = _DATA_HEADER.unpack_from(packet, offset)
    return DataHeader(word >> _LENGTH_SHIFT & _LENGTH_MASK, word & _HOP_LIMIT_MASK, source, destination)


def kind_of_datagram(datagram: Buffer) -> int:
    """`KIND_DATA` or `KIND_CONTROL`: the kind of the one packet that fills `datagram` exactly (wire spec 5.4).

    Raises `FramingError` on anything else.
    """
    if len(datagram) < CONTROL_HEADER:
        raise FramingError("5.4", f"datagram of {len(datagram)} bytes holds no packet")
    version_and_type, _, word = _FIRST_WORDS.unpack_from(datagram)
    if version_and_type == _VERSION_AND_DATA:
        kind, size = KIND_DATA, DATA_HEADER + (word >> _LENGTH_SHIFT & _LENGTH_MASK)
    elif version_and_type == _VERSION_AND_CONTROL:
        kind, size = KIND_CONTROL, CONTROL_HEADER + (word & _LENGTH_MASK)
    else:
        raise _bad_header(version_and_type)
    if size != len(datagram):
        raise FramingError("5.4", f"datagram of {len(datagram)} bytes around a packet of {size}")
    return kind


def split_control(packets: Buffer) -> Iterator[memoryview]:
    """The control packets, headers included, that lie one behind the other and fill `packets`.

    Raises `FramingError` where the last one is not whole, or one of them is no control packet.
    """
    view = memoryview(packets)
    start = 0
    while start < len(view):
        end = start + CONTROL_HEADER
        if end <= len(view):
            version_and_type, _, word = _FIRST_WORDS.unpack_from(view, start)
            if version_and_type == _VERSION_AND_DATA:
                raise FramingError("3.4", "a data packet among control packets")
            if version_and_type != _VERSION_AND_CONTROL:
                raise _bad_header(version_and_type)
            end += word & _LENGTH_MASK
        if end > len(view):
            raise FramingError("3.4", f"of a control packet of {end - start} bytes {len(view) - start} are there")
        yield view[start:end]
        start = end


class StreamDecoder:
    """Cuts packets out of a byte stream, in one fixed piece of memory that no length on the wire can make grow.

    The packet path, three calls per read:
        1. `writable()` gives the free room; read from the socket into it.
        2. `received(count)` says how much arrived.
        3. `cut()`, until it returns nothing, gives the packets as offsets into `view`.
    Nothing is copied but, now and then, an incomplete packet at the end of the memory to its beginning.
    """

    __slots__ = ("_end", "_start", "view")

    def __init__(self, capacity: int = DEFAULT_CAPACITY, memory: memoryview | None = None) -> None:
        """`memory`, for example a piece of an arena, is used in place of an own `bytearray` of `capacity` bytes.

        Raises `ValueError` where it has less room than two largest packets: `writable` would copy too often.
        """
        self.view: Final = memoryview(bytearray(capacity)) if memory is None else memory
        """The memory that offsets from `cut` point into."""
        if len(self.view) < 2 * MAX_PACKET:
            raise ValueError(f"{len(self.view)} bytes are too few to cut packets from, at least {2 * MAX_PACKET}")
        self._start = 0
        self._end = 0

    @property
    def buffered(self) -> int:
        """Bytes that arrived and are not cut yet."""
        return self._end - self._start

    @property
    def room(self) -> int:
        """Bytes of memory behind what arrived so far."""
        return len(self.view) - self._end

    def rest(self) -> memoryview:
        """What arrived and is not cut yet."""
        return self.view[self._start : self._end]

    def resume(self, rest: memoryview) -> None:
        """Begins with `rest`, which another decoder did not cut, copied to the beginning of the memory."""
        self.view[: len(rest)] = rest
        self._start, self._end = 0, len(rest)

    def writable(self) -> memoryview:
        """The room for the next bytes of the stream; never empty if `cut` was called since `received`.

        Ends the validity of all offsets that `cut` returned.
        """
        start, end, view = self._start, self._end, self.view
        if start == end:
            self._start = self._end = 0
            return view
        if len(view) - end < MAX_PACKET:
            # The two pieces may overlap; assignment between views of the same memory is a memmove.
            view[: end - start] = view[start:end]
            self._start, self._end = 0, end - start
        return view[self._end :]

    def received(self, count: int) -> None:
        """`count` bytes were written to the beginning of what `writable` returned."""
        if not 0 <= count <= len(self.view) - self._end:
            raise ValueError(f"{count} bytes can't have been written to a room of {len(self.view) - self._end}")
        self._end += count

    def cut(self) -> list[tuple[int, int, int, int]]:
        """(kind, start, end, count) of every complete packet, packet header included; valid until the next `writable`.

        `count` is 1, or at least `FEWEST_IN_ROW`: so many data packets lie there one behind the other, alike in
        length, hop limit and addresses. Raises `FramingError` at a packet header that isn't one, but only when no good
        packet lies before it any more: call until the list is empty.
        """
        packets: list[tuple[int, int, int, int]] = []
        start, end, view = self._start, self._end, self.view
        unpack_from = _FIRST_WORDS.unpack_from
        while end - start >= CONTROL_HEADER:
            version_and_type, _, word = unpack_from(view, start)
            if version_and_type == _VERSION_AND_DATA:
                size = DATA_HEADER + (word >> _LENGTH_SHIFT & _LENGTH_MASK)
                packet_end = start + size
                if end - packet_end >= size * (FEWEST_IN_ROW - 1) and (count := _in_row(view, start, end, size)) > 1:
                    packet_end = start + size * count
                    packets.append((KIND_DATA, start, packet_end, count))
                    start = packet_end
                    continue
                kind = KIND_DATA
            elif version_and_type == _VERSION_AND_CONTROL:
                kind, packet_end = KIND_CONTROL, start + CONTROL_HEADER + (word & _LENGTH_MASK)
            else:
                break
            if packet_end > end:
                break
            packets.append((kind, start, packet_end, 1))
            start = packet_end
        self._start = start
        if not packets and end - start >= PACKET_HEADER:
            version_and_type = view[start] << 8 | view[start + 1]
            if version_and_type not in (_VERSION_AND_DATA, _VERSION_AND_CONTROL):
                raise _bad_header(version_and_type)
        return packets


def _in_row(view: memoryview, start: int, end: int, size: int) -> int:
    """How many data packets like the one of `size` bytes at `start` lie there one behind the other; 1 for a few."""
    first = view[start + _LENGTH_OFFSET : start + DATA_HEADER]
    # Where flows alternate, or each length is another, the neighbour says so for a tenth of the price.
    if view[start + size + _LENGTH_OFFSET : start + size + DATA_HEADER] != first:
        return 1
    count = (end - start) // size
    headers = np.frombuffer(view, np.uint8, count * size, start).reshape(count, size)[:, :DATA_HEADER]
    alike = headers == headers[0]
    alike[:, _MAY_DIFFER] = True
    rows = alike.all(axis=1)
    found = count if rows.all() else int(rows.argmin())
    return found if found >= FEWEST_IN_ROW else 1


def _bad_header(version_and_type: int) -> FramingError:
    version, packet_type = divmod(version_and_type, 256)
    if version != PACKET_VERSION:
        return FramingError("3.1", f"packet version {version}, only {PACKET_VERSION} exists")
    return FramingError("3.1", f"packet type {packet_type}, only {KIND_DATA} and {KIND_CONTROL} exist")
