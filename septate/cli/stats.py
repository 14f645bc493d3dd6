"""`septate stats`: what passed through a running node."""

from __future__ import annotations

import json
from typing import Any

import click

from septate.cli.invocation import Invocation, api_address, file_options, pass_invocation
from septate.cli.parsing import Group, json_option
from septate.cli.table import table
from septate.client import ApiError, Client


@click.group(cls=Group)
@file_options
def stats() -> None:
    """Actions related to packet statistics."""


@stats.command()
@json_option
@file_options
@pass_invocation
def packets(invocation: Invocation, as_json: bool) -> None:
    """Show packets and bytes by source and by destination address."""
    address = api_address(invocation)
    received = Client(address).packet_statistics_text()
    if as_json:
        click.echo(received)
        return
    try:
        found = json.loads(received)
        sources, destinations = _table("Source IP", found["bySource"]), _table("Destination IP", found["byDestination"])
    except (KeyError, TypeError):
        raise ApiError(f"what answers at {address} does not count packets as Mycelium does; see --api-addr") from None
    click.echo(f"Statistics by Source IP:\n{sources}\n\nStatistics by Destination IP:\n{destinations}")


def _table(column: str, entries: Any) -> str:
    rows = [(entry["ip"], str(entry["packetCount"]), str(entry["byteCount"])) for entry in entries]
    return table((column, "Packets", "Bytes"), rows)
