"""The client's side of SOCKS5 (RFC 1928): asks a proxy for a connection to somebody, by password (RFC 1929) or without.

A proxy may lie as it likes: not one byte more than an answer has is ever asked of it, and 257 is the longest.
"""

from __future__ import annotations

import enum
from ipaddress import IPv4Address
from typing import Final

from protocol.logins import Login
from protocol.mycelium.endpoint import SocketAddress
from protocol.targets import HostName

_VERSION: Final = 5
_LOGIN_VERSION: Final = 1
"""Of the exchange of user and password (RFC 1929 section 2)."""
_NO_LOGIN: Final = 0
_BY_PASSWORD: Final = 2
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
    METHOD = enum.auto()
    VERDICT = enum.auto()
    """On user and password."""
    REPLY = enum.auto()
    NAME_LENGTH = enum.auto()
    REST = enum.auto()
    NOTHING = enum.auto()


_NEED: Final = {_Awaits.METHOD: 2, _Awaits.VERDICT: 2, _Awaits.REPLY: 4, _Awaits.NAME_LENGTH: 1}
"""Bytes that come next, where their number does not depend on earlier ones."""


class SocksDial:
    """One request. Send `greeting`, then give exactly `need` bytes at a time to `receive` and send what it returns.

    Not one byte more may be read: what follows the proxy's last is the peer's first.
    """

    def __init__(self, place: SocketAddress | HostName, login: Login | None = None) -> None:
        """`login`: with its password, for a proxy that wants one; one that wants none is not told."""
        self._place = place
        self._login = login
        self._awaits = _Awaits.METHOD
        self._need = _NEED[_Awaits.METHOD]

    @property
    def greeting(self) -> bytes:
        """Version, number of methods, methods."""
        methods = (_NO_LOGIN,) if self._login is None else (_NO_LOGIN, _BY_PASSWORD)
        return bytes((_VERSION, len(methods), *methods))

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
            case _Awaits.VERDICT:
                return self._on_verdict(data)
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
        method = data[1]
        if method == _NO_LOGIN:
            return self._request()
        if method == _BY_PASSWORD and self._login is not None:
            self._expect(_Awaits.VERDICT)
            return self._credentials(self._login)
        if method == _NO_METHOD:
            raise SocksError("it wants a password" if self._login is None else "it takes no password")
        raise SocksError(f"it chose method {method}, which was not offered")

    def _on_verdict(self, data: bytes) -> bytes:
        if data[0] not in (_LOGIN_VERSION, _VERSION):
            # Some answer with the version of SOCKS.
            raise SocksError(f"it answered a password with version {data[0]}")
        if data[1]:
            raise SocksError("it refused user or password")
        return self._request()

    def _on_reply(self, data: bytes) -> None:
        version, code, _, kind = data
        if version != _VERSION:
            raise SocksError("it speaks no SOCKS5")
        if code:
            raise SocksError(_REPLIES.get(code, f"error {code}"))
        if kind == _NAME:
            self._expect(_Awaits.NAME_LENGTH)
        elif kind in _ADDRESS_BYTES:
            self._expect(_Awaits.REST, _ADDRESS_BYTES[kind] + _PORT_BYTES)
        else:
            raise SocksError(f"it answered with an address of kind {kind}")

    def _expect(self, awaits: _Awaits, need: int = 0) -> None:
        self._awaits, self._need = awaits, _NEED.get(awaits, need)

    @staticmethod
    def _credentials(login: Login) -> bytes:
        user, password = login.user.encode(), (login.password or "").encode()
        return bytes((_LOGIN_VERSION, len(user))) + user + bytes((len(password),)) + password

    def _request(self) -> bytes:
        self._expect(_Awaits.REPLY)
        return bytes((_VERSION, _CONNECT, 0)) + self._address()

    def _address(self) -> bytes:
        port = self._place.port.to_bytes(_PORT_BYTES, "big")
        if isinstance(self._place, HostName):
            name = self._place.name.encode("ascii")
            return bytes((_NAME, len(name))) + name + port
        kind = _IPV4 if isinstance(self._place.host, IPv4Address) else _IPV6
        return bytes((kind,)) + self._place.host.packed + port
