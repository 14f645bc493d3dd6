"""`septate proxy`: the words of the reference, refused until the SOCKS5 part exists."""

from __future__ import annotations

from typing import NoReturn

import click

from septate.cli.invocation import Invocation, file_options, pass_invocation
from septate.cli.parsing import Group, OnceOption, json_option
from septate.errors import UserError


@click.group(cls=Group)
@file_options
def proxy() -> None:
    """Actions related to the SOCKS5 proxy (not in this version)."""


@proxy.command("list")
@json_option
@file_options
@pass_invocation
def list_proxies(invocation: Invocation, as_json: bool) -> None:  # noqa: ARG001
    """List known proxies (not in this version)."""
    _refuse(invocation)


@proxy.command()
@click.option("--remote", cls=OnceOption, metavar="IP:PORT", help="The proxy to use.")
@json_option
@file_options
@pass_invocation
def connect(invocation: Invocation, remote: str | None, as_json: bool) -> None:  # noqa: ARG001
    """Connect to a proxy (not in this version)."""
    _refuse(invocation)


@proxy.command()
@file_options
@pass_invocation
def disconnect(invocation: Invocation) -> None:
    """Disconnect from the current proxy (not in this version)."""
    _refuse(invocation)


@proxy.group(cls=Group)
@file_options
def probe() -> None:
    """Manage background probing for proxies (not in this version)."""


@probe.command()
@file_options
@pass_invocation
def start(invocation: Invocation) -> None:
    """Start probing (not in this version)."""
    _refuse(invocation)


@probe.command()
@file_options
@pass_invocation
def stop(invocation: Invocation) -> None:
    """Stop probing (not in this version)."""
    _refuse(invocation)


def _refuse(invocation: Invocation) -> NoReturn:
    invocation.settings()
    raise UserError("proxy: not in this version yet; name the proxy's overlay address in the application instead")
