"""`septate peers`: list, add and remove the peers of a running node."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import click

from septate.cli.invocation import Invocation, api_address, file_options, pass_invocation
from septate.cli.parsing import Group, json_option
from septate.cli.table import age_text, size_text, table
from septate.client import ApiError, Client

_HEADER: Final = (
    "Protocol",
    "Socket",
    "Type",
    "Connection",
    "Rx total",
    "Tx total",
    "Discovered",
    "Last connection",
)
_MEMBERS: Final = ("endpoint", "type", "connectionState", "txBytes", "rxBytes", "discovered", "lastConnected")


@click.group(cls=Group)
@file_options
def peers() -> None:
    """Actions related to peers (list, remove, add)."""


@peers.command("list")
@json_option
@file_options
@pass_invocation
def list_peers(invocation: Invocation, as_json: bool) -> None:
    """List the connected peers, and those that should be."""
    address = api_address(invocation)
    found = Client(address).peers()
    try:
        text = _json_text(found) if as_json else table(_HEADER, [_row(peer) for peer in found])
    except (KeyError, TypeError, AttributeError, ValueError):
        raise ApiError(f"what answers at {address} does not list peers as Mycelium does; see --api-addr") from None
    click.echo(text)


@peers.command("add")
@click.argument("endpoints", nargs=-1, metavar="[ENDPOINT]...")
@file_options
@pass_invocation
def add(invocation: Invocation, endpoints: tuple[str, ...]) -> None:
    """Add peers; stops at the first that is refused."""
    client = Client(api_address(invocation))
    for endpoint in endpoints:
        _change(client.add_peer, endpoint)


@peers.command("remove")
@click.argument("endpoints", nargs=-1, metavar="[ENDPOINT]...")
@file_options
@pass_invocation
def remove(invocation: Invocation, endpoints: tuple[str, ...]) -> None:
    """Remove peers; stops at the first that is refused."""
    client = Client(api_address(invocation))
    for endpoint in endpoints:
        _change(client.remove_peer, endpoint)


def _change(call: Callable[[str], None], endpoint: str) -> None:
    try:
        call(endpoint)
    except ApiError as error:
        raise ApiError(f"{endpoint}: {error}", error.status) from None


def _json_text(found: list[Any]) -> str:
    ordered = []
    for peer in found:
        row = {name: peer[name] for name in _MEMBERS}
        row["endpoint"] = {name: peer["endpoint"][name] for name in ("proto", "addr")}
        ordered.append(row)
    return json.dumps(ordered, indent=2, ensure_ascii=False)


def _address_text(address: Any) -> str:
    if "vsock" in address:
        return f"{address['vsock']['cid']}:{address['vsock']['port']}"
    return str(address["socket"] if "socket" in address else address["unix"])


def _row(peer: Any) -> tuple[str, ...]:
    last = peer["lastConnected"]
    return (
        peer["endpoint"]["proto"].capitalize(),
        _address_text(peer["endpoint"]["addr"]),
        peer["type"][:1].upper() + peer["type"][1:],
        peer["connectionState"].capitalize(),
        size_text(peer["rxBytes"]),
        size_text(peer["txBytes"]),
        age_text(peer["discovered"]),
        "Never connected" if last is None else age_text(last),
    )
