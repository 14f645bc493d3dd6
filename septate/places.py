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


def default_message_folder(environment: Mapping[str, str], *, root: bool, instance: str) -> Path:
    """Where the messages of a node lie whose user names no folder; systemd says where, if it starts the node.

    Raises `RuntimeError` for a user without a home.
    """
    given = environment.get("STATE_DIRECTORY", "").split(":")[0]
    if given:
        base = Path(given)
    elif root:
        base = Path("/var/lib/septate")
    else:
        base = _folder(environment, "XDG_STATE_HOME", ".local/state") / "septate"
    return base / instance / "messages"


def _folder(environment: Mapping[str, str], variable: str, fallback: str) -> Path:
    named = Path(environment.get(variable, ""))
    # The specification has relative paths ignored.
    return named if named.is_absolute() else Path.home() / fallback
