"""Talking to systemd: readiness, watchdog, status, stopping (sd_notify(3)); silent where nobody listens."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping


class Notifier:
    """Sends notifications to the socket that `NOTIFY_SOCKET` names."""

    def __init__(self, environment: MutableMapping[str, str] | None = None) -> None:
        variables = os.environ if environment is None else environment
        # Taken out, so that no child speaks in our name.
        address = variables.pop("NOTIFY_SOCKET", "")
        self._socket: socket.socket | None = None
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_seconds = _watchdog(variables)
        if address:
            # Never blocks: a manager that hangs must not stop the node.
            kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            self._socket = socket.socket(socket.AF_UNIX, kind)

    def fileno(self) -> int | None:
        """The descriptor, or None where nobody listens."""
        return self._socket.fileno() if self._socket is not None else None

    def send(self, *assignments: str) -> bool:
        """Sends assignments such as `READY=1`; returns whether someone took them."""
        if self._socket is None:
            return False
        try:
            self._socket.sendto("\n".join(assignments).encode(), self._address)
        except OSError:
            # A manager that does not listen is no reason to stop routing.
            return False
        return True

    def ready(self, status: str) -> None:
        """The node serves."""
        self.send("READY=1", f"STATUS={status}")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self.send(f"STATUS={text}")

    def alive(self) -> None:
        """Feeds the watchdog."""
        self.send("WATCHDOG=1")

    def stopping(self) -> None:
        """The node goes down on purpose."""
        self.send("STOPPING=1", "STATUS=stopping")


def _watchdog(variables: MutableMapping[str, str]) -> float | None:
    text, pid = variables.pop("WATCHDOG_USEC", ""), variables.pop("WATCHDOG_PID", "")
    if not text.isdecimal() or (pid and pid != str(os.getpid())):
        return None
    return int(text) / 1_000_000
