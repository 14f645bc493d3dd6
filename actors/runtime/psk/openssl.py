"""TLS with a pre-shared key by pyOpenSSL, for Python 3.11 and 3.12.

pyOpenSSL has everything but the key: its callbacks are set on the pointer inside the context, and whether they were
used is asked of the pointer inside the connection, both through the bindings of `cryptography`. None of that is public:
`_set_callback` and `_used_the_key` are all of it, and `psk.check` tries them before a node starts.

The callbacks are made by `ctypes`: those of cffi need memory that can be written and executed, which a service with
MemoryDenyWriteExecute has none of.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

from cryptography.hazmat.bindings.openssl.binding import Binding
from OpenSSL import SSL

from actors.runtime.psk.session import RECORD_BYTES, Session, SessionError, meaning
from protocol.mycelium.network import Network

_CIPHERS: Final = b"TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256"
"""The hash of an external key is SHA-256, and so the suite's has to be. The server takes the client's first."""
_DRAIN_BYTES: Final = 1 << 20
_CLIENT: Final = "unsigned int(*)(SSL *, const char *, char *, unsigned int, unsigned char *, unsigned int)"
_SERVER: Final = "unsigned int(*)(SSL *, const char *, unsigned char *, unsigned int)"
_ClientCallback: Final = ctypes.CFUNCTYPE(
    ctypes.c_uint,
    *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_void_p, ctypes.c_uint),
)
_ServerCallback: Final = ctypes.CFUNCTYPE(
    ctypes.c_uint, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_uint
)


class OpenSslSession(Session):
    """A client where `outbound`, else a server."""

    def __init__(self, network: Network, outbound: bool) -> None:
        self._network = network
        self._identity: str | None = None
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.set_tls13_ciphersuites(_CIPHERS)
        if outbound:
            # A server that declines the key could only show a certificate, and no authority is loaded for one.
            context.set_verify(SSL.VERIFY_PEER)
        # OpenSSL calls it, and nobody but us keeps it alive.
        self._callback = _set_callback(context, self, network) if outbound else _set_callback(context, self, None)
        self._tls = SSL.Connection(context, None)
        if outbound:
            self._tls.set_connect_state()
        else:
            self._tls.set_accept_state()

    def key_of(self, identity: bytes) -> bytes:
        """The key of the network of this name; empty where it is not ours."""
        self._identity = identity.decode(errors="replace")
        return self._network.key if identity == self._network.name.encode() else b""

    def handshake(self) -> bool:
        """See `Session`."""
        try:
            self._tls.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.Error as error:
            raise meaning(self._network, self._identity, _words(error)) from None
        if not _used_the_key(self._tls):
            raise SessionError("it did not use the network key")
        return True

    def feed(self, data: memoryview) -> None:
        """See `Session`."""
        while len(data):
            data = data[self._tls.bio_write(data) :]

    def drain(self) -> bytes:
        """See `Session`."""
        found = []
        try:
            while True:
                found.append(self._tls.bio_read(_DRAIN_BYTES))
        except SSL.WantReadError:
            return found[0] if len(found) == 1 else b"".join(found)

    def write(self, data: memoryview) -> None:
        """See `Session`."""
        try:
            while len(data):
                data = data[self._tls.send(data[:RECORD_BYTES]) :]
        except SSL.Error as error:
            raise SessionError(f"TLS failed: {_words(error)}") from None

    def read_into(self, memory: memoryview) -> int:
        """See `Session`."""
        try:
            # It allocates as much as it is asked for.
            return self._tls.recv_into(memory, min(len(memory), RECORD_BYTES))
        except SSL.WantReadError:
            return -1
        except SSL.ZeroReturnError:
            return 0
        except SSL.Error as error:
            raise SessionError(f"TLS failed: {_words(error)}") from None


def _set_callback(context: Any, session: OpenSslSession, client: Network | None) -> Any:
    lib, ffi = Binding.lib, Binding.ffi
    if client is not None:
        name, key = client.name.encode() + b"\0", client.key

        def tell(_ssl: int, _hint: int, identity: int, room: int, psk: int, most: int) -> int:
            if len(name) > room or len(key) > most:
                return 0
            ctypes.memmove(identity, name, len(name))
            ctypes.memmove(psk, key, len(key))
            return len(key)

        teller = _ClientCallback(tell)
        lib.SSL_CTX_set_psk_client_callback(context._context, ffi.cast(_CLIENT, _address_of(teller)))
        return teller

    def find(_ssl: int, identity: bytes, psk: int, most: int) -> int:
        found = session.key_of(identity or b"")
        if len(found) > most:
            return 0
        ctypes.memmove(psk, found, len(found))
        return len(found)

    finder = _ServerCallback(find)
    lib.SSL_CTX_set_psk_server_callback(context._context, ffi.cast(_SERVER, _address_of(finder)))
    return finder


def _address_of(callback: Any) -> int:
    return ctypes.cast(callback, ctypes.c_void_p).value or 0


def _used_the_key(connection: Any) -> bool:
    return bool(Binding.lib.SSL_session_reused(connection._ssl))


def _words(error: SSL.Error) -> str:
    reasons = error.args[0] if error.args else ()
    if isinstance(reasons, list) and reasons:
        return str(reasons[0][-1])
    return str(error) or "the peer closed the connection"
