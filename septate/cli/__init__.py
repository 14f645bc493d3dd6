"""The command line: `septate` runs a node, its subcommands look at one and change it."""

from __future__ import annotations


def main() -> None:
    """The program `septate`; ends the process with one of the exit codes 0, 1 and 2."""
    from septate.cli.root import septate

    septate(prog_name="septate")
