"""Where a user's files lie: the reference's paths on Linux (XDG Base Directory Specification, CLI spec 4 and 5)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def default_key_file(environment: Mapping[str, str]) -> Path:
    """The key file of a user who names none. Raises `RuntimeError` for a user without a home."""
    return _folder(environment, "XDG_DATA_HOME", ".local/share") / "mycelium" / "priv_key.bin"


def default_config_file(environment: Mapping[str, str]) -> Path:
    """The configuration file of a user who names none. Raises `RuntimeError` for a user without a home."""
    return _folder(environment, "XDG_CONFIG_HOME", ".config") / "mycelium" / "mycelium.toml"


def _folder(environment: Mapping[str, str], variable: str, fallback: str) -> Path:
    named = Path(environment.get(variable, ""))
    # The specification has relative paths ignored.
    return named if named.is_absolute() else Path.home() / fallback
