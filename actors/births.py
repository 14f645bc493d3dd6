"""Which processes a node has, and what each is given at birth: configuration, descriptors, rights."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import actors
import protocol
import septate
from actors import link as link_actor
from actors import peers as peers_actor
from actors import router as router_actor
from actors import tun as tun_actor
from actors.keepsakes import Arenas, Connection
from actors.link.config import HostConfig
from actors.peers.accepting import Listener
from actors.peers.config import KeptLink, PeersConfig
from actors.peers.discovery import DiscoveryConfig
from actors.runtime.actor import Start
from actors.runtime.birth import Birth, BirthError
from actors.runtime.confine import FileRights, python_trees
from actors.runtime.logs import LogFormat
from actors.runtime.networkfile import NetworkFileError, read_network
from actors.runtime.passwordfile import read_passwords
from actors.tun.admission import AdmissionConfig
from protocol.frames import Role
from protocol.mycelium.identity import address_of
from protocol.mycelium.network import Network
from protocol.prefix import subnet_of
from septate.config import NodeConfig
from septate.places import default_message_folder

MTU: Final = 1342
"""Of the TUN device, bytes: a reference node's QUIC link dies of a larger packet (wire spec 5.6)."""
TUN_SLOTS: Final = 64
LINK_SLOTS: Final = 32
"""Of 256 KiB in an arena; memory is taken as they are used, and given back when they are idle."""
_TUN: Final = "tun"
_OUR_CODE: Final = tuple(Path(module.__path__[0]) for module in (actors, protocol, septate))
"""Late imports read it; the folder around it, which may hold a key in a checkout, stays out of reach."""

_RESOLVER_FILES: Final = tuple(
    Path(place)
    for place in (
        *("/etc/resolv.conf", "/etc/hosts", "/etc/host.conf", "/etc/nsswitch.conf", "/etc/gai.conf", "/etc/services"),
        *("/run/systemd/resolve", "/run/resolvconf", "/run/nscd"),
    )
)
"""What the C library looks into to find the address of a name."""

Connections = Mapping[int, Connection]
"""By link number; the supervisor's own, which changes."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the supervisor holds for its children. Descriptors are -1 where there is none."""

    config: NodeConfig
    run: Path
    public_key: bytes
    tun: int
    udp_offload: bool
    router_memory: int
    peers_memory: int
    listeners: tuple[Listener, ...]
    tun_memory: int
    own_flows: int
    discovery: DiscoveryConfig
    api: int
    rpc: int
    metrics: int
    started_at: float
    kept_links: Callable[[], tuple[KeptLink, ...]]
    """The links that run at this moment; asked in a newborn child, whose memory is the supervisor's of that moment."""
    arenas: Arenas
    """Asked likewise."""
    link_numbers: Callable[[], tuple[int, tuple[int, ...]]]
    """The next process of links, and the highest link number in each that lives."""


def permanent(around: Surroundings) -> tuple[Birth[Any], ...]:
    """The processes that run for as long as the node does, in the order of their start."""
    found: list[Birth[Any]] = [_router(around), _tun(around), _peers(around), _messagebox(around)]
    if around.api >= 0 or around.metrics >= 0:
        found.append(_status(around))
    if around.rpc >= 0:
        found.append(_rpc(around))
    return tuple(found)


def links(around: Surroundings, process: str, connections: Connections) -> Birth[HostConfig]:
    """A process of links. `connections` are those it has, asked in a newborn child like the rest."""

    def prepare() -> HostConfig:
        found = tuple(connection.config() for connection in connections.values())
        return HostConfig(around.public_key, _network(around.config), around.arenas.current(process), found)

    def own() -> tuple[int, ...]:
        arena = around.arenas.current(process)
        theirs = [number for connection in connections.values() for number in connection.descriptors()]
        return (arena.writable, arena.readable, *theirs)

    return Birth(
        _start(around, Role.LINK, process, links_title(connections)),
        link_actor.main,
        prepare,
        own,
        _files(around),
        before=lambda: around.arenas.renew(process, LINK_SLOTS),
        dumpable=around.config.network is None,
    )


def _network(config: NodeConfig) -> Network | None:
    """The private network, read with the supervisor's rights in a process that faces the network, and nowhere else."""
    if config.network is None:
        return None
    try:
        return read_network(config.network.name, config.network.key_file)
    except NetworkFileError as error:
        raise BirthError(str(error)) from None


def process_number(name: str) -> int:
    """The number of a process of links, by its name."""
    return int(name.rpartition("-")[2])


def links_title(connections: Connections) -> str:
    """What `ps` and `septate actors` show for a process of links."""
    endpoints = [connection.message.endpoint for connection in connections.values()]
    return f"link {endpoints[0]}" if len(endpoints) == 1 else f"{len(endpoints)} links"


def _router(around: Surroundings) -> Birth[router_actor.RouterConfig]:
    def prepare() -> router_actor.RouterConfig:
        links = tuple(link.number for link in around.kept_links())
        return router_actor.RouterConfig(around.public_key, around.router_memory, links)

    start = _start(around, Role.ROUTER, "router", "router")
    return Birth(start, router_actor.main, prepare, lambda: (around.router_memory,), _files(around))


def _tun(around: Surroundings) -> Birth[tun_actor.TunConfig]:
    def prepare() -> tun_actor.TunConfig:
        return tun_actor.prepare(
            around.tun,
            MTU,
            around.udp_offload,
            around.arenas.current(_TUN),
            AdmissionConfig(around.config.allow, around.tun_memory, around.own_flows),
            around.config.key_file,
            around.public_key,
        )

    def own() -> tuple[int, ...]:
        arena = around.arenas.current(_TUN)
        device = () if around.tun < 0 else (around.tun,)
        return (arena.writable, arena.readable, around.tun_memory, around.own_flows, *device)

    return Birth(
        _start(around, Role.TUN, _TUN, f"tun {around.config.tun_name}" if around.tun >= 0 else "tun (no device)"),
        tun_actor.main,
        prepare,
        own,
        _files(around),
        before=lambda: around.arenas.renew(_TUN, TUN_SLOTS),
        dumpable=False,
    )


def _peers(around: Surroundings) -> Birth[PeersConfig]:
    def prepare() -> PeersConfig:
        return PeersConfig(
            around.listeners,
            around.config.callers,
            around.discovery,
            around.config.ways,
            around.peers_memory,
            around.config.peers,
            around.config.firewall_mark is not None,
            read_passwords(around.config.socks_password_file),
            subnet_of(address_of(around.public_key)).network[:8],
            around.kept_links(),
            *around.link_numbers(),
        )

    start = _start(around, Role.PEERS, "peers", "peers")
    own = (
        around.peers_memory,
        *(listener.descriptor for listener in around.listeners),
        *((around.discovery.descriptor,) if around.discovery.descriptor >= 0 else ()),
    )
    files = _files(around, connect_tcp=True, read=_RESOLVER_FILES)
    # Nobody may look into the memory of one that has read passwords.
    dumpable = around.config.socks_password_file is None
    return Birth(start, peers_actor.main, prepare, lambda: own, files, dumpable=dumpable)


def _messagebox(around: Surroundings) -> Birth[Any]:
    folder = message_folder(around.config, around.run.name)

    def prepare() -> Any:
        # Imported here: what it needs of SQLite no other process should pay.
        from actors import messagebox

        life = struct.pack("<dQ", around.started_at, os.getppid())
        return messagebox.prepare(around.public_key, folder, around.config.topic_rules, life)

    files = _files(around)
    if folder is not None:
        files = FileRights(read=files.read, write=(*files.write, folder))
    start = _start(around, Role.MESSAGEBOX, "messagebox", "messagebox")
    return Birth(start, _messagebox_main, prepare, files=files)


def _messagebox_main(runtime: Any, config: Any) -> None:
    from actors import messagebox

    messagebox.main(runtime, config)


def message_folder(config: NodeConfig, instance: str) -> Path | None:
    """Where the messages of a node lie; None for a user without a home who names no folder."""
    if config.message_dir is not None:
        return config.message_dir
    try:
        return default_message_folder(os.environ, root=os.geteuid() == 0, instance=instance)
    except RuntimeError:
        return None


def _status(around: Surroundings) -> Birth[Any]:
    start = _start(around, Role.STATUS, "status", "status")
    own = tuple(number for number in (around.api, around.metrics) if number >= 0)
    return Birth(start, _status_main, lambda: around, lambda: own, _files(around))


def _status_main(runtime: Any, around: Surroundings) -> None:
    # Imported here: Flask is worth 35 MB and a quarter of a second, which no other process should pay.
    from actors import status

    status.main(
        runtime,
        status.StatusConfig(
            public_key=around.public_key,
            api=around.api,
            started_at=int(around.started_at),
            run=around.run,
            metrics=around.metrics,
            body_limit=around.config.api_body_limit,
        ),
    )


def _rpc(around: Surroundings) -> Birth[Any]:
    start = _start(around, Role.RPC, "rpc", "rpc")
    return Birth(start, _rpc_main, lambda: around, lambda: (around.rpc,), _files(around))


def _rpc_main(runtime: Any, around: Surroundings) -> None:
    # Imported here, too: asyncio and its server are for this process alone.
    from actors import rpc

    rpc.main(runtime, rpc.RpcConfig(around.public_key, around.rpc, int(around.started_at), around.run))


def _start(around: Surroundings, role: Role, name: str, title: str) -> Start:
    return Start(role, name, title, around.run, around.config.log_level, LogFormat(around.config.log_format))


def _files(around: Surroundings, *, connect_tcp: bool = False, read: tuple[Path, ...] = ()) -> FileRights:
    return FileRights(read=(*python_trees(), *_OUR_CODE, *read), write=(around.run,), connect_tcp=connect_tcp)
