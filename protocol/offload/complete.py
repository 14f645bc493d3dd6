"""Finishes the checksum of a packet of ordinary size that the kernel left to its network device.

Source: Linux `skb_checksum_help`; virtio 1.2 section 5.1.6.2 (VIRTIO_NET_HDR_F_NEEDS_CSUM).
"""

from __future__ import annotations

from protocol.offload.checksum import MODULUS, network_sum
from protocol.offload.vnet import GSO_NONE, NEEDS_CSUM, OffloadError, VnetHeader, check


def complete_checksum(packet: memoryview, header: VnetHeader) -> None:
    """Writes the checksum `header` asks for into `packet`; nothing where it asks for none.

    The field already holds the pseudo-header's sum, so that it is summed up with everything from `csum_start` on. Works
    for every protocol that uses the Internet checksum, behind extension headers too.

    Raises `OffloadError` for a header that doesn't fit the packet and for a super-packet, which has to be cut.
    """
    check(header, len(packet))
    if header.gso_type != GSO_NONE:
        raise OffloadError("a super-packet gets its checksums when it is cut into segments")
    if header.flags & NEEDS_CSUM:
        at = header.csum_start + header.csum_offset
        # Never zero, which for UDP would mean "none"; for every other protocol 0xFFFF and zero are the same number.
        checksum = MODULUS - network_sum(packet[header.csum_start :])
        packet[at : at + 2] = checksum.to_bytes(2, "big")
