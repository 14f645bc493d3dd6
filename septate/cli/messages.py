"""`septate message`: the words of the reference, refused until the message box exists."""

from __future__ import annotations

from typing import NoReturn

import click

from septate.cli.invocation import Invocation, file_options, pass_invocation
from septate.cli.parsing import Group, Number, OnceOption
from septate.errors import UserError

_SECONDS = Number(0, 2**64 - 1)


@click.group(cls=Group)
@file_options
def message() -> None:
    """Actions on the message subsystem (not in this version)."""


@message.command()
@click.argument("destination")
@click.argument("text", required=False, metavar="[MESSAGE]")
@click.option("-w", "--wait", cls=OnceOption, is_flag=True, help="Wait for a reply.")
@click.option("--timeout", cls=OnceOption, type=_SECONDS, help="How many seconds to wait.")
@click.option("-t", "--topic", cls=OnceOption, help="Topic of the message.")
@click.option("--msg-path", cls=OnceOption, type=click.Path(), help="File to send.")
@click.option("--reply-to", cls=OnceOption, help="Id of the message that this answers.")
@file_options
@pass_invocation
def send(invocation: Invocation, /, **_options: object) -> None:
    """Send a message (not in this version)."""
    _refuse(invocation)


@message.command()
@click.option("--timeout", cls=OnceOption, type=_SECONDS, help="How many seconds to wait.")
@click.option("-t", "--topic", cls=OnceOption, help="Messages of this topic only.")
@click.option("--msg-path", cls=OnceOption, type=click.Path(), help="File to write the payload to.")
@click.option("--raw", cls=OnceOption, is_flag=True, help="Print the payload only.")
@file_options
@pass_invocation
def receive(invocation: Invocation, /, **_options: object) -> None:
    """Receive a message (not in this version)."""
    _refuse(invocation)


def _refuse(invocation: Invocation) -> NoReturn:
    invocation.settings()
    raise UserError("message: not in this version yet; a Mycelium node beside this one can send and receive them")
