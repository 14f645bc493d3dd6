"""The transport parameters that this protocol needs, in the place of a library's own (RFC 9000 18, wire spec 5.3)."""

from __future__ import annotations

from typing import Final

LARGEST_PAYLOAD: Final = 1452
"""Of UDP, both ways: fits IPv6 over Ethernet. A reference node that is told more dies of it (wire spec 5.3)."""

_MAX_UDP_PAYLOAD_SIZE: Final = 0x03
_INITIAL_MAX_STREAMS_BIDI: Final = 0x08
_INITIAL_MAX_STREAMS_UNI: Final = 0x09
_OURS: Final = {_MAX_UDP_PAYLOAD_SIZE: LARGEST_PAYLOAD, _INITIAL_MAX_STREAMS_BIDI: 5, _INITIAL_MAX_STREAMS_UNI: 0}
_LEFT_OUT: Final = frozenset({0x3127, 0x3128})
"""What only one browser's servers know: an initial round-trip time, options of its maker."""


def replace_parameters(encoded: bytes) -> bytes:
    """Encoded parameters with `_OURS` in place of their own, and some left out."""
    kept, at = bytearray(), 0
    while at < len(encoded):
        start = at
        number, at = _variable(encoded, at)
        size, at = _variable(encoded, at)
        at += size
        if number not in _OURS and number not in _LEFT_OUT:
            kept += encoded[start:at]
    for number, value in _OURS.items():
        body = _encoded(value)
        kept += _encoded(number) + _encoded(len(body)) + body
    return bytes(kept)


def _variable(data: bytes, at: int) -> tuple[int, int]:
    size = 1 << (data[at] >> 6)
    return int.from_bytes(data[at : at + size], "big") & (1 << (8 * size - 2)) - 1, at + size


def _encoded(value: int) -> bytes:
    size, mark = (1, 0) if value < 1 << 6 else (2, 1) if value < 1 << 14 else (4, 2)
    return (value | mark << (8 * size - 2)).to_bytes(size, "big")
