"""Addresses that people write: socket, vsock and Unix addresses, and the endpoints `proto://address` of peers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

MAX_PORT: Final = 0xFFFF
MAX_U32: Final = 0xFFFF_FFFF

_SOCKET_SYNTAX: Final = "invalid socket address syntax"
_NUMBER: Final = re.compile(r"0|[1-9][0-9]*", re.ASCII)
_V4_SOCKET: Final = re.compile(r"(?P<ip>[0-9.]+):(?P<port>[0-9]+)", re.ASCII)
_V6_SOCKET: Final = re.compile(r"\[(?P<ip>[0-9A-Fa-f:.]+)(?:%(?P<scope>[0-9]+))?\]:(?P<port>[0-9]+)", re.ASCII)
_MAPPED_PREFIX: Final = "::ffff:"
_UNIX_PATH: Final = re.compile(r"(?P<path>/[^\0#]*[^\0#/])(?:#(?P<guest>[1-9][0-9]{0,9}))?", re.DOTALL)
MOST_PATH_BYTES: Final = 107
"""Of a Unix socket: the kernel's `sun_path` with its closing zero (unix(7))."""


class EndpointError(ValueError):
    """Text that is no address or endpoint. The message is the reference's own: its API hands it to users."""


class Protocol(Enum):
    """How a peer is reached; the value is the text before `://`."""

    TCP = "tcp"
    TLS = "tls"
    QUIC = "quic"
    VSOCK = "vsock"
    UNIX = "unix"
    """Ours: for a peer in another namespace or container of the same machine."""


def ip_text(ip: IPv4Address | IPv6Address) -> str:
    """RFC 5952 text of `ip`; an IPv4-mapped address ends in dotted form, which `str` does from Python 3.13 on only."""
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        return f"{_MAPPED_PREFIX}{ip.ipv4_mapped}"
    return str(ip)


def parse_ip(text: str) -> IPv4Address | IPv6Address:
    """The address written as `text`: no scope, brackets, prefix length or leading zeros. Raises `EndpointError`."""
    try:
        return IPv6Address(text) if ":" in text and "%" not in text else IPv4Address(text)
    except AddressValueError:
        raise EndpointError("invalid IP address syntax") from None


@dataclass(frozen=True, slots=True)
class SocketAddress:
    """An IP address and a port 0…65535; `scope` is the numeric interface index of an IPv6 address, 0 for none."""

    host: IPv4Address | IPv6Address
    port: int
    scope: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.port <= MAX_PORT or not 0 <= self.scope <= MAX_U32:
            raise EndpointError(_SOCKET_SYNTAX)
        if self.scope and isinstance(self.host, IPv4Address):
            raise EndpointError(_SOCKET_SYNTAX)

    @classmethod
    def parse(cls, text: str) -> SocketAddress:
        """The address written as `192.0.2.1:9651`, `[2001:db8::1]:9651` or `[fe80::1%3]:9651` (API spec 2 and 3).

        Raises `EndpointError`, also for host names: the reference resolves none.
        """
        match = _V6_SOCKET.fullmatch(text) or _V4_SOCKET.fullmatch(text)
        if match is None:
            raise EndpointError(_SOCKET_SYNTAX)
        parts = match.groupdict()
        try:
            ip: IPv4Address | IPv6Address = (IPv6Address if text.startswith("[") else IPv4Address)(parts["ip"])
        except AddressValueError:
            raise EndpointError(_SOCKET_SYNTAX) from None
        return cls(ip, _bounded(parts["port"], MAX_PORT), _bounded(parts.get("scope") or "0", MAX_U32))

    @classmethod
    def of_sockaddr(cls, sockaddr: tuple[str, int] | tuple[str, int, int, int]) -> SocketAddress:
        """The inverse of `sockaddr`, also for what `accept` and `getpeername` give. Raises `EndpointError`."""
        scope = sockaddr[3] if len(sockaddr) == 4 else 0
        return cls(parse_ip(sockaddr[0].partition("%")[0]), sockaddr[1], scope)

    @property
    def is_mapped(self) -> bool:
        """Whether it is an IPv4 address in IPv6 clothes."""
        return isinstance(self.host, IPv6Address) and self.host.ipv4_mapped is not None

    @property
    def is_ipv6(self) -> bool:
        """Whether it takes an IPv6 socket to use it."""
        return isinstance(self.host, IPv6Address)

    def sockaddr(self) -> tuple[str, int] | tuple[str, int, int, int]:
        """The tuple that `bind` and `connect` of a socket take: two parts for IPv4, four for IPv6."""
        if isinstance(self.host, IPv4Address):
            return (str(self.host), self.port)
        return (str(self.host), self.port, 0, self.scope)

    def __str__(self) -> str:
        if isinstance(self.host, IPv4Address):
            return f"{self.host}:{self.port}"
        scope = f"%{self.scope}" if self.scope else ""
        return f"[{ip_text(self.host)}{scope}]:{self.port}"


@dataclass(frozen=True, slots=True)
class VsockAddress:
    """A virtual machine's context id and a port, each 0…4294967295."""

    cid: int
    port: int

    def __post_init__(self) -> None:
        if not 0 <= self.cid <= MAX_U32 or not 0 <= self.port <= MAX_U32:
            raise EndpointError(f"vsock address {self.cid}:{self.port} is out of range")

    @classmethod
    def parse(cls, text: str) -> VsockAddress:
        """The address written as `CID:PORT`. Raises `EndpointError`."""
        cid, colon, port = text.partition(":")
        if not colon:
            raise EndpointError("vsock address must be in CID:PORT format")
        return cls(_vsock_number(cid), _vsock_number(port))

    def sockaddr(self) -> tuple[int, int]:
        """What `bind` and `connect` of a socket take."""
        return self.cid, self.port

    def __str__(self) -> str:
        return f"{self.cid}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """The absolute path of a Unix stream socket, at most 107 bytes, without `#`.

    `guest` is 0 where it is dialled. Who dialled us has no address of its own: he is our path and a number above 0.
    """

    path: str
    guest: int = 0

    def __post_init__(self) -> None:
        if _UNIX_PATH.fullmatch(str(self)) is None:
            raise EndpointError(f"a Unix socket is named by an absolute path without '#', not {self.path!r}")
        try:
            size = len(self.path.encode())
        except UnicodeEncodeError:
            raise EndpointError(f"path {self.path!r} of a Unix socket can't be written as UTF-8") from None
        if size > MOST_PATH_BYTES:
            raise EndpointError(f"path of a Unix socket has {size} bytes, at most {MOST_PATH_BYTES}")

    @classmethod
    def parse(cls, text: str) -> UnixAddress:
        """The address written as `/run/a.sock`, or `/run/a.sock#1` of a guest. Raises `EndpointError`."""
        match = _UNIX_PATH.fullmatch(text)
        if match is None:
            return cls(text)
        return cls(match["path"], int(match["guest"] or 0))

    def sockaddr(self) -> str:
        """What `bind` and `connect` of a socket take."""
        return self.path

    def __str__(self) -> str:
        return f"{self.path}#{self.guest}" if self.guest else self.path


_KINDS: Final = {Protocol.VSOCK: VsockAddress, Protocol.UNIX: UnixAddress}
"""Of address, by protocol; all others have a `SocketAddress`."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a peer is dialled, for example `tcp://192.0.2.10:9651`, `vsock://2:9651` or `unix:///run/a.sock`."""

    protocol: Protocol
    address: SocketAddress | VsockAddress | UnixAddress

    def __post_init__(self) -> None:
        if not isinstance(self.address, _KINDS.get(self.protocol, SocketAddress)):
            raise EndpointError(f"{self.address} is no {self.protocol.value} address")

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """The endpoint written as `proto://address`, the protocol in any case (API spec 3).

        Raises `EndpointError` with the very words of the reference.
        """
        name, separator, address = text.partition("://")
        if not separator:
            raise EndpointError("missing leading protocol identifier")
        try:
            protocol = Protocol(name.lower())
        except ValueError:
            raise EndpointError("protocol for endpoint is not supported") from None
        if protocol is Protocol.VSOCK:
            return cls(protocol, VsockAddress.parse(address))
        if protocol is Protocol.UNIX:
            return cls(protocol, UnixAddress.parse(address))
        try:
            return cls(protocol, SocketAddress.parse(address))
        except EndpointError as error:
            raise EndpointError(f"failed to parse address: {error}") from None

    def __str__(self) -> str:
        return f"{self.protocol.value}://{self.address}"


def _bounded(digits: str, highest: int) -> int:
    # Length first: `int` refuses thousands of digits with an error of its own.
    if _NUMBER.fullmatch(digits) is None or len(digits) > len(str(highest)) or int(digits) > highest:
        raise EndpointError(_SOCKET_SYNTAX)
    return int(digits)


def _vsock_number(text: str) -> int:
    # Leading zeros and one plus sign are legal here, as in the reference's number parser.
    problem = "failed to parse vsock address component: "
    digits = text.removeprefix("+")
    if not text:
        raise EndpointError(problem + "cannot parse integer from empty string")
    if not (digits.isascii() and digits.isdecimal()):
        raise EndpointError(problem + "invalid digit found in string")
    significant = digits.lstrip("0") or "0"
    if len(significant) > len(str(MAX_U32)) or int(significant) > MAX_U32:
        raise EndpointError(problem + "number too large to fit in target type")
    return int(significant)
