"""The client's side of SOCKS5 (RFC 1928): asks a proxy for a connection to somebody, without a password."""

from __future__ import annotations

import enum
from ipaddress import IPv4Address
from typing import Final

from protocol.mycelium.endpoint import SocketAddress
from protocol.targets import HostName

GREETING: Final = b"\x05\x01\x00"
"""Version, one method, and that is "no authentication"."""
_VERSION: Final = 5
_CONNECT: Final = 1
_IPV4: Final = 1
_NAME: Final = 3
_IPV6: Final = 4
_ADDRESS_BYTES: Final = {_IPV4: 4, _IPV6: 16}
_PORT_BYTES: Final = 2
_NO_METHOD: Final = 0xFF
_REPLIES: Final = {
    1: "general failure",
    2: "its rules forbid the connection",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "TTL expired",
    7: "it knows no CONNECT",
    8: "it knows no such kind of address",
}


class SocksError(Exception):
    """The proxy refused, or speaks something else; says what."""


class _Awaits(enum.Enum):
    METHOD = 2
    REPLY = 4
    NAME_LENGTH = 1
    REST = 0
    NOTHING = -1


class SocksDial:
    """One request. Send `GREETING`, then give exactly `need` bytes at a time to `receive` and send what it returns.

    Not one byte more may be read: what follows the proxy's last is the peer's first.
    """

    def __init__(self, place: SocketAddress | HostName) -> None:
        self._place = place
        self._awaits = _Awaits.METHOD
        self._need = _Awaits.METHOD.value

    @property
    def need(self) -> int:
        """How many bytes of the proxy come next; 0 when the connection stands."""
        return self._need

    def receive(self, data: bytes) -> bytes:
        """Takes the `need` bytes that came next; returns what to send. Raises `SocksError`."""
        if len(data) != self._need or not data:
            raise ValueError(f"{len(data)} bytes where {self._need} belong")
        match self._awaits:
            case _Awaits.METHOD:
                return self._on_method(data)
            case _Awaits.REPLY:
                self._on_reply(data)
            case _Awaits.NAME_LENGTH:
                self._expect(_Awaits.REST, data[0] + _PORT_BYTES)
            case _:
                self._expect(_Awaits.NOTHING, 0)
        return b""

    def _on_method(self, data: bytes) -> bytes:
        if data[0] != _VERSION:
            raise SocksError("it speaks no SOCKS5")
        if data[1]:
            raise SocksError("it wants a password" if data[1] == _NO_METHOD else f"it chose method {data[1]}")
        self._expect(_Awaits.REPLY, _Awaits.REPLY.value)
        return bytes((_VERSION, _CONNECT, 0)) + self._address()

    def _on_reply(self, data: bytes) -> None:
        version, code, _, kind = data
        if version != _VERSION:
            raise SocksError("it speaks no SOCKS5")
        if code:
            raise SocksError(_REPLIES.get(code, f"error {code}"))
        if kind == _NAME:
            self._expect(_Awaits.NAME_LENGTH, 1)
        elif kind in _ADDRESS_BYTES:
            self._expect(_Awaits.REST, _ADDRESS_BYTES[kind] + _PORT_BYTES)
        else:
            raise SocksError(f"it answered with an address of kind {kind}")

    def _expect(self, awaits: _Awaits, need: int) -> None:
        self._awaits, self._need = awaits, need

    def _address(self) -> bytes:
        port = self._place.port.to_bytes(_PORT_BYTES, "big")
        if isinstance(self._place, HostName):
            name = self._place.name.encode("ascii")
            return bytes((_NAME, len(name))) + name + port
        kind = _IPV4 if isinstance(self._place.host, IPv4Address) else _IPV6
        return bytes((kind,)) + self._place.host.packed + port
