"""Extension E2: a super-packet that travels whole, with its virtio header behind it.

Behind, because a node that doesn't know the extension writes the body to its TUN as it is, and the kernel trims what
follows the IPv6 packet.
"""

from __future__ import annotations

from protocol.offload.vnet import (
    HEADER_LENGTH,
    IPV6_HEADER,
    NEEDS_CSUM,
    OffloadError,
    VnetHeader,
    check_super_packet,
)


def append_trailer(buffer: memoryview, length: int, header: VnetHeader) -> int:
    """Puts `header` behind the super-packet in the first `length` bytes of `buffer`; the length of both.

    Raises `OffloadError` where the two don't belong together, or the buffer has no room.
    """
    end = length + HEADER_LENGTH
    if end > len(buffer):
        raise OffloadError(f"no room for a trailer behind {length} bytes in a buffer of {len(buffer)}")
    buffer[length:end] = _canonical(buffer[:length], header).pack()
    return end


def split_trailer(body: memoryview) -> tuple[memoryview, VnetHeader]:
    """The super-packet in an E2 body and the header to write in front of it.

    The header comes from another machine and the kernel would act on it: all it says is held against the packet, and
    what the packet itself tells (lengths, offsets, flags) is taken from there. Raises `OffloadError`.
    """
    packet = body[: max(0, len(body) - HEADER_LENGTH)]
    return packet, _canonical(packet, VnetHeader.parse(body[len(packet) :]))


def _canonical(packet: memoryview, header: VnetHeader) -> VnetHeader:
    header_length = check_super_packet(packet, header)
    return VnetHeader(NEEDS_CSUM, header.gso_type, header_length, header.gso_size, IPV6_HEADER, header.csum_offset)
