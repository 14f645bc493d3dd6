"""What a node is told to do: options of the command line over a configuration file over defaults."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

from protocol.callers import EVERYBODY, Callers
from protocol.logins import without_secret
from protocol.mycelium.endpoint import (
    MAX_PORT,
    MAX_U32,
    Endpoint,
    EndpointError,
    SocketAddress,
    UnixAddress,
)
from protocol.mycelium.network import NetworkError, check_name
from protocol.targets import Target
from protocol.transports import Ways
from septate.errors import UserError

DEFAULT_PORT: Final = 9651
DEFAULT_DISCOVERY_PORT: Final = 9650
MIN_BODY_LIMIT: Final = 2_097_152
"""Of a request to the HTTP API, bytes: what the reference takes."""
MAX_BODY_LIMIT: Final = 1 << 30
DEFAULT_API_ADDRESS: Final = SocketAddress(IPv4Address("127.0.0.1"), 8989)
DEFAULT_TUN_NAME: Final = "mycelium"
MAX_TUN_NAME_BYTES: Final = 15
MAX_UPDATE_WORKERS: Final = 255
LOG_FORMATS: Final = ("compact", "logfmt", "plain")
LOG_LEVELS: Final = ("error", "warning", "info", "debug")
"""From quiet to talkative."""

_LEVEL_WORDS: Final = {
    "off": "error",
    "error": "error",
    "warn": "warning",
    "info": "info",
    "debug": "debug",
    "trace": "debug",
}


HostPort = tuple[str, int]
"""A numeric address, with its scope where it has one, and a port."""


class ConfigError(UserError):
    """A setting that can't be used; one line that names where it stands, what it is, why, and the way out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What one source, the command line or a file, says. None (for a flag: False) where it says nothing.

    Names are the keys of the file and, with dashes, the options of the command line (CLI spec 2 and 4).
    """

    peers: tuple[str, ...] | None = None
    tcp_listen_port: int | None = None
    quic_listen_port: int | None = None
    disable_quic: bool = False
    peer_discovery_port: int | None = None
    disable_peer_discovery: bool = False
    peer_discovery_interfaces: tuple[str, ...] | None = None
    api_addr: SocketAddress | None = None
    api_body_limit: int | None = None
    jsonrpc_addr: SocketAddress | None = None
    no_tun: bool = False
    tun_name: str | None = None
    metrics_api_address: SocketAddress | None = None
    firewall_mark: int | None = None
    update_workers: int | None = None
    topic_config: str | None = None
    message_dir: str | None = None
    cdn_cache: str | None = None
    vsock_listen_port: int | None = None
    unix_listen: str | None = None
    enable_dns: bool = False
    allow: tuple[str, ...] | None = None
    network_name: str | None = None
    network_key_file: str | None = None
    named_peers: tuple[str, ...] | None = field(default=None, repr=False)
    socks_password_file: str | None = None
    allow_peers: tuple[str, ...] | None = None
    deny_peers: tuple[str, ...] | None = None

    def over(self, other: Settings) -> Settings:
        """These settings, and the other ones where these say nothing. A flag counts if either sets it."""
        merged: dict[str, Any] = {}
        for each in fields(self):
            own, others = getattr(self, each.name), getattr(other, each.name)
            merged[each.name] = own or others if isinstance(own, bool) else (others if own is None else own)
        return Settings(**merged)


@dataclass(frozen=True, slots=True)
class PrivateNetwork:
    """A private network, and where its key is: the key itself is for the processes that need it."""

    name: str
    key_file: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """Everything a node is started with, checked and with defaults filled in."""

    key_file: Path
    """The 32-byte secret key; generated where it is missing."""
    make_key_folder: bool
    """Whether the folder of a missing key file may be made: for the default path only."""
    peers: tuple[str, ...] = field(default=(), repr=False)
    """Whom to keep a connection to, as `Target` spells them, passwords included, each once."""
    socks_password_file: Path | None = None
    """Passwords at SOCKS5 proxies, read by the process that dials and by no other."""
    tcp_listen_port: int = DEFAULT_PORT
    """Where peers connect to, on all addresses; 0 lets the system choose."""
    tun: bool = True
    """Whether the host takes part; without a device only routing does."""
    tun_name: str = DEFAULT_TUN_NAME
    """Name of the device, cut to the 15 bytes that the kernel allows."""
    api_addr: HostPort = ("127.0.0.1", 8989)
    """Where the HTTP API listens, as `bind` takes it; whoever reaches it rules the node."""
    api_body_limit: int = MIN_BODY_LIMIT
    """Most bytes of a request in JSON to the HTTP API, 2097152…1073741824."""
    jsonrpc_addr: HostPort = ("127.0.0.1", 8990)
    """Where the JSON-RPC API listens, likewise."""
    metrics_api_address: HostPort | None = None
    """Where Prometheus metrics are served; None serves none."""
    firewall_mark: int | None = None
    """SO_MARK of sockets towards peers, 0…4294967295."""
    topic_rules: str = ""
    """What the topic configuration file says (messages spec 8.3): TOML that was found to be good."""
    message_dir: Path | None = None
    """Folder of the message box's database; None for the instance's own among those of this user's state."""
    log_level: str = "info"
    """One of `LOG_LEVELS`."""
    log_format: str = "compact"
    """One of `LOG_FORMATS`."""
    instance: str | None = None
    """Name of this node among those on the machine, and of its runtime folder; None lets the supervisor choose."""
    vsock_listen_port: int | None = None
    """Where virtual machines and their host connect to over vsock, 0…4294967295; None for nowhere."""
    unix_listen: str | None = None
    """Path of a Unix socket where peers on this machine connect to; None for nowhere."""
    allow: tuple[str, ...] = ()
    """Who may reach this host from the overlay, as `Rule` writes it; empty lets everybody in."""
    network: PrivateNetwork | None = None
    """The private network that all peers have to be in; None for the public one."""
    callers: Callers = EVERYBODY
    """Who may connect to our listeners over IP."""
    quic: bool = True
    """Whether QUIC is used; never in a private network."""
    quic_listen_port: int = DEFAULT_PORT
    """UDP port of QUIC links."""
    discovery: bool = True
    """Whether neighbours on the local network are looked for."""
    peer_discovery_port: int = DEFAULT_DISCOVERY_PORT
    """UDP port of discovery beacons."""
    peer_discovery_interfaces: tuple[str, ...] = ()
    """Interfaces to look on; empty for all."""
    update_workers: int = 1
    """Accepted for compatibility, 1…255: one router process needs no more."""

    @property
    def ways(self) -> Ways:
        """How peers can be reached."""
        private = self.network is not None
        return Ways(private=private, quic=self.quic and not private)

    def __post_init__(self) -> None:
        if self.unix_listen is not None:
            _check_unix_path(self.unix_listen)
        for peer in self.peers:
            if Target.parse(peer).spelled() != peer:
                raise ConfigError(f"peer {without_secret(peer)!r} is not written as Target writes it")
        for name in ("tcp_listen_port", "quic_listen_port", "peer_discovery_port"):
            if not 0 <= getattr(self, name) <= MAX_PORT:
                raise ConfigError(f"{name} {getattr(self, name)} is no port; give one between 0 and {MAX_PORT}")
        if self.firewall_mark is not None and not 0 <= self.firewall_mark <= MAX_U32:
            raise ConfigError(f"firewall_mark {self.firewall_mark} does not fit 32 bits")
        if not MIN_BODY_LIMIT <= self.api_body_limit <= MAX_BODY_LIMIT:
            raise ConfigError(
                f"api_body_limit {self.api_body_limit} is out of range; "
                f"give one between {MIN_BODY_LIMIT} and {MAX_BODY_LIMIT} bytes"
            )
        if not 1 <= self.update_workers <= MAX_UPDATE_WORKERS:
            raise ConfigError(
                f"update_workers {self.update_workers} is out of range; give one between 1 and {MAX_UPDATE_WORKERS}"
            )
        if self.log_level not in LOG_LEVELS or self.log_format not in LOG_FORMATS:
            raise ConfigError(f"no log of level {self.log_level!r} and format {self.log_format!r}")
        if not self.tun_name:
            raise ConfigError("tun_name is empty; give the device a name, or use --no-tun")


def _check_unix_path(path: str) -> None:
    try:
        UnixAddress(path)
    except EndpointError as error:
        raise ConfigError(f"unix_listen: {error}") from None


@dataclass(frozen=True, slots=True)
class Remark:
    """Something a user should know about settings that are legal: `level` is one of `LOG_LEVELS`."""

    level: str
    text: str


# --- from settings to a node ------------------------------------------------------------------------------------------


def node_config(
    settings: Settings, *, key_file: Path, make_key_folder: bool, log_level: str, log_format: str, instance: str | None
) -> NodeConfig:
    """The settings with defaults filled in. Raises `ConfigError`, also for parts that this version lacks."""
    refused = [f"--{name.replace('_', '-')}" for name in _PARTS_TO_COME if _is_set(settings, name)]
    if refused:
        parts = dict.fromkeys(_PARTS_TO_COME[option[2:].replace("-", "_")] for option in refused)
        raise ConfigError(
            f"{', '.join(refused)}: this version has no {' and no '.join(parts)}; start without it, "
            "on the command line and in the configuration file"
        )
    given: dict[str, Any] = {
        name: value for name in _GIVEN_AS_THEY_ARE if (value := getattr(settings, name)) is not None
    }
    for name in ("api_addr", "jsonrpc_addr", "metrics_api_address"):
        address: SocketAddress | None = getattr(settings, name)
        if address is not None:
            given[name] = _host_and_port(address)
    if settings.topic_config is not None:
        given["topic_rules"] = _topic_rules(Path(settings.topic_config))
    if settings.message_dir is not None:
        given["message_dir"] = Path(settings.message_dir).absolute()
    if settings.socks_password_file is not None:
        given["socks_password_file"] = Path(settings.socks_password_file)
    tun_name = settings.tun_name if settings.tun_name is not None else DEFAULT_TUN_NAME
    return NodeConfig(
        peers=tuple(dict.fromkeys((*(settings.peers or ()), *(settings.named_peers or ())))),
        callers=Callers.parse(settings.allow_peers or (), settings.deny_peers or ()),
        key_file=key_file,
        make_key_folder=make_key_folder,
        tun=not settings.no_tun,
        tun_name=tun_name.encode()[:MAX_TUN_NAME_BYTES].decode(errors="ignore"),
        quic=not settings.disable_quic,
        discovery=not settings.disable_peer_discovery,
        log_level=log_level,
        log_format=log_format,
        instance=instance,
        network=_private_network(settings),
        **given,
    )


def _private_network(settings: Settings) -> PrivateNetwork | None:
    name, key_file = settings.network_name, settings.network_key_file
    if name is None and key_file is None:
        return None
    if name is None or key_file is None:
        # The reference would join the public network, and say nothing (CLI spec 7, Q5).
        known, missing = ("network_key_file", "network_name") if name is None else ("network_name", "network_key_file")
        raise ConfigError(f"{known} without {missing}: a private network has both; give the other one, or neither")
    try:
        check_name(name)
    except NetworkError as error:
        raise ConfigError(f"network_name: {error}") from None
    return PrivateNetwork(name, Path(key_file))


def _topic_rules(path: Path) -> str:
    """The content of a topic configuration file. A file that is meant to restrict must not fail open (Q6)."""
    # Imported here: what rules need of cryptography no quick command should pay.
    from protocol.mycelium.messages.topics import TopicError, TopicRules

    try:
        text = path.read_bytes().decode()
        TopicRules.from_toml(text)
    except OSError as error:
        raise ConfigError(f"topic_config: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"topic_config: {path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except TopicError as error:
        raise ConfigError(f"topic_config: {path}: {error}") from None
    return text


_GIVEN_AS_THEY_ARE: Final = (
    "api_body_limit",
    "tcp_listen_port",
    "firewall_mark",
    "vsock_listen_port",
    "unix_listen",
    "quic_listen_port",
    "peer_discovery_port",
    "peer_discovery_interfaces",
    "update_workers",
    "allow",
)

_PARTS_TO_COME: Final = {
    "cdn_cache": "CDN",
    "enable_dns": "DNS forwarder",
}
"""Settings that ask for a part which does not exist yet. Silence would be a node that does less than it was told to."""

_WITHOUT_EFFECT: Final = {
    "update_workers": "the router needs no more than one process",
}


def _host_and_port(address: SocketAddress) -> HostPort:
    scope = f"%{address.scope}" if address.scope else ""
    return f"{address.host}{scope}", address.port


def endpoints(texts: list[str] | tuple[str, ...]) -> tuple[str, ...]:
    """The endpoints in their standard form, each once, in order. Raises `EndpointError`."""
    return tuple(dict.fromkeys(str(Endpoint.parse(text)) for text in texts))


def parts_to_come() -> tuple[str, ...]:
    """The keys of settings that are refused, because they ask for a part which does not exist yet."""
    return tuple(_PARTS_TO_COME)


def without_effect() -> tuple[str, ...]:
    """The keys of settings that are accepted and do nothing."""
    return tuple(_WITHOUT_EFFECT)


def remarks(settings: Settings) -> list[Remark]:
    """What to tell the user about settings that are accepted and do less than they seem to."""
    found = [
        Remark("info", f"--{name.replace('_', '-')} has no effect: {why}")
        for name, why in _WITHOUT_EFFECT.items()
        if _is_set(settings, name)
    ]
    if settings.disable_peer_discovery and settings.peer_discovery_interfaces:
        found.append(Remark("warning", "--peer-discovery-interface has no effect: --disable-peer-discovery is given"))
    ways = Ways(private=settings.network_name is not None, quic=not settings.disable_quic)
    for peer in settings.peers or ():
        endpoint = Endpoint.parse(peer)
        why = ways.why_never(endpoint)
        if why:
            found.append(Remark("warning", f"peer {peer} never connects: {why}"))
    return found


def _is_set(settings: Settings, name: str) -> bool:
    # Not by comparison: port 0 is a setting, and equals False.
    value = getattr(settings, name)
    return value is not None and value is not False


def log_level(*, silent: bool, debug: bool, directives: str) -> str:
    """One of `LOG_LEVELS`; `directives` is the value of RUST_LOG, which replaces the two options (CLI spec 6).

    One level counts for the whole node: the last one without a target, else the most talkative of those whose target
    is ours or the reference's. Raises `ConfigError` for a level that there isn't.
    """
    if not directives:
        return "error" if silent else "debug" if debug else "info"
    general = None
    targeted = ["error"]
    for directive in filter(None, (part.strip() for part in directives.split(","))):
        target, equals, word = directive.partition("=")
        level = _LEVEL_WORDS.get((word if equals else target).lower())
        if level is None and equals:
            raise ConfigError(f"RUST_LOG: {directive!r} has no level; use one of {', '.join(_LEVEL_WORDS)}")
        if not equals and level is not None:
            general = level
        elif target.startswith(("mycelium", "septate")):
            targeted.append(level or "debug")
    return general or max(targeted, key=LOG_LEVELS.index)
