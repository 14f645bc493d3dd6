"""TLS 1.3 with the key of a private network, over TCP (wire spec 5.7)."""

from __future__ import annotations

from typing import Final

from actors.link.transports.interface import Setup, Transport, TransportError
from actors.link.transports.tcp import describe, tune, why_silent
from actors.runtime import psk
from actors.runtime.loop import READABLE, WRITABLE, Timer

HANDSHAKE_SECONDS: Final = 10.0
SEND_BYTES: Final = 128 << 10
"""Encrypted at a time: what is encrypted can't be overtaken by control any more."""
READ_BYTES: Final = 256 << 10
_CLOSED: Final = "it closed the connection in the TLS handshake: is it in a private network?"

_ciphertext: Final = bytearray(READ_BYTES)
"""What was just read, of whichever connection of this process: it is fed before anything else is read."""


class TlsTransport(Transport):
    """A TLS connection. The session is in memory, so that one `send` of the socket carries many records."""

    def __init__(self, setup: Setup) -> None:
        """Raises `TransportError` where this process has no network key, or can't use it."""
        super().__init__(setup)
        tune(self._socket)
        if setup.network is None:
            raise TransportError("this node is in no private network")
        try:
            self._session: Final = psk.session(setup.network, outbound=setup.outbound)
        except psk.Unusable as error:
            raise TransportError(str(error)) from None
        self._loop = setup.runtime.loop
        self._counters = setup.runtime.counters
        self.send = self._send
        self.receive_into = self._receive_into
        self.opened = False
        self._outbound = setup.outbound
        self._unsent = memoryview(b"")
        self._reading = True
        self._more = self._ended = self._closed = False
        self._deadline: Timer | None = None

    def _describe(self, setup: Setup) -> tuple[str, int]:
        return describe("TLS", setup.connection)

    def start(self) -> None:
        """Sends the client's hello, or waits for it."""
        self._deadline = self._loop.call_after(HANDSHAKE_SECONDS, lambda: self._refuse("no TLS handshake in 10 s"))
        if self._outbound:
            try:
                self._shake_hands()
            except OSError as error:
                self._owner.end(f"connection lost: {error.strerror}")

    def wanted(self, *, reading: bool, writing: bool) -> int:  # noqa: ARG002 - it waits for nothing but the socket
        """Readable while the handshake lasts, and writable while something is encrypted that was not taken."""
        self._reading = reading
        if reading and self._more:
            self._loop.defer(self._arrived)
        return (READABLE if reading or not self.opened else 0) | (WRITABLE if len(self._unsent) else 0)

    def on_events(self, events: int) -> None:
        """See `Transport`."""
        try:
            if events & WRITABLE and self._push() and self.opened:
                self._owner.room()
            if events & ~WRITABLE and not self._closed:
                if self.opened:
                    self._owner.arrived()
                else:
                    self._fill(READ_BYTES)
                    self._shake_hands()
        except BlockingIOError:
            return
        except OSError as error:
            # Who speaks plain packets finds ours malformed, and resets the connection.
            broken = f"connection lost: {error.strerror}"
            self._owner.end(broken if self.opened else f"{broken}; {_CLOSED}")
        self._owner.poll()

    def each_second(self) -> None:
        """See `Transport`."""
        reason = why_silent(self._socket) if self.opened else ""
        if reason:
            self._owner.end(reason)

    def close(self) -> None:
        """See `Transport`."""
        self._closed = True
        if self._deadline is not None:
            self._deadline.cancel()
        super().close()

    # --- the handshake ------------------------------------------------------------------------------------------------

    def _shake_hands(self) -> None:
        if self._ended:
            self._refuse(_CLOSED)
            return
        try:
            done = self._session.handshake()
        except psk.SessionError as error:
            self._refuse(str(error))
            return
        self._unsent = memoryview(self._session.drain())
        self._push()
        if done and self._deadline is not None:
            self._deadline.cancel()
            self.opened = True
            self._owner.opened()
            # The last flight of the handshake may have come with the first packets behind it.
            self._more = True
            self._owner.poll()

    def _refuse(self, reason: str) -> None:
        self._counters["tls.refused"] += 1
        try:
            # The alert that says why, to a peer that may have gone.
            self._socket.send(self._session.drain())
        except OSError:
            self._counters["tls.alerts_unsent"] += 1
        self._owner.end(f"handshake failed: {reason}")

    # --- afterwards ---------------------------------------------------------------------------------------------------

    def _send(self, buffers: list[memoryview | bytes]) -> int:
        if len(self._unsent):
            raise BlockingIOError
        size, chosen = 0, []
        for buffer in buffers:
            chosen.append(buffer[: SEND_BYTES - size])
            size += len(chosen[-1])
            if size >= SEND_BYTES:
                break
        self._encrypt(memoryview(b"".join(chosen)))
        self._push()
        return size

    def _encrypt(self, plaintext: memoryview) -> None:
        try:
            self._session.write(plaintext)
        except psk.SessionError as error:
            raise TransportError(str(error)) from None
        self._unsent = memoryview(self._session.drain())

    def _push(self) -> bool:
        """Whether the socket took all that is encrypted."""
        while len(self._unsent):
            try:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
            except BlockingIOError:
                self._owner.poll()
                return False
        return True

    def _receive_into(self, memory: memoryview) -> int:
        total = 0
        self._more = False
        try:
            while True:
                count = self._session.read_into(memory[total:])
                total += max(count, 0)
                if total == len(memory):
                    self._more = True
                    self._loop.defer(self._arrived)
                    return total
                if count == 0 or (count < 0 and total):
                    # An end behind packets is found again by the next call.
                    self._more = count == 0 and total > 0
                    if self._more:
                        self._loop.defer(self._arrived)
                    return total
                if count < 0:
                    if self._ended:
                        return 0
                    self._fill(len(memory))
        except psk.SessionError as error:
            raise TransportError(str(error)) from None

    def _fill(self, limit: int) -> None:
        """Feeds what the socket has, `limit` bytes at most. Raises `BlockingIOError`."""
        count = self._socket.recv_into(_ciphertext, min(limit, READ_BYTES))
        self._ended = count == 0
        self._session.feed(memoryview(_ciphertext)[:count])

    def _arrived(self) -> None:
        if self._more and self._reading and not self._closed:
            self._owner.arrived()
