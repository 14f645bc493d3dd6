"""Actors to ask in tests: real ZeroMQ sockets, real frames, made-up answers."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zmq

from protocol.codec import pack, unpack
from protocol.frames import (
    ActorList,
    ActorRow,
    AddPeer,
    AddressTraffic,
    Answer,
    AskActors,
    AskPeers,
    AskPublicKey,
    AskQueried,
    AskRoutes,
    AskTraffic,
    Outcome,
    PeerList,
    PeerRow,
    PublicKeyAnswer,
    QueriedList,
    QueriedRow,
    RemovePeer,
    Role,
    RouteKind,
    RouteList,
    RouteRow,
    TrafficList,
)

Reply = Callable[[Any], Iterable[Any]]


@contextmanager
def run_folder() -> Iterator[Path]:
    """A runtime folder whose path is short enough for Unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="st-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    """A ZeroMQ context that ends with the test."""
    made: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
    try:
        yield made
    finally:
        made.destroy(linger=0)


@contextmanager
def actor(folder: Path, name: str, reply: Reply) -> Iterator[None]:
    """An actor `name` that answers each frame with the frames (or the bytes) that `reply` gives."""
    with context() as surroundings:
        inbox = surroundings.socket(zmq.ROUTER)
        inbox.bind(f"ipc://{folder / name}")

        def answer() -> None:
            sender, data = inbox.recv_multipart()
            for part in reply(unpack(data)):
                inbox.send_multipart((sender, part if isinstance(part, bytes) else pack(part)))

        with _served(surroundings, inbox, answer):
            yield


@contextmanager
def _served(
    surroundings: zmq.Context[zmq.Socket[bytes]], socket: zmq.Socket[bytes], on_readable: Callable[[], object]
) -> Iterator[None]:
    ending, ended = surroundings.socket(zmq.PAIR), surroundings.socket(zmq.PAIR)
    ending.bind("inproc://ending")
    ended.connect("inproc://ending")

    def serve() -> None:
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(ended, zmq.POLLIN)
        while ended not in (ready := dict(poller.poll())):
            if socket in ready:
                on_readable()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        ending.send(b"")
        thread.join()
        ending.close()
        ended.close()


@contextmanager
def publisher(folder: Path, name: str, event: Any) -> Iterator[None]:
    """The events socket of an actor `name` that sends one event to each new subscriber."""
    with context() as surroundings:
        events = surroundings.socket(zmq.XPUB)
        events.setsockopt(zmq.XPUB_WELCOME_MSG, pack(event))
        events.bind(f"ipc://{folder / name}.events")
        with _served(surroundings, events, lambda: events.recv()):
            yield


class Node:
    """The answers of the peers, router and tun actors of one small node."""

    def __init__(self) -> None:
        self.peers: dict[str, PeerRow] = {}
        self.routes: dict[RouteKind, list[RouteRow]] = {RouteKind.SELECTED: [], RouteKind.FALLBACK: []}
        self.queried: list[QueriedRow] = []
        self.keys: dict[bytes, bytes] = {}
        self.by_source: list[AddressTraffic] = []
        self.by_destination: list[AddressTraffic] = []
        self.actors: list[ActorRow] = []
        self.full = False

    def add(self, endpoint: str, kind: str = "static", state: str = "dead", **more: Any) -> None:
        """Puts a peer into the table."""
        row = {"link": 0, "sent_octets": 0, "received_octets": 0, "discovered_age": 0.4, "connected_age": None}
        self.peers[endpoint] = PeerRow(
            endpoint=endpoint, reached="", kind=kind, state=state, **{**row, "reason": "", **more}
        )

    def reply(self, question: Any) -> Iterable[Any]:
        """The answer, with every list in two parts."""
        token = question.token
        match question:
            case AskPeers():
                rows = tuple(self.peers.values())
                return (PeerList(token, rows[:1], True), PeerList(token, rows[1:], False))
            case AddPeer(endpoint=endpoint):
                if self.full:
                    return (Answer(token, Outcome.REFUSED, "the peer table is full"),)
                if endpoint in self.peers:
                    return (Answer(token, Outcome.EXISTS, ""),)
                self.add(endpoint)
                return (Answer(token, Outcome.DONE, ""),)
            case RemovePeer(endpoint=endpoint):
                known = self.peers.pop(endpoint, None)
                return (Answer(token, Outcome.MISSING if known is None else Outcome.DONE, ""),)
            case AskRoutes(kind=kind):
                found = tuple(self.routes[kind])
                return (RouteList(token, found[:1], True), RouteList(token, found[1:], False))
            case AskQueried():
                return (QueriedList(token, tuple(self.queried), False),)
            case AskPublicKey(address=address):
                return (PublicKeyAnswer(token, self.keys.get(address[:8], b"")),)
            case AskTraffic():
                return (
                    TrafficList(token, tuple(self.by_source), (), True),
                    TrafficList(token, (), tuple(self.by_destination), False),
                )
            case AskActors():
                return (ActorList(token, tuple(self.actors), False),)
        raise AssertionError(f"nobody here answers {question}")

    @contextmanager
    def alive(self, folder: Path, names: Iterable[str] = ("peers", "router", "tun")) -> Iterator[None]:
        """The named actors of this node, serving in `folder`."""
        first, *rest = names
        with actor(folder, first, self.reply):
            if rest:
                with self.alive(folder, rest):
                    yield
            else:
                yield


def actor_row(name: str, role: Role, **more: Any) -> ActorRow:
    """A process that has run for 65 seconds."""
    values: dict[str, Any] = {
        "title": f"{name} title",
        "pid": 4711,
        "age_seconds": 65.04,
        "restarts": 2,
        "ready": True,
        "cpu_seconds": 1.234,
        "pss_kib": 20992,
        "queues": {"outgoing": 3},
        "counters": {"sends.full": 1},
    }
    return ActorRow(name=name, role=role, **{**values, **more})
