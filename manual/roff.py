"""The man page, in the macros of man(7)."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Final

from manual.commands import Command, Option, described
from manual.facts import DESCRIPTION, ENVIRONMENT, EXAMPLES, EXIT_CODES, FILES, OPTIONS_NOTE

WIDTH: Final = 72


def page(program: Command, version: str) -> str:
    """The whole page."""
    lines = [
        '.\\" Made by `make manual` from the command line itself: change the commands, not this file.',
        f'.TH SEPTATE 1 "" "Septate {version}" "User Commands"',
        ".SH NAME",
        r"septate \- run a node of the Mycelium overlay network, or talk to one that runs",
        ".SH SYNOPSIS",
        ".B septate",
        "[OPTIONS]",
        ".br",
        ".B septate",
        "[OPTIONS] COMMAND ...",
        ".SH DESCRIPTION",
        *_paragraphs(DESCRIPTION),
        ".SH OPTIONS",
        _text(OPTIONS_NOTE),
        *(line for option in program.options for line in _option(option)),
        ".SH COMMANDS",
    ]
    for command in described(program):
        lines += [f".SS {_escaped(' '.join(command.path[1:]))}", f".B {_escaped(command.usage)}", ".PP"]
        lines += _paragraphs(command.text)
        lines += [line for option in command.own_options for line in _option(option)]
    lines += [".SS help", r".B septate help [COMMAND]...", ".PP", "Print the help of a command."]
    for title, rows in (("EXIT STATUS", EXIT_CODES), ("FILES", FILES), ("ENVIRONMENT", ENVIRONMENT)):
        lines += [f".SH {title}", *(line for name, text in rows for line in _row(name, text))]
    lines.append(".SH EXAMPLES")
    for text, command_line in EXAMPLES:
        lines += [_text(f"{text}:"), ".PP", ".RS 4", ".nf", _escaped(command_line), ".fi", ".RE", ".PP"]
    return "\n".join(lines).removesuffix("\n.PP") + "\n"


def _paragraphs(parts: Iterable[str]) -> list[str]:
    lines: list[str] = []
    for part in parts:
        lines += [".PP", _text(part)] if lines else [_text(part)]
    return lines


def _option(option: Option) -> list[str]:
    names = ", ".join(f"\\fB{_escaped(name)}\\fR" for name in option.names)
    value = f" \\fI{_escaped(option.metavar)}\\fR" if option.metavar else ""
    rest = f" Default: {option.default}." if option.default else ""
    key = f" File key: {option.file_key}." if option.file_key else ""
    return [".TP", names + value, _text(option.text + rest + key)]


def _row(name: str, text: str) -> list[str]:
    return [".TP", f"\\fB{_escaped(name)}\\fR", _text(text)]


def _text(text: str) -> str:
    lines = textwrap.wrap(text.replace("`", ""), WIDTH, break_long_words=False, break_on_hyphens=False)
    return "\n".join(map(_escaped, lines))


def _escaped(line: str) -> str:
    escaped = line.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    # A line that begins with one of these would be a request.
    return f"\\&{escaped}" if escaped[:1] in {".", "'"} else escaped
