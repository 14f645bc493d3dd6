"""`septate actors`: the processes of a running node, and how they are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import click

from septate.cli.invocation import file_options
from septate.cli.parsing import OnceOption, json_option
from septate.cli.table import age_text, table
from septate.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from protocol.frames import ActorRow

_ASKED: Final = ("status", "router", "peers", "tun")
"""Any of them passes the question on to the supervisor, so one that lives is enough."""
_DEADLINE_S: Final = 2.0
_HEADER: Final = ("Role", "Title", "PID", "Age", "Restarts", "Memory MiB", "CPU s", "Queues")


@click.command()
@json_option
@click.option("--instance", cls=OnceOption, metavar="NAME", help="The node to ask, where several run.")
@file_options
def actors(as_json: bool, instance: str | None) -> None:
    """Show the processes of a running node."""
    from actors.api.objects import actor_object
    from actors.runtime.asking import NoInstance, find_instance

    try:
        rows = _ask(find_instance(instance))
    except NoInstance as error:
        raise UserError(str(error)) from None
    if as_json:
        click.echo(json.dumps([actor_object(row) for row in rows], indent=2))
    else:
        click.echo(table(_HEADER, [_row(row) for row in rows]))


def _ask(run_folder: Path) -> list[ActorRow]:
    from actors.runtime.asking import Asker
    from protocol.frames import ActorList, AskActors

    with Asker(run_folder) as asker:
        # All at once: a dead actor must not cost its deadline before the next one is asked.
        answers = asker.ask_any({actor: AskActors(asker.token()) for actor in _ASKED}, _DEADLINE_S)
    if answers is None:
        raise UserError(f"none of {', '.join(_ASKED)} answers in {run_folder}; the node's log says more")
    return [row for part in answers if isinstance(part, ActorList) for row in part.actors]


def _row(row: ActorRow) -> tuple[str, ...]:
    queues = " ".join(f"{name}={depth}" for name, depth in sorted(row.queues.items()))
    return (
        row.role.value,
        row.title if row.ready else f"{row.title} (starting)",
        str(row.pid),
        age_text(int(row.age_seconds)),
        str(row.restarts),
        f"{row.pss_kib / 1024:.1f}",
        f"{row.cpu_seconds:.2f}",
        queues,
    )
