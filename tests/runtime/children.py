"""Real children for tests: born as the supervisor bears them, watched with deadlines, ended and reaped for certain."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

from actors.runtime.actor import Runtime, Start
from actors.runtime.birth import Birth
from actors.runtime.channel import Channel, ChannelClosed
from actors.runtime.confine import FileRights, python_trees
from actors.runtime.logs import LogFormat
from protocol.frames import Role, Stop

PATIENCE: Final = 20.0
"""Seconds until something that should happen at once counts as never happening; the machine may be busy."""

_T = TypeVar("_T")


@contextlib.contextmanager
def run_folder() -> Iterator[Path]:
    """A runtime folder whose path is short enough for Unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="st-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Child:
    """A living child and our end of its channel."""

    def __init__(self, pid: int, channel: Channel) -> None:
        self.pid = pid
        self.channel = channel
        self.heard: list[tuple[Any, list[int]]] = []
        """Every frame that nobody asked for yet, with its descriptors."""
        self._pidfd = os.pidfd_open(pid)
        self._reaped = False

    def hear(self, kind: type[_T], wanted: Callable[[_T], bool] = lambda _: True) -> _T:
        """The next frame of this type that is wanted; what came before it is dropped."""
        deadline = time.monotonic() + PATIENCE
        while True:
            while self.heard:
                message, _ = self.heard.pop(0)
                if isinstance(message, kind) and wanted(message):
                    return message
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.channel], [], [], left)[0]:
                raise AssertionError(f"child {self.pid} sent no {kind.__name__} within {PATIENCE:g} s")
            self.listen()

    def listen(self) -> None:
        """Takes in what waits. Raises `ChannelClosed` where nothing will ever come again."""
        before = len(self.heard)
        try:
            for item in self.channel.receive():
                self.heard.append(item)
        except ChannelClosed:
            if len(self.heard) == before:
                raise AssertionError(f"child {self.pid} closed its channel") from None

    def told(self) -> Any:
        """What the child passed to `tell`."""
        return json.loads(self.hear(Stop).reason)

    def ended(self) -> int:
        """Waits for the end; the exit code, or the negative number of the signal that killed it."""
        if not select.select([self._pidfd], [], [], PATIENCE)[0]:
            raise AssertionError(f"child {self.pid} did not end within {PATIENCE:g} s")
        self._reaped = True
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close(self) -> None:
        """Ends and reaps it, whatever it is doing."""
        if not self._reaped:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._pidfd)
        self.channel.close()


def tell(runtime: Runtime, value: object) -> None:
    """In a child: reports something to its test."""
    runtime.tell_supervisor(Stop(json.dumps(value)))


@contextlib.contextmanager
def born(
    run: Path,
    main: Callable[[Runtime, Any], None],
    *,
    name: str = "probe",
    prepare: Callable[[], Any] = lambda: None,
    descriptors: tuple[int, ...] = (),
    read: tuple[Path, ...] = (),
    dumpable: bool = True,
) -> Iterator[Child]:
    """A child with the rights of an actor that runs `main(runtime, prepare())`."""
    # Tests read modules late, too.
    ours = Path(__file__).parents[2]
    files = FileRights(read=(*python_trees(), ours, *read), write=(run,))
    start = Start(Role.STATUS, name, f"{name} of a test", run, "debug", LogFormat.PLAIN)
    birth: Birth[Any] = Birth(start, main, prepare, lambda: descriptors, files, dumpable)
    with as_the_supervisor():
        child = Child(*birth.fork())
    try:
        yield child
    finally:
        child.close()


@contextlib.contextmanager
def as_the_supervisor() -> Iterator[None]:
    """The state in which a process may be forked.

    `sys.stderr` is descriptor 2: pytest's own stream has another one, which a newborn child closes. And what other
    tests left behind is frozen: collected in a child, it would close descriptors whose numbers others have by then.
    """
    kept = sys.stderr
    sys.stderr = os.fdopen(2, "w", closefd=False)
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        sys.stderr = kept
