"""`septate inspect` and `septate generate-keys`: the identity of a node."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Final

import click

from septate.cli.invocation import Invocation, file_options, pass_invocation
from septate.cli.parsing import OnceOption, json_option
from septate.errors import UserError

_PUBLIC_KEY: Final = re.compile(r"[0-9A-Fa-f]{64}", re.ASCII)


@click.command()
@click.argument("key", required=False)
@json_option
@file_options
@pass_invocation
def inspect(invocation: Invocation, key: str | None, as_json: bool) -> None:
    """Show public key and address, of KEY (64 hexadecimal digits) or of the key file."""
    from protocol.mycelium.identity import address_of
    from protocol.prefix import address_text

    invocation.settings()
    # A broken key file counts even where nobody asks for it, as in the reference.
    own = _own_public_key(invocation)
    public_key = own if key is None else _parse_public_key(key)
    if public_key is None:
        raise UserError(f"no key to inspect: give one, or make {invocation.key_path()} with `septate generate-keys`")
    address = address_text(address_of(public_key))
    if as_json:
        click.echo(json.dumps({"publicKey": public_key.hex(), "address": address}, indent=2))
    else:
        click.echo(f"Public key: {public_key.hex()}\nAddress: {address}")


@click.command("generate-keys")
@click.option(
    "--force", cls=OnceOption, is_flag=True, help="Replace an existing key: the node gets a new identity and address."
)
@file_options
@pass_invocation
def generate_keys(invocation: Invocation, force: bool) -> None:
    """Write a new secret key, readable by its owner only, to the key file."""
    from actors.runtime import keyfile
    from protocol.mycelium.identity import KEY_BYTES, KeyFileError

    invocation.settings()
    path = invocation.key_path()
    exists = path.exists()
    if exists and not force:
        invocation.log("warning", "the key file exists and is kept; --force replaces it", key_file=path)
        return
    secret = os.urandom(KEY_BYTES)
    try:
        if exists:
            keyfile.overwrite(path, secret)
        else:
            keyfile.create(path, secret, make_folder=invocation.key_file is None)
    except KeyFileError as error:
        raise UserError(str(error)) from None
    invocation.log("info", "wrote a new key", key_file=path)


def _own_public_key(invocation: Invocation) -> bytes | None:
    from actors.runtime import keyfile
    from protocol.mycelium.identity import KeyFileError, public_key

    path = invocation.key_path()
    try:
        secret = keyfile.load(path)
    except FileNotFoundError:
        return None
    except KeyFileError as error:
        raise UserError(str(error)) from None
    if invocation.key_file is None:
        invocation.log("info", "using the default key file", key_file=path)
    _warn_if_open(invocation, path)
    return public_key(secret)


def _warn_if_open(invocation: Invocation, path: Path) -> None:
    from actors.runtime import keyfile

    if keyfile.readable_by_others(path):
        invocation.log("warning", f"every user of this machine can read the key; run: chmod 600 {path}")


def _parse_public_key(text: str) -> bytes:
    if _PUBLIC_KEY.fullmatch(text) is None:
        raise UserError(f"{text[:80]!r} is no public key: one has 64 hexadecimal digits")
    return bytes.fromhex(text)
