"""What systemd hears, on a real datagram socket, and what the node makes of its silence."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.runtime.systemd import Notifier

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
"""A notifier lives as long as its process, and so does its socket."""


@pytest.fixture
def manager() -> Iterator[tuple[socket.socket, str]]:
    """A manager's socket and its address as systemd writes it."""
    with (
        tempfile.TemporaryDirectory(prefix="st-") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening,
    ):
        path = str(Path(folder) / "notify")
        listening.bind(path)
        listening.settimeout(5)
        yield listening, path


def _heard(listening: socket.socket) -> list[str]:
    return listening.recv(4096).decode().split("\n")


def test_ready_comes_with_a_status(manager: tuple[socket.socket, str]) -> None:
    listening, path = manager
    Notifier({"NOTIFY_SOCKET": path}).ready("3 links")
    assert _heard(listening) == ["READY=1", "STATUS=3 links"]


def test_each_event_has_its_assignment(manager: tuple[socket.socket, str]) -> None:
    listening, path = manager
    notifier = Notifier({"NOTIFY_SOCKET": path})
    notifier.status("2 links")
    notifier.alive()
    notifier.stopping()
    assert notifier.send("X_OWN=1")
    assert [_heard(listening) for _ in range(4)] == [
        ["STATUS=2 links"],
        ["WATCHDOG=1"],
        ["STOPPING=1", "STATUS=stopping"],
        ["X_OWN=1"],
    ]


def test_abstract_socket_is_reached() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        name = f"septate-test-{os.getpid()}"
        listening.bind("\0" + name)
        listening.settimeout(5)
        assert Notifier({"NOTIFY_SOCKET": "@" + name}).send("READY=1")
        assert _heard(listening) == ["READY=1"]


def test_without_a_manager_nothing_is_sent_and_nothing_fails() -> None:
    notifier = Notifier({})
    assert notifier.fileno() is None
    assert notifier.watchdog_seconds is None
    assert not notifier.send("READY=1")


def test_manager_that_is_gone_is_no_error(manager: tuple[socket.socket, str]) -> None:
    listening, path = manager
    notifier = Notifier({"NOTIFY_SOCKET": path})
    listening.close()
    assert not notifier.send("READY=1")


@pytest.mark.parametrize("address", ["/" + "x" * 200, "vsock:2:1234", "/no/such/socket"])
def test_address_that_can_not_be_reached_is_no_error(address: str) -> None:
    assert not Notifier({"NOTIFY_SOCKET": address}).send("READY=1")


def test_manager_that_does_not_read_does_not_stop_the_node(manager: tuple[socket.socket, str]) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager[1]})
    assert notifier.send("WATCHDOG=1")
    assert not all(notifier.send("WATCHDOG=1") for _ in range(10_000))


def test_descriptor_is_not_inherited(manager: tuple[socket.socket, str]) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager[1]})
    number = notifier.fileno()
    assert number is not None
    assert not os.get_inheritable(number)


def test_variables_are_taken_out_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.setenv(name, "1")
    Notifier()
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & set(os.environ)


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": ""}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": ""}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "²"}, None),
    ],
)
def test_watchdog_is_fed_as_often_as_it_is_told_and_only_by_whom_it_means(
    variables: dict[str, str], seconds: float | None
) -> None:
    assert Notifier(dict(variables)).watchdog_seconds == seconds
