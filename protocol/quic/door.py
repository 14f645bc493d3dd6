"""What to do with a datagram that reaches the listening socket: whose it is, or how to answer it without a connection.

A connection has a socket of its own, connected to its peer. The listener gets what comes from elsewhere: first packets,
packets of peers whose address has changed, and packets for connections that are no more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from protocol.quic.headers import (
    CONNECTION_ID_BYTES,
    SHORTEST_FIRST_ID,
    SHORTEST_WITH_RESET,
    SMALLEST_INITIAL_DATAGRAM,
    VERSION_1,
    Header,
    read_header,
    retry,
    stateless_reset,
    version_negotiation,
)
from protocol.quic.tokens import NONCE_BYTES, make_token, original_id

MOST_OPENING: Final = 64
"""Connections whose link is being made."""
OPENING_SECONDS: Final = 10.0
MOST_OPENING_DATAGRAMS: Final = 4
"""Of one client, while its link is being made; it sends again what is dropped."""
MOST_FORGOTTEN: Final = 4096
"""Connection ids of links that are no more, for resets."""
RANDOM_BYTES: Final = NONCE_BYTES + CONNECTION_ID_BYTES + SHORTEST_WITH_RESET


@dataclass(frozen=True, slots=True)
class Drop:
    """Nothing; `counter` says why."""

    counter: str


@dataclass(frozen=True, slots=True)
class Reply:
    """To be sent back."""

    datagram: bytes
    counter: str


@dataclass(frozen=True, slots=True)
class Forward:
    """It belongs to a link."""

    link: int


@dataclass(frozen=True, slots=True)
class Opening:
    """A stranger's first packet: make a link, unless there are too many."""

    original: bytes
    """The connection id that the client made up first."""
    retried: bytes
    """The one that we had it come again to; empty where we had not."""


@dataclass(slots=True)
class _Begun:
    since: float
    datagrams: list[bytes]


class Door:
    """The listener's memory. `client` is a client's address and port as bytes; `now` is monotonic seconds."""

    def __init__(self, token_key: bytes) -> None:
        """`token_key`: 16 random bytes."""
        self._key = token_key
        self._links: dict[bytes, int] = {}
        self._ids: dict[int, tuple[frozenset[bytes], bytes]] = {}
        self._forgotten: dict[bytes, bytes] = {}
        self._begun: dict[tuple[bytes, bytes], _Begun] = {}

    @property
    def opening(self) -> int:
        """Connections whose link is being made."""
        return len(self._begun)

    def receive(
        self, datagram: bytes, client: bytes, now: float, random: bytes, *, busy: bool
    ) -> Drop | Reply | Forward | Opening:
        """What to do with `datagram`. `random`: `RANDOM_BYTES`. With `busy` strangers have to prove their address."""
        header = read_header(datagram)
        if header is None:
            return Drop("quic.garbage")
        link = self._links.get(header.destination)
        if link is not None:
            return Forward(link)
        if not header.long:
            return self._reset(header, len(datagram), random)
        begun = self._begun.get((client, header.destination))
        if begun is not None:
            if len(begun.datagrams) < MOST_OPENING_DATAGRAMS:
                begun.datagrams.append(datagram)
            return Drop("quic.opening")
        if len(datagram) < SMALLEST_INITIAL_DATAGRAM:
            # Also what keeps us from answering with more than we were sent.
            return Drop("quic.garbage")
        if header.version != VERSION_1:
            return Reply(version_negotiation(header, random[0]), "quic.versions_negotiated")
        if not header.initial or len(header.destination) < SHORTEST_FIRST_ID:
            return Drop("quic.garbage")
        return self._stranger(header, client, now, random, busy=busy)

    def begin(self, datagram: bytes, client: bytes, now: float) -> tuple[bytes, bytes] | None:
        """A link is being made for `datagram`; returns the key for `begun`, or None where too many are."""
        header = read_header(datagram)
        if header is None or len(self._begun) >= MOST_OPENING:
            return None
        key = (client, header.destination)
        self._begun[key] = _Begun(now, [datagram])
        return key

    def begun(self, key: tuple[bytes, bytes]) -> tuple[bytes, ...]:
        """The socket of the new link is there: what came until now; later packets reach it by themselves."""
        found = self._begun.pop(key, None)
        return () if found is None else tuple(found.datagrams)

    def expire(self, now: float) -> None:
        """Gives up what was begun and never went on."""
        for key in [key for key, begun in self._begun.items() if now - begun.since > OPENING_SECONDS]:
            del self._begun[key]

    def link_has(self, link: int, ids: Iterable[bytes], reset_token: bytes) -> None:
        """These are the connection ids of `link` now; `reset_token` (empty: none) is that of the first."""
        self._forget_ids(link)
        found = frozenset(ids)
        self._ids[link] = (found, reset_token)
        for name in found:
            self._links[name] = link

    def farewell(self, token: bytes, random: bytes) -> Reply | None:
        """What tells a peer that its link is no more, before it sends anything; None where the link had no token."""
        answer = stateless_reset(token, SHORTEST_WITH_RESET, random) if token else b""
        return Reply(answer, "quic.resets") if answer else None

    def link_gone(self, link: int) -> bytes:
        """The link is no more; whoever goes on sending to it is told. Returns its reset token, empty for none."""
        _, token = self._ids.get(link, (frozenset(), b""))
        for name in self._forget_ids(link):
            if token:
                while len(self._forgotten) >= MOST_FORGOTTEN:
                    del self._forgotten[next(iter(self._forgotten))]
                self._forgotten[name] = token
        return token

    def _forget_ids(self, link: int) -> frozenset[bytes]:
        found, _ = self._ids.pop(link, (frozenset(), b""))
        for name in found:
            if self._links.get(name) == link:
                del self._links[name]
        return found

    def _reset(self, header: Header, size: int, random: bytes) -> Drop | Reply:
        token = self._forgotten.get(header.destination)
        answer = stateless_reset(token, size, random) if token else b""
        return Reply(answer, "quic.resets") if answer else Drop("quic.unknown")

    def _stranger(self, header: Header, client: bytes, now: float, random: bytes, *, busy: bool) -> Reply | Opening:
        original = original_id(self._key, header.token, client, header.destination, now) if header.token else None
        if original is not None:
            return Opening(original, header.destination)
        if not busy:
            return Opening(header.destination, b"")
        nonce, source = random[:NONCE_BYTES], random[NONCE_BYTES : NONCE_BYTES + CONNECTION_ID_BYTES]
        token = make_token(self._key, nonce, client, source, header.destination, now)
        return Reply(retry(header, source, token, random[-1]), "quic.retries")
