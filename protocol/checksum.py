"""The Internet checksum and the pseudo-header that IPv6 adds to it (RFC 1071, RFC 8200 section 8.1)."""

from __future__ import annotations

from typing import Final

from protocol.buffers import Buffer

_ONES: Final = 0xFFFF


def internet_checksum(data: Buffer, initial: int = 0) -> int:
    """The 16-bit value for the checksum field: the complement of the one's complement sum of `data` and `initial`.

    `initial` is a sum of 16-bit words that isn't folded yet, as `pseudo_header_sum` returns it; data of odd length
    counts as if a zero byte followed. Data that includes its own right checksum gives 0. UDP must send 0xFFFF where
    this is 0 (RFC 8200 section 8.1).
    """
    # A number is congruent to the sum of its digits in base 65536 modulo 65535, so one division sums all words at once.
    total = int.from_bytes(data, "big")
    if len(data) & 1:
        total <<= 8
    total += initial
    folded = total % _ONES
    if folded == 0 and total:
        folded = _ONES
    return _ONES ^ folded


def pseudo_header_sum(source: Buffer, destination: Buffer, length: int, next_header: int) -> int:
    """The unfolded sum over the IPv6 pseudo-header: two 16-byte addresses, `length` bytes of upper-layer packet."""
    addresses = int.from_bytes(source, "big") + int.from_bytes(destination, "big")
    return addresses % _ONES + length + next_header
