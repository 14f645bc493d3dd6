"""Equal segments sealed in a row, against packets opened one by one."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from protocol.mycelium.rows import BEFORE, BEHIND, seal_rows

KEY = bytes(range(32))
CIPHER = AESGCM(KEY)


@given(st.integers(1, 60), st.integers(1, 1400), st.binary(min_size=BEFORE, max_size=BEFORE))
def test_every_row_opens_to_its_own_body(count: int, length: int, header: bytes) -> None:
    stride = BEFORE + length + BEHIND
    memory = bytearray(b"\xee" * (count * stride + 10))
    bodies = [bytes((index + at) & 0xFF for at in range(length)) for index in range(count)]
    for index, body in enumerate(bodies):
        start = index * stride + BEFORE
        memory[start : start + length] = body
    nonces = b"".join(index.to_bytes(12, "big") for index in range(count))
    ends = seal_rows(CIPHER, nonces, memoryview(memory), header, length)
    assert ends == [stride * (index + 1) for index in range(count)]
    for index, body in enumerate(bodies):
        packet = bytes(memory[index * stride : ends[index]])
        assert packet[:40] == header[:40]
        assert packet[-12:] == nonces[12 * index : 12 * index + 12]
        assert AESGCM(KEY).decrypt(packet[-12:], packet[40:-12], None) == header[40:] + body
    assert memory[count * stride :] == b"\xee" * 10


def test_memory_too_small_for_the_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="buffer"):
        seal_rows(CIPHER, bytes(24), memoryview(bytearray(2 * (BEFORE + 100 + BEHIND) - 1)), bytes(BEFORE), 100)
