"""`septate routes`: the routing table of a running node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from septate.cli.invocation import Invocation, api_address, file_options, pass_invocation
from septate.cli.parsing import Group, json_option
from septate.cli.table import table
from septate.client import Node, QueriedSubnet, Route


@click.group(cls=Group)
@file_options
def routes() -> None:
    """Actions related to routes (selected, fallback, queried)."""


def _route_row(route: Route) -> tuple[str, ...]:
    return (
        route.subnet,
        route.next_hop,
        "infinite" if route.metric is None else str(route.metric),
        str(route.seqno),
    )


def _query_row(query: QueriedSubnet) -> tuple[str, ...]:
    return (query.subnet, str(query.expires_s))


_ROUTE_HEADER = ("Subnet", "Next Hop", "Metric", "Seq No")
_QUERY_HEADER = ("Subnet", "Query expiration")


def _lister(
    kind: str, text: str, header: tuple[str, ...], list_them: Callable[[Node], list[Any]], row: Callable[[Any], Any]
) -> None:
    @routes.command(kind, help=text)
    @json_option
    @file_options
    @pass_invocation
    def show(invocation: Invocation, as_json: bool) -> None:
        node = Node(api_address(invocation))
        if as_json:
            click.echo(node.exchange.json_text(f"/admin/routes/{kind}"))
        else:
            click.echo(table(header, [row(entry) for entry in list_them(node)]))


_lister("selected", "List the routes in use.", _ROUTE_HEADER, Node.selected_routes, _route_row)
_lister("fallback", "List the routes that are not in use.", _ROUTE_HEADER, Node.fallback_routes, _route_row)
_lister("queried", "List the subnets that are being asked for.", _QUERY_HEADER, Node.queried_subnets, _query_row)
