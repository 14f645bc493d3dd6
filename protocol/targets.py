"""Whom to dial, in more forms than the reference knows: host names, and ways through a SOCKS5 proxy.

    tcp://peer.example.org:9651        tls:// and quic:// likewise
    socks://192.0.2.1:1080/peer.example.org:9651
    socks://user:password@192.0.2.1:1080/peer.example.org:9651

The proxy may have a name, too; the name behind it is for the proxy to resolve. All that `Endpoint` takes will do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from protocol.logins import Login, LoginError, without_secret
from protocol.mycelium.endpoint import (
    MAX_PORT,
    Endpoint,
    EndpointError,
    Protocol,
    SocketAddress,
    UnixAddress,
    VsockAddress,
)

MAX_NAME: Final = 253
"""RFC 1035 section 2.3.4, without the final dot."""
_SOCKS: Final = "socks"
_WITH_NAMES: Final = frozenset({Protocol.TCP, Protocol.TLS, Protocol.QUIC})
_HOST: Final = re.compile(r"(?P<name>[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?):(?P<port>[0-9]{1,5})", re.ASCII)
_LABEL: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", re.ASCII)


class TargetError(ValueError):
    """Text that names nobody to dial; says which text, why, and the form."""


@dataclass(frozen=True, slots=True)
class HostName:
    """A name and a port."""

    name: str
    port: int

    @classmethod
    def parse(cls, text: str) -> HostName:
        """The name written as `peer.example.org:9651`, in any case. Raises `TargetError`."""
        match = _HOST.fullmatch(text)
        if match is None or int(match["port"]) > MAX_PORT:
            raise TargetError(f"{without_secret(text)!r} is neither ADDRESS:PORT nor NAME:PORT")
        labels = match["name"].lower().split(".")
        if len(match["name"]) > MAX_NAME or not all(map(_LABEL.fullmatch, labels)) or labels[-1].isdecimal():
            raise TargetError(f"{match['name']!r} is neither an address nor a host name")
        return cls(match["name"].lower(), int(match["port"]))

    def __str__(self) -> str:
        return f"{self.name}:{self.port}"


Place = SocketAddress | HostName | VsockAddress | UnixAddress


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to dial, what to speak there, and through which SOCKS5 proxy, if any.

    As text it has the user at the proxy and never the password, so that it can be shown: `spelled` has both.
    """

    protocol: Protocol
    place: Place
    proxy: SocketAddress | HostName | None = None
    login: Login | None = None

    @classmethod
    def parse(cls, text: str) -> Target:
        """The target written as `text`. Raises `EndpointError` or `TargetError`."""
        word, separator, rest = text.partition("://")
        if separator and word.lower() == _SOCKS:
            return cls._behind_proxy(rest)
        try:
            endpoint = Endpoint.parse(text)
        except EndpointError:
            protocol = next((found for found in _WITH_NAMES if found.value == word.lower()), None)
            if protocol is None or not separator:
                raise
            return cls(protocol, HostName.parse(rest))
        return cls(endpoint.protocol, endpoint.address)

    @classmethod
    def _behind_proxy(cls, text: str) -> Target:
        way, slash, behind = text.partition("/")
        user, at, proxy = way.rpartition("@")
        if "@" in behind:
            # What stands before it may be part of a password: it is not quoted.
            raise TargetError("an '@' behind the first '/': in a user or password '/' is written %2F, and '%' %25")
        if not slash:
            raise TargetError(
                f"{without_secret(f'{_SOCKS}://{text}')!r} names no peer behind the proxy; "
                f"write {_SOCKS}://PROXY:PORT/HOST:PORT"
            )
        try:
            login = Login.parse(user) if at else None
        except LoginError as error:
            raise TargetError(f"{error}; write {_SOCKS}://USER:PASSWORD@PROXY:PORT/HOST:PORT") from None
        return cls(Protocol.TCP, _address(behind), _address(proxy), login)

    @property
    def endpoint(self) -> Endpoint | None:
        """The same as an endpoint of the reference; None for what it has no form for."""
        if self.proxy is not None or isinstance(self.place, HostName):
            return None
        return Endpoint(self.protocol, self.place)

    @property
    def to_resolve(self) -> HostName | None:
        """The name that has to be looked up before anything is dialled."""
        first = self.place if self.proxy is None else self.proxy
        return first if isinstance(first, HostName) else None

    @property
    def way(self) -> str:
        """The proxy with the user there, for people; empty where there is none."""
        user = "" if self.login is None else f"{self.login}@"
        return "" if self.proxy is None else f"{user}{self.proxy}"

    def spelled(self) -> str:
        """The inverse of `parse`, password included."""
        if self.login is None:
            return str(self)
        return f"{_SOCKS}://{self.login.spelled()}@{self.proxy}/{self.place}"

    def __str__(self) -> str:
        if self.proxy is not None:
            return f"{_SOCKS}://{self.way}/{self.place}"
        return f"{self.protocol.value}://{self.place}"


def _address(text: str) -> SocketAddress | HostName:
    try:
        return SocketAddress.parse(text)
    except EndpointError:
        return HostName.parse(text)
