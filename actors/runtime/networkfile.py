"""The key file of a private network."""

from __future__ import annotations

from pathlib import Path

from protocol.mycelium.network import KEY_BYTES, Network, NetworkError


class NetworkFileError(Exception):
    """The key of a private network can't be had: which file, why, and what to do."""


def read_network(name: str, path: Path) -> Network:
    """The private network `name` with the key in the file at `path`: exactly 32 raw bytes. Raises `NetworkFileError`.

    The reference takes the first 32 bytes of a longer file (CLI spec 7): of 64 hexadecimal digits, half the key's bits.
    """
    try:
        with path.open("rb") as file:
            key = file.read(KEY_BYTES + 1)
            size = len(key) + len(file.read())
    except OSError as error:
        raise NetworkFileError(
            f"cannot read the network key file {path}: {error.strerror}; copy it from another node of the network"
        ) from None
    if size != KEY_BYTES:
        raise NetworkFileError(
            f"the network key file {path} has {size} bytes, it must have exactly {KEY_BYTES}, raw; "
            f"to shorten one that is longer and known to others: head -c {KEY_BYTES}"
        )
    try:
        return Network(name, key)
    except NetworkError as error:
        raise NetworkFileError(f"--network-name: {error}") from None
