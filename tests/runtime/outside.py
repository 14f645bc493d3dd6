"""What an actor has to do with in tests: bare ZeroMQ sockets, as any other process has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import zmq

from protocol.codec import pack, topic, unpack
from tests.runtime.children import PATIENCE


class Neighbour:
    """A DEALER to an actor, as other actors are."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self.socket = socket

    def send(self, message: object) -> None:
        self.socket.send(message if isinstance(message, bytes) else pack(message))

    def receive(self) -> Any:
        return unpack(self.socket.recv())

    def ask(self, question: Any) -> Any:
        """The next frame after a question."""
        self.send(question)
        return self.receive()


class Outside:
    """The world around one actor: sockets that are closed when the test is over."""

    def __init__(self, run: Path, actor: str) -> None:
        self._address = f"ipc://{run / actor}"
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._sockets: list[zmq.Socket[bytes]] = []

    def neighbour(self, name: str = "", *, room: int = 1000) -> Neighbour:
        """Whoever has something to say to the actor; who does not read has room for so many frames."""
        socket = self._socket(zmq.DEALER)
        socket.setsockopt(zmq.RCVHWM, room)
        if name:
            socket.setsockopt(zmq.ROUTING_ID, name.encode())
        socket.connect(self._address)
        return Neighbour(socket)

    def subscriber(self, *kinds: type[Any]) -> zmq.Socket[bytes]:
        """Whoever wants to see the actor's events of these types."""
        socket = self._socket(zmq.SUB)
        for kind in kinds:
            socket.setsockopt(zmq.SUBSCRIBE, topic(kind))
        socket.connect(self._address + ".events")
        return socket

    def close(self) -> None:
        self._context.destroy(linger=0)

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(kind)
        socket.setsockopt(zmq.RCVTIMEO, int(PATIENCE * 1000))
        socket.setsockopt(zmq.RECONNECT_IVL, 5)
        self._sockets.append(socket)
        return socket
