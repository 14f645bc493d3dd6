"""The configuration file of a node: TOML, flat, with the keys and the loose types of the reference (CLI spec 4)."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from protocol.callers import CallersError, prefix_text
from protocol.logins import without_secret
from protocol.mycelium.endpoint import MAX_PORT, MAX_U32, Endpoint, EndpointError, SocketAddress
from protocol.targets import Target, TargetError
from septate.config import MAX_BODY_LIMIT, ConfigError, Settings, endpoints


@dataclass(frozen=True, slots=True)
class FileSettings:
    """What a configuration file says, and the names of keys and tables in it that mean nothing."""

    settings: Settings
    unknown: tuple[str, ...] = ()


def read_config_file(path: Path, *, may_be_missing: bool) -> FileSettings:
    """Settings of a TOML file (CLI spec 4). Raises `ConfigError`."""
    if may_be_missing:
        try:
            path.stat()
        except OSError:
            # Like the reference, which under ProtectHome finds no home to look into.
            return FileSettings(Settings())
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise ConfigError(
            f"cannot read configuration file {path}: {error.strerror}; name another one with --config-file"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    return parse_settings(document, str(path))


def parse_settings(document: Mapping[str, Any], source: str) -> FileSettings:
    """Settings of a parsed file; `source` names it in errors. Raises `ConfigError`.

    Types are converted as the reference does it: numbers from strings, floats and booleans; booleans from words and
    numbers; strings from numbers.
    """
    values = {}
    for key, value in document.items():
        convert = _CONVERSIONS.get(key)
        if convert is None:
            continue
        try:
            values[key] = convert(value)
        except (ConfigError, EndpointError, TargetError, CallersError) as error:
            raise ConfigError(f"{source}: {key}: {error}") from None
    return FileSettings(Settings(**values), tuple(key for key in document if key not in _CONVERSIONS))


_TRUE: Final = ("true", "yes", "on", "1")
_FALSE: Final = ("false", "no", "off", "0")


def _boolean(value: Any) -> bool:
    if isinstance(value, bool | int | float):
        return bool(value)
    if isinstance(value, str) and value.lower() in _TRUE + _FALSE:
        return value.lower() in _TRUE
    raise ConfigError(f"{_shown(value)} is no boolean; write true or false")


def _integer(highest: int) -> Callable[[Any], int]:
    def convert(value: Any) -> int:
        number = _whole_number(value)
        if number is None:
            raise ConfigError(f"{_shown(value)} is no number")
        if not 0 <= number <= highest:
            raise ConfigError(f"{_shown(value)} is out of range; write a number between 0 and {highest}")
        return number

    return convert


def _whole_number(value: Any) -> int | None:
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return int(math.copysign(math.floor(abs(value) + 0.5), value))
    if isinstance(value, str):
        digits = value.removeprefix("+")
        if digits.isascii() and digits.isdecimal() and len(digits) <= 20:
            return int(digits)
        if value.lower() in ("true", "false"):
            return int(value.lower() == "true")
    return None


def _string(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise ConfigError(f"{_shown(value)} is no text; put it into quotes")


def _strings(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ConfigError(f"{_shown(value)} is no list; write [{_shown(value)}]")
    return tuple(_string(part) for part in value)


def _socket_address(value: Any) -> SocketAddress:
    text = _string(value)
    try:
        return SocketAddress.parse(text)
    except EndpointError as error:
        raise ConfigError(f"{error} in {text!r}; write ADDRESS:PORT, with a number for both") from None


def _peers(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ConfigError(f'{_shown(value)} is no list of endpoints; write ["tcp://ADDRESS:PORT", …]')
    for text in texts:
        try:
            Endpoint.parse(text)
        except EndpointError as error:
            raise ConfigError(f"{error} in {without_secret(text)!r}; write tcp://ADDRESS:PORT") from None
    return endpoints(texts)


def _rules(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ConfigError(f'{_shown(value)} is no list of rules; write ["any icmp", "5ea:4578:6f:62c8::/64 tcp/22"]')
    if not texts:
        raise ConfigError('an empty list would let everybody in; leave the key out for that, or write ["none"]')
    # Imported here: keys of rules need libraries that most commands can do without.
    from protocol.admission.rules import RuleError, parse_rules

    try:
        return tuple(str(rule) for rule in parse_rules(texts))
    except RuleError as error:
        raise ConfigError(str(error)) from None


def _named_peers(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else _strings(value)
    return tuple(dict.fromkeys(Target.parse(text).spelled() for text in texts))


def _prefixes(value: Any) -> tuple[str, ...]:
    found = tuple(prefix_text(text) for text in ([value] if isinstance(value, str) else _strings(value)))
    if not found:
        raise ConfigError("an empty list says nothing about who may connect; leave the key out")
    return found


def _shown(value: Any) -> str:
    text = without_secret(repr(value))
    return text if len(text) <= 60 else text[:59] + "…"


_CONVERSIONS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "peers": _peers,
    "tcp_listen_port": _integer(MAX_PORT),
    "quic_listen_port": _integer(MAX_PORT),
    "disable_quic": _boolean,
    "peer_discovery_port": _integer(MAX_PORT),
    "disable_peer_discovery": _boolean,
    "peer_discovery_interfaces": _strings,
    "api_addr": _socket_address,
    "api_body_limit": _integer(MAX_BODY_LIMIT),
    "jsonrpc_addr": _socket_address,
    "no_tun": _boolean,
    "tun_name": _string,
    "metrics_api_address": _socket_address,
    "firewall_mark": _integer(MAX_U32),
    # Its range is looked at when a node starts, as in the reference: the utility commands don't mind.
    "update_workers": _integer(2**63 - 1),
    "topic_config": _string,
    "message_dir": _string,
    "cdn_cache": _string,
    "vsock_listen_port": _integer(MAX_U32),
    "unix_listen": _string,
    "enable_dns": _boolean,
    "allow": _rules,
    "network_name": _string,
    "network_key_file": _string,
    "named_peers": _named_peers,
    "socks_password_file": _string,
    "allow_peers": _prefixes,
    "deny_peers": _prefixes,
}
