"""Two nodes that meet over a transport: who takes part, and the networks in which they do."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from bench.contenders import REACH_TIMEOUT, Line
from tests.lab.namespaces import Lab
from tests.lab.nodes import LISTEN_PORT, TUN_NAME, MyceliumNode, Node, PrivateMyceliumNode, SeptateNode, YggdrasilNode
from tests.lab.ping import ping_until_reply

TRANSPORTS: Final = ("tcp", "tls", "quic", "unix")
PAIRS: Final = ("ss", "sm", "ms", "mm", "yy")
"""Who dials and who listens: s is Septate, m Mycelium, y Yggdrasil, which speaks to its own kind."""
NAMES: Final = {"s": "Septate", "m": "Mycelium", "y": "Yggdrasil"}
REFERENCE_MTU: Final = "1342"
"""Ours: with its own, a Mycelium node's QUIC links carry no full packet."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What a caller wants measured."""

    transports: tuple[str, ...]
    pairs: tuple[str, ...]
    seconds: int
    """Of each stream."""

    def kinds(self) -> list[tuple[str, str]]:
        """(letter, transport) of the contenders that are wanted, and here, and meet their own kind."""
        wanted = [letter for letter in NAMES if letter * 2 in self.pairs]
        found = [(letter, transport) for transport in self.transports for letter in wanted]
        return [(letter, transport) for letter, transport in found if refusal(letter * 2, transport) is None]


def kind_of(letter: str, transport: str) -> type[Node]:
    """The program that plays a part."""
    if letter == "m":
        return PrivateMyceliumNode if transport == "tls" else MyceliumNode
    return SeptateNode if letter == "s" else YggdrasilNode


def refusal(pair: str, transport: str) -> str | None:
    """Why a pair can't be measured over a transport."""
    if transport == "unix" and pair != "ss":
        return "only Septate has Unix sockets"
    if "y" in pair and (pair != "yy" or transport != "tcp"):
        return "Yggdrasil is measured with its own kind, over TCP"
    return next(filter(None, (kind_of(letter, transport).missing() for letter in pair)), None)


class Meeting:
    """What two nodes in one laboratory need to meet over `transport`."""

    def __init__(self, lab: Lab, transport: str) -> None:
        self._lab = lab
        self._transport = transport
        self._options: list[str] = []
        if transport == "tls":
            key_file = lab.folder / "network-key"
            key_file.write_bytes(secrets.token_bytes(32))
            self._options = ["--network-name", "bench", "--network-key-file", str(key_file)]

    @property
    def options(self) -> list[str]:
        """Of who dials."""
        return self._options

    @property
    def listening(self) -> list[str]:
        """Options of who listens."""
        return [*self._options, *(["--unix-listen", self._socket] if self._transport == "unix" else [])]

    def endpoint(self, address: str) -> str:
        """Where who listens at `address` is dialled."""
        return f"unix://{self._socket}" if self._transport == "unix" else f"{self._transport}://{address}:{LISTEN_PORT}"

    @property
    def _socket(self) -> str:
        return f"{self._lab.folder}/peer.sock"


@contextmanager
def introduced(pair: str, transport: str, addresses: int = 1) -> Iterator[tuple[Line, Sequence[str]]]:
    """Two nodes on a wire of which the last listens and the first is to dial, and is not started yet.

    With them the endpoints of the one that listens, `addresses` of them, none of which the first has been told.
    """
    with Lab() as lab:
        left, right = lab.namespace("left"), lab.namespace("right")
        wire = lab.wire(left, right, addresses=addresses)
        meeting = Meeting(lab, transport)
        listener = kind_of(pair[1], transport)(lab, right, options=meeting.listening).start()
        listener.wait_until_up()
        dialler = kind_of(pair[0], transport)(lab, left, options=meeting.options)
        yield Line(lab, (dialler, listener)), [meeting.endpoint(address) for address in wire.right_addresses]


@contextmanager
def joined(pair: str, transport: str) -> Iterator[Line]:
    """Two nodes whose hosts reach each other over `transport`; the first dials."""
    with introduced(pair, transport) as (line, endpoints):
        dialler, listener = line.nodes
        dialler.peers = tuple(endpoints)
        dialler.write_key()
        dialler.start().wait_until_up()
        ping_until_reply(dialler.namespace, listener.address, REACH_TIMEOUT)
        ping_until_reply(listener.namespace, dialler.address, REACH_TIMEOUT)
        use_our_mtu(line.nodes)
        yield line


def use_our_mtu(nodes: Sequence[Node]) -> None:
    """Gives the TUN devices of Mycelium nodes our MTU."""
    for node in nodes:
        if isinstance(node, MyceliumNode | PrivateMyceliumNode):
            node.namespace.ip("link", "set", TUN_NAME, "mtu", REFERENCE_MTU)
