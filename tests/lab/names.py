"""A name server for a namespace: it knows a few names, over UDP and TCP, and notes what it was asked."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from tests.lab.namespaces import Namespace

PORT: Final = 53
LARGEST_DATAGRAM: Final = 512
_A: Final = 1
_AAAA: Final = 28
_OPT: Final = 41
_RESPONSE: Final = 0x8180
_TRUNCATED: Final = 0x0200
_NO_SUCH_NAME: Final = 3


class NameServer:
    """Answers at `address` until it is closed; `asked` has (name, type, "udp" or "tcp") of each question."""

    def __init__(self, namespace: Namespace, address: str, names: Mapping[str, Sequence[str]]) -> None:
        self._names = dict(names)
        self.asked: list[tuple[str, int, str]] = []
        self._datagrams = namespace.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._listener = namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for each in (self._datagrams, self._listener):
            each.bind((address, PORT))
        self._listener.listen()
        self._threads = [threading.Thread(target=serve) for serve in (self._serve_datagrams, self._serve_streams)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Ends it."""
        for each in (self._datagrams, self._listener):
            with contextlib.suppress(OSError):
                # Of a socket that is not connected the kernel says so, and wakes who reads from it all the same.
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._datagrams.close()
        self._listener.close()

    def _serve_datagrams(self) -> None:
        while True:
            try:
                question, client = self._datagrams.recvfrom(LARGEST_DATAGRAM)
            except OSError:
                return
            if not question:
                return
            answer = self._answer(question, "udp")
            if len(answer) > _room(question):
                head, rest = struct.unpack_from("!HH", answer), answer[4:6]
                end = 12 + answer[12:].index(0) + 5
                answer = struct.pack("!HH", head[0], head[1] | _TRUNCATED) + rest + bytes(6) + answer[12:end]
            with contextlib.suppress(OSError):
                self._datagrams.sendto(answer, client)

    def _serve_streams(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, contextlib.suppress(OSError):
                client.settimeout(5)
                while head := client.recv(2, socket.MSG_WAITALL):
                    question = client.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL)
                    answer = self._answer(question, "tcp")
                    client.sendall(struct.pack("!H", len(answer)) + answer)

    def _answer(self, question: bytes, over: str) -> bytes:
        number = question[:2]
        end = 12 + question[12:].index(0) + 5
        labels, at = [], 12
        while question[at]:
            labels.append(question[at + 1 : at + 1 + question[at]].decode())
            at += 1 + question[at]
        name, (kind,) = ".".join(labels).lower(), struct.unpack_from("!H", question, at + 1)
        self.asked.append((name, kind, over))
        known = self._names.get(name)
        flags = _RESPONSE | (_NO_SUCH_NAME if known is None else 0)
        wanted = {_A: 4, _AAAA: 6}.get(kind)
        found = [address for address in map(ip_address, known or ()) if address.version == wanted]
        # Each record's name points to that of the question.
        records = b"".join(
            struct.pack("!HHHIH", 0xC00C, kind, 1, 60, len(address.packed)) + address.packed for address in found
        )
        return number + struct.pack("!HHHHH", flags, 1, len(found), 0, 0) + question[12:end] + records


def _room(question: bytes) -> int:
    """How large a datagram the client takes: what its OPT record says (RFC 6891), else 512 bytes."""
    end = 12 + question[12:].index(0) + 5
    kind, size = struct.unpack_from("!xHH", question, end) if len(question) > end else (0, 0)
    return size if kind == _OPT else LARGEST_DATAGRAM


@contextlib.contextmanager
def name_server(
    place: Namespace, address: str, names: Mapping[str, Sequence[str]], users: Sequence[Namespace], folder: Path
) -> Iterator[NameServer]:
    """A name server in `place`, which programs in the namespaces of `users` ask. `folder` is for a file."""
    configured = folder / f"resolv-{place.label}.conf"
    configured.write_text(f"nameserver {address}\n")
    for user in users:
        user.etc["resolv.conf"] = configured
    server = NameServer(place, address, names)
    try:
        yield server
    finally:
        server.close()
        for user in users:
            del user.etc["resolv.conf"]
