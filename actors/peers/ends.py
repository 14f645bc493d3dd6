"""Where the two ends of each link are, and which links end when this machine loses an address, for the peers actor."""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterator
from typing import Any

from actors.peers.network import local_of
from protocol.interfaces import LocalAddress


class Ends:
    """Of all links over IP; others have no ends that could be lost."""

    def __init__(self) -> None:
        self._locals: dict[int, LocalAddress] = {}
        self._remotes: dict[int, LocalAddress] = {}
        self._movable: dict[int, tuple[int, Any]] = {}
        """Family and remote address of links that can go on from another address of this machine."""

    def add(self, link: int, family: int, local: Any, remote: Any, *, movable: bool) -> None:
        """Remembers a link's ends, as the `socket` module has them; `remote` is None where nobody is there any more."""
        for ends, name in ((self._locals, local), (self._remotes, remote)):
            if name is not None and (end := local_of(family, name)) is not None:
                ends[link] = end
        if movable and remote is not None:
            self._movable[link] = family, remote

    def forget(self, link: int) -> None:
        """The link is gone."""
        self._locals.pop(link, None)
        self._remotes.pop(link, None)
        self._movable.pop(link, None)

    def is_remote(self, address: bytes, interface: int) -> bool:
        """Whether some link leads to this address."""
        return (address, interface) in self._remotes.values()

    def lost(self, addresses: Collection[LocalAddress]) -> Iterator[tuple[int, LocalAddress]]:
        """(link, address) of each link whose own end was one of `addresses`."""
        for link, local in list(self._locals.items()):
            if local in addresses:
                del self._locals[link]
                yield link, local

    def is_movable(self, link: int) -> bool:
        """Whether the link can go on from another address of this machine."""
        return link in self._movable

    def is_stuck(self, link: int) -> bool:
        """Whether it could, but this machine has no address at all from which it would send to the other end."""
        if link not in self._movable:
            return False
        family, remote = self._movable[link]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(remote)
            except OSError:
                return True
        return False
