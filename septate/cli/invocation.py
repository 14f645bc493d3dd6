"""What one call of the program was given, and what follows from it: settings, key file, log lines."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from protocol.mycelium.endpoint import SocketAddress
from septate.cli.parsing import OnceOption
from septate.config import DEFAULT_API_ADDRESS, LOG_LEVELS, ConfigError, Settings, log_level
from septate.config_file import read_config_file
from septate.places import default_config_file, default_key_file

_F = TypeVar("_F", bound=Callable[..., Any])
_TARGET: Final = "septate"


@dataclass(slots=True)
class Invocation:
    """The options that any command may need. Filled while click parses; a subcommand may still add -k and -c."""

    key_file: Path | None = None
    config_file: Path | None = None
    options: Settings = field(default_factory=Settings)
    silent: bool = False
    debug: bool = False
    log_format: str = "compact"
    instance: str | None = None

    def settings(self) -> Settings:
        """Options over the configuration file; says which keys of the file mean nothing. Raises `ConfigError`."""
        explicit = self.config_file
        path = explicit if explicit is not None else _place(default_config_file)
        found = read_config_file(path, may_be_missing=explicit is None)
        if found.unknown:
            self.log("warning", f"unknown keys are ignored: {', '.join(found.unknown)}", file=path)
        return self.options.over(found.settings)

    def key_path(self) -> Path:
        """The key file that was named, else the default one. Raises `ConfigError` for a user without a home."""
        return self.key_file if self.key_file is not None else _place(default_key_file)

    def log_level(self) -> str:
        """One of `LOG_LEVELS`. Raises `ConfigError` for a malformed RUST_LOG."""
        return log_level(silent=self.silent, debug=self.debug, directives=os.environ.get("RUST_LOG", ""))

    def log(self, level: str, message: str, **fields: object) -> None:
        """One line to standard error, if such lines are wanted."""
        wanted = self.log_level()
        if LOG_LEVELS.index(level) > LOG_LEVELS.index(wanted):
            return
        # An eighth of a second to import, which most commands can do without.
        from actors.runtime import logs

        logs.configure(wanted, logs.LogFormat(self.log_format))
        getattr(logs.get(_TARGET), level)(message, **fields)


pass_invocation: Final = click.make_pass_decorator(Invocation, ensure=True)


def file_options(command: _F) -> _F:
    """Adds the options that are legal before and after every subcommand: -k and -c."""
    for names, attribute, text in (
        (("-c", "--config-file"), "config_file", "Configuration file. [$XDG_CONFIG_HOME/mycelium/mycelium.toml]"),
        (
            ("-k", "--key-file"),
            "key_file",
            "Secret key, made when a node starts without one. [$XDG_DATA_HOME/mycelium/priv_key.bin]",
        ),
    ):
        command = click.option(
            *names,
            cls=OnceOption,
            type=click.Path(path_type=Path),
            expose_value=False,
            callback=_remember(attribute),
            help=text,
        )(command)
    return command


def api_address(invocation: Invocation) -> SocketAddress:
    """The address of the API to talk to: option, else file, else default (CLI spec Q4)."""
    return invocation.settings().api_addr or DEFAULT_API_ADDRESS


def _remember(attribute: str) -> Callable[[click.Context, click.Parameter, Path | None], None]:
    def store(ctx: click.Context, _param: click.Parameter, value: Path | None) -> None:
        if value is not None:
            setattr(ctx.ensure_object(Invocation), attribute, value)

    return store


def _place(default: Callable[[Any], Path]) -> Path:
    try:
        return default(os.environ)
    except RuntimeError:
        raise ConfigError("this user has no home directory; set HOME, or use --key-file and --config-file") from None
