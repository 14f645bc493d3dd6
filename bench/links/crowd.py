"""The crowd: a program that is many peers of one node at once, each with its own key and /64.

Inside a namespace: `python -m bench.links.crowd ADDRESS COUNT`. Each peer speaks as much of the wire protocol as it
takes to be one (wire spec 7.18, the part of a leaf): its Update when it connects, and whenever it is asked for it;
a Hello every 20 s, not all at the same time; an IHU for each Hello. What else it hears it does not look at.

Prints one line of JSON when it begins, one when all are connected, one when the Hello of each has been answered, and
one when a peer is dropped; the times are seconds of CLOCK_MONOTONIC. Ends by SIGTERM.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Sequence
from typing import Final

from blake3 import blake3

from tests.lab.nodes import LISTEN_PORT

HELLO_SECONDS: Final = 20.0
UNDER_WAY: Final = 64
"""Connections that are being made at a time: who connects to a node comes when he likes, but not all in one instant."""
READ_BYTES: Final = 1 << 18
_PACKET: Final = struct.Struct("!BBHBBH")
_TLV_AT: Final = _PACKET.size
_DATA_BYTES: Final = 40
_CONTROL: Final = 1
_HELLO, _IHU, _UPDATE, _ROUTE_REQUEST = 4, 5, 8, 9
_EVENTS: Final = select.EPOLLIN


def control(tlv_type: int, body: bytes) -> bytes:
    """A packet around one TLV (wire spec 3.4)."""
    return _PACKET.pack(1, _CONTROL, 0, 42, 3, len(body) + 2) + bytes((tlv_type, len(body))) + body


IHU: Final = control(_IHU, struct.pack("!BBHH", 0, 0, 1015, 6000))


class Peer:
    """One connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection: Final = connection
        self.answered = False
        self.seqno = 0
        self._received = bytearray()
        key = os.urandom(32)
        address = bytearray(blake3(key).digest()[:16])
        # Wire spec 1.3.
        address[0] = 0x04 | address[0].bit_count() % 2
        fields = struct.pack("!BBBBHHH", 2, 0, 64, 0, 30000, 0, 0)
        self.update: Final = control(_UPDATE, fields + bytes(address[:8]) + key + bytes(2) + os.urandom(6))

    def begin(self) -> None:
        """Says what a peer says first, and a Hello, to hear when the node has a place for it."""
        self.connection.sendall(self.update)
        self.hello()

    def hello(self) -> None:
        """Sends a Hello."""
        self.connection.sendall(control(_HELLO, struct.pack("!HHH", 0x8000, self.seqno, 2000)))
        self.seqno = (self.seqno + 1) & 0xFFFF

    def read(self, memory: memoryview) -> bool:
        """Reads what is there and answers what has to be; False at the end of the connection."""
        try:
            count = self.connection.recv_into(memory)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if count == 0:
            return False
        received = self._received
        received += memory[:count]
        at, size, answers = 0, len(received), b""
        while size - at >= _PACKET.size:
            if received[at + 1] == _CONTROL:
                end = at + _PACKET.size + (received[at + 6] << 8 | received[at + 7])
            else:
                end = at + _DATA_BYTES + (received[at + 5] << 8 | received[at + 6])
            if end > size:
                break
            if received[at + 1] == _CONTROL:
                tlv_type = received[at + _TLV_AT]
                if tlv_type == _HELLO:
                    answers += IHU
                elif tlv_type == _IHU:
                    self.answered = True
                elif tlv_type == _ROUTE_REQUEST and received[at + _TLV_AT + 3] == 0:
                    answers += self.update
            at = end
        del received[:at]
        if answers:
            self.connection.sendall(answers)
        return True


class Crowd:
    """All of them, in one thread."""

    def __init__(self, address: str, count: int) -> None:
        self._address = address
        self._missing = count
        self._count = count
        self._epoll = select.epoll()
        self._connecting: dict[int, socket.socket] = {}
        self._peers: dict[int, Peer] = {}
        self._unanswered: set[int] = set()
        self._memory = memoryview(bytearray(READ_BYTES))
        self._stopped = False

    def stop(self, *_: object) -> None:
        """A signal handler."""
        self._stopped = True

    def run(self) -> None:
        """Until `stop`."""
        tell("begun")
        self._dial()
        due = time.monotonic() + HELLO_SECONDS / self._count
        turn = 0
        while not self._stopped:
            for number, _ in self._epoll.poll(max(0.0, due - time.monotonic())):
                if number in self._connecting:
                    self._connected(number)
                else:
                    self._hear(number)
            while time.monotonic() >= due:
                due += HELLO_SECONDS / self._count
                peers = list(self._peers.values())
                if len(peers) == self._count:
                    peers[turn % len(peers)].hello()
                    turn += 1

    def _dial(self) -> None:
        while self._missing and len(self._connecting) < UNDER_WAY:
            self._missing -= 1
            connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            connection.connect_ex((self._address, LISTEN_PORT))
            self._connecting[connection.fileno()] = connection
            self._epoll.register(connection.fileno(), select.EPOLLOUT)

    def _connected(self, number: int) -> None:
        connection = self._connecting.pop(number)
        code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise SystemExit(f"peer {len(self._peers)}: {os.strerror(code)}")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._epoll.modify(number, _EVENTS)
        peer = self._peers[number] = Peer(connection)
        self._unanswered.add(number)
        peer.begin()
        self._dial()
        if len(self._peers) == self._count:
            tell("connected")

    def _hear(self, number: int) -> None:
        peer = self._peers[number]
        if not peer.read(self._memory):
            tell("dropped")
            self._epoll.unregister(number)
            del self._peers[number]
            self._unanswered.discard(number)
            peer.connection.close()
        elif peer.answered and number in self._unanswered:
            self._unanswered.remove(number)
            if not self._unanswered and len(self._peers) == self._count:
                tell("answered")


def tell(what: str) -> None:
    """Prints that something happened just now."""
    print(json.dumps({what: time.monotonic()}), flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.links.crowd", description="Be many peers of one node.")
    parser.add_argument("address", help="IPv4 address of the node")
    parser.add_argument("count", type=int)
    given = parser.parse_args(arguments)
    crowd = Crowd(given.address, given.count)
    signal.signal(signal.SIGTERM, crowd.stop)
    crowd.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
