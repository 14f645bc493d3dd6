"""Who we are to a SOCKS5 proxy (RFC 1929): a user, and a password that nothing which people read ever shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, unquote

MOST_BYTES: Final = 255
"""Of a user's name, and of a password (RFC 1929 section 2); neither may be empty."""
MOST_LINES: Final = 4096


class LoginError(ValueError):
    """Text that is no user and password, or no list of passwords. Never quotes it."""


@dataclass(frozen=True, slots=True)
class Login:
    """A user, and the password where it is known. As text it is the user alone."""

    user: str
    password: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _check("user", self.user)
        if self.password is not None:
            _check("password", self.password)

    @classmethod
    def parse(cls, text: str) -> Login:
        """What stands before the `@` of a URL: `user` or `user:password`, percent-encoded. Raises `LoginError`."""
        user, colon, password = text.partition(":")
        try:
            return cls(unquote(user, errors="strict"), unquote(password, errors="strict") if colon else None)
        except UnicodeError:
            raise LoginError("user and password of a SOCKS5 proxy are UTF-8, percent-encoded") from None

    def spelled(self) -> str:
        """The inverse of `parse`, password included."""
        return str(self) if self.password is None else f"{self}:{quote(self.password, safe='')}"

    def __str__(self) -> str:
        return quote(self.user, safe="")


def without_secret(text: str) -> str:
    """`text` without what may be a user and a password, `***@proxy…`: for errors that quote what was given."""
    _, at, rest = text.rpartition("@")
    return f"***@{rest}" if at else text


def parse_passwords(text: str) -> dict[str, str]:
    """The passwords in a file with lines `USER@PROXY:PORT PASSWORD`, by what stands in front.

    Lines that are empty or begin with `#` say nothing. Raises `LoginError`, which names the line and not its content.
    """
    found = {}
    lines = text.split("\n")
    if len(lines) > MOST_LINES:
        raise LoginError(f"it has more than {MOST_LINES} lines")
    for number, line in enumerate(lines, 1):
        way, _, password = line.removesuffix("\r").partition(" ")
        if way.startswith("#") or not (way or password):
            continue
        user, at, proxy = way.rpartition("@")
        try:
            login = Login(Login.parse(user).user, password)
        except LoginError as error:
            raise LoginError(f"line {number}: {error}; write USER@PROXY:PORT PASSWORD") from None
        if not at or not proxy:
            raise LoginError(f"line {number} names no proxy; write USER@PROXY:PORT PASSWORD")
        found[f"{login}@{proxy.lower()}"] = password
    return found


class Passwords:
    """Those that were given with a peer, and those of a file, by proxy."""

    def __init__(self, by_proxy: Mapping[str, str], trouble: str = "", remark: str = "") -> None:
        """`trouble`: why there are none by proxy; `remark`: what else is to be said of their file; for people."""
        self._by_proxy = dict(by_proxy)
        self._by_peer: dict[str, str] = {}
        self._trouble = trouble
        self.remark: Final = trouble or remark
        """What the log should say."""

    def keep(self, peer: str, login: Login | None) -> None:
        """The peer was given with this login; its password is remembered."""
        if login is not None and login.password is not None:
            self._by_peer[peer] = login.password

    def forget(self, peer: str) -> None:
        """The peer is none any more."""
        self._by_peer.pop(peer, None)

    def given(self, peer: str, login: Login) -> Login:
        """The login as it was given with the peer."""
        return Login(login.user, self._by_peer.get(peer))

    def complete(self, peer: str, login: Login, proxy: str) -> Login:
        """The login with its password. Raises `LoginError` where nobody gave one."""
        way = f"{login}@{proxy}"
        password = self._by_peer.get(peer) or self._by_proxy.get(way)
        if password is None:
            reason = self._trouble or "give one as USER:PASSWORD, or in the socks_password_file"
            raise LoginError(f"no password for {way}: {reason}")
        return Login(login.user, password)


def _check(what: str, text: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise LoginError(f"the {what} of a SOCKS5 proxy can't be written as UTF-8") from None
    if not 1 <= size <= MOST_BYTES:
        raise LoginError(f"the {what} of a SOCKS5 proxy has 1 to {MOST_BYTES} bytes, not {size}")
