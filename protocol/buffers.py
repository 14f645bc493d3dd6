"""The type of a piece of memory that holds bytes of a packet."""

from __future__ import annotations

from typing import TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview
