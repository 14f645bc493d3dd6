"""The Internet checksum of many bytes at once.

Source: RFC 1071. One's complement sums are taken modulo 65 535 at the very end, where the RFC folds carries: the same
number, but for the two zeros. Words are summed little-endian, as the machine reads them; swapping a sum's two bytes is
a multiplication by 256 modulo 65 535.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

MODULUS: Final = 0xFFFF
_FEW_BYTES: Final = 512
"""Up to here plain integers are faster."""

Octets = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.uint64]


def word_sums(rows: Octets) -> Sums:
    """Per row, the sum of its little-endian 16-bit words, an odd last byte padded with zero; not folded.

    `rows` has two dimensions, the second at most 65 535 long and without gaps.
    """
    even = rows.shape[1] & ~1
    # 32 bits hold 32 767 words and are summed twice as fast as 64.
    sums: Sums = rows[:, :even].view("<u2").sum(axis=1, dtype=np.uint32).astype(np.uint64)
    if even < rows.shape[1]:
        sums += rows[:, even]
    return sums


def network_sum(data: bytes | bytearray | memoryview) -> int:
    """The sum of the big-endian 16-bit words of `data`, modulo 65 535; an odd last byte is padded with zero."""
    size = len(data)
    if size <= _FEW_BYTES:
        # 65 536 is 1 modulo 65 535, so the number itself has the sum of its words as remainder: 0.5 µs for an ACK,
        # where numpy takes 4.
        return (int.from_bytes(data, "big") << (size & 1) * 8) % MODULUS
    # Of words of 32 bits there are half as many, and modulo 65 535 each is the sum of its halves.
    whole = size & ~3
    total = int(np.frombuffer(data, "<u4", whole // 4).sum(dtype=np.uint64))
    total += int.from_bytes(data[whole:], "little")
    return total * 256 % MODULUS
