"""What the completions of all shells share: which options take values, and of which kind."""

from __future__ import annotations

from typing import Final

from manual.commands import Command, Option, Value

HEADLINE: Final = "# Completion of septate's command line. Made by `make manual`: change the commands, not this file."


def options_with_values(program: Command) -> tuple[str, ...]:
    """All names of options that take one word. Raises `ValueError` if a name takes one here and none there."""
    taking: dict[str, bool] = {}
    for command in program.walk():
        for option in command.options:
            for name in option.names:
                if taking.setdefault(name, option.metavar is not None) != (option.metavar is not None):
                    raise ValueError(f"{name} takes a value in one command and none in another")
    greedy = {
        name for command in program.walk() for option in command.options if option.greedy for name in option.names
    }
    return tuple(sorted(name for name, takes in taking.items() if takes and name not in greedy))


def values(program: Command, kind: Value) -> tuple[str, ...]:
    """All names of options whose value is of a kind."""
    found = {
        name
        for command in program.walk()
        for option in command.options
        if option.value is kind
        for name in option.names
    }
    return tuple(sorted(found))


def options_with_words(program: Command) -> list[Option]:
    """The options that have a list of legal values."""
    found = {option.names: option for command in program.walk() for option in command.options if option.words}
    return list(found.values())
