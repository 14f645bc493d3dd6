"""How much a message box may hold, and the counters that say what was refused."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a message box. Raises `ValueError` on a bound below 1."""

    message_bytes: int = 128 << 20
    """Of one incoming message. A larger INIT is not answered (messages spec 11)."""
    pending_messages: int = 16_384
    """Incoming messages that are not complete. When full, one that nobody has sent anything for makes room."""
    pending_bytes: int = 512 << 20
    """Of these, the lengths that their INITs announced; likewise."""
    remote_messages: int = 2048
    """Of these, how many from one /64. When full, an INIT from there is not answered: its sender repeats it."""
    remote_bytes: int = 256 << 20
    """Likewise in announced bytes; at least `message_bytes`, or the largest message could never come."""
    inbox_messages: int = 400_000
    """Complete messages that nobody has taken. When full, a DONE is not answered: its sender repeats it."""
    inbox_bytes: int = 4 << 30
    """Likewise; they lie in the store, not in memory."""
    inbox_remote_messages: int = 200_000
    """Likewise, from one /64."""
    outbox_messages: int = 16_384
    """Own messages of the last 600 s. When full, the oldest finished one is forgotten, or else pushing is an error."""
    outbox_bytes: int = 384 << 20
    """Data of own messages under way. When full, pushing is an error."""
    completions: int = 16_384
    """Messages remembered so that none is delivered twice. When full, the oldest goes: the caller is asked then."""
    readers: int = 2048
    """Who waits for a message of the inbox. When full, one more gets nothing at once."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(f"limit {field.name} is {getattr(self, field.name)}, it must be at least 1")
        if self.remote_bytes < self.message_bytes:
            raise ValueError(
                f"limit remote_bytes is {self.remote_bytes}, it must be at least message_bytes, {self.message_bytes}"
            )


COUNTERS: Final = (
    "packets_malformed",
    "packets_of_no_message",
    "packets_in_wrong_state",
    "inits_refused_by_topic",
    "inits_too_long",
    "inits_of_known_message",
    "inits_over_remote_limit",
    "inits_over_limit",
    "chunks_refused",
    "dones_incomplete",
    "dones_mismatched",
    "dones_repeated",
    "dones_without_room",
    "pending_replaced",
    "pending_aborted",
    "pending_expired",
    "pending_evicted",
    "pending_given_up",
    "messages_received",
    "messages_pushed",
    "messages_accepted",
    "messages_read",
    "messages_aborted",
    "messages_cancelled",
    "messages_expired",
    "outgoing_forgotten_early",
    "packets_repeated",
    "messages_started_over",
    "readers_refused",
)


def new_counters() -> dict[str, int]:
    """All counters at zero; counting under another name is a `KeyError`."""
    return dict.fromkeys(COUNTERS, 0)
