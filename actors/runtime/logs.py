"""Structured logs of a process: one line per event, to standard error, in the formats of the reference."""

from __future__ import annotations

import contextlib
import datetime
import enum
import logging
import os
import sys
from collections.abc import Iterable, MutableMapping
from typing import Any, Final, TextIO, cast

import structlog

Log = structlog.typing.FilteringBoundLogger

LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_COLOURS: Final = {"debug": "\x1b[34m", "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m"}
_RESET: Final = "\x1b[0m"


class LogFormat(enum.Enum):
    """What a line looks like; the names are those of `--log-format`."""

    COMPACT = "compact"
    LOGFMT = "logfmt"
    PLAIN = "plain"


def configure(level: str, form: LogFormat) -> None:
    """Sets up logging for this process; called once, after the fork."""
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    render = _Compact(colour) if form is LogFormat.COMPACT else _Logfmt(colour and form is LogFormat.LOGFMT)
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.add_log_level, render],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _StandardError())),
        cache_logger_on_first_use=True,
    )


def get(target: str) -> Log:
    """The log of one process or part; `target` stands in every line."""
    log: Log = structlog.get_logger().bind(target=target)
    return log


class _StandardError:
    """Takes whole lines. A terminal or a reader that has gone away is no reason to stop routing."""

    def write(self, line: str) -> None:
        with contextlib.suppress(OSError):
            os.write(2, line.encode(errors="backslashreplace"))

    def flush(self) -> None:
        """Nothing waits."""


class _Compact:
    def __init__(self, colour: bool) -> None:
        self._colour = colour

    def __call__(self, _logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
        level, target = event.pop("level"), event.pop("target", "septate")
        word = f"{level.upper():>7}"
        if self._colour:
            word = f"{_COLOURS.get(level, '')}{word}{_RESET}"
        message = event.pop("event")
        tail = "".join(f" {name}={_quoted(value)}" for name, value in event.items())
        return f"{_timestamp()} {word} {_printable(target)}: {_printable(message)}{tail}"


class _Logfmt:
    def __init__(self, colour: bool) -> None:
        self._colour = colour

    def __call__(self, _logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
        level, target = event.pop("level"), event.pop("target", "septate")
        word = f"{_COLOURS.get(level, '')}{level}{_RESET}" if self._colour else level
        message = event.pop("event")
        tail = "".join(f" {name}={_quoted(value)}" for name, value in event.items())
        return f"ts={_timestamp()} level={word} target={_quoted(target)} message={_quoted(message)}{tail}"


def _timestamp() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _printable(value: object) -> str:
    # A peer chooses some of what is logged: no control character of its may reach a terminal or start a new line.
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in str(value))


def _quoted(value: object) -> str:
    text = _printable(value)
    if text and not any(letter in text for letter in " \"'="):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def forward_standard(names: Iterable[str], log: Log) -> None:
    """Has libraries that use the standard library's logging, under these names, write their warnings as ours."""
    for name in names:
        logger = logging.getLogger(name)
        logger.propagate = False
        logger.setLevel(logging.WARNING)
        logger.addHandler(_Forward(log))


class _Forward(logging.Handler):
    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        write = self._log.error if record.levelno >= logging.ERROR else self._log.warning
        write(record.getMessage(), part=record.name)
