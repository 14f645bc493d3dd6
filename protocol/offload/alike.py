"""Packets of equal length in a row: which of them continue the one before, found for all at once.

What the coalescer asks of one packet after the other, a few numpy operations on a table with a row for each answer for
all: a flow's segments differ in sequence number and checksum alone.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from protocol.offload.checksum import Octets
from protocol.offload.vnet import IPV6_HEADER, TCP, TCP_HEADER, UDP, UDP_HEADER

_NEXT_HEADER: Final = 6
_DATA_OFFSET: Final = IPV6_HEADER + 12
_FLAGS: Final = IPV6_HEADER + 13
_SEQUENCE: Final = slice(IPV6_HEADER + 4, IPV6_HEADER + 8)
_TCP_CHECKSUM: Final = slice(IPV6_HEADER + 16, IPV6_HEADER + 18)
_UDP_CHECKSUM: Final = slice(IPV6_HEADER + 6, IPV6_HEADER + 8)
_PSH: Final = 0x08

Follows = npt.NDArray[np.bool_]
"""Of each row but the first, whether it continues the one before."""


def breaks(table: Octets) -> list[int]:
    """Rows of `table`, but the first, that do not continue the packet in the row before.

    Each row is an IPv6 packet. Those between two breaks have headers alike but for what segmentation makes different,
    and of TCP each begins where the one before ends. Whether the first of them may be merged at all is not looked at.
    """
    transport = int(table[0, _NEXT_HEADER])
    if transport == TCP and table.shape[1] >= IPV6_HEADER + TCP_HEADER:
        follows = _segments(table)
    elif transport == UDP and table.shape[1] >= IPV6_HEADER + UDP_HEADER:
        follows = _datagrams(table)
    else:
        return list(range(1, len(table)))
    # Those of another transport have other fields where we looked.
    follows &= table[1:, _NEXT_HEADER] == transport
    found: list[int] = (np.flatnonzero(~follows) + 1).tolist()
    return found


def _segments(table: Octets) -> Follows:
    offsets = table[:, _DATA_OFFSET] >> 4
    header_length = min(IPV6_HEADER + max(TCP_HEADER, int(offsets[0]) * 4), table.shape[1])
    before, behind = table[:-1, :header_length], table[1:, :header_length]
    alike = np.asarray(before == behind)
    alike[:, _SEQUENCE] = True
    alike[:, _TCP_CHECKSUM] = True
    # What is pushed ends its run; the last one may be.
    alike[:, _FLAGS] = before[:, _FLAGS] == behind[:, _FLAGS] & ~np.uint8(_PSH)
    sequence = np.ascontiguousarray(table[:, _SEQUENCE]).view(">u4")[:, 0].astype(np.uint32)
    size = np.uint32(table.shape[1] - header_length)
    follows: Follows = alike.all(axis=1) & (sequence[1:] - sequence[:-1] == size) & (offsets[1:] == offsets[0])
    return follows


def _datagrams(table: Octets) -> Follows:
    headers: Octets = table[:, : IPV6_HEADER + UDP_HEADER]
    before, behind = headers[:-1], headers[1:]
    alike = np.asarray(before == behind)
    # None at all is a matter of its own.
    summed = np.asarray(headers[:, _UDP_CHECKSUM].any(axis=1))
    alike[:, _UDP_CHECKSUM] = (summed[:-1] & summed[1:])[:, None]
    follows: Follows = np.asarray(alike.all(axis=1))
    return follows
