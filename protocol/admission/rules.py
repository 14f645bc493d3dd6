"""One rule of the inbound allow-list: who may come in, over which protocol, to which ports. As people write it.

    SOURCE [PROTOCOL[/PORT[-PORT][,…]]]

SOURCE is `any`, an overlay address or prefix, a node's public key (64 hexadecimal digits), or `none`, which matches
nobody and so stands for "replies only". PROTOCOL is `tcp`, `udp`, `icmp`, `any` or a number (RFC 8200 section 3); ports
are those of this host.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from protocol.admission.headers import ICMPV6, TCP, TRANSPORTS_WITH_PORTS, UDP
from protocol.mycelium.identity import KEY_BYTES, address_of
from protocol.prefix import ADDRESS_BITS, OVERLAY, Prefix, PrefixError, parse_address, subnet_of

MAX_RULES: Final = 256
MAX_RANGES: Final = 32
MAX_PORT: Final = 0xFFFF
MAX_PROTOCOL: Final = 0xFF

_KEY: Final = re.compile(r"[0-9A-Fa-f]{64}", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]{1,5}", re.ASCII)
_ANY: Final = "any"
_NOBODY: Final = "none"
_NAMES: Final = {"tcp": TCP, "udp": UDP, "icmp": ICMPV6}
_WORDS: Final = {number: name for name, number in _NAMES.items()}

PortRange = tuple[int, int]
"""First and last, both included."""


class RuleError(ValueError):
    """Text that is no rule; names the text, the fault and the form."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may come in. Two rules are the same if they are equal, however they were written."""

    source: Prefix | None
    """None matches nobody."""
    key: bytes = b""
    """The 32-byte public key that has to have sealed the packet; empty for any."""
    protocol: int | None = None
    """None for any."""
    ports: tuple[PortRange, ...] = ()
    """Of this host, ascending and apart; empty for all."""

    @classmethod
    def parse(cls, text: str) -> Rule:
        """The rule written as `text`. Raises `RuleError`."""
        words = text.split()
        if not 1 <= len(words) <= 2:
            raise RuleError(f"{text!r} is no rule: write SOURCE, or SOURCE PROTOCOL, or SOURCE PROTOCOL/PORTS")
        source, key = _source(words[0])
        protocol, ports = _transport(words[1]) if len(words) == 2 else (None, ())
        return cls(source, key, protocol, ports)

    def matches(self, source: bytes, key: bytes, protocol: int, port: int | None) -> bool:
        """Whether it lets in a packet from the 16-byte `source`, sealed by `key`, to `port` (None where none is)."""
        if self.source is None or not self.source.contains(source) or (self.key and self.key != key):
            return False
        if self.protocol is not None and self.protocol != protocol:
            return False
        return not self.ports or (port is not None and any(first <= port <= last for first, last in self.ports))

    def __str__(self) -> str:
        source = self.key.hex() if self.key else _source_text(self.source)
        if self.protocol is None:
            return source
        transport = _WORDS.get(self.protocol, str(self.protocol))
        ports = ",".join(str(first) if first == last else f"{first}-{last}" for first, last in self.ports)
        return f"{source} {transport}/{ports}" if ports else f"{source} {transport}"


def parse_rules(texts: Iterable[str]) -> tuple[Rule, ...]:
    """The rules written as `texts`, each once, in order. Raises `RuleError`, also for more than `MAX_RULES`."""
    rules = tuple(dict.fromkeys(Rule.parse(text) for text in texts))
    if len(rules) > MAX_RULES:
        raise RuleError(f"{len(rules)} rules, at most {MAX_RULES} can be kept; write prefixes instead of addresses")
    return rules


def _source(word: str) -> tuple[Prefix | None, bytes]:
    lower = word.lower()
    if lower == _NOBODY:
        return None, b""
    if lower == _ANY:
        return OVERLAY, b""
    if _KEY.fullmatch(word):
        key = bytes.fromhex(word)
        assert len(key) == KEY_BYTES
        return subnet_of(address_of(key)), key
    try:
        prefix = Prefix.parse(word) if "/" in word else Prefix(parse_address(word), ADDRESS_BITS)
    except PrefixError as error:
        raise RuleError(
            f"{word!r} is no source ({error}); write any, none, an overlay address or prefix, or a public key of 64 "
            "hexadecimal digits"
        ) from None
    if not OVERLAY.covers(prefix) and not prefix.covers(OVERLAY):
        raise RuleError(f"{prefix} is outside the overlay {OVERLAY}: no packet can come from there")
    return prefix, b""


def _source_text(source: Prefix | None) -> str:
    if source is None:
        return _NOBODY
    return _ANY if source == OVERLAY else str(source)


def _transport(word: str) -> tuple[int | None, tuple[PortRange, ...]]:
    name, slash, ports = word.lower().partition("/")
    protocol = _protocol(name)
    if not slash:
        return protocol, ()
    if protocol not in TRANSPORTS_WITH_PORTS:
        raise RuleError(f"{word!r}: {name} has no ports; leave {slash + ports!r} out, or write tcp or udp")
    return protocol, _ranges(word, ports)


def _protocol(name: str) -> int | None:
    if name == _ANY:
        return None
    if name in _NAMES:
        return _NAMES[name]
    if _NUMBER.fullmatch(name) and int(name) <= MAX_PROTOCOL:
        return int(name)
    raise RuleError(f"{name!r} is no protocol; write tcp, udp, icmp, any, or a number up to {MAX_PROTOCOL}")


def _ranges(word: str, text: str) -> tuple[PortRange, ...]:
    found: list[PortRange] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        numbers = [_port(word, first), _port(word, last if dash else first)]
        if numbers[0] > numbers[1]:
            raise RuleError(f"{word!r}: the range {part} runs backwards; write {last}-{first}")
        found.append((numbers[0], numbers[1]))
    if len(found) > MAX_RANGES:
        raise RuleError(f"{len(found)} port ranges in one rule, at most {MAX_RANGES}; make it two rules")
    return _merged(sorted(found))


def _port(word: str, text: str) -> int:
    if _NUMBER.fullmatch(text) is None or int(text) > MAX_PORT:
        raise RuleError(f"{word!r}: {text!r} is no port; write numbers from 0 to {MAX_PORT}, such as 22,80,8000-8100")
    return int(text)


def _merged(ranges: list[PortRange]) -> tuple[PortRange, ...]:
    merged = [ranges[0]]
    for first, last in ranges[1:]:
        if first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)
