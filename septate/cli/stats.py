"""`septate stats`: what passed through a running node."""

from __future__ import annotations

import click

from septate.cli.invocation import Invocation, api_address, file_options, pass_invocation
from septate.cli.parsing import Group, json_option
from septate.cli.table import table
from septate.client import Node, Traffic


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
    node = Node(api_address(invocation))
    if as_json:
        click.echo(node.exchange.json_text("/admin/stats/packets"))
        return
    found = node.packet_statistics()
    sources, destinations = _table("Source IP", found.by_source), _table("Destination IP", found.by_destination)
    click.echo(f"Statistics by Source IP:\n{sources}\n\nStatistics by Destination IP:\n{destinations}")


def _table(column: str, entries: tuple[Traffic, ...]) -> str:
    rows = [(entry.address, str(entry.packets), str(entry.octets)) for entry in entries]
    return table((column, "Packets", "Bytes"), rows)
