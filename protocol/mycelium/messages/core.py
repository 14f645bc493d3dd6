"""What all parts of a message box share: whose it is, its limits and counters, and what it has not handed out yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from protocol.mycelium.identity import OVERLAY_FIRST_BYTES
from protocol.mycelium.messages.events import Event, Send
from protocol.mycelium.messages.limits import Limits, new_counters
from protocol.mycelium.messages.packets import ID_BYTES, MAX_TOPIC, Packet
from protocol.prefix import ADDRESS_BYTES

SUBNET_BYTES: Final = 8
REMEMBER_SECONDS: Final = 600.0
"""How long a message is remembered: an own one (messages spec 4), and a complete one of another node (5.7)."""


class MessageBoxError(Exception):
    """Something that a message box can't do; says what, why, and what to do."""


class MessageRefused(MessageBoxError):
    """A message that can't be one."""


def check_message(message_id: bytes, addresses: Iterable[bytes], topic: bytes) -> None:
    """Raises `MessageRefused` unless id, addresses and topic have the sizes that they must have."""
    if len(message_id) != ID_BYTES:
        raise MessageRefused(f"a message id has {ID_BYTES} bytes, not {len(message_id)}")
    for address in addresses:
        if len(address) != ADDRESS_BYTES:
            raise MessageRefused(f"an address has {ADDRESS_BYTES} bytes, not {len(address)}")
    if len(topic) > MAX_TOPIC:
        raise MessageRefused(f"topic of {len(topic)} bytes; shorten it to {MAX_TOPIC}")


class Key(NamedTuple):
    """What names a message: the /64 of the other end (8 bytes), and its id (8 bytes).

    The reference goes by the id alone, so a third node that guesses it can reset, complete or abort (Q4).
    """

    subnet: bytes
    id: bytes

    @classmethod
    def of(cls, address: bytes, message_id: bytes) -> Key:
        """The message `message_id` from or to the node of the 16-byte `address`."""
        return cls(address[:SUBNET_BYTES], message_id)


class Local(NamedTuple):
    """A packet from this node to itself."""

    source: bytes
    destination: bytes
    packet: Packet


@dataclass(slots=True)
class Core:
    """Shared by sender, receiver and box; all of them append to `events`."""

    address: bytes
    """The own 16-byte address, derived from the key."""
    public_key: bytes
    limits: Limits
    events: deque[Event] = field(default_factory=deque)
    counters: dict[str, int] = field(default_factory=new_counters)
    local: deque[Local] = field(default_factory=deque)
    """Packets to this node, which no route leads to (Q12). At most a window of chunks for each own message."""

    def is_own(self, address: bytes) -> bool:
        """Whether the 16-byte `address` lies in the own /64."""
        return address[:SUBNET_BYTES] == self.address[:SUBNET_BYTES]

    def send(self, source: bytes, destination: bytes, packet: Packet) -> None:
        """Sends `packet`: into the overlay, to this node itself, or, with a destination that is neither, nowhere.

        The API takes any destination, IPv4 (here: mapped into IPv6) included, and such a message simply never arrives.
        """
        if self.is_own(destination):
            self.local.append(Local(source, destination, packet))
        elif destination[0] in OVERLAY_FIRST_BYTES:
            self.events.append(Send(source, destination, packet))
