"""Who may ask: on a loopback address nobody under a foreign name, and no page of a foreign site.

A page in a browser can point its own host name at 127.0.0.1 (DNS rebinding), and can send some requests, and open
WebSockets, without asking first; a blind GET is enough to take a message. All of that gives itself away: by the Host
header, or by the headers Origin and Sec-Fetch-Site that browsers add and programs don't.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from actors.api.faults import ApiError, Fault
from protocol.mycelium.endpoint import EndpointError, parse_ip

_WEB: Final = ("http", "https")
_CROSS_SITE: Final = "cross-site"


def check_names(header: Callable[[str], str | None]) -> None:
    """Raises `ApiError` where a request shows a foreign name or site; `header` finds a header by its name."""
    host, origin, site = (header(name) for name in ("host", "origin", "sec-fetch-site"))
    if host is not None and not is_local_name(host):
        raise ApiError(
            Fault.FOREIGN_NAME, "this API answers to addresses and localhost only, not to other names in Host"
        )
    if origin is not None and not is_local_origin(origin):
        raise ApiError(Fault.FOREIGN_NAME, f"pages of {origin[:200]!r} may not use this API")
    if site == _CROSS_SITE:
        raise ApiError(Fault.FOREIGN_NAME, "pages of other sites may not use this API")


def is_local_name(host: str) -> bool:
    """Whether the value of a Host header is an address or localhost, with or without a port."""
    if host.startswith("["):
        name, bracket, port = host[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            return False
    else:
        name = host.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        parse_ip(name)
    except EndpointError:
        return False
    return True


def is_local_origin(origin: str) -> bool:
    """Whether the value of an Origin header is a page that this machine served itself.

    `null` is no such page: it is what a file or a sandboxed frame of any site sends.
    """
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    if parts.scheme not in _WEB or not parts.netloc:
        return False
    name = parts.hostname or ""
    if name == "localhost":
        return True
    try:
        return parse_ip(name).is_loopback
    except EndpointError:
        return False


def is_loopback(descriptor: int) -> bool:
    """Whether a listening TCP socket is bound to a loopback address."""
    with socket.socket(fileno=socket.dup(descriptor)) as listener:
        return ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback
