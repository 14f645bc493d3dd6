"""Frames about who may come in: the inbound allow-list of the TUN device."""

from __future__ import annotations

from protocol.codec import frame, record


@frame(0x3C)
class AskAllowed:
    """→ tun: who may come in?"""

    token: int


@record
class AllowedRow:
    """One rule as people write it, and what it let in. `idle` is seconds since the last packet, None for never."""

    rule: str
    configured: bool
    """Whether it was there when the node started."""
    packets: int
    octets: int
    idle: float | None


@frame(0x3D)
class AllowedList:
    """Tun → asker. Without a rule everybody may come in. `refused` counts packets since tun started."""

    token: int
    rules: tuple[AllowedRow, ...]
    own_flows: int
    refused: int


@frame(0x3E)
class ChangeAllowed:
    """→ tun: let in what this rule says, or no longer; answered by an `Answer`."""

    token: int
    add: bool
    rule: str
