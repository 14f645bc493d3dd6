"""SOCKS5 proxies for tests: honest ones that relay to a node, and liars of every kind."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from tests.lab.namespaces import Namespace
from tests.lab.nodes import LISTEN_PORT

Script = Callable[[socket.socket], None]
"""What a proxy says to its guest. It may raise `OSError`: the guest is gone."""
SUCCESS: Final = b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"


@contextlib.contextmanager
def proxies(namespace: Namespace, scripts: dict[int, Script], *, address: str = "127.0.0.1") -> Iterator[None]:
    """A proxy on each of these ports of an address of the namespace."""
    listeners, guests, threads = [], list[socket.socket](), []

    def serve(listener: socket.socket, script: Script) -> None:
        with contextlib.suppress(OSError):
            while True:
                guest, _ = listener.accept()
                guests.append(guest)
                with contextlib.suppress(OSError):
                    script(guest)
                    # What it has said is not to be lost by a reset.
                    guest.shutdown(socket.SHUT_WR)
                guest.close()

    for port, script in scripts.items():
        listener = namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen()
        listeners.append(listener)
        threads.append(threading.Thread(target=serve, args=(listener, script)))
        threads[-1].start()
    try:
        yield
    finally:
        for each in (*listeners, *guests):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        for each in listeners:
            each.close()


def says(*words: bytes, pause: float = 0.0) -> Script:
    """Says each word as an answer to whatever it hears; with a pause, one byte after the other, however long."""

    def script(guest: socket.socket) -> None:
        for word in words:
            if not guest.recv(600):
                return
            for part in [word] if not pause else [word[at : at + 1] for at in range(len(word))]:
                guest.sendall(part)
                time.sleep(pause)

    return script


def relay(namespace: Namespace, address: str, heard: list[bytes], *, login: bool = False) -> Script:
    """An honest proxy to the node at `address`, whatever it is asked for; `heard` gets what it was told."""

    def script(guest: socket.socket) -> None:
        heard.append(guest.recv(600))
        if login:
            guest.sendall(b"\x05\x02")
            heard.append(guest.recv(600))
            guest.sendall(b"\x01\x00")
        else:
            guest.sendall(b"\x05\x00")
        heard.append(guest.recv(600))
        with namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as beyond:
            beyond.connect((address, LISTEN_PORT))
            # In two pieces, as a network may do it.
            guest.sendall(SUCCESS[:3])
            guest.sendall(SUCCESS[3:])
            back = threading.Thread(target=_pump, args=(beyond, guest))
            back.start()
            _pump(guest, beyond)
            back.join()

    return script


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for each in (source, sink):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
