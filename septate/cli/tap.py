"""`septate tap`: the headers of packets that pass through a running node, one line each, as they pass."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import click

from septate.cli.invocation import file_options
from septate.cli.parsing import Number, OnceOption, json_option
from septate.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from protocol.frames import PacketsSeen
    from protocol.prefix import Prefix

HEADER_BYTES: Final = 40
"""Packet header and data header (wire spec 3.1 and 3.3)."""
_RELAYED_OFFSET: Final = 4
_SOURCE: Final = slice(8, 24)
_DESTINATION: Final = slice(24, 40)
_WAITING_FRAMES: Final = 64
"""What a slow terminal may leave lying here; beyond that the node drops our copy and goes on."""
_LOOK_FOR_LINKS_S: Final = 1.0
_EVENTS: Final = ".events"
_LINE: Final = "{time} {actor} {direction:<3} {source} > {destination} hop limit {hopLimit} length {length}"


@click.command()
@click.option("--link", cls=OnceOption, metavar="X", help="One process only: tun, or a link such as link-3 or 3.")
@click.option("--match", cls=OnceOption, metavar="PREFIX", help="Packets from or to this prefix or address only.")
@click.option("--count", cls=OnceOption, type=Number(1, 2**63 - 1), help="Stop after so many packets.")
@click.option("--instance", cls=OnceOption, metavar="NAME", help="The node to look at, where several run.")
@json_option
@file_options
def tap(link: str | None, match: str | None, count: int | None, instance: str | None, as_json: bool) -> None:
    """Show data packets as they pass: time, process, direction, source > destination, hop limit, length.

    The length is that of the sealed body. A packet that is relayed is seen twice, where it comes in and where it
    leaves. Nothing is delayed for you: what can't be shown in time is not shown.
    """
    from actors.runtime.asking import NoInstance, find_instance
    from protocol.prefix import PrefixError

    try:
        folder = find_instance(instance)
        wanted = None if match is None else _prefix(match)
    except (NoInstance, PrefixError) as error:
        raise UserError(str(error)) from None
    only = f"link-{link}" if link is not None and link.isdecimal() else link
    left = count
    try:
        for seen in _subscription(folder, only):
            for line in lines(seen, wanted, _clock(), as_json=as_json):
                click.echo(line)
                if left is not None:
                    left -= 1
                    if not left:
                        return
    except KeyboardInterrupt:
        return


def lines(seen: PacketsSeen, wanted: Prefix | None, moment: str, *, as_json: bool = False) -> Iterator[str]:
    """One line for each packet of the event from or to `wanted`, for each packet at all where that is None."""
    from protocol.prefix import address_text

    for start in range(0, len(seen.headers) - HEADER_BYTES + 1, HEADER_BYTES):
        header = seen.headers[start : start + HEADER_BYTES]
        source, destination = header[_SOURCE], header[_DESTINATION]
        if wanted is not None and not (wanted.contains(source) or wanted.contains(destination)):
            continue
        packet = {
            "time": moment,
            "actor": seen.actor,
            "direction": seen.direction.value,
            "source": address_text(source),
            "destination": address_text(destination),
            "hopLimit": header[_RELAYED_OFFSET + 3],
            "length": int.from_bytes(header[_RELAYED_OFFSET + 1 : _RELAYED_OFFSET + 3], "big"),
        }
        yield json.dumps(packet) if as_json else _LINE.format_map(packet)


def _subscription(folder: Path, only: str | None) -> Iterator[PacketsSeen]:
    import zmq

    from protocol.codec import FrameError, topic, unpack
    from protocol.frames import PacketsSeen

    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
    try:
        socket: zmq.Socket[bytes] = context.socket(zmq.SUB)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVHWM, _WAITING_FRAMES)
        socket.setsockopt(zmq.SUBSCRIBE, topic(PacketsSeen))
        follow = _follower(folder, only, socket.connect)
        look_again = 0.0
        while True:
            if time.monotonic() >= look_again:
                follow()
                look_again = time.monotonic() + _LOOK_FOR_LINKS_S
            if not socket.poll(int(_LOOK_FOR_LINKS_S * 1000)):
                continue
            try:
                seen: Any = unpack(socket.recv())
            except FrameError:
                continue
            if isinstance(seen, PacketsSeen):
                yield seen
    finally:
        context.destroy(linger=0)


def _follower(folder: Path, only: str | None, connect: Callable[[str], object]) -> Callable[[], None]:
    known: set[str] = set()

    def follow() -> None:
        names = {path.name.removesuffix(_EVENTS) for path in folder.glob(f"*{_EVENTS}")}
        wanted = {name for name in names if name == "tun" or name.startswith("link-")} if only is None else {only}
        for name in sorted(wanted - known):
            connect(f"ipc://{folder / name}{_EVENTS}")
            known.add(name)

    return follow


def _prefix(text: str) -> Prefix:
    from protocol.prefix import ADDRESS_BITS, Prefix

    return Prefix.parse(text if "/" in text else f"{text}/{ADDRESS_BITS}")


def _clock() -> str:
    return datetime.now().strftime("%H:%M:%S.%f")
