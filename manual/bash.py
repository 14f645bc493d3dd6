"""The completion of bash: one function that walks the words, and tables of what may follow."""

from __future__ import annotations

from collections.abc import Sequence

from manual.commands import GREEDY, Command, Value
from manual.shells import HEADLINE, options_with_values, options_with_words, values

_HEAD = """{headline}

_septate() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} path=septate awaited= word
    local commands options
    local -i i
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${{COMP_WORDS[i]}}
        # bash cuts words at these: what follows belongs to the word before.
        if [[ $word == "=" || $word == ":" ]]; then
            [[ $awaited == {greedy} || $word == "=" ]] || awaited=:
            continue
        fi
        if [[ -n $awaited && $awaited != {greedy} ]]; then
            awaited=
            continue
        fi
        case $word in
            {greedy} | {with_values}) awaited=$word ;;
            -*) awaited= ;;
            *)
                [[ -n $awaited ]] && continue
                case "$path $word" in
                    {paths}) path="$path $word" ;;
                esac
                ;;
        esac
    done
    [[ $current == "=" || $current == ":" ]] && current=
    case $awaited in
"""

_TAIL = """
    esac
    [[ $current != -* ]] && {{ [[ -n $awaited ]] && return; options=; }}
    mapfile -t COMPREPLY < <(compgen -W "${{options:-$commands}}" -- "$current")
}}

complete -F _septate septate
"""


def script(program: Command) -> str:
    """The whole file."""
    lines = [
        _HEAD.format(
            headline=HEADLINE,
            greedy=GREEDY,
            with_values=" | ".join(options_with_values(program)),
            paths=" | ".join(f'"{" ".join(command.path)}"' for command in program.walk() if len(command.path) > 1),
        ).rstrip()
    ]
    names: Sequence[str]
    for names, flag in ((values(program, Value.FILE), "-f"), (values(program, Value.FOLDER), "-d")):
        if names:
            lines += [
                f"        {' | '.join(names)})",
                "            compopt -o filenames 2>/dev/null",
                f'            mapfile -t COMPREPLY < <(compgen {flag} -- "$current")',
                "            return",
                "            ;;",
            ]
    for option in options_with_words(program):
        lines += [
            f"        {' | '.join(option.names)})",
            f'            mapfile -t COMPREPLY < <(compgen -W "{" ".join(option.words)}" -- "$current")',
            "            return",
            "            ;;",
        ]
    lines += [f'        "" | {GREEDY}) ;;', "        *) return ;;", "    esac", "    case $path in"]
    for command in program.walk():
        names = [name for option in command.options for name in option.names]
        lines += [
            f'        "{" ".join(command.path)}")',
            f'            commands="{" ".join(command.child_names)}"',
            f'            options="{" ".join(names)}"',
            "            ;;",
        ]
    return "\n".join(lines) + _TAIL.format()
