"""Equal packets sealed and opened in a row, against packets opened and sealed one by one."""

from __future__ import annotations

import itertools

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from protocol.mycelium.rows import BEFORE, BEHIND, open_rows, seal_rows, stretches

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


def sealed(bodies: list[bytes], key: bytes = KEY) -> bytearray:
    """Packets around these bodies, with any header."""
    packets = bytearray()
    for index, body in enumerate(bodies):
        nonce = index.to_bytes(12, "big")
        packets += bytes(40) + AESGCM(key).encrypt(nonce, b"\1\0\0\0" + body, None) + nonce
    return packets


@given(st.integers(1, 40), st.integers(0, 1400))
def test_rows_open_to_their_plaintexts_without_gaps(count: int, length: int) -> None:
    bodies = [bytes((index + at) & 0xFF for at in range(length)) for index in range(count)]
    out = memoryview(bytearray(count * (4 + length)))
    assert open_rows(CIPHER, memoryview(sealed(bodies)).toreadonly(), 72 + length, out)
    assert out == b"".join(b"\1\0\0\0" + body for body in bodies)


@pytest.mark.parametrize("damaged", range(3))
def test_rows_with_one_that_does_not_open_are_refused(damaged: int) -> None:
    packets = sealed([b"a" * 100] * 3)
    packets[damaged * 172 + 60] ^= 1
    assert not open_rows(CIPHER, memoryview(packets), 172, memoryview(bytearray(3 * 104)))


def test_too_little_room_for_plaintexts_is_refused() -> None:
    with pytest.raises(ValueError, match="buffer"):
        open_rows(CIPHER, memoryview(sealed([b"a" * 100] * 2)), 172, memoryview(bytearray(2 * 104 - 1)))


@given(st.lists(st.integers(1, 4), max_size=30))
def test_stretches_are_the_packets_in_order(lengths: list[int]) -> None:
    ends = [sum(lengths[: index + 1]) for index in range(len(lengths))]
    found = list(stretches(ends))
    assert [size for _, size, count in found for _ in range(count)] == lengths
    assert all(first[1] != second[1] for first, second in itertools.pairwise(found))
    assert [start + size * count for start, size, count in found] == [start for start, _, _ in found[1:]] + ends[-1:]
