"""The completion of zsh: one function for each command, in terms of `_arguments`."""

from __future__ import annotations

import re

from manual.commands import Command, Option, Value
from manual.shells import HEADLINE

_ACTIONS = {Value.FILE: "_files", Value.FOLDER: "_files -/", Value.NONE: " "}


def script(program: Command) -> str:
    """The whole file."""
    parts = [f"#compdef septate\n{HEADLINE}"]
    parts += [_function(command) for command in program.walk()]
    return "\n\n".join(parts) + '\n\n_septate "$@"\n'


def _function(command: Command) -> str:
    lines = [f"{_name(command)}() {{"]
    specs = [spec for option in command.options for spec in _specs(option)]
    if command.children:
        lines.append("    local curcontext=$curcontext state line")
        lines.append("    local -a commands=(")
        lines += [f"        {_quoted(f'{child.path[-1]}:{child.summary}')}" for child in command.children]
        lines.append("    )")
        specs += ["'1: :->command'", "'*:: :->arguments'"]
        lines += [
            _arguments("-C", specs),
            "    case $state in",
            "        command) _describe -t commands command commands ;;",
        ]
        lines += ["        arguments)", "            case $line[1] in"]
        lines += [f"                {child.path[-1]}) {_name(child)} ;;" for child in command.children]
        lines += ["            esac", "            ;;", "    esac"]
    else:
        for number, argument in enumerate(command.arguments, 1):
            place = "*" if argument.endswith("...") else str(number)
            optional = ":" if argument.startswith("[") and place != "*" else ""
            word = re.sub(r"[\[\].]", "", argument).lower()
            specs.append(f"'{place}:{optional}{word}: '")
        lines.append(_arguments("", specs))
    return "\n".join([*lines, "}"])


def _arguments(flags: str, specs: list[str]) -> str:
    return " \\\n".join([f"    _arguments -s {flags}".rstrip(), *(f"        {spec}" for spec in specs)])


def _specs(option: Option) -> list[str]:
    text = option.text.replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")
    value = ""
    if option.metavar is not None:
        word = option.names[-1].lstrip("-")
        action = f"({' '.join(option.words)})" if option.words else _ACTIONS[option.value]
        # `--peers` takes more words, but zsh would then offer nothing else after it.
        value = f":{word}:{action}"
    others = "*" if option.repeatable else f"({' '.join(option.names)})" if len(option.names) > 1 else ""
    return [_quoted(f"{others}{name}[{text}]{value}") for name in option.names]


def _name(command: Command) -> str:
    return "_" + "_".join(command.path).replace("-", "_")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
