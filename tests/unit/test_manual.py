"""What is made from the command line: completions that complete, a man page that renders, and all of it current."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from manual.__main__ import REFERENCE, ROOT, stale
from manual.commands import leaves, program
from manual.markdown import page

COMPLETIONS = ROOT / "deploy" / "completions"
MAN_PAGE = ROOT / "deploy" / "man" / "septate.1"
BASH = 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _septate; printf "%s\\n" "${COMPREPLY[@]}"'


def ran(*command: str, folder: Path = ROOT) -> str:
    """What a program prints; it has to succeed, and to be silent on standard error."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_everything_that_is_made_from_the_command_line_is_current() -> None:
    assert stale() == [], "run `make manual`, and look at the difference"


CASES = [
    (["mess"], {"message"}),
    (["message", ""], {"cancel", "help", "list", "receive", "send", "status"}),
    (["--log-format", ""], {"compact", "logfmt", "plain"}),
    (["-k", "message", "peers", "a"], {"add"}),
    (["proxy", "probe", "st"], {"start", "stop"}),
    (["message", "send", "--re"], {"--reply-to"}),
    (["--no-"], {"--no-tun"}),
    (["--instance", ""], set()),
    (["message", "receive", "--msg-path", "fi"], {"file"}),
]
"""The words after `septate`, the last of which is being typed, and what a shell should offer."""


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        *CASES,
        (["--peers", "tcp", ":", "//192.0.2.1", ":", "1", "peers", "--no-"], {"--no-tun"}),
        (["--api-addr", "127.0.0.1", ":", "8989", "peers", "li"], {"links", "list"}),
        (["--log-format", "=", "pl"], {"plain"}),
        (["--key-file", "=", "message", "pe"], {"peers"}),
    ],
)
def test_bash_completes(words: list[str], offered: set[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    script = str(COMPLETIONS / "septate.bash")
    printed = ran("bash", "--norc", "-c", BASH, "bash", script, "septate", *words, folder=tmp_path)
    assert set(printed.split()) == offered


def test_bash_knows_whom_to_ask() -> None:
    asked = ran("bash", "--norc", "-c", f'source "{COMPLETIONS / "septate.bash"}"; complete -p septate')
    assert asked == "complete -F _septate septate\n"


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
@pytest.mark.parametrize(("words", "offered"), [*CASES, (["--peers", "tcp://192.0.2.1:1", "--no-"], {"--no-tun"})])
def test_fish_completes(words: list[str], offered: set[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    asked = f"source {COMPLETIONS / 'septate.fish'}; complete --do-complete 'septate {' '.join(words)}'"
    printed = ran("fish", "--no-config", "--command", asked, folder=tmp_path)
    assert {line.partition("\t")[0] for line in printed.splitlines()} == offered


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_understands_its_completion() -> None:
    assert ran("zsh", "-n", str(COMPLETIONS / "_septate")) == ""


@pytest.mark.skipif(shutil.which("man") is None, reason="man is not installed")
def test_man_page_renders_without_a_warning() -> None:
    environment = {**os.environ, "MANWIDTH": "100", "MANROFFOPT": "-ww", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        ["man", "--warnings", "-l", str(MAN_PAGE)],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=True,
    )
    assert done.stderr == ""
    text = " ".join(done.stdout.split())
    for command in leaves(program()):
        assert " ".join(command.path) in text, command.path
    assert "SEPTATE(1)" in text


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="mandoc is not installed")
def test_man_page_is_free_of_errors() -> None:
    assert ran("mandoc", "-T", "lint", "-W", "error", str(MAN_PAGE)) == ""


def test_reference_that_lost_a_part_is_not_written() -> None:
    with pytest.raises(ValueError, match="should have each of"):
        page(REFERENCE.read_text().replace("made by make manual: options", ""), program())
