"""`septate routes`: the routing table of a running node."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

from septate.cli.invocation import Invocation, api_address, file_options, pass_invocation
from septate.cli.parsing import Group, json_option
from septate.cli.table import table
from septate.client import ApiError, Client


@click.group(cls=Group)
@file_options
def routes() -> None:
    """Actions related to routes (selected, fallback, queried)."""


def _route_row(route: Any) -> tuple[str, ...]:
    return (route["subnet"], route["nextHop"], str(route["metric"]), str(route["seqno"]))


def _query_row(query: Any) -> tuple[str, ...]:
    return (query["subnet"], str(query["expiration"]))


_ROUTE_HEADER = ("Subnet", "Next Hop", "Metric", "Seq No")
_QUERY_HEADER = ("Subnet", "Query expiration")


def _lister(kind: str, text: str, header: tuple[str, ...], row: Callable[[Any], tuple[str, ...]]) -> None:
    @routes.command(kind, help=text)
    @json_option
    @file_options
    @pass_invocation
    def show(invocation: Invocation, as_json: bool) -> None:
        address = api_address(invocation)
        received = Client(address).routes_text(kind)
        if as_json:
            click.echo(received)
            return
        try:
            rows = [row(entry) for entry in json.loads(received)]
            text = table(header, rows)
        except (KeyError, TypeError):
            raise ApiError(f"what answers at {address} does not list routes as Mycelium does; see --api-addr") from None
        click.echo(text)


_lister("selected", "List the routes in use.", _ROUTE_HEADER, _route_row)
_lister("fallback", "List the routes that are not in use.", _ROUTE_HEADER, _route_row)
_lister("queried", "List the subnets that are being asked for.", _QUERY_HEADER, _query_row)
