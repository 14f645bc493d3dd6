"""Where a packet ends that lies among others in memory: what a link that goes on in mid-packet has to know."""

from __future__ import annotations

from typing import Final

from protocol.buffers import Buffer
from protocol.mycelium.framing import CONTROL_HEADER, DATA_HEADER, KIND_CONTROL, KIND_DATA, PACKET_VERSION

_DATA: Final = bytes((PACKET_VERSION, KIND_DATA))
_CONTROL: Final = bytes((PACKET_VERSION, KIND_CONTROL))
_DATA_LENGTH: Final = slice(5, 7)
_CONTROL_LENGTH: Final = slice(6, 8)


def packet_end(piece: Buffer, start: int) -> int:
    """The offset in `piece` behind the packet that begins at `start`, or 0 where none begins (wire spec 3.1 to 3.3).

    It may lie beyond the end of `piece`: a header was seen, not the whole packet.
    """
    header = bytes(piece[start : start + CONTROL_HEADER])
    if len(header) == CONTROL_HEADER:
        if header.startswith(_DATA):
            return start + DATA_HEADER + int.from_bytes(header[_DATA_LENGTH], "big")
        if header.startswith(_CONTROL):
            return start + CONTROL_HEADER + int.from_bytes(header[_CONTROL_LENGTH], "big")
    return 0


def cut_packets(stream: bytearray) -> list[bytes]:
    """Takes the whole packets from the beginning of `stream`, in which the rest stays, be it a header's first bytes.

    Where no packet begins the last that is given is what lies there, for a decoder to say what is wrong with it.
    """
    packets: list[bytes] = []
    start = 0
    with memoryview(stream) as view:
        while (end := packet_end(view, start)) and end <= len(view):
            packets.append(bytes(view[start:end]))
            start = end
    del stream[:start]
    if not end and len(stream) >= CONTROL_HEADER:
        packets.append(bytes(stream[:DATA_HEADER]))
        stream.clear()
    return packets
