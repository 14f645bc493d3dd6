"""The kernel's routing netlink, as far as interfaces and their addresses go (rtnetlink(7)): requests and what it says.

Numbers are in the byte order of this machine, for the kernel is the other end.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

GROUP_LINK: Final = 0x1
GROUP_IPV4_ADDRESS: Final = 0x10
GROUP_IPV6_ADDRESS: Final = 0x100
"""Multicast groups to bind a socket to."""

_HEADER: Final = struct.Struct("=IHHII")
_LINK: Final = struct.Struct("=BxHiII")
_ADDRESS: Final = struct.Struct("=BBBBI")
_ATTRIBUTE: Final = struct.Struct("=HH")
_ALIGN: Final = 4

_ERROR: Final = 2
_DONE: Final = 3
_NEW_LINK: Final = 16
_DELETE_LINK: Final = 17
_GET_LINK: Final = 18
_NEW_ADDRESS: Final = 20
_DELETE_ADDRESS: Final = 21
_GET_ADDRESS: Final = 22
_REQUEST_DUMP: Final = 0x1 | 0x300
_TYPE_MASK: Final = 0x3FFF
_LINK_NAME: Final = 3
_LINK_INFO: Final = 18
_INFO_KIND: Final = 1
_ADDRESS_ADDRESS: Final = 1
_ADDRESS_LOCAL: Final = 2
_ADDRESS_FLAGS: Final = 8
_TENTATIVE: Final = 0x40
_FAILED: Final = 0x08


@dataclass(frozen=True, slots=True)
class LinkNews:
    """An interface: `flags` are those of netdevice(7), 0 where it is gone; `kind` is the driver's word, as `tun`."""

    index: int
    name: str
    kind: str
    flags: int


@dataclass(frozen=True, slots=True)
class AddressNews:
    """An address (4 or 16 bytes) of an interface: whether it may be used."""

    index: int
    address: bytes
    usable: bool


@dataclass(frozen=True, slots=True)
class DumpDone:
    """The answer to a request is complete, or was refused."""


News = LinkNews | AddressNews | DumpDone


def ask_links(sequence: int) -> bytes:
    """The request for all interfaces."""
    return _request(_GET_LINK, sequence, _LINK.pack(0, 0, 0, 0, 0))


def ask_addresses(sequence: int) -> bytes:
    """The request for all addresses."""
    return _request(_GET_ADDRESS, sequence, _ADDRESS.pack(0, 0, 0, 0, 0))


def parse(data: bytes) -> Iterator[News]:
    """What one datagram of the kernel says. What is cut short is left out, what is unknown skipped."""
    for kind, body in _messages(data):
        if kind in (_NEW_LINK, _DELETE_LINK) and len(body) >= _LINK.size:
            _, _, index, flags, _ = _LINK.unpack_from(body)
            attributes = dict(_attributes(body[_LINK.size :]))
            about = dict(_attributes(attributes.get(_LINK_INFO, b"")))
            name, driver = _text(attributes.get(_LINK_NAME, b"")), _text(about.get(_INFO_KIND, b""))
            yield LinkNews(index, name, driver, flags if kind == _NEW_LINK else 0)
        elif kind in (_NEW_ADDRESS, _DELETE_ADDRESS) and len(body) >= _ADDRESS.size:
            _, _, flags, _, index = _ADDRESS.unpack_from(body)
            attributes = dict(_attributes(body[_ADDRESS.size :]))
            # On a point-to-point interface the other attribute is the far end's.
            address = attributes.get(_ADDRESS_LOCAL) or attributes.get(_ADDRESS_ADDRESS, b"")
            all_flags = int.from_bytes(attributes.get(_ADDRESS_FLAGS, bytes((flags,))), "little")
            if len(address) in (4, 16):
                yield AddressNews(index, address, kind == _NEW_ADDRESS and not all_flags & (_TENTATIVE | _FAILED))
        elif kind in (_DONE, _ERROR):
            yield DumpDone()


def _request(kind: int, sequence: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST_DUMP, sequence, 0) + body


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, position)
        if length < _HEADER.size or position + length > len(data):
            return
        yield kind, data[position + _HEADER.size : position + length]
        position += length + -length % _ALIGN


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, position)
        if length < _ATTRIBUTE.size or position + length > len(data):
            return
        yield kind & _TYPE_MASK, data[position + _ATTRIBUTE.size : position + length]
        position += length + -length % _ALIGN


def _text(octets: bytes) -> str:
    return octets.rstrip(b"\0").decode(errors="replace")
