"""Out-of-band ICMP: how a relay tells a packet's source that it went nowhere, through the encryption (wire spec 7.14).

Body of a report, behind its inner header: destination of the offending packet (16), IPv6 header (40), ICMPv6 header
(8), and the whole raw data of the offending packet or nothing: only whole raw data can be opened again.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from protocol.icmpv6 import (
    DEFAULT_HOP_LIMIT,
    FIRST_INFORMATIONAL_TYPE,
    ICMP_HEADER,
    ICMP_HEADER_BYTES,
    IPV6_HEADER_BYTES,
    IPV6_VERSION,
    MAX_QUOTED_BYTES,
    NEXT_HEADER_ICMPV6,
    IcmpError,
    error_packet,
    icmp_packet,
)
from protocol.mycelium.errors import WireError
from protocol.mycelium.framing import DATA_HEADER, read_data_header, write_data_header
from protocol.mycelium.sealing import (
    INNER_HEADER,
    INNER_ICMP,
    INNER_L3,
    NONCE,
    OVERHEAD,
    TAG,
    Cipher,
    SealError,
    open_into,
    parse_inner,
    seal_into,
    write_inner,
)
from protocol.prefix import ADDRESS_BYTES, address_text

MIN_BODY: Final = ADDRESS_BYTES + IPV6_HEADER_BYTES + ICMP_HEADER_BYTES
MAX_BODY: Final = MIN_BODY + MAX_QUOTED_BYTES

_ICMP_START: Final = ADDRESS_BYTES + IPV6_HEADER_BYTES
_IPV6_LENGTH_AND_NEXT_HEADER: Final = struct.Struct("!4xHB")
"""Payload length and next header, from the beginning of an IPv6 header."""


class ReportError(WireError):
    """A report that the local host can't be told about; it is dropped and counted."""


def build_report(
    kind: IcmpError, own_subnet_address: bytes, offending: memoryview, cipher: Cipher, nonce: bytes
) -> bytes:
    """The whole data packet, hop limit 64, that reports `kind` to the source of the data packet `offending`.

    `own_subnet_address` is the reporter's /64 with a zero host part, `cipher` the one shared with the source, `nonce`
    12 random bytes. The routing routine counts the hop limit down before the first link (wire spec 3.3).
    """
    header = read_data_header(offending)
    raw_end = DATA_HEADER + header.raw_length
    quoted = offending[DATA_HEADER:raw_end] if header.raw_length <= MAX_QUOTED_BYTES else b""
    body = header.destination + error_packet(kind, own_subnet_address, header.source, quoted)
    plain_length = INNER_HEADER + len(body)
    packet = bytearray(DATA_HEADER + plain_length + TAG + NONCE)
    write_inner(packet, DATA_HEADER, INNER_ICMP)
    packet[DATA_HEADER + INNER_HEADER : DATA_HEADER + plain_length] = body
    raw_length = seal_into(cipher, nonce, memoryview(packet), DATA_HEADER, plain_length)
    write_data_header(packet, 0, raw_length, DEFAULT_HOP_LIMIT, own_subnet_address, header.source)
    return bytes(packet)


def open_report(
    body: memoryview,
    outer_source: bytes,
    outer_destination: bytes,
    hop_limit: int,
    cipher_of: Callable[[bytes], Cipher | None],
) -> bytes:
    """The ICMPv6 packet for the local host that follows from a report's `body` (what lies behind its inner header).

    `outer_source` and `outer_destination` are the addresses of the data packet that brought it, `hop_limit` its hop
    limit after our own decrement. `cipher_of` gives the cipher shared with a 16-byte address, `None` where its key is
    unknown. Raises `ReportError` on anything but an error about a layer-3 packet from here to the destination that it
    names.
    """
    if not MIN_BODY <= len(body) <= MAX_BODY:
        raise ReportError("7.14", f"report of {len(body)} bytes, must be {MIN_BODY} to {MAX_BODY}")
    icmp_type, code, _, parameter = ICMP_HEADER.unpack_from(body, _ICMP_START)
    if icmp_type >= FIRST_INFORMATIONAL_TYPE:
        raise ReportError("7.14", f"report of ICMPv6 type {icmp_type}, which is no error")
    original_destination = bytes(body[:ADDRESS_BYTES])
    cipher = cipher_of(original_destination)
    if cipher is None:
        raise ReportError("7.14", f"report about {address_text(original_destination)}, whose key is unknown")
    packet = _open_quoted(_quoted(body), cipher)
    if packet[8:24] != outer_destination or packet[24:40] != original_destination:
        raise ReportError("7.14", f"report quotes a packet that isn't ours to {address_text(original_destination)}")
    return icmp_packet(icmp_type, code, outer_source, outer_destination, packet, hop_limit, parameter)


def _quoted(body: memoryview) -> memoryview:
    """The part of a report's `body` that its own IPv6 header counts as quoted."""
    ipv6 = body[ADDRESS_BYTES:]
    payload_length, next_header = _IPV6_LENGTH_AND_NEXT_HEADER.unpack_from(ipv6)
    if ipv6[0] >> 4 != IPV6_VERSION or next_header != NEXT_HEADER_ICMPV6:
        raise ReportError("7.14", f"report without IPv6 and ICMPv6 header (next header {next_header})")
    end = IPV6_HEADER_BYTES + payload_length
    if not IPV6_HEADER_BYTES + ICMP_HEADER_BYTES <= end <= len(ipv6):
        raise ReportError("7.14", f"report with IPv6 payload length {payload_length} in {len(ipv6)} bytes")
    return ipv6[IPV6_HEADER_BYTES + ICMP_HEADER_BYTES : end]


def _open_quoted(quoted: memoryview, cipher: Cipher) -> memoryview:
    """The IPv6 packet inside `quoted` raw data, without whatever lies behind its end."""
    plain = memoryview(bytearray(max(0, len(quoted) - OVERHEAD) + INNER_HEADER))
    try:
        open_into(cipher, quoted, plain)
        inner = parse_inner(plain)
    except SealError as error:
        raise ReportError("7.14", f"the quote in a report does not open: {error.reason}") from error
    packet = plain[INNER_HEADER:]
    if inner.kind != INNER_L3 or len(packet) < IPV6_HEADER_BYTES:
        raise ReportError("7.14", f"report about inner type {inner.kind}, {len(packet)} bytes, is not for the host")
    payload_length, _ = _IPV6_LENGTH_AND_NEXT_HEADER.unpack_from(packet)
    return packet[: IPV6_HEADER_BYTES + payload_length]
