"""The rules of the tests in namespaces: a laboratory each, nothing missing in CI, node logs beside a failure."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.lab import namespaces
from tests.lab.namespaces import Lab
from tests.lab.nodes import SeptateNode
from tests.lab.vsock import reaches_itself

LOG_LINES: Final = 40
_open: Final[list[Lab]] = []
"""Those that exist at the moment."""


def pytest_report_header() -> str:
    """Says which transport this machine can't show between two nodes."""
    joined = "joins nodes here" if reaches_itself() else "module vsock_loopback is missing: no flow between two nodes"
    return f"vsock: {joined}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turns a skip into a failure where CI is set, and shows the nodes' last words beside every failure."""
    report = yield
    if report.skipped and os.environ.get("CI") and item.get_closest_marker("mycelium") is None:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"nothing may be skipped where CI is set; {reason}"
    if report.failed:
        for lab in _open:
            report.sections += [(f"log of {log.parent.name}", _tail(log)) for log in sorted(lab.folder.glob("*/log"))]
    return report


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A laboratory for this test alone."""
    yield from _laboratory()


@pytest.fixture(scope="module")
def module_lab() -> Iterator[Lab]:
    """A laboratory that the tests of a module share."""
    yield from _laboratory()


def _laboratory() -> Iterator[Lab]:
    missing = namespaces.available() or SeptateNode.missing()
    if missing is not None:
        pytest.skip(missing)
    with Lab() as lab:
        _open.append(lab)
        try:
            yield lab
        finally:
            _open.remove(lab)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
