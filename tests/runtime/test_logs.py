"""Log lines: the formats of the reference, and that nothing a peer says moves the cursor of a terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import sys
from collections.abc import Callable, Iterator

import pytest
import structlog

from actors.runtime import logs
from actors.runtime.logs import LogFormat

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
NASTY = "\x1b[2J\x1b]0;owned\x07\r\nfake line\x9b31m\u202e\u2028"

Lines = Callable[[], list[str]]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.fixture
def lines(capfd: pytest.CaptureFixture[str]) -> Lines:
    return lambda: capfd.readouterr().err.split("\n")[:-1]


def _on_a_terminal(form: LogFormat) -> bytes:
    """What a terminal gets of one error."""
    ours, theirs = pty.openpty()
    with _standard_error_is(theirs):
        logs.configure("info", form)
        logs.get("tun").error("x")
    assert select.select([ours], [], [], 5)[0], "nothing was written to the terminal"
    written = os.read(ours, 65536)
    os.close(ours)
    os.close(theirs)
    return written


@contextlib.contextmanager
def _standard_error_is(descriptor: int) -> Iterator[None]:
    # Inside of the test: pytest puts its own capture in place again between a fixture and its test.
    kept, kept_stream = os.dup(2), sys.stderr
    os.dup2(descriptor, 2)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    try:
        yield
    finally:
        sys.stderr = kept_stream
        os.dup2(kept, 2)
        os.close(kept)


def _only(lines: Lines) -> str:
    (line,) = lines()
    return line


def test_compact_line_has_time_level_target_message_and_fields(lines: Lines) -> None:
    logs.configure("info", LogFormat.COMPACT)
    logs.get("peers").info("connected", peer="tcp://192.0.2.1:9651", link=3)
    assert re.fullmatch(rf"{TIME}    INFO peers: connected peer=tcp://192.0.2.1:9651 link=3", _only(lines))


@pytest.mark.parametrize("form", [LogFormat.LOGFMT, LogFormat.PLAIN])
def test_logfmt_line_has_a_name_for_everything(lines: Lines, form: LogFormat) -> None:
    logs.configure("info", form)
    logs.get("link tcp://192.0.2.1:9651").warning("no answer", seconds=10)
    assert re.fullmatch(
        rf'ts={TIME} level=warning target="link tcp://192.0.2.1:9651" message="no answer" seconds=10', _only(lines)
    )


def test_line_without_fields_is_a_line(lines: Lines) -> None:
    logs.configure("info", LogFormat.LOGFMT)
    logs.get("tun").info("ready")
    assert re.fullmatch(rf"ts={TIME} level=info target=tun message=ready", _only(lines))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ("", '""'),
        ("two words", '"two words"'),
        ('say "hi"', r'"say \"hi\""'),
        ("it's", '''"it's"'''),
        ("a=b", '"a=b"'),
        ("back\\slash here", r'"back\\slash here"'),
        ("grün", "grün"),
        ("line\nbreak", r"line\nbreak"),
        ("\x1b[31m", r"\x1b[31m"),
        (None, "None"),
        (3.5, "3.5"),
    ],
)
def test_value_is_quoted_where_it_has_to_be(lines: Lines, value: object, text: str) -> None:
    logs.configure("info", LogFormat.COMPACT)
    logs.get("tun").info("seen", value=value)
    assert _only(lines).endswith(f"tun: seen value={text}")


@pytest.mark.parametrize("form", list(LogFormat))
@pytest.mark.parametrize("place", ["message", "value", "target"])
def test_control_characters_of_a_peer_never_reach_the_terminal(lines: Lines, form: LogFormat, place: str) -> None:
    logs.configure("info", form)
    if place == "message":
        logs.get("tun").info(f"peer said {NASTY}")
    elif place == "value":
        logs.get("tun").info("peer said", words=NASTY)
    else:
        logs.get(f"link {NASTY}").info("peer is there")
    line = _only(lines)
    assert line.isprintable()
    assert "fake line" in line


def test_undecodable_bytes_of_a_peer_are_logged(lines: Lines) -> None:
    logs.configure("info", LogFormat.COMPACT)
    logs.get("tun").info("seen", value=b"\xff\xfe".decode("ascii", "surrogateescape"))
    assert _only(lines).endswith(r"value=\udcff\udcfe")


@pytest.mark.parametrize(
    ("level", "seen"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_lines_below_the_level_are_not_written(lines: Lines, level: str, seen: list[str]) -> None:
    logs.configure(level, LogFormat.PLAIN)
    log = logs.get("tun")
    for word in ("debug", "info", "warning", "error"):
        getattr(log, word)("x")
    assert [re.findall(r"level=(\w+)", line)[0] for line in lines()] == seen


@pytest.mark.parametrize("form", list(LogFormat))
def test_file_gets_no_colour(lines: Lines, form: LogFormat) -> None:
    logs.configure("info", form)
    logs.get("tun").error("x")
    assert "\x1b" not in _only(lines)


@pytest.mark.parametrize(
    ("form", "level"),
    [(LogFormat.COMPACT, b"\x1b[31m  ERROR\x1b[0m"), (LogFormat.LOGFMT, b"level=\x1b[31merror\x1b[0m")],
)
def test_terminal_gets_colour(form: LogFormat, level: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert level in _on_a_terminal(form)


def test_plain_is_never_coloured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert b"\x1b" not in _on_a_terminal(LogFormat.PLAIN)


@pytest.mark.parametrize(("value", "coloured"), [("1", False), ("", True)])
def test_no_color_is_respected_unless_it_is_empty(value: str, coloured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", value)
    assert (b"\x1b[31m" in _on_a_terminal(LogFormat.COMPACT)) == coloured


def test_reader_that_went_away_is_no_reason_to_die() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with _standard_error_is(writer):
        logs.configure("info", LogFormat.COMPACT)
        logs.get("tun").info("nobody reads this")
    os.close(writer)
