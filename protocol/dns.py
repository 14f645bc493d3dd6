"""Asking a name server for the addresses of a host (RFC 1035, RFC 3596), and the files that say whom to ask.

For where the system's resolver will not do: its questions can't be marked. Only what a dial needs is here: addresses,
over datagrams, from a server that follows aliases by itself.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

LARGEST_REPLY: Final = 1232
"""Bytes of a reply that no path has to fragment; told to the server (RFC 6891; the size of DNS flag day 2020)."""
MOST_SERVERS: Final = 3
"""Of `resolv.conf`, as in every C library (resolv.conf(5))."""
MOST_ALIASES: Final = 16
"""That a reply may lead through."""
PORT: Final = 53

_HEADER: Final = struct.Struct("!HHHHHH")
_QUESTION: Final = struct.Struct("!HH")
_RECORD: Final = struct.Struct("!HHIH")
_A: Final = 1
_CNAME: Final = 5
_AAAA: Final = 28
_IN: Final = 1
_RESPONSE: Final = 0x8000
_TRUNCATED: Final = 0x0200
_RECURSION_DESIRED: Final = 0x0100
_OPT: Final = b"\0" + struct.pack("!HHIH", 41, LARGEST_REPLY, 0, 0)
_POINTER: Final = 0xC0
_NO_SUCH_NAME: Final = 3
_CODES: Final = {1: "did not understand the question", 2: "failed", 4: "does not know such questions", 5: "refused"}
_LABEL_BYTES: Final = 63
_NAME_BYTES: Final = 255

Address = IPv4Address | IPv6Address


class DnsError(ValueError):
    """Bytes that are no reply; says what is wrong with them."""


@dataclass(frozen=True, slots=True)
class _Reply:
    """What a server said about one kind of address."""

    code: int
    truncated: bool
    addresses: tuple[Address, ...]


class Inquiry:
    """Both questions about a host, IPv6 and IPv4, to one server."""

    def __init__(self, host: str, numbers: tuple[int, int]) -> None:
        """`numbers`: random, 16 bits each; a reply without the right one is somebody else's."""
        self._host = host.lower()
        self._kinds = {numbers[0]: _AAAA, numbers[1] ^ (numbers[0] == numbers[1]): _A}
        self._replies: dict[int, _Reply] = {}

    @property
    def questions(self) -> list[bytes]:
        """Datagrams for the server."""
        name = _packed(self._host)
        return [
            _HEADER.pack(number, _RECURSION_DESIRED, 1, 0, 0, 1) + name + _QUESTION.pack(kind, _IN) + _OPT
            for number, kind in self._kinds.items()
        ]

    def receive(self, datagram: bytes) -> None:
        """Takes a reply. Raises `DnsError` for what is none to one of the questions: it counts for nothing."""
        number, reply = _read(datagram, self._host, self._kinds)
        self._replies[self._kinds[number]] = reply

    @property
    def is_done(self) -> bool:
        """Whether nothing more is to come."""
        return len(self._replies) == len(self._kinds) or self.no_such_name

    @property
    def no_such_name(self) -> bool:
        """Whether the server knows that there is none; another would say the same."""
        return any(reply.code == _NO_SUCH_NAME for reply in self._replies.values())

    @property
    def addresses(self) -> list[list[Address]]:
        """What was found up to now, by family, IPv6 first; no family without any."""
        found = [self._replies.get(kind) for kind in (_AAAA, _A)]
        return [list(reply.addresses) for reply in found if reply is not None and reply.addresses]

    @property
    def failure(self) -> str:
        """Why there is no address, as far as it is known: what the server did; empty where it only has none."""
        for reply in self._replies.values():
            if reply.code == _NO_SUCH_NAME:
                return "knows no such name"
            if reply.code:
                return _CODES.get(reply.code, f"answered with code {reply.code}")
            if reply.truncated and not reply.addresses:
                return "has an answer that fits no datagram"
        return ""


def name_servers(text: str) -> list[Address]:
    """The servers that a `resolv.conf` names, in its order. What is no address is none."""
    found: list[Address] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            address = ip_address(words[1])
        except ValueError:
            continue
        found.append(address)
    return found[:MOST_SERVERS]


def in_hosts_file(text: str, host: str) -> list[Address]:
    """The addresses that a `hosts` file has for a name, in its order (hosts(5))."""
    found: list[Address] = []
    for line in text.splitlines():
        words = line.partition("#")[0].lower().split()
        if host.lower() not in words[1:]:
            continue
        try:
            found.append(ip_address(words[0]))
        except ValueError:
            continue
    return found


def _packed(host: str) -> bytes:
    labels = host.encode("ascii").split(b".")
    if not all(0 < len(label) <= _LABEL_BYTES for label in labels) or len(host) + 2 > _NAME_BYTES:
        raise DnsError(f"{host!r} is no host name")
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"


def _read(datagram: bytes, host: str, kinds: dict[int, int]) -> tuple[int, _Reply]:
    try:
        number, flags, questions, answers, _, _ = _HEADER.unpack_from(datagram)
        kind = kinds.get(number)
        if kind is None or not flags & _RESPONSE or questions != 1:
            raise DnsError("it answers another question")
        asked, at = _name(datagram, _HEADER.size)
        if (asked, *_QUESTION.unpack_from(datagram, at)) != (host, kind, _IN):
            raise DnsError("it answers another question")
        records = list(_records(datagram, at + _QUESTION.size, answers))
    except (struct.error, IndexError):
        raise DnsError("it ends too early") from None
    aliases = {owner: _name(datagram, start)[0] for owner, found, start, _ in records if found == _CNAME}
    owners = [host]
    while owners[-1] in aliases and len(owners) <= MOST_ALIASES:
        owners.append(aliases[owners[-1]])
    addresses = tuple(
        ip_address(datagram[start:end])
        for owner, found, start, end in records
        if owner in owners and found == kind and end - start == (4 if kind == _A else 16)
    )
    return number, _Reply(flags & 0xF, bool(flags & _TRUNCATED), addresses)


def _records(datagram: bytes, at: int, count: int) -> Iterator[tuple[str, int, int, int]]:
    """Owner, kind, and where the data are, of each record of class IN."""
    for _ in range(count):
        owner, at = _name(datagram, at)
        kind, group, _, length = _RECORD.unpack_from(datagram, at)
        start = at + _RECORD.size
        at = start + length
        if at > len(datagram):
            raise DnsError("it ends too early")
        if group == _IN:
            yield owner, kind, start, at


def _name(datagram: bytes, at: int) -> tuple[str, int]:
    """The name at an offset, in small letters, and where it ends. A pointer leads only further to the front."""
    labels: list[bytes] = []
    end, before, size = 0, at, 0
    while length := datagram[at]:
        if length & _POINTER == _POINTER:
            target = (length & ~_POINTER) << 8 | datagram[at + 1]
            end = end or at + 2
            if target >= before:
                raise DnsError("a name in it leads nowhere")
            at = before = target
            continue
        size += 1 + length
        if length > _LABEL_BYTES or size > _NAME_BYTES or at + length >= len(datagram):
            raise DnsError("a name in it is too long")
        labels.append(datagram[at + 1 : at + 1 + length])
        at += 1 + length
    return b".".join(labels).decode("latin-1").lower(), end or at + 1
