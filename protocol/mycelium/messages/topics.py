"""Who may send messages on which topic, and where they are forwarded to (messages spec 8)."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from typing import Final

from protocol.mycelium.messages.core import MessageBoxError

MAX_TOPICS: Final = 4096
MAX_SOURCES: Final = 4096
"""Per topic."""
_DEFAULTS: Final = {"Accept": True, "Reject": False}
_DEFAULT_KEY: Final = "default"


class TopicError(MessageBoxError):
    """A topic rule that isn't one, or one too many."""


class UnknownTopic(TopicError):
    """The topic has no rules."""


@dataclass(frozen=True, slots=True)
class Source:
    """A subnet that may send, IPv4 or IPv6. Equal are those of the same network and length: host bits don't count."""

    text: str = field(compare=False)
    """As it is listed: host bits kept, a single address with its length."""
    version: int
    network: int
    host_bits: int

    @classmethod
    def parse(cls, text: str) -> Source:
        """`5a5:ddb0:8295:ef60::/64`, or an address alone. Raises `TopicError`."""
        _, slash, length = text.partition("/")
        if "%" in text or (slash and not (length.isascii() and length.isdecimal())):
            raise TopicError(f"{text!r} is not a subnet; write ADDRESS/LENGTH, without zone or netmask")
        try:
            interface: IPv4Interface | IPv6Interface = ip_interface(text)
        except ValueError as error:
            raise TopicError(
                f"{text!r} is not a subnet ({error}); write ADDRESS/LENGTH, for example 5a5:ddb0:8295:ef60::/64"
            ) from None
        host_bits = interface.max_prefixlen - interface.network.prefixlen
        return cls(str(interface), interface.version, int(interface.ip) >> host_bits, host_bits)

    def contains(self, address: bytes) -> bool:
        """Whether the 16-byte IPv6 `address` lies in it; nothing of the overlay lies in an IPv4 subnet."""
        return self.version == 6 and int.from_bytes(address, "big") >> self.host_bits == self.network


@dataclass(slots=True)
class _Topic:
    sources: list[Source] = field(default_factory=list)
    forward: str | None = None


class TopicRules:
    """The rules for incoming messages. A change counts from the next INIT on, and nothing writes it to a file.

    Topics are any bytes here, the empty one included; in an INIT they have at most 255.
    """

    def __init__(self, accept: bool = True) -> None:
        """`accept`: what happens to topics without rules."""
        self.accept = accept
        self._topics: dict[bytes, _Topic] = {}

    @classmethod
    def from_toml(cls, text: str) -> TopicRules:
        """The rules in a topic configuration file (messages spec 8.3).

        Raises `TopicError` on whatever is wrong with it: a file that is meant to restrict must not fail open (Q6).
        """
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise TopicError(f"the topic configuration is not TOML: {error}") from None
        default = table.pop(_DEFAULT_KEY, "Accept")
        if not isinstance(default, str) or default not in _DEFAULTS:
            raise TopicError(f'topic configuration: default is {default!r}; write "Accept" or "Reject"')
        rules = cls(_DEFAULTS[default])
        for name, value in table.items():
            rules._configure(name, value)
        return rules

    def __iter__(self) -> Iterator[bytes]:
        """The topics that have rules."""
        return iter(tuple(self._topics))

    def __contains__(self, topic: bytes) -> bool:
        return topic in self._topics

    def accepts(self, topic: bytes, source: bytes) -> bool:
        """Whether an INIT with this topic from the 16-byte address `source` is answered (messages spec 8.1)."""
        rules = self._topics.get(topic)
        if rules is None:
            return self.accept
        return any(subnet.contains(source) for subnet in rules.sources)

    def forward_path(self, topic: bytes) -> str | None:
        """The forward socket of the topic; None also for an unknown one."""
        rules = self._topics.get(topic)
        return None if rules is None else rules.forward

    def sources(self, topic: bytes) -> tuple[str, ...]:
        """The subnets that may send on the topic, as entered, duplicates included. Raises `UnknownTopic`."""
        rules = self._topics.get(topic)
        if rules is None:
            raise UnknownTopic(f"topic {topic!r} has no rules; add it first")
        return tuple(source.text for source in rules.sources)

    def add(self, topic: bytes) -> None:
        """Adds a topic that nobody may send on yet; one that is there stays as it is. Raises `TopicError` when full."""
        self._demand(topic)

    def remove(self, topic: bytes) -> None:
        """Removes a topic with all its rules, if it is there."""
        self._topics.pop(topic, None)

    def add_source(self, topic: bytes, source: Source) -> None:
        """Lets a subnet send on the topic, which is added where it is not there. Raises `TopicError` when full."""
        sources = self._demand(topic).sources
        if len(sources) >= MAX_SOURCES:
            raise TopicError(f"topic {topic!r} has {MAX_SOURCES} sources; remove one first")
        sources.append(source)

    def remove_source(self, topic: bytes, source: Source) -> None:
        """Removes all entries of this subnet, if there are any; the topic stays."""
        rules = self._topics.get(topic)
        if rules is not None:
            rules.sources = [other for other in rules.sources if other != source]

    def set_forward(self, topic: bytes, path: str | None) -> None:
        """Sets or clears the forward socket, of a topic that is there; else nothing happens, as in the reference."""
        rules = self._topics.get(topic)
        if rules is not None:
            rules.forward = path

    def _demand(self, topic: bytes) -> _Topic:
        rules = self._topics.get(topic)
        if rules is None:
            if len(self._topics) >= MAX_TOPICS:
                raise TopicError(f"{MAX_TOPICS} topics have rules; remove one first")
            rules = self._topics[topic] = _Topic()
        return rules

    def _configure(self, name: str, value: object) -> None:
        # A list alone is the older form; a reference node stops when it meets one (Q7).
        table: Mapping[str, object] = {"subnets": value} if isinstance(value, list) else _table(name, value)
        topic = name.encode()
        self.add(topic)
        subnets = table.get("subnets", [])
        if not isinstance(subnets, list):
            raise TopicError(f"topic configuration: subnets of {name!r} is no list of strings")
        for subnet in subnets:
            if not isinstance(subnet, str):
                raise TopicError(f"topic configuration: {subnet!r} among the subnets of {name!r} is no string")
            try:
                self.add_source(topic, Source.parse(subnet))
            except TopicError as error:
                raise TopicError(f"topic configuration of {name!r}: {error}") from None
        path = table.get("forward_socket")
        if path is not None and not isinstance(path, str):
            raise TopicError(f"topic configuration: forward_socket of {name!r} is no string")
        self.set_forward(topic, path)


def _table(name: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise TopicError(f"topic configuration: {name!r} is {value!r}; write a table with subnets, forward_socket")
    return value
