"""The base of every error about bytes that a Mycelium peer or node sent."""

from __future__ import annotations


class WireError(Exception):
    """Bytes that break the wire protocol.

    `section` is the section of the wire specification that they break, `reason` says how, in words for a log.
    """

    def __init__(self, section: str, reason: str) -> None:
        super().__init__(section, reason)
        self.section = section
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.reason} (wire spec {self.section})"
