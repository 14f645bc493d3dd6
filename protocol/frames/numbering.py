"""How links are numbered, and which process each lives in."""

from __future__ import annotations

from typing import Final

TO_TUN: Final = 0
"""Where other packets have the number of a link: tun. Links start at 1."""
_PROCESS_BITS: Final = 32


def link_number(process: int, index: int) -> int:
    """The number of the link that is number `index` (0 is the first) in process `process` (1 is the first)."""
    return index << _PROCESS_BITS | process


def index_of(link: int) -> int:
    """Which of the links that its process has had this is."""
    return link >> _PROCESS_BITS


def process_of(link: int) -> int:
    """Which process a link lives in."""
    return link & (1 << _PROCESS_BITS) - 1


def link_text(link: int) -> str:
    """A link as logs name it: its process, and which one of several there it is."""
    index = index_of(link)
    return f"{process_of(link)}.{index}" if index else str(process_of(link))


def actor_of(link: int) -> str:
    """The name of the actor that a link lives in, or tun's."""
    return f"link-{process_of(link)}" if link else "tun"
