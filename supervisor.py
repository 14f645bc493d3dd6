"""The supervisor: starts, watches and restarts the actors of a node, and talks to systemd.

Owns      the configuration; listening sockets; the TUN descriptor; the router's memory file; the runtime folder
Rights    those it was started with (CAP_NET_ADMIN for the TUN device and socket marks); never the node key
Receives  Hello, Ready, Heartbeat, OpenSocket, OpenDatagramSocket, SpawnLink, LastWill, EndLink,
          AskActors
Sends     Stop, SocketOpened, LinkGone, ActorList
Dies      systemd starts the node again; the kernel kills all children with it

It stays one thread, without a ZeroMQ context and without a secret, because every actor is a fork of it.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from typing import Any, Final

import actors.births as births
from actors import openings, setup
from actors.births import Surroundings
from actors.child import Child, how_it_ended, signal_name
from actors.keepsakes import Arenas, Connection
from actors.link.transports import TRANSPORTS, TransportError
from actors.peers.accepting import Listener
from actors.peers.config import KeptLink
from actors.peers.discovery import DiscoveryConfig
from actors.roster import Roster
from actors.runtime import logs
from actors.runtime.channel import Channel, ChannelClosed, ChannelFull, close_all
from actors.runtime.folder import FolderError, RuntimeFolder
from actors.runtime.pages import fixed
from actors.runtime.positions import PositionsError
from actors.runtime.systemd import Notifier
from protocol.admission.flows import FLOWS_BYTES
from protocol.codec import FrameError, warm_up
from protocol.frames import (
    SCHEMA,
    AdoptLink,
    AskActors,
    DeviceReady,
    EndLink,
    Heartbeat,
    Hello,
    LastWill,
    LinkGone,
    OpenDatagramSocket,
    OpenSocket,
    Ready,
    Role,
    SocketOpened,
    SpawnLink,
    Stop,
    actor_of,
    link_text,
    process_of,
)
from protocol.mycelium.endpoint import Protocol
from protocol.restarts import Life
from septate.config import NodeConfig

SET_UP_SECONDS: Final = 30.0
"""A disk that spins up, or a kernel that loads a module, may take some of them."""
SILENT_SECONDS: Final = 5.0
"""A process that sends no heartbeat for so long hangs, and counts as dead."""
START_SECONDS: Final = 15.0
"""A process that is not ready after so long hangs."""
STOP_SECONDS: Final = 1.2
"""Then those who did not stop by themselves are killed."""
VITAL: Final = frozenset({Role.ROUTER, Role.TUN, Role.PEERS})
"""Without one of these there is no node. Status and links are given up alone."""
MAX_LINKS: Final = 512
FRAMES_PER_TURN: Final = 64
"""A child that floods us gets this many frames per round before everybody else has a turn."""


def run(config: NodeConfig) -> int:
    """Runs a node until SIGTERM or SIGINT; returns its exit code."""
    logs.configure(config.log_level, logs.LogFormat(config.log_format))
    log = logs.get("supervisor")
    try:
        folder = RuntimeFolder.claim(config.instance, config.tun_name)
    except FolderError as error:
        log.error(str(error))
        return 1
    try:
        return Supervisor(config, folder).run()
    except (setup.SetupError, openings.OpeningError) as error:
        log.error(str(error))
        return 1
    finally:
        folder.remove()


class Supervisor:
    """One node's processes."""

    def __init__(self, config: NodeConfig, folder: RuntimeFolder) -> None:
        self._config = config
        self._folder = folder
        self._log = logs.get("supervisor")
        self._notifier = Notifier()
        self._selector = selectors.DefaultSelector()
        self._children: dict[str, Child] = {}
        self._timers: list[tuple[float, Callable[[], None]]] = []
        self._stopping = ""
        self._exit_code = 0
        self._announced = False
        self._around: Surroundings | None = None
        self._next_process = 1
        self._highest_links: dict[int, int] = {}
        """By process of links that lives: no link number is ever used twice."""
        self._roster = Roster(self._children, lambda: self._announced, self._after)
        self._loaded: set[Protocol] = set()
        """Transports whose code children have in common."""

    # --- the node's life --------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Runs the node; returns its exit code. Raises `SetupError` or `OpeningError` where it can't start."""
        self._catch_signals()
        openings.allow_descriptors()
        found = self._set_up()
        if found is None:
            self._on_signal()
            self._stop_all()
            return self._exit_code
        surroundings = self._around = self._surroundings(*found)
        warm_up()
        _share()
        for birth in births.permanent(surroundings):
            self._start(Child(birth))
        self._every(1.0, self._look_after_all)
        if self._notifier.watchdog_seconds:
            self._every(self._notifier.watchdog_seconds / 3, self._notifier.alive)
        while not self._stopping:
            self._turn()
        self._stop_all()
        return self._exit_code

    def _set_up(self) -> tuple[DeviceReady, list[int]] | None:
        given = self._config
        tun_name = given.tun_name if given.tun else None
        config = setup.SetupConfig(given.key_file, given.make_key_folder, tun_name, births.MTU, given.network)
        found = setup.in_child(config, self._signals, SET_UP_SECONDS)
        if found is not None:
            for warning in found[0].warnings:
                self._log.warning(warning)
        return found

    def _surroundings(self, device: DeviceReady, descriptors: list[int]) -> Surroundings:
        config = self._config
        return Surroundings(
            config=config,
            run=self._folder.path,
            public_key=device.public_key,
            tun=descriptors[0] if descriptors else -1,
            udp_offload=device.udp_offload,
            router_memory=os.memfd_create("septate-router", os.MFD_CLOEXEC),
            peers_memory=os.memfd_create("septate-peers", os.MFD_CLOEXEC),
            listeners=(listeners := self._listeners()),
            discovery=self._discovery(device.public_key, listeners),
            tun_memory=os.memfd_create("septate-tun", os.MFD_CLOEXEC),
            own_flows=fixed("septate-own-flows", FLOWS_BYTES),
            api=openings.listen_for_api(*config.api_addr, self._log),
            rpc=openings.listen_for_rpc(*config.jsonrpc_addr),
            metrics=-1
            if config.metrics_api_address is None
            else openings.listen_for_metrics(*config.metrics_api_address, self._log),
            started_at=time.time(),
            kept_links=self._kept_links,
            arenas=Arenas(),
            link_numbers=self._link_numbers,
        )

    def _listeners(self) -> tuple[Listener, ...]:
        config, log = self._config, self._log
        stream = Protocol.TLS if config.ways.private else Protocol.TCP
        found = [Listener(openings.listen_for_peers(config.tcp_listen_port, config.firewall_mark, log), stream)]
        if config.ways.quic:
            opened = openings.listen_for_quic(config.quic_listen_port, config.firewall_mark)
            found.append(Listener(opened, Protocol.QUIC))
        if config.vsock_listen_port is not None:
            found.append(Listener(openings.listen_on_vsock(config.vsock_listen_port, log), Protocol.VSOCK))
        if config.unix_listen is not None:
            opened = openings.listen_on_unix(config.unix_listen, log)
            found.append(Listener(opened, Protocol.UNIX, config.unix_listen))
        return tuple(listener for listener in found if listener.descriptor >= 0)

    def _discovery(self, public_key: bytes, listeners: tuple[Listener, ...]) -> DiscoveryConfig:
        config, descriptor, port = self._config, -1, 0
        over_ip = [each for each in listeners if each.transport in (Protocol.TCP, Protocol.TLS)]
        if config.discovery and over_ip:
            descriptor = openings.listen_for_neighbours(config.peer_discovery_port, config.firewall_mark, self._log)
            port = openings.port_of(over_ip[0].descriptor)
        return DiscoveryConfig(descriptor, config.peer_discovery_interfaces, port, public_key)

    def _kept_links(self) -> tuple[KeptLink, ...]:
        now = time.monotonic()
        connections = [link for child in self._children.values() for link in (child.links or {}).values()]
        return tuple(
            KeptLink(
                number=link.message.link,
                endpoint=link.message.peer,
                reached=link.message.endpoint,
                outbound=link.message.outbound,
                age=now - link.since,
                **link.ends,
            )
            for link in connections
        )

    def _link_numbers(self) -> tuple[int, tuple[int, ...]]:
        return self._next_process, tuple(self._highest_links.values())

    def _stop_all(self) -> None:
        self._notifier.stopping()
        self._log.info(f"stopping: {self._stopping}")
        for child in list(self._children.values()):
            self._end(child, self._stopping)
        deadline = time.monotonic() + STOP_SECONDS
        while self._children and time.monotonic() < deadline:
            self._turn(deadline)
        for child in self._children.values():
            os.kill(child.pid, signal.SIGKILL)
        for child in self._children.values():
            os.waitpid(child.pid, 0)

    # --- one round --------------------------------------------------------------------------------------------------

    def _turn(self, until: float | None = None) -> None:
        due = min((when for when, _ in self._timers), default=None)
        wakeups = [when for when in (due, until) if when is not None]
        timeout = max(0.0, min(wakeups) - time.monotonic()) if wakeups else None
        for key, _ in self._selector.select(timeout):
            key.data()
        now = time.monotonic()
        ready = [timer for timer in self._timers if timer[0] <= now]
        self._timers = [timer for timer in self._timers if timer[0] > now]
        for _, call in ready:
            call()

    def _after(self, delay: float, call: Callable[[], None]) -> None:
        self._timers.append((time.monotonic() + delay, call))

    def _every(self, period: float, call: Callable[[], None]) -> None:
        def again() -> None:
            self._after(period, again)
            call()

        self._after(period, again)

    def _catch_signals(self) -> None:
        self._signals, writer = socket.socketpair()
        for end in (self._signals, writer):
            end.setblocking(False)
        signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._selector.register(self._signals, selectors.EVENT_READ, self._on_signal)

    def _on_signal(self) -> None:
        for number in self._signals.recv(64):
            self._stopping = signal_name(number)

    # --- children ---------------------------------------------------------------------------------------------------

    def _start(self, child: Child) -> None:
        child.started = child.last_sign = time.monotonic()
        self._children[child.name] = child
        try:
            child.pid, child.channel = child.birth.fork()
        except OSError as error:
            self._ended(child, f"cannot be started: {error.strerror}")
            return
        child.pidfd = os.pidfd_open(child.pid)
        self._selector.register(child.pidfd, selectors.EVENT_READ, lambda: self._on_death(child))
        self._selector.register(child.channel, selectors.EVENT_READ, lambda: self._on_frames(child))

    def _on_frames(self, child: Child, most: int | None = FRAMES_PER_TURN) -> None:
        channel = child.channel
        if channel is None:
            return
        try:
            for message, descriptors in itertools.islice(channel.receive(), most):
                self._handle(child, message, descriptors)
        except ChannelClosed:
            # Its pidfd tells the rest of the story.
            self._forget(channel)
        except FrameError as error:
            self._kill(child, f"sent what is no frame: {error}")

    def _on_death(self, child: Child) -> None:
        _, status = os.waitpid(child.pid, 0)
        # The last words of a process may still wait in its channel.
        self._on_frames(child, most=None)
        self._let_go(child)
        reason = child.end_reason or how_it_ended(status)
        child.end_reason = ""
        self._ended(child, reason)

    def _ended(self, child: Child, reason: str) -> None:
        if child.links is not None and not self._go_on_with_links(child, child.links, reason):
            return
        pause = child.policy.died()
        if child.policy.life is Life.ENDED:
            del self._children[child.name]
        elif pause is None and child.links is not None:
            self._retire_all(child, child.links, f"{reason}, again and again before it was ready")
        elif pause is None:
            self._give_up(child, f"{reason}, again and again before it was ready")
        else:
            self._log.warning(f"{child.name} {reason}; restarted", pause=round(pause, 2))
            if pause:
                self._after(pause, lambda: self._restart(child))
            else:
                self._restart(child)

    def _give_up(self, child: Child, reason: str) -> None:
        if child.birth.start.role in VITAL:
            self._log.error(f"{child.name} {reason}: the node can't do its work without it, and ends")
            self._stopping, self._exit_code = f"{child.name} was given up", 1
        else:
            self._log.error(f"{child.name} {reason}: given up; the rest goes on")

    def _restart(self, child: Child) -> None:
        if child.policy.life is not Life.PAUSING:
            return
        if child.links is not None and not child.links:
            self._retire_all(child, child.links, "ended")
            return
        child.policy.again()
        self._start(child)

    def _go_on_with_links(self, child: Child, links: dict[int, Connection], reason: str) -> bool:
        """Whether a successor can go on in any connection of a dead process; those where it can't are retired."""
        if self._stopping or child.policy.life is Life.STOPPING:
            self._retire_all(child, links, reason)
            return False
        for number, connection in list(links.items()):
            if why := connection.died():
                self._retire(links, number, f"{reason}, and no successor can go on: {why}")
        if not links:
            self._retire_all(child, links, reason)
        return bool(links)

    def _retire_all(self, child: Child, links: dict[int, Connection], reason: str) -> None:
        """The end of a process of links."""
        for number in list(links):
            self._retire(links, number, reason)
        del self._children[child.name]
        self._highest_links.pop(births.process_number(child.name), None)
        self._roster.gone(child)
        if self._around is not None:
            self._around.arenas.retire(child.name)
        self._folder.forget_sockets_of(child.name)

    def _retire(self, links: dict[int, Connection], number: int, reason: str) -> None:
        """The end of a link: its connection closes, whoever still has a copy."""
        connection = links.pop(number)
        connection.close()
        if not self._stopping:
            self._log.info(f"link {link_text(number)} {reason}", peer=connection.message.endpoint)
            for name in ("router", "peers"):
                self._tell(name, LinkGone(number, reason))
            self._report_status()

    def _let_go(self, child: Child) -> None:
        self._selector.unregister(child.pidfd)
        os.close(child.pidfd)
        if child.channel is not None:
            self._forget(child.channel)
            child.channel.close()
            child.channel = None
        child.answers.clear()

    def _forget(self, channel: Channel) -> None:
        if channel in self._selector.get_map():
            self._selector.unregister(channel)

    def _end(self, child: Child, reason: str) -> None:
        child.policy.stop()
        if child.policy.life is Life.ENDED:
            # It has no process at present, and links may have connections without one.
            if child.links is not None:
                self._retire_all(child, child.links, reason)
            else:
                self._children.pop(child.name, None)
        elif child.channel is not None:
            child.end_reason = reason
            try:
                child.channel.send(Stop(reason))
            except (ChannelClosed, ChannelFull):
                os.kill(child.pid, signal.SIGKILL)

    def _kill(self, child: Child, reason: str) -> None:
        child.end_reason = reason
        self._log.error(f"{child.name} {reason}: killed")
        # What it said may have been its last words.
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)

    def _look_after_all(self) -> None:
        now = time.monotonic()
        if self._around is not None:
            self._around.arenas.let_go(now)
        for child in self._children.values():
            silent = now - child.last_sign
            if child.policy.life is Life.READY and silent > SILENT_SECONDS:
                self._kill(child, f"hangs: no heartbeat for {silent:.0f} s")
            elif child.policy.life is Life.STARTING and silent > START_SECONDS:
                self._kill(child, f"is not ready after {silent:.0f} s")
            elif child.policy.life is Life.STOPPING and silent > SILENT_SECONDS:
                self._kill(child, "does not stop")

    # --- what children say ------------------------------------------------------------------------------------------

    def _handle(self, child: Child, message: Any, descriptors: list[int]) -> None:
        child.last_sign = time.monotonic()
        match message:
            case Heartbeat():
                child.figures = message.figures
            case Hello() if message.schema != SCHEMA:
                self._kill(child, f"speaks schema {message.schema}, not {SCHEMA}")
            case Hello():
                pass
            case Ready() if child.policy.life in (Life.STARTING, Life.STOPPING):
                child.policy.serves()
                self._announce()
            case OpenSocket():
                mark = self._config.firewall_mark
                self._hand_over(child, message.token, lambda: openings.socket_to_dial_with(message.kind, mark))
            case OpenDatagramSocket():
                local, remote, mark = message.local, message.remote, self._config.firewall_mark
                self._hand_over(child, message.token, lambda: openings.datagram_socket(local, remote, mark))
            case SpawnLink() if self._around is not None:
                self._spawn_link(child, self._around, message, descriptors)
            case LastWill() if child.links is not None:
                if message.link in child.links:
                    child.links[message.link].will = message.datagram
            case EndLink():
                self._end_link(child, message)
            case AskActors():
                self._roster.asked(child, message.token)
            case _:
                self._kill(child, f"sent a {type(message).__name__}, which is none of its business")
        close_all(descriptors)

    def _announce(self) -> None:
        vital = [child for child in self._children.values() if child.birth.start.role in VITAL]
        # A node that stops lets go of some that it needs, and is no readier for that.
        if not (self._announced or self._stopping) and all(child.policy.life is Life.READY for child in vital):
            self._announced = True
            self._notifier.ready("ready")
            self._log.info(f"ready after {self._roster.age:.2f} s")
        self._report_status()

    def _report_status(self) -> None:
        self._notifier.status(f"{self._count_links()} links")

    def _count_links(self) -> int:
        return sum(len(child.links) for child in self._children.values() if child.links is not None)

    def _hand_over(self, child: Child, token: int, opened: Callable[[], socket.socket]) -> None:
        try:
            with opened() as found:
                self._tell(child.name, SocketOpened(token, ""), (found.fileno(),))
        except openings.OpeningError as error:
            self._tell(child.name, SocketOpened(token, str(error)))

    def _spawn_link(self, child: Child, surroundings: Surroundings, message: SpawnLink, descriptors: list[int]) -> None:
        if refusal := self._why_no_link(descriptors) or self._why_not_over(message.transport):
            self._tell(child.name, LinkGone(message.link, f"refused: {refusal}"))
            return
        connection = Connection(message, descriptors.pop(), surroundings.arenas)
        try:
            base = connection.base()
        except PositionsError as error:
            connection.close()
            self._tell(child.name, LinkGone(message.link, str(error)))
            return
        process = process_of(message.link)
        self._next_process = max(self._next_process, process + 1)
        self._highest_links[process] = max(message.link, self._highest_links.get(process, 0))
        host = self._children.get(actor_of(message.link))
        if host is None or host.links is None:
            links = {message.link: connection}
            self._start(Child(births.links(surroundings, actor_of(message.link), links), links))
        else:
            host.links[message.link] = connection
            adopt = AdoptLink(
                message.link,
                message.endpoint,
                message.outbound,
                message.transport,
                message.opening,
                base.sent,
                base.received,
            )
            # To a process that is just being restarted nothing need be said: it is born with all its links.
            self._tell(host.name, adopt, connection.descriptors())

    def _why_not_over(self, transport: Protocol) -> str:
        """Imports the code of a transport before the first link forks that needs it: in each it would be 10 MB more."""
        if transport not in self._loaded:
            try:
                TRANSPORTS[transport]()
            except TransportError as error:
                return str(error)
            self._loaded.add(transport)
            _share()
        return ""

    def _why_no_link(self, descriptors: list[int]) -> str:
        if len(descriptors) != 1:
            # The kernel drops what finds no room in our table.
            return "no descriptor is free"
        if self._count_links() >= MAX_LINKS:
            return f"{MAX_LINKS} links run already"
        return "the node stops" if self._stopping else ""

    def _end_link(self, sender: Child, message: EndLink) -> None:
        host = self._children.get(actor_of(message.link))
        if host is None or host.links is None or message.link not in host.links:
            return
        connection = host.links[message.link]
        if host is sender or host.channel is None:
            self._retire(host.links, message.link, connection.ending or message.reason)
        else:
            connection.ending = message.reason
            self._tell(host.name, message)

    def _tell(self, name: str, message: object, descriptors: tuple[int, ...] = ()) -> None:
        child = self._children.get(name)
        if child is None or child.channel is None:
            return
        try:
            child.channel.send(message, descriptors)
        except ChannelFull:
            self._kill(child, "does not read its channel")
        except ChannelClosed:
            # It died this moment; its pidfd will say so.
            return


def _share() -> None:
    """What is alive now every child has in common with us for good: the collector must not write into it."""
    gc.collect()
    gc.freeze()
