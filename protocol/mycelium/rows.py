"""Seals the equal segments of a super-packet where segmentation left them: what is the same in all is written at once.

Header and nonce of 46 segments go by two operations on a table with a row for each; what is left for every segment by
itself is the cipher: half the time of sealing one by one.
"""

from __future__ import annotations

from typing import Final

import numpy as np

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
