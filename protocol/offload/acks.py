"""Leaves out acknowledgements that the next one makes superfluous, where both wait to be sealed anyway.

Source: the ACK filter of Linux `sch_cake`, stricter: only neighbours of one flow, without payload, SACK or any flag but
ACK, and only where the second acknowledges more. A stream of super-packets is acknowledged several times in the time
of one round, and each of those costs the whole way back.
"""

from __future__ import annotations

from typing import Final

from protocol.offload.vnet import IPV6_HEADER, NEEDS_CSUM, TCP, TCP_CSUM_OFFSET, TCP_HEADER, VnetHeader

UNFINISHED: Final = VnetHeader(NEEDS_CSUM, csum_start=IPV6_HEADER, csum_offset=TCP_CSUM_OFFSET).pack()
"""What the kernel says of a segment whose checksum it left to the device."""
_HEADERS: Final = IPV6_HEADER + TCP_HEADER
_TIMESTAMPS: Final = bytes((1, 1, 8, 10))
"""How Linux and others lay out the only option that an acknowledgement has beside SACK (RFC 7323 appendix A)."""
_TIMESTAMPS_LENGTH: Final = 12
_ACK: Final = 0x10
_OFFSET_AND_FLAGS: Final = IPV6_HEADER + 12
_ACKNOWLEDGED: Final = slice(IPV6_HEADER + 8, IPV6_HEADER + 12)
_PORTS: Final = slice(IPV6_HEADER, IPV6_HEADER + 4)
_HALF: Final = 1 << 31


class AckRun:
    """One acknowledgement that waits to be sealed, and gives way to the next of its flow."""

    __slots__ = ("_fixed", "_length", "_memory", "_reached", "count", "end", "left_out", "start")

    def __init__(self, memory: memoryview, start: int, length: int) -> None:
        """Begins with the packet of `length` bytes at `start` of `memory`, of which `fits` was true."""
        packet = memory[start : start + length]
        self._memory = memory
        self._length = length
        self._fixed = _fixed(packet)
        self._reached = int.from_bytes(packet[_ACKNOWLEDGED], "big")
        self.start: Final = start
        self.end: Final = start + length
        self.count: Final = 1
        """Packets that there will be: always one."""
        self.left_out = 0

    @staticmethod
    def fits(packet: memoryview, header: bytes | bytearray) -> bool:
        """Whether `packet`, of which the kernel says `header`, acknowledges and does nothing else."""
        length = len(packet)
        if header != UNFINISHED or not _HEADERS <= length <= _HEADERS + _TIMESTAMPS_LENGTH or packet[6] != TCP:
            return False
        if packet[_OFFSET_AND_FLAGS + 1] != _ACK or packet[4] << 8 | packet[5] != length - IPV6_HEADER:
            return False
        return packet[_OFFSET_AND_FLAGS] == (length - IPV6_HEADER) << 2 and (
            length == _HEADERS or packet[_HEADERS : _HEADERS + len(_TIMESTAMPS)] == _TIMESTAMPS
        )

    def append(self, start: int, length: int, header: bytes | bytearray) -> bool:
        """Takes the packet at `start`, behind the run, in place of the one it has where that says less."""
        packet = self._memory[start : start + length]
        if length != self._length or not self.fits(packet, header) or _fixed(packet) != self._fixed:
            return False
        reached = int.from_bytes(packet[_ACKNOWLEDGED], "big")
        if not 0 < (reached - self._reached) & 0xFFFF_FFFF < _HALF:
            # The same again is a sign of loss, and every one of them counts (RFC 5681 section 3.2).
            return False
        self._memory[self.start : self.end] = packet
        self._reached = reached
        self.left_out += 1
        return True


def _fixed(packet: memoryview) -> tuple[bytes, bytes]:
    """What all packets of a flow have alike: class, flow label, hop limit, addresses, ports."""
    return bytes(packet[:IPV6_HEADER]), bytes(packet[_PORTS])
