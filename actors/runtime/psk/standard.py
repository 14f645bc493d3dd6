"""TLS with a pre-shared key by Python's own `ssl`, which can do it from 3.13 on."""

from __future__ import annotations

import ssl
from typing import Any

from actors.runtime.psk.session import Session, SessionError, meaning
from protocol.mycelium.network import Network


class StandardSession(Session):
    """A client where `outbound`, else a server."""

    def __init__(self, network: Network, outbound: bool) -> None:
        self._network = network
        self._identity: str | None = None
        context: Any = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if outbound else ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        # A server that declines the key could only show a certificate, and no authority is loaded that would vouch for
        # one: the handshake ends there.
        context.verify_mode = ssl.CERT_REQUIRED if outbound else ssl.CERT_NONE
        if outbound:
            # A callback that raises counts as an empty key: these only return what is there.
            context.set_psk_client_callback(lambda _hint: (network.name, network.key))
        else:
            context.set_psk_server_callback(self._key_of)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: Any = context.wrap_bio(self._incoming, self._outgoing, server_side=not outbound)

    def _key_of(self, identity: str | None) -> bytes:
        self._identity = identity
        return self._network.key if identity == self._network.name else b""

    def handshake(self) -> bool:
        """See `Session`."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise meaning(self._network, self._identity, error.reason or str(error)) from None
        if not self._tls.session_reused:
            raise SessionError("it did not use the network key")
        return True

    def feed(self, data: memoryview) -> None:
        """See `Session`."""
        self._incoming.write(data)

    def drain(self) -> bytes:
        """See `Session`."""
        return self._outgoing.read()

    def write(self, data: memoryview) -> None:
        """See `Session`."""
        try:
            while len(data):
                data = data[self._tls.write(data) :]
        except ssl.SSLError as error:
            raise SessionError(f"TLS failed: {error.reason or error}") from None

    def read_into(self, memory: memoryview) -> int:
        """See `Session`."""
        try:
            count: int = self._tls.read(len(memory), memory)
        except ssl.SSLWantReadError:
            return -1
        except ssl.SSLZeroReturnError:
            return 0
        except ssl.SSLError as error:
            raise SessionError(f"TLS failed: {error.reason or error}") from None
        return count
