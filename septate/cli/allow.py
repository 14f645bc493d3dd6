"""`septate allow`: who may reach the host of a running node from the overlay."""

from __future__ import annotations

import json
from typing import Final

import click

from septate.cli.invocation import Invocation, api_address, file_options, pass_invocation
from septate.cli.parsing import Group, json_option
from septate.cli.table import age_text, size_text, table
from septate.client import ALLOW, AllowedRule, Node

_HEADER: Final = ("Rule", "Origin", "Packets", "Bytes", "Last used")


@click.group(cls=Group)
@file_options
def allow() -> None:
    """Who may come in from the overlay (list, add, remove).

    A rule is SOURCE [PROTOCOL[/PORTS]]: `any icmp`, `5ea:4578:6f:62c8::/64 tcp/22,8000-8100`, a public key, or `none`.
    Without a rule everybody may come in; with one, nobody else may. Replies to the host's own packets always may.
    """


@allow.command("list")
@json_option
@file_options
@pass_invocation
def list_rules(invocation: Invocation, as_json: bool) -> None:
    """List the rules and what they let in."""
    node = Node(api_address(invocation))
    if as_json:
        click.echo(json.dumps(node.exchange.json(ALLOW), indent=2))
        return
    found = node.allowed()
    if not found.rules:
        click.echo("No rules: everybody may come in.")
        return
    click.echo(table(_HEADER, [_row(rule) for rule in found.rules]))
    click.echo(f"{found.refused_packets} packets refused, {found.own_flows} flows of this host known")


@allow.command("add")
@click.argument("rule", nargs=-1, required=True)
@file_options
@pass_invocation
def add(invocation: Invocation, rule: tuple[str, ...]) -> None:
    """Let in what RULE says, until it is removed or the node is restarted."""
    Node(api_address(invocation)).allow(" ".join(rule))


@allow.command("remove")
@click.argument("rule", nargs=-1, required=True)
@file_options
@pass_invocation
def remove(invocation: Invocation, rule: tuple[str, ...]) -> None:
    """Take RULE back; connections on which this host speaks go on."""
    node = Node(api_address(invocation))
    node.disallow(" ".join(rule))
    if not node.allowed().rules:
        click.echo(
            "That was the last rule: everybody may come in now. `septate allow add none` keeps them out.", err=True
        )


def _row(rule: AllowedRule) -> tuple[str, ...]:
    return (
        rule.rule,
        "Configured" if rule.configured else "Added",
        str(rule.packets),
        size_text(rule.octets),
        "Never" if rule.last_used_s is None else age_text(rule.last_used_s),
    )
