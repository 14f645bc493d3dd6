"""The command line as data: commands, options and arguments, taken from click's own declarations."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any, Final

import click

from septate.cli.root import septate
from septate.config import Settings

GREEDY: Final = "--peers"
"""The one option that takes all words up to the next option."""
_DEFAULT: Final = re.compile(r"(?P<text>.*?) ?\[(?P<default>[^\]]+)\]", re.DOTALL)
_FILE_KEYS: Final = frozenset(field.name for field in fields(Settings))


class Value(Enum):
    """What a shell can offer for the value of an option."""

    NONE = "none"
    FILE = "file"
    FOLDER = "folder"
    WORD = "word"


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its names, short ones first, what its value is called (None for a flag), its help and default."""

    names: tuple[str, ...]
    metavar: str | None
    text: str
    default: str
    """Empty where there is none."""
    repeatable: bool
    value: Value
    words: tuple[str, ...]
    """Those that are legal values, where only some are."""
    file_key: str
    """The key of the configuration file that says the same; empty for none."""

    @property
    def greedy(self) -> bool:
        """Whether it takes several words."""
        return GREEDY in self.names

    @property
    def usage(self) -> str:
        """Names and value as people write them: `-t, --topic TEXT`."""
        return ", ".join(self.names) + (f" {self.metavar}" if self.metavar else "")


@dataclass(frozen=True, slots=True)
class Command:
    """One command: its words, `septate` first, what it says about itself, and what may follow."""

    path: tuple[str, ...]
    summary: str
    text: tuple[str, ...]
    """Paragraphs."""
    options: tuple[Option, ...]
    arguments: tuple[str, ...]
    children: tuple[Command, ...]

    @property
    def usage(self) -> str:
        """How it is called, without the options that every command has."""
        words = list(self.path)
        own = self.own_options
        if len(self.path) == 1:
            return "septate [OPTIONS] [COMMAND]"
        words += [f"[{option.names[-1]}{f' {option.metavar}' if option.metavar else ''}]" for option in own]
        words += self.arguments
        return " ".join(words)

    @property
    def own_options(self) -> tuple[Option, ...]:
        """Without those that every command has."""
        return tuple(option for option in self.options if option.names[-1] not in COMMON)

    @property
    def child_names(self) -> tuple[str, ...]:
        """The words that may follow."""
        return tuple(child.path[-1] for child in self.children)

    def walk(self) -> Iterator[Command]:
        """This command and all below it, in order."""
        yield self
        for child in self.children:
            yield from child.walk()


COMMON: Final = ("--config-file", "--key-file", "--help")
"""The options that are legal everywhere."""


def program() -> Command:
    """The whole command line."""
    return _command(septate, click.Context(septate, info_name="septate", **septate.context_settings), ("septate",))


def leaves(whole: Command) -> list[Command]:
    """The commands that do something, but for `help`, which is the same everywhere."""
    return [one for one in whole.walk() if not one.children and one.path[-1] != "help"]


def described(whole: Command) -> list[Command]:
    """These, and the groups that have more to say than one line."""
    return [
        one
        for one in whole.walk()
        if len(one.path) > 1 and one.path[-1] != "help" and (not one.children or len(one.text) > 1)
    ]


def _command(command: click.Command, ctx: click.Context, path: tuple[str, ...]) -> Command:
    parameters = command.get_params(ctx)
    children = []
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            child = command.get_command(ctx, name)
            assert child is not None
            children.append(_command(child, click.Context(child, info_name=name, parent=ctx), (*path, name)))
    text = inspect.cleandoc(command.help or "")
    return Command(
        path,
        command.get_short_help_str(limit=200),
        tuple(" ".join(part.split()) for part in text.split("\n\n") if part),
        tuple(_option(one) for one in parameters if isinstance(one, click.Option)),
        tuple(_argument(one) for one in parameters if isinstance(one, click.Argument)),
        tuple(children),
    )


def _option(option: click.Option) -> Option:
    found = _DEFAULT.fullmatch(option.help or "")
    is_flag = option.is_flag or option.count
    words = tuple(map(str, option.type.choices)) if isinstance(option.type, click.Choice) else ()
    return Option(
        tuple(sorted(option.opts, key=len)),
        None if is_flag else option.metavar or ("|".join(words) if words else option.type.name.upper()),
        found["text"] if found else option.help or "",
        found["default"] if found else "",
        type(option).__name__ == "RepeatedOption",
        _value(option.type, words),
        words,
        option.name if option.name in _FILE_KEYS else "",
    )


def _value(kind: click.ParamType[Any], words: tuple[str, ...]) -> Value:
    if words:
        return Value.WORD
    if isinstance(kind, click.Path):
        return Value.FILE if kind.file_okay else Value.FOLDER
    return Value.NONE


def _argument(argument: click.Argument) -> str:
    name = argument.metavar or (argument.name or "").upper()
    if argument.metavar is None and argument.nargs == -1:
        name = f"[{name}]..."
    elif argument.metavar is None and not argument.required:
        name = f"[{name}]"
    return name
