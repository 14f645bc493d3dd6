"""The completion of fish: a function that walks the words, and one line for each thing that may follow."""

from __future__ import annotations

from manual.commands import GREEDY, Command, Option, Value
from manual.shells import HEADLINE, options_with_values

_WALK = """{headline}

function __septate_at --description 'Whether the words so far lead to this command'
    set --local path septate
    set --local awaited
    set --local words (commandline --tokenize --cut-at-cursor --current-process)
    for word in $words[2..]
        if test "$awaited" = once
            set awaited
            continue
        end
        switch $word
            case {greedy}
                set awaited many
            case {with_values}
                set awaited once
            case '-*'
                set awaited
            case '*'
                if test -z "$awaited"; and contains -- "$path $word" {paths}
                    set --append path $word
                end
        end
    end
    test "$path" = "$argv"
end

complete --command septate --no-files
"""


def script(program: Command) -> str:
    """The whole file."""
    paths = " ".join(f"'{' '.join(command.path)}'" for command in program.walk() if len(command.path) > 1)
    lines = [
        _WALK.format(headline=HEADLINE, greedy=GREEDY, with_values=" ".join(options_with_values(program)), paths=paths)
    ]
    for command in program.walk():
        start = f"complete --command septate --condition '__septate_at {' '.join(command.path)}'"
        lines += [
            f"{start} --arguments {child.path[-1]} --description {_quoted(child.summary)}" for child in command.children
        ]
        lines += [f"{start} {_option(option)}" for option in command.options]
    return "\n".join(lines) + "\n"


def _option(option: Option) -> str:
    words = [f"--{'long' if name.startswith('--') else 'short'}-option {name.lstrip('-')}" for name in option.names]
    if option.value in (Value.FILE, Value.FOLDER):
        words.append("--require-parameter --force-files")
    elif option.words:
        words.append(f"--exclusive --arguments '{' '.join(option.words)}'")
    elif option.metavar is not None:
        words.append("--exclusive")
    return " ".join([*words, f"--description {_quoted(option.text)}"])


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
