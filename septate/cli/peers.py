"""`septate peers`: list, add and remove the peers of a running node."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import click

from protocol.logins import without_secret
from septate.cli.invocation import Invocation, api_address, file_options, pass_invocation
from septate.cli.parsing import Group, json_option
from septate.cli.table import age_text, size_text, table
from septate.client import OUR_PEERS, ApiError, Neighbour, Node, Peer

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
_PATH: Final = "/admin/peers"
_MEMBERS: Final = ("endpoint", "type", "connectionState", "txBytes", "rxBytes", "discovered", "lastConnected")


_LINKS_HEADER: Final = ("Peer", "Origin", "State", "Link", "Neighbour", "Cost", "RTT ms", "Prefixes", "Why")


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
    node = Node(api_address(invocation))
    if as_json:
        click.echo(node.exchange.shaped(_PATH, _json_text, node.exchange.json(_PATH)))
    else:
        click.echo(table(_HEADER, [_row(peer) for peer in node.peers()]))


@peers.command("links")
@json_option
@file_options
@pass_invocation
def links(invocation: Invocation, as_json: bool) -> None:
    """List peers with the links to them: origin, cost, round trip, and which of several is used."""
    node = Node(api_address(invocation))
    if as_json:
        click.echo(json.dumps(node.exchange.json(OUR_PEERS), indent=2))
    else:
        click.echo(table(_LINKS_HEADER, [_link_row(each) for each in node.neighbours()]))


@peers.command("add")
@click.argument("endpoints", nargs=-1, metavar="[ENDPOINT]...")
@file_options
@pass_invocation
def add(invocation: Invocation, endpoints: tuple[str, ...]) -> None:
    """Add peers; stops at the first that is refused."""
    node = Node(api_address(invocation))
    for endpoint in endpoints:
        _change(node.add_peer, endpoint)


@peers.command("remove")
@click.argument("endpoints", nargs=-1, metavar="[ENDPOINT]...")
@file_options
@pass_invocation
def remove(invocation: Invocation, endpoints: tuple[str, ...]) -> None:
    """Remove peers; stops at the first that is refused."""
    node = Node(api_address(invocation))
    for endpoint in endpoints:
        _change(node.remove_peer, endpoint)


def _link_row(each: Neighbour) -> tuple[str, ...]:
    return (
        each.endpoint,
        each.origin,
        each.state,
        each.link or "",
        each.neighbour or "",
        "" if each.cost is None else str(each.cost),
        "" if each.round_trip_ms is None else str(each.round_trip_ms),
        str(each.prefixes),
        each.why or each.reason,
    )


def _change(call: Callable[[str], None], endpoint: str) -> None:
    try:
        call(endpoint)
    except ApiError as error:
        raise ApiError(f"{without_secret(endpoint)}: {error}", error.status) from None


def _json_text(found: Any) -> str:
    ordered = []
    for peer in found:
        row = {name: peer[name] for name in _MEMBERS}
        row["endpoint"] = {name: peer["endpoint"][name] for name in ("proto", "addr")}
        ordered.append(row)
    return json.dumps(ordered, indent=2, ensure_ascii=False)


def _row(peer: Peer) -> tuple[str, ...]:
    return (
        peer.protocol.capitalize(),
        peer.address,
        peer.kind[:1].upper() + peer.kind[1:],
        peer.state.capitalize(),
        size_text(peer.received_octets),
        size_text(peer.sent_octets),
        age_text(peer.discovered_s),
        "Never connected" if peer.connected_s is None else age_text(peer.connected_s),
    )
