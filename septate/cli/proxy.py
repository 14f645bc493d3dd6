"""`septate proxy`: the SOCKS5 proxies that a node has found, and the one that it uses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

import click

from protocol.mycelium.endpoint import EndpointError, SocketAddress
from septate.cli.invocation import Invocation, api_address, file_options, pass_invocation
from septate.cli.parsing import Group, OnceOption, json_option
from septate.cli.table import table
from septate.client import PROXY, Node, RefusedError
from septate.errors import UserError


@click.group(cls=Group)
@file_options
def proxy() -> None:
    """Actions related to the SOCKS5 proxy (Septate nodes have none yet)."""


@proxy.command("list")
@json_option
@file_options
@pass_invocation
def list_proxies(invocation: Invocation, as_json: bool) -> None:
    """List the open proxies that probing has found."""
    with _node(invocation) as node:
        if as_json:
            click.echo(node.exchange.json_text(PROXY))
        else:
            click.echo(table(("IPv6 Address",), [(address,) for address in node.proxies()]))


@proxy.command()
@click.option("--remote", cls=OnceOption, metavar="IP:PORT", help="The proxy to use. [the first that answers]")
@json_option
@file_options
@pass_invocation
def connect(invocation: Invocation, remote: str | None, as_json: bool) -> None:
    """Have the node hand connections to its port 1080 on to a proxy."""
    if remote is not None:
        try:
            SocketAddress.parse(remote)
        except EndpointError as error:
            raise UserError(f"--remote: {remote[:80]!r}: {error}; give IP:PORT or [IPV6]:PORT") from None
    with _node(invocation) as node:
        try:
            used = node.connect_proxy(remote)
        except RefusedError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            raise UserError(
                "no proxy answers, or port 1080 is taken (HTTP 404); see `septate proxy list`, name one by --remote"
            ) from None
        click.echo(json.dumps(used) if as_json else used)


@proxy.command()
@file_options
@pass_invocation
def disconnect(invocation: Invocation) -> None:
    """Have the node close port 1080 and what came through it."""
    with _node(invocation) as node:
        node.disconnect_proxy()


@proxy.group(cls=Group)
@file_options
def probe() -> None:
    """Manage background probing for proxies."""


@probe.command()
@file_options
@pass_invocation
def start(invocation: Invocation) -> None:
    """Start probing all nodes that routes lead to, every minute."""
    with _node(invocation) as node:
        node.start_proxy_probe()


@probe.command()
@file_options
@pass_invocation
def stop(invocation: Invocation) -> None:
    """Stop probing; what was found stays."""
    with _node(invocation) as node:
        node.stop_proxy_probe()


@contextmanager
def _node(invocation: Invocation) -> Iterator[Node]:
    try:
        yield Node(api_address(invocation))
    except RefusedError as error:
        if error.status != HTTPStatus.NOT_IMPLEMENTED:
            raise
        raise UserError(
            "proxy: this node has none (HTTP 501); name the proxy's overlay address in the application instead"
        ) from None
