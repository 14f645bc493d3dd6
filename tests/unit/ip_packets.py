"""IPv6 packets with TCP or UDP for tests, their checksums by the book: word for word, carry by carry (RFC 1071)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

SOURCE = bytes.fromhex("0520c662fd009e925d9934ed0ab882ab")
DESTINATION = bytes.fromhex("052d0dc0ab0c851a6e34e79d1f3f15d3")

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))

TIMESTAMPS = bytes.fromhex("0101080a3f2a91c07700b1e4")


def folded_sum(data: bytes) -> int:
    """The one's complement sum of `data`, not complemented."""
    total = 0
    for (word,) in struct.iter_unpack("!H", data + bytes(len(data) % 2)):
        total += word
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo_header(packet: bytes) -> bytes:
    """RFC 8200 section 8.1, of a packet without extension headers."""
    return packet[8:40] + struct.pack("!I3xB", len(packet) - 40, packet[6])


def checksum_is_right(packet: bytes) -> bool:
    """Whether the TCP or UDP checksum of the packet is right."""
    return folded_sum(pseudo_header(packet) + packet[40:]) == 0xFFFF


def with_checksum(packet: bytes, *, partial: bool = False) -> bytes:
    """The packet with its checksum filled in, or with the pseudo-header's sum alone."""
    at = 56 if packet[6] == 6 else 46
    packet = packet[:at] + b"\0\0" + packet[at + 2 :]
    if partial:
        checksum = folded_sum(pseudo_header(packet))
    else:
        checksum = ~folded_sum(pseudo_header(packet) + packet[40:]) & 0xFFFF
        if packet[6] == 17 and not checksum:
            checksum = 0xFFFF
    return packet[:at] + struct.pack("!H", checksum) + packet[at + 2 :]


def ipv6(next_header: int, body: bytes, *, hop_limit: int = 64, traffic_class: int = 0, flow_label: int = 0) -> bytes:
    """An IPv6 packet."""
    first = 6 << 28 | traffic_class << 20 | flow_label
    return struct.pack("!IHBB", first, len(body), next_header, hop_limit) + SOURCE + DESTINATION + body


def tcp(
    payload: bytes,
    *,
    sequence: int = 1000,
    flags: int = ACK,
    options: bytes = b"",
    source_port: int = 40_000,
    acknowledged: int = 77,
    window: int = 502,
    urgent: int = 0,
    reserved: int = 0,
    partial: bool = False,
    hop_limit: int = 64,
    traffic_class: int = 0,
    flow_label: int = 0,
) -> bytes:
    """A TCP segment; `partial` leaves the checksum as the kernel does on a device that offloads it."""
    offset = (20 + len(options)) // 4 << 4 | reserved
    header = struct.pack(
        "!HHIIBBHHH", source_port, 5201, sequence % 2**32, acknowledged, offset, flags, window, 0, urgent
    )
    packet = ipv6(
        6, header + options + payload, hop_limit=hop_limit, traffic_class=traffic_class, flow_label=flow_label
    )
    return with_checksum(packet, partial=partial)


def udp(
    payload: bytes, *, source_port: int = 40_000, partial: bool = False, hop_limit: int = 64, flow_label: int = 0
) -> bytes:
    """A UDP datagram."""
    header = struct.pack("!HHHH", source_port, 5201, 8 + len(payload), 0)
    return with_checksum(ipv6(17, header + payload, hop_limit=hop_limit, flow_label=flow_label), partial=partial)


def cut(packet: bytes, size: int) -> Iterator[bytes]:
    """The packets of at most `size` bytes of payload that a super-packet stands for, made one by one."""
    is_tcp = packet[6] == 6
    header_length = 40 + (packet[52] >> 4) * 4 if is_tcp else 48
    payload = packet[header_length:]
    for at in range(0, len(payload), size):
        piece = bytearray(packet[:header_length] + payload[at : at + size])
        struct.pack_into("!H", piece, 4, len(piece) - 40)
        if is_tcp:
            (sequence,) = struct.unpack_from("!I", piece, 44)
            struct.pack_into("!I", piece, 44, (sequence + at) % 2**32)
            if at + size < len(payload):
                piece[53] &= ~(FIN | PSH)
            if at:
                piece[53] &= ~CWR
        else:
            struct.pack_into("!H", piece, 44, len(piece) - 40)
        yield with_checksum(bytes(piece))
