"""How a process is born: forked from the warm supervisor, stripped of everything that is not its own.

The order matters and is this:
 1. fork; the supervisor has one thread, no ZeroMQ context, no secret
 2. close every descriptor but the standard three, the channel and the child's own
 3. die with the parent; no core dump; where asked, not dumpable
 4. whatever needs the old rights (`prepare`: tun reads its key)
 5. no capability, no new privileges, Landlock
 6. the ZeroMQ context, and the actor's own `main`
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, NoReturn, TypeVar

import setproctitle

from actors.runtime import confine, logs
from actors.runtime.actor import Runtime, Start
from actors.runtime.channel import Channel

T = TypeVar("T")


class BirthError(Exception):
    """What a child needs is not there; says what, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Birth(Generic[T]):
    """Everything about one child."""

    start: Start
    main: Callable[[Runtime, T], None]
    """Runs the actor; its end is the end of the process."""
    prepare: Callable[[], T]
    """Runs with the supervisor's rights; what it returns goes to `main`. May raise `BirthError`."""
    descriptors: Callable[[], tuple[int, ...]] = tuple
    """The child's own, besides the channel and the standard three; asked in the child, of the supervisor's memory."""
    files: confine.FileRights = field(default_factory=confine.FileRights)
    dumpable: bool = True
    before: Callable[[], object] = tuple
    """Runs in the supervisor before each fork."""

    def fork(self) -> tuple[int, Channel]:
        """Starts the child; returns its pid and our end of its channel.

        Raises `OSError` where there is no room for another process or descriptor.
        """
        self.before()
        return _fork(self._live)

    def _live(self, channel: Channel, parent: int) -> NoReturn:
        code = 1
        try:
            _reset_signals()
            _strip((channel.fileno(), *self.descriptors()), parent, self.start.title, dumpable=self.dumpable)
            logs.configure(self.start.log_level, self.start.log_format)
            prepared = self.prepare()
            confine.drop_capabilities()
            confine.restrict_files(self.files)
            self.main(Runtime(self.start, channel), prepared)
            code = 0
        except BirthError as error:
            # Nothing is wrong with the program: the line is for people, and a stack would hide it.
            logs.get(self.start.title).error(str(error))
        except BaseException:  # noqa: BLE001 - the last frame of a process: says why it dies, and dies
            traceback.print_exc()
        finally:
            _exit(code)


def fork_once(main: Callable[[Channel], None], title: str) -> tuple[int, Channel]:
    """Starts a child that does one thing with the supervisor's rights, reports over the channel and exits.

    Raises `OSError` where there is no room for another process or descriptor.
    """

    def live(channel: Channel, parent: int) -> NoReturn:
        code = 1
        try:
            _reset_signals()
            _strip((channel.fileno(),), parent, title, dumpable=False)
            main(channel)
            code = 0
        except BaseException:  # noqa: BLE001 - as above
            traceback.print_exc()
        finally:
            _exit(code)

    return _fork(live)


def _fork(live: Callable[[Channel, int], NoReturn]) -> tuple[int, Channel]:
    # `live(channel, parent)` is the child's whole life.
    ours, theirs = Channel.pair()
    parent = os.getpid()
    try:
        pid = os.fork()
    except OSError:
        ours.close()
        theirs.close()
        raise
    if pid == 0:
        live(theirs, parent)
    theirs.close()
    return pid, ours


def _strip(keep: tuple[int, ...], parent: int, title: str, *, dumpable: bool) -> None:
    confine.close_all_but(keep)
    confine.die_with_parent(parent)
    confine.no_core_dump()
    if not dumpable:
        confine.not_dumpable()
    setproctitle.setproctitle(f"septate: {title}")


def _exit(code: int) -> NoReturn:
    # Whatever became of standard error: the way back leads into the supervisor's own code.
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(code)


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    # What is sent to the whole group, by a terminal or by `timeout`, is meant for the supervisor: it stops us in order.
    os.setpgid(0, 0)
    # A Ctrl-C reaches the whole foreground group; the order in which processes stop is the supervisor's business.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
