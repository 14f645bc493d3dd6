"""Bounded waiting: look again until something is so, or say what never came."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class WaitError(AssertionError):
    """What was waited for did not happen in time; an assertion, because in a test it is the finding."""


def wait_until(what: str, probe: Callable[[], T | None], timeout: float, interval: float = 0.02) -> T:
    """Calls `probe` every `interval` seconds until it returns something true, and returns that.

    Raises WaitError, naming `what`, when `timeout` seconds have passed.
    """
    deadline = time.monotonic() + timeout
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() >= deadline:
            raise WaitError(f"{what}: not within {timeout:g} s")
        time.sleep(interval)
