"""TLS 1.3 with a pre-shared key, in memory (wire spec 5.7): by Python's own `ssl`, or before 3.13 by pyOpenSSL."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final

from actors.runtime.psk.session import Session, SessionError
from protocol.mycelium.network import KEY_BYTES, Network

__all__ = ["Session", "SessionError", "Unusable", "check", "load", "session"]

_STANDARD: Final = sys.version_info >= (3, 13)
_MOST_FLIGHTS: Final = 4
_TRIAL: Final = b"does this machine speak it?"


class Unusable(Exception):
    """This Python can't do it; says why, and what to do."""


def session(network: Network, *, outbound: bool) -> Session:
    """A new session: a client where this side dialled, else a server. Raises `Unusable`."""
    make = load()
    try:
        return make(network, outbound)
    except AttributeError as error:
        raise _unusable(f"the installed pyOpenSSL or cryptography lacks what is needed: {error}") from None


def load() -> Callable[[Network, bool], Session]:
    """Imports what this Python makes sessions with. Raises `Unusable`."""
    if _STANDARD:
        from actors.runtime.psk.standard import StandardSession

        return StandardSession
    try:
        from actors.runtime.psk.openssl import OpenSslSession
    except ImportError as error:
        raise _unusable(f"pyOpenSSL can't be imported: {error}") from None
    return OpenSslSession


def check() -> None:
    """Lets two sessions shake hands here and say something. Raises `Unusable`."""
    network = Network("trial", bytes(KEY_BYTES))
    client, server = session(network, outbound=True), session(network, outbound=False)
    heard = memoryview(bytearray(len(_TRIAL)))
    try:
        done = False
        for _ in range(_MOST_FLIGHTS):
            done = client.handshake()
            server.feed(memoryview(client.drain()))
            done = server.handshake() and done
            client.feed(memoryview(server.drain()))
        client.write(memoryview(_TRIAL))
        server.feed(memoryview(client.drain()))
        if not done or server.read_into(heard) != len(_TRIAL) or bytes(heard) != _TRIAL:
            raise _unusable("two ends in this process do not understand each other")
    except (SessionError, AttributeError, TypeError, MemoryError) as error:
        raise _unusable(f"a trial failed: {error}") from None


def _unusable(why: str) -> Unusable:
    return Unusable(
        f"no private network here: TLS with a pre-shared key needs Python 3.13, or pyOpenSSL on this Python "
        f"{sys.version_info.major}.{sys.version_info.minor}: {why}"
    )
