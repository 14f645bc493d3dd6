"""What the supervisor keeps for processes that may die: arenas, and of each connection what a successor needs.

It holds a duplicate of every link's socket, so that a connection ends when its link is retired and not when a process
is killed; the ledger of the connection; and for a while the arenas of the dead, in which a torn packet may lie.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import time
from typing import Any, Final

from actors.link.config import LinkConfig, OldArena
from actors.link.transports import TRANSPORTS
from actors.runtime.exchange import ArenaConfig
from actors.runtime.pages import fixed, shared
from actors.runtime.positions import Positions, PositionsError, positions
from protocol.arena import SLOT_BYTES
from protocol.frames import SpawnLink
from protocol.ledger import LEDGER_BYTES, Ledger, LedgerError, PoisonGuard

KEEP_SECONDS: Final = 10.0
"""For how long an arena outlives its writer here; a successor needs it for milliseconds."""


class Arenas:
    """The arenas of all processes, by owner; a new one for each incarnation."""

    def __init__(self) -> None:
        self._next = 1
        self._current: dict[str, ArenaConfig] = {}
        self._old: dict[int, tuple[float, int]] = {}

    def renew(self, owner: str, slots: int) -> None:
        """Makes the arena of the next incarnation of `owner`."""
        self.retire(owner)
        number, self._next = self._next, self._next + 1
        writable, readable = shared(f"septate-arena-{owner}", slots * SLOT_BYTES)
        self._current[owner] = ArenaConfig(number, writable, readable, slots)

    def retire(self, owner: str) -> None:
        """The present incarnation of `owner` is dead; its arena is kept for a while."""
        arena = self._current.pop(owner, None)
        if arena is not None:
            os.close(arena.writable)
            self._old[arena.number] = (time.monotonic() + KEEP_SECONDS, arena.readable)

    def let_go(self, now: float) -> None:
        """Gives up the arenas that were kept long enough at `now`, monotonic seconds; to be called now and then."""
        for number in [number for number, (until, _) in self._old.items() if until < now]:
            os.close(self._old.pop(number)[1])

    def current(self, owner: str) -> ArenaConfig:
        """The arena of the present incarnation."""
        return self._current[owner]

    def readable(self, number: int) -> int | None:
        """A descriptor of an arena, its writer alive or dead; None where it was let go."""
        if number in self._old:
            return self._old[number][1]
        for arena in self._current.values():
            if arena.number == number:
                return arena.readable
        return None


class Connection:
    """One link's connection over all incarnations of its process. Owns duplicates of socket and ledger."""

    def __init__(self, message: SpawnLink, connection: int, arenas: Arenas) -> None:
        """Takes over the descriptor `connection`."""
        self.message: Final = message
        self.since: Final = time.monotonic()
        self._socket = socket.socket(fileno=connection)
        self.ends: Final = _ends_of(self._socket)
        """Family of the socket and the addresses of its ends: a newborn child that asks has closed the socket."""
        self._arenas = arenas
        self._base: Positions | None = None
        self._guard = PoisonGuard()
        self.resumed = False
        self.ending = ""
        """Why it was told to end. What it may see in the meantime, its other end's going, say, is no news."""
        self.will = b""
        """What tells the peer that the connection's process was killed, where the transport has something like that."""
        self.needed: tuple[OldArena, ...] = ()
        """Arenas that the next incarnation has to look into."""
        if not TRANSPORTS[message.transport]().resumable:
            self.ledger = -1
            self._base = Positions(0, 0)
            return
        self.ledger = fixed(f"septate-ledger-{message.link}", LEDGER_BYTES)
        with mmap.mmap(self.ledger, LEDGER_BYTES, mmap.MAP_SHARED) as memory, memoryview(memory) as words:
            Ledger.begin(words)

    @property
    def descriptor(self) -> int:
        """Of the socket."""
        return self._socket.fileno()

    def descriptors(self) -> tuple[int, ...]:
        """What a process needs of it."""
        ledger = () if self.ledger < 0 else (self.ledger,)
        return (self.descriptor, *ledger, *(arena.descriptor for arena in self.needed))

    def config(self) -> LinkConfig:
        """What a process is told of it. Raises `PositionsError` where the connection was over before it began."""
        return LinkConfig(
            number=self.message.link,
            connection=self.descriptor,
            endpoint=self.message.endpoint,
            outbound=self.message.outbound,
            transport=self.message.transport,
            opening=self.message.opening,
            ledger=self.ledger,
            base=self.base(),
            resumed=self.resumed,
            old_arenas=self.needed,
        )

    def base(self) -> Positions:
        """Where the kernel's counts stood when nobody had read or written. Raises `PositionsError`."""
        if self._base is None:
            self._base = positions(self._socket)
        return self._base

    def died(self) -> str:
        """The process was killed: empty where a successor can go on, else why the connection has to end."""
        if self.ledger < 0:
            self._say_last_will()
            return f"only TCP connections outlive their process, not {self.message.transport.value}"
        try:
            now = positions(self._socket).since(self.base())
            # Unmapped by the last who looks, for a mapping that an error still points into can't be closed.
            memory = memoryview(mmap.mmap(self.ledger, LEDGER_BYTES, mmap.MAP_SHARED, mmap.PROT_READ))
            survey = Ledger(memory).survey(now.sent, now.received)
        except (PositionsError, LedgerError) as error:
            return str(error)
        if not self._guard.died(survey):
            return "its process died twice at the same place of the stream"
        found = [(number, self._arenas.readable(number)) for number in survey.arenas]
        self.needed = tuple(OldArena(number, descriptor) for number, descriptor in found if descriptor is not None)
        self.resumed = True
        return ""

    def _say_last_will(self) -> None:
        if self.will:
            # Where it can't be sent at once, the peer finds out by itself.
            with contextlib.suppress(OSError):
                self._socket.send(self.will)

    def close(self) -> None:
        """Ends the connection for good."""
        self._socket.close()
        if self.ledger >= 0:
            os.close(self.ledger)


def _ends_of(connection: socket.socket) -> dict[str, Any]:
    try:
        remote = connection.getpeername()
    except OSError:
        # It is gone already, as the link will find.
        remote = None
    # A connection over datagrams moves to another address when its own goes.
    return {"family": int(connection.family), "local": connection.getsockname(), "remote": remote}
