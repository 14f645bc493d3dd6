"""Writes what is made from the command line and the APIs: `python -m manual`; with `--check` it only compares."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from manual import bash, fish, interfaces, markdown, roff, zsh
from manual.commands import program
from septate import __version__

ROOT: Final = Path(__file__).resolve().parents[1]
REFERENCE: Final = ROOT / "docs" / "cli.md"
INTERFACES: Final = ROOT / "docs" / "api.md"


def made() -> dict[Path, str]:
    """Every file and what should be in it."""
    whole = program()
    completions = ROOT / "deploy" / "completions"
    return {
        completions / "septate.bash": bash.script(whole),
        completions / "_septate": zsh.script(whole),
        completions / "septate.fish": fish.script(whole),
        ROOT / "deploy" / "man" / "septate.1": roff.page(whole, __version__),
        REFERENCE: markdown.page(REFERENCE.read_text(), whole),
        INTERFACES: interfaces.page(INTERFACES.read_text()),
    }


def stale() -> list[Path]:
    """The files that are not what they should be."""
    return [path for path, text in made().items() if not path.exists() or path.read_text() != text]


def main(arguments: Sequence[str]) -> int:
    """Exit code 0; with `--check` 1 where something has to be made anew."""
    old = stale()
    if "--check" not in arguments:
        for path, text in made().items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    for path in old:
        sys.stdout.write(f"{path.relative_to(ROOT)}\n")
    return 1 if old and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
