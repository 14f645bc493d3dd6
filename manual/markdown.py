"""Made parts of pages, which stand between two comments, and those of docs/cli.md; the rest is written by hand."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from manual.commands import Command, Option, described, leaves
from manual.facts import ENVIRONMENT, EXAMPLES, EXIT_CODES, OPTIONS_NOTE
from septate import config

_OPTION: Final = re.compile(r"(?<![\w`-])--?[a-z][a-z-]*")
_PART: Final = re.compile(r"(<!-- made by make manual: (?P<name>[a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def page(text: str, program: Command) -> str:
    """`text` with its made parts anew. Raises `ValueError` where a part is missing or nobody can make it."""
    parts = {
        "exit codes": table(("Exit code", "Meaning"), EXIT_CODES),
        "commands": table(
            ("Command", "Does"), [(f"`{_cell(one.usage)}`", _prose(one.summary)) for one in leaves(program)]
        ),
        "command options": _command_options(program),
        "options": f"{OPTIONS_NOTE}\n\n{_options(program)}",
        "settings without effect": _without_effect(),
        "environment": table(("Variable", "Meaning"), [(_names(names), text) for names, text in ENVIRONMENT]),
        "examples": "```\n" + "\n".join(f"{line:<90}# {text}" for text, line in EXAMPLES) + "\n```",
    }
    return filled(text, parts)


def filled(text: str, parts: Mapping[str, str]) -> str:
    """`text` with its made parts anew, by name. Raises `ValueError` where one is missing or nobody can make it."""
    seen = [found["name"] for found in _PART.finditer(text)]
    if sorted(seen) != sorted(parts):
        raise ValueError(f"the page has the made parts {seen}, and should have each of {list(parts)} once")
    return _PART.sub(lambda found: f"{found[1]}{parts[found['name']]}\n{found[3]}", text)


def _command_options(program: Command) -> str:
    parts = []
    for command in described(program):
        own = [option for option in command.own_options if option.names != ("--json",)]
        if own or len(command.text) > 1:
            parts.append(f"### {' '.join(command.path[1:])}")
            parts += map(_prose, command.text)
        if own:
            parts.append(table(("Option", "Meaning"), [(f"`{_cell(one.usage)}`", _meaning(one)) for one in own]))
    return "\n\n".join(parts)


def _options(program: Command) -> str:
    return table(
        ("Option", "File key", "Default", "Meaning"),
        [
            (
                f"`{_cell(one.usage)}`",
                f"`{one.file_key}`" if one.file_key else "–",
                f"`{one.default}`" if one.default else "–",
                _prose(one.text),
            )
            for one in program.options
        ],
    )


def _without_effect() -> str:
    accepted, refused = ([f"`{name}`" for name in names] for names in (config.without_effect(), config.parts_to_come()))
    return table(
        ("Settings", "What happens"),
        [
            (", ".join(accepted), "accepted without effect, and said so in one line"),
            (", ".join(refused), "refused by name, exit code 1: this version lacks the part"),
        ],
    )


def _meaning(option: Option) -> str:
    return _prose(option.text) + (f" Default: {option.default}." if option.default else "")


def _prose(text: str) -> str:
    return _OPTION.sub(lambda found: f"`{found[0]}`", text)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _names(names: str) -> str:
    return ", ".join(f"`{name}`" for name in names.split(", "))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
