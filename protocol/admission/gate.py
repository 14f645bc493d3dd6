"""The gate between overlay and host: rules, the host's own flows, and what was decided lately.

Without a rule everything may come in, and nobody asks the gate. With one, a packet comes in if a rule lets it in, if it
answers a packet that the host sent, or if it is an ICMPv6 error about such a packet. All else is dropped in silence: an
answer would tell a stranger that somebody lives here.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from protocol.admission.flows import Flow, FlowTable, flow_key
from protocol.admission.headers import (
    ICMPV6,
    ICMPV6_HEADER,
    IPV6_HEADER,
    PORTS,
    TCP,
    TRANSPORTS_WITH_PORTS,
    HeaderError,
    Upper,
    find_upper,
)
from protocol.admission.rules import MAX_RULES, Rule

MAX_DECIDED: Final = 8192
MAX_FRAGMENTED: Final = 1024
FRAGMENT_SECONDS: Final = 60.0
"""For how long the rest of a packet may follow its first fragment (RFC 8200 section 4.5)."""
SETTLE_SECONDS: Final = 10.0
"""When the first rule comes while the node runs, connections stand that nobody has counted. So long, what opens no TCP
connection goes on coming in; by then the host has sent something on those that move."""

_HEAD: Final = slice(6, IPV6_HEADER + PORTS)
"""Next header, hop limit, addresses and, where the transport header follows at once, ports: one slice names a flow."""
_SOURCE: Final = slice(8, 24)
_DESTINATION: Final = slice(24, 40)
_NO_PORTS: Final = bytes(PORTS)
_TCP_FLAGS: Final = 13
_FIN_RST: Final = 0x05
_SYN: Final = 0x02
_ACK: Final = 0x10
_ECHO_REQUEST: Final = 128
_ECHO_REPLY: Final = 129
_FIRST_ERROR: Final = 1
_LAST_ERROR: Final = 4
_ECHO_ID: Final = slice(4, 6)


class RuleExists(ValueError):
    """The rule is there already."""


class TooManyRules(ValueError):
    """No room for another rule."""


class Passage:
    """A rule, or whatever else lets packets in, and how many it let in. `last` is monotonic seconds, 0 for never."""

    __slots__ = ("configured", "last", "octets", "packets", "rule")

    def __init__(self, rule: Rule | None, *, configured: bool) -> None:
        self.rule = rule
        self.configured = configured
        self.packets = 0
        self.octets = 0
        self.last = 0.0


class Gate:
    """Decides on packets of the overlay for the host. `now` is monotonic seconds throughout.

    `counters` gets `dropped.not_allowed`, `dropped.bad_headers` and `flows.evicted`.
    """

    def __init__(self, flows: FlowTable, counters: Counter[str]) -> None:
        self._flows = flows
        self._counters = counters
        self._passages: dict[Rule, Passage] = {}
        self._decided: dict[bytes, Passage | Flow] = {}
        """What came in lately, by the head of its packets."""
        self._sent: dict[bytes, Flow | None] = {}
        """What the host sent lately, likewise; None where a rule lets the replies in."""
        self._fragmented: dict[bytes, tuple[float, Passage | Flow]] = {}
        self._related = Passage(None, configured=False)
        self._settled = 0.0

    @property
    def active(self) -> bool:
        """Whether anybody is kept out."""
        return bool(self._passages)

    @property
    def passages(self) -> tuple[Passage, ...]:
        """The rules in the order in which they came."""
        return tuple(self._passages.values())

    @property
    def own_flows(self) -> int:
        """How many flows of the host are known."""
        return len(self._flows)

    # --- rules ------------------------------------------------------------------------------------------------------

    def add(self, rule: Rule, now: float, *, configured: bool, running: bool = True) -> None:
        """Lets in what `rule` says. `running`: whether packets were let in before without being counted.

        Raises `RuleExists`, `TooManyRules`.
        """
        if rule in self._passages:
            raise RuleExists(f"the rule {str(rule)!r} is there already")
        if len(self._passages) >= MAX_RULES:
            raise TooManyRules(f"{MAX_RULES} rules are kept; remove one first, or write prefixes instead of addresses")
        if not self._passages and running:
            self._settled = now + SETTLE_SECONDS
        self._passages[rule] = Passage(rule, configured=configured)
        self.forget_decisions()

    def remove(self, rule: Rule) -> None:
        """Takes a rule back. Connections that stand, and on which the host speaks, go on. Raises `KeyError`."""
        del self._passages[rule]
        self.forget_decisions()
        if not self._passages:
            self._flows.clear()

    def forget_decisions(self) -> None:
        """Looks at each flow again: rules have changed, or whose key an address has."""
        self._decided.clear()
        self._sent.clear()
        self._fragmented.clear()

    def expire(self, now: float) -> None:
        """Forgets flows and fragments that were silent for too long; to be called every few seconds."""
        if self._flows.expire(now):
            self._decided.clear()
            self._sent.clear()
        for name in [name for name, (until, _) in self._fragmented.items() if until < now]:
            del self._fragmented[name]

    # --- packets ----------------------------------------------------------------------------------------------------

    def admits(self, packet: memoryview, key: bytes, now: float) -> bool:
        """Whether an IPv6 packet of at least 40 bytes, sealed by the owner of `key`, may go to the host."""
        passage = self._decided.get(bytes(packet[_HEAD]))
        if passage is None:
            passage = self._decide(packet, key, now)
            if passage is None:
                return False
        passage.packets += 1
        passage.octets += len(packet)
        passage.last = now
        return True

    def sent(self, packet: memoryview, now: float) -> None:
        """The host sends this IPv6 packet of at least 40 bytes: its replies may come in."""
        head = bytes(packet[_HEAD])
        try:
            flow = self._sent[head]
        except KeyError:
            flow = self._learn(packet, head, now)
        if flow is not None:
            flow.last = now
            if head[0] == TCP and len(packet) > IPV6_HEADER + _TCP_FLAGS:
                flags = packet[IPV6_HEADER + _TCP_FLAGS]
                if flags & (_FIN_RST | _SYN):
                    flow.closing = bool(flags & _FIN_RST)

    def _decide(self, packet: memoryview, key: bytes, now: float) -> Passage | Flow | None:
        try:
            upper = find_upper(packet)
        except HeaderError:
            self._counters["dropped.bad_headers"] += 1
            return None
        if upper.later:
            return self._rest_of(packet, upper)
        found = self._way_in(packet, upper, key) or self._standing(packet, upper, now)
        if found is None:
            self._counters["dropped.not_allowed"] += 1
        elif upper.identification:
            self._expect_rest(packet, upper, found, now)
        elif upper.offset == IPV6_HEADER and upper.protocol in TRANSPORTS_WITH_PORTS and found is not self._related:
            if len(self._decided) >= MAX_DECIDED:
                self._decided.clear()
            self._decided[bytes(packet[_HEAD])] = found
        return found

    def _way_in(self, packet: memoryview, upper: Upper, key: bytes) -> Passage | Flow | None:
        source, destination = bytes(packet[_SOURCE]), bytes(packet[_DESTINATION])
        protocol, ports = upper.protocol, _NO_PORTS
        if protocol in TRANSPORTS_WITH_PORTS:
            ports = bytes(packet[upper.offset : upper.offset + PORTS])
        passage = self._let_in_by(source, key, protocol, ports)
        if passage is not None:
            return passage
        if protocol == ICMPV6:
            return self._answer(packet, upper, source, destination)
        return self._flows.get(flow_key(protocol, source, destination, ports))

    def _let_in_by(self, source: bytes, key: bytes, protocol: int, ports: bytes) -> Passage | None:
        port = int.from_bytes(ports[2:], "big") if protocol in TRANSPORTS_WITH_PORTS else None
        for rule, passage in self._passages.items():
            if rule.matches(source, key, protocol, port):
                return passage
        return None

    def _answer(self, packet: memoryview, upper: Upper, source: bytes, destination: bytes) -> Passage | Flow | None:
        """An echo reply that the host asked for, or an error about something that it sent."""
        message = packet[upper.offset :]
        if message[0] == _ECHO_REPLY:
            identifier = bytes(message[_ECHO_ID])
            return self._flows.get(flow_key(ICMPV6, source, destination, identifier + bytes(2)))
        if _FIRST_ERROR <= message[0] <= _LAST_ERROR:
            about = message[ICMPV6_HEADER:]
            if len(about) >= IPV6_HEADER and about[_SOURCE] == destination and self._was_sent(about):
                return self._related
        return None

    def _was_sent(self, packet: memoryview) -> bool:
        try:
            upper = find_upper(packet)
        except HeaderError:
            return False
        if upper.later:
            # Its ports are not in there; the kernel knows what it sent.
            return True
        key = _key_of_replies(packet, upper)
        if key is None:
            return False
        if self._flows.get(key) is not None:
            return True
        # The host's answers to those that a rule lets in are no flows of its own. Their keys can't be told here.
        port = int.from_bytes(key[-2:], "big") if upper.protocol in TRANSPORTS_WITH_PORTS else None
        return any(rule.matches(key[1:17], rule.key, upper.protocol, port) for rule in self._passages)

    def _standing(self, packet: memoryview, upper: Upper, now: float) -> Passage | None:
        """TCP connections that stood before the first rule came."""
        if now >= self._settled or upper.protocol != TCP or len(packet) <= upper.offset + _TCP_FLAGS:
            return None
        flags = packet[upper.offset + _TCP_FLAGS]
        return self._related if flags & _ACK and not flags & _SYN else None

    def _learn(self, packet: memoryview, head: bytes, now: float) -> Flow | None:
        try:
            upper = find_upper(packet)
        except HeaderError:
            return None
        key = None if upper.later else _key_of_replies(packet, upper)
        if key is None:
            return None
        # A rule for a public key is not looked at: whose key an address has, the next packet from there says.
        replies = self._let_in_by(key[1:17], b"", upper.protocol, key[33:])
        flow = None if replies is not None else self._flows.open(key, now)
        if self._flows.evicted:
            self._counters["flows.evicted"] += self._flows.evicted
            self._flows.evicted = 0
            self._decided.clear()
            self._sent.clear()
        if upper.offset == IPV6_HEADER and upper.protocol in TRANSPORTS_WITH_PORTS:
            if len(self._sent) >= MAX_DECIDED:
                self._sent.clear()
            self._sent[head] = flow
        return flow

    # --- fragments --------------------------------------------------------------------------------------------------

    def _expect_rest(self, packet: memoryview, upper: Upper, passage: Passage | Flow, now: float) -> None:
        if len(self._fragmented) >= MAX_FRAGMENTED:
            self._fragmented.pop(next(iter(self._fragmented)))
        self._fragmented[bytes(packet[8:40]) + upper.identification] = (now + FRAGMENT_SECONDS, passage)

    def _rest_of(self, packet: memoryview, upper: Upper) -> Passage | Flow | None:
        found = self._fragmented.get(bytes(packet[8:40]) + upper.identification)
        if found is None:
            self._counters["dropped.not_allowed"] += 1
            return None
        return found[1]


def _key_of_replies(packet: memoryview, upper: Upper) -> bytes | None:
    """The key of the flow that this packet of the host belongs to; None where it asks for no reply."""
    local, remote = bytes(packet[_SOURCE]), bytes(packet[_DESTINATION])
    if upper.protocol == ICMPV6:
        message = packet[upper.offset :]
        if message[0] != _ECHO_REQUEST:
            return None
        return flow_key(ICMPV6, remote, local, bytes(message[_ECHO_ID]).ljust(PORTS, b"\0"))
    ports = _NO_PORTS
    if upper.protocol in TRANSPORTS_WITH_PORTS:
        ports = bytes(packet[upper.offset + 2 : upper.offset + 4]) + bytes(packet[upper.offset : upper.offset + 2])
    return flow_key(upper.protocol, remote, local, ports)
