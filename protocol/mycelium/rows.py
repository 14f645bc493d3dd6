"""Packets of equal length, one behind the other, sealed and opened together: what is alike in all is handled at once.

Headers and nonces of 46 segments go by two operations on a table with a row for each; what is left for every packet by
itself is the cipher: half the time of one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from cryptography.exceptions import InvalidTag

from protocol.mycelium.framing import DATA_HEADER
from protocol.mycelium.sealing import INNER_HEADER, NONCE, TAG, Cipher

BEFORE: Final = DATA_HEADER + INNER_HEADER
"""Bytes of header in front of each body."""
BEHIND: Final = TAG + NONCE


def seal_rows(cipher: Cipher, nonces: bytes, memory: memoryview, header: bytes | bytearray, length: int) -> list[int]:
    """Seals bodies of `length` bytes each, of which there are as many as `nonces` has 12 bytes; where each packet ends.

    They lie in `memory` one behind the other, each with `BEFORE` bytes of room in front and `BEHIND` behind. `header`,
    data header and inner header, is the same for all. No nonce may ever have been used with this key: random ones.
    Raises `ValueError` where the sizes don't match.
    """
    stride, count = BEFORE + length + BEHIND, len(nonces) // NONCE
    table = np.frombuffer(memory, np.uint8, count * stride).reshape(count, stride)
    table[:, :BEFORE] = np.frombuffer(header, np.uint8, BEFORE)
    table[:, -NONCE:] = np.frombuffer(nonces, np.uint8).reshape(count, NONCE)
    encrypt, at = cipher.encrypt_into, 0
    plain, sealed = INNER_HEADER + length, INNER_HEADER + length + TAG
    for start in range(DATA_HEADER, count * stride, stride):
        encrypt(nonces[at : at + NONCE], memory[start : start + plain], None, memory[start : start + sealed])
        at += NONCE
    return list(range(stride, count * stride + 1, stride))


def stretches(ends: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(start, size, count) of packets of one size that follow each other, for packets that end at `ends`."""
    begin = before = size = count = 0
    for end in ends:
        if end - before == size:
            count += 1
        else:
            if count:
                yield begin, size, count
            begin, size, count = before, end - before, 1
        before = end
    if count:
        yield begin, size, count


def open_rows(cipher: Cipher, packets: memoryview, size: int, out: memoryview) -> bool:
    """Opens packets of `size` bytes each into `out`, where plaintexts (inner header and body) lie without gaps.

    False where one of them is not sealed with this key: what `out` holds then must not be looked at. Raises
    `ValueError` where `out` is too small.
    """
    decrypt, length, at = cipher.decrypt_into, size - DATA_HEADER - BEHIND, 0
    try:
        for start in range(DATA_HEADER, len(packets), size):
            nonce = start + length + TAG
            decrypt(packets[nonce : nonce + NONCE], packets[start:nonce], None, out[at : at + length])
            at += length
    except InvalidTag:
        return False
    return True
