"""The runtime that every actor shares: its loop, its sockets, its ties to the supervisor, its counters.

An actor binds `ipc://RUN/<name>` (ROUTER) for whoever has something to say to it and `ipc://RUN/<name>.events` (XPUB)
for whoever wants to listen, and connects as DEALER to those it talks to. Frames that it does not know, or that are no
frames, are counted and dropped: no neighbour can crash it with one.
"""

from __future__ import annotations

import enum
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import zmq

from actors.runtime import logs
from actors.runtime.channel import Channel, ChannelClosed, ChannelFull, close_all
from actors.runtime.figures import Gauges
from actors.runtime.loop import Loop
from protocol.codec import FrameError, pack, topic, unpack
from protocol.frames import SCHEMA, ActorList, AskActors, Figures, Heartbeat, Hello, Ready, Role, Stop

HEARTBEAT_SECONDS: Final = 1.0
"""Every other one is left out while there is nothing new to tell."""
FRAMES_PER_TURN: Final = 32
"""A neighbour that floods us gets this many frames per round before everybody else has a turn."""
MAX_MESSAGE_BYTES: Final = 4 << 20
DATA_HIGH_WATER: Final = 64
"""Frames of packets that wait for one neighbour; each is bounded in bytes, and the rest is dropped and counted."""
MAX_ASKERS: Final = 64

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Start:
    """What the supervisor gives a child at birth."""

    role: Role
    name: str
    title: str
    """What `ps` shows behind `septate: `."""
    run: Path
    """The runtime folder."""
    log_level: str
    log_format: logs.LogFormat


class Sent(enum.Enum):
    """What became of a frame for an actor that is connected to our inbox."""

    TAKEN = "taken"
    FULL = "full"
    """It does not read, for now."""
    UNREACHABLE = "unreachable"
    """It is not there."""


class Runtime:
    """One actor's surroundings. Made after the fork, when all rights are given up."""

    def __init__(self, start: Start, channel: Channel) -> None:
        self.start = start
        self.log = logs.get(start.title)
        self.loop = Loop()
        self.gauges = Gauges()
        self.counters = self.gauges.counters
        self.context = zmq.Context(io_threads=1)
        self._channel = channel
        self._handlers: dict[type[Any], Callable[[bytes, Any], None]] = {}
        self._not_from_inbox: set[type[Any]] = set()
        self._channel_handlers: dict[type[Any], Callable[[Any, list[int]], None]] = {}
        self._stopping: list[Callable[[], None]] = []
        self._askers: dict[int, tuple[bytes, int]] = {}
        self._tokens = itertools.count(1)
        self._topics: dict[bytes, int] = {}
        self._told: Figures | None = None
        """By the last heartbeat; None where the next one may not be left out."""

        self.inbox = self._socket(zmq.ROUTER)
        # A restarted neighbour comes back under its old name; a send to a dead one fails instead of vanishing.
        self.inbox.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self.inbox.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.inbox.bind(self._address(start.name))
        self.events = self._socket(zmq.XPUB)

        channel.send(Hello(SCHEMA, start.role, start.name, os.getpid()))
        self.loop.watch(channel.fileno(), self._on_channel, priority=0)
        self.loop.watch(self.inbox, self._on_inbox)
        self.loop.watch(self.events, self._on_subscription)
        self.on(AskActors, self._pass_question_on)
        self.on_channel(ActorList, self._pass_answer_on)
        self.on_channel(Stop, self._on_stop)

    # --- being an actor ---------------------------------------------------------------------------------------------

    def serve(self, welcome: object | None = None) -> None:
        """Says *ready* and serves until told to stop. `welcome` is sent to each new subscriber of our events."""
        if welcome is not None:
            self.events.setsockopt(zmq.XPUB_WELCOME_MSG, pack(welcome))
        self.events.bind(self._address(self.start.name + ".events"))
        self.loop.every(HEARTBEAT_SECONDS, self._beat_if_due)
        try:
            self.tell_supervisor(Ready())
            self._beat(self.gauges.figures())
            self.loop.run()
            # What it counted last, such as the garbage that made it stop, is told before it is gone.
            self._beat(self.gauges.figures())
        except ChannelClosed:
            # Nobody is left who could restart us: the node is over.
            self.log.error("the supervisor is gone")
        for call in self._stopping:
            call()
        self.context.destroy(linger=0)

    def stop(self) -> None:
        """Ends `serve` after this round."""
        self.loop.stop()

    def at_stop(self, call: Callable[[], None]) -> None:
        """Runs `call` when the actor ends in an orderly way."""
        self._stopping.append(call)

    # --- frames from and to other actors ----------------------------------------------------------------------------

    def on(self, kind: type[_T], handler: Callable[[bytes, _T], None], *, inbox: bool = True) -> None:
        """Calls `handler(sender, frame)` for each frame of this type that arrives.

        Into the inbox anybody in the runtime folder may put frames under any name. Without `inbox` those are not
        taken, only answers on ways that we dialled and events that we subscribed to.
        """
        self._handlers[kind] = handler
        if not inbox:
            self._not_from_inbox.add(kind)

    def send(self, receiver: bytes, message: object) -> bool:
        """Sends to an actor that is connected to our inbox; False where it is not there or does not read."""
        return self.send_packed(receiver, pack(message))

    def send_packed(self, receiver: bytes, data: bytes) -> bool:
        """`send` for a frame that is packed already."""
        sent = self.offer(receiver, data)
        if sent is not Sent.TAKEN:
            self.counters[f"sends.{sent.value}"] += 1
        return sent is Sent.TAKEN

    def offer(self, receiver: bytes, data: bytes) -> Sent:
        """`send_packed` for who goes on offering what was not taken: nothing is counted."""
        self.loop.touched()
        try:
            self.inbox.send_multipart((receiver, data), zmq.NOBLOCK)
        except zmq.Again:
            return Sent.FULL
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return Sent.UNREACHABLE
        return Sent.TAKEN

    def connect(self, actor: str, *, answers: bool = False) -> Outlet:
        """A way to another actor's inbox; what waits in it survives that actor's restart.

        With `answers`, frames that come back are handled like those of the inbox.
        """
        socket = self._socket(zmq.DEALER)
        socket.setsockopt(zmq.ROUTING_ID, self.start.name.encode())
        socket.connect(self._address(actor))
        if answers:
            self.loop.watch(socket, lambda _: self._drain(socket, actor.encode()), priority=1)
        return Outlet(self, socket)

    def disconnect(self, outlet: Outlet) -> None:
        """Closes a way that is no longer needed."""
        self.loop.forget(outlet.socket)
        outlet.socket.close(linger=0)

    # --- events -----------------------------------------------------------------------------------------------------

    def subscribe(self, actor: str, kinds: tuple[type[Any], ...], *, priority: int = 1) -> None:
        """Handles another actor's events of these types like frames of the inbox."""
        socket = self._socket(zmq.SUB)
        for kind in kinds:
            socket.setsockopt(zmq.SUBSCRIBE, topic(kind))
        socket.connect(self._address(actor + ".events"))
        self.loop.watch(socket, lambda _: self._drain(socket, actor.encode()), priority=priority)

    def publish(self, message: object) -> None:
        """Sends an event to whoever subscribed to its type."""
        self.loop.touched()
        try:
            self.events.send(pack(message), zmq.NOBLOCK)
        except zmq.Again:
            self.counters["events.full"] += 1

    def watched(self, kind: type[Any]) -> bool:
        """Whether anyone subscribed to events of this type: nothing is made up for an empty room."""
        return bool(self._topics) and self._topics.get(topic(kind), 0) > 0

    # --- supervisor -------------------------------------------------------------------------------------------------

    def on_channel(self, kind: type[_T], handler: Callable[[_T, list[int]], None]) -> None:
        """Calls `handler(frame, descriptors)` for each frame of this type from the supervisor."""
        self._channel_handlers[kind] = handler

    def tell_supervisor(self, message: object, descriptors: tuple[int, ...] = ()) -> None:
        """Sends a frame, and duplicates of descriptors, to the supervisor."""
        self._channel.send(message, descriptors)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self.context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, DATA_HIGH_WATER)
        socket.setsockopt(zmq.RCVHWM, DATA_HIGH_WATER)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        # A restarted actor is back within milliseconds; the default of 100 would be most of the outage.
        socket.setsockopt(zmq.RECONNECT_IVL, 5)
        return socket

    def _address(self, name: str) -> str:
        return f"ipc://{self.start.run / name}"

    def _beat_if_due(self) -> None:
        # Hundreds of links that only keep alive would keep the supervisor awake, with nothing to tell.
        figures, told = self.gauges.figures(), self._told
        quiet = told is not None and (figures.queues, figures.counters) == (told.queues, told.counters)
        self._told = None if quiet else figures
        if not quiet:
            self._beat(figures)

    def _beat(self, figures: Figures) -> None:
        try:
            self.tell_supervisor(Heartbeat(figures))
        except ChannelFull:
            # A supervisor that was stopped for minutes finds us at work.
            self.counters["heartbeats.unread"] += 1

    def _on_channel(self, _events: int) -> None:
        for message, descriptors in self._channel.receive():
            handler = self._channel_handlers.get(type(message))
            if handler is None:
                close_all(descriptors)
                raise FrameError(
                    f"the supervisor sent a {type(message).__name__}, which {self.start.name} can't handle"
                )
            handler(message, descriptors)

    def _on_inbox(self, _events: int) -> None:
        for _ in range(FRAMES_PER_TURN):
            try:
                parts = self.inbox.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            # A DEALER sends one part, a REQ puts an empty one in front.
            self._handle(parts[0], parts[-1], from_inbox=True)

    def _drain(self, socket: zmq.Socket[bytes], sender: bytes) -> None:
        for _ in range(FRAMES_PER_TURN):
            try:
                data = socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._handle(sender, data)

    def _handle(self, sender: bytes, data: bytes, *, from_inbox: bool = False) -> None:
        try:
            message = unpack(data)
        except FrameError as error:
            self.counters["frames.malformed"] += 1
            self.log.warning("dropped what is no frame", sender=sender.decode(errors="replace"), reason=error)
            return
        handler = self._handlers.get(type(message))
        if handler is None or (from_inbox and type(message) in self._not_from_inbox):
            self.counters["frames.unexpected"] += 1
            return
        handler(sender, message)

    def _on_subscription(self, _events: int) -> None:
        for _ in range(FRAMES_PER_TURN):
            try:
                data = self.events.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            if data[:1] == b"\x01":
                self._topics[data[1:]] = 1
            elif data[:1] == b"\x00":
                self._topics.pop(data[1:], None)

    def _on_stop(self, message: Stop, _descriptors: list[int]) -> None:
        self.log.debug("stops", reason=message.reason)
        self.stop()

    def _pass_question_on(self, sender: bytes, question: AskActors) -> None:
        if len(self._askers) >= MAX_ASKERS:
            self._askers.pop(next(iter(self._askers)))
        token = next(self._tokens)
        self._askers[token] = (sender, question.token)
        self.tell_supervisor(AskActors(token))

    def _pass_answer_on(self, answer: ActorList, _descriptors: list[int]) -> None:
        asker = self._askers.get(answer.token)
        if asker is None:
            return
        sender, token = asker
        # A list with a hole would pass for a whole one: behind a part that was not taken none follows.
        if not self.send(sender, ActorList(token, answer.actors, answer.more)) or not answer.more:
            del self._askers[answer.token]


class Outlet:
    """A DEALER to one actor's inbox. Never blocks: what it can't take is dropped and counted."""

    __slots__ = ("_counters", "_loop", "socket")

    def __init__(self, runtime: Runtime, socket: zmq.Socket[bytes]) -> None:
        self.socket = socket
        self._counters = runtime.counters
        self._loop = runtime.loop

    def send(self, message: object) -> bool:
        """Sends one frame; False where its queue is full."""
        return self.send_packed(pack(message))

    def send_packed(self, data: bytes) -> bool:
        """`send` for a frame that is packed already."""
        self._loop.touched()
        try:
            self.socket.send(data, zmq.NOBLOCK)
        except zmq.Again:
            self._counters["sends.full"] += 1
            return False
        return True
