"""Questions to the actors of a living node: which nodes live here, and one question with its whole answer."""

from __future__ import annotations

import fcntl
import itertools
import math
import os
import re
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import zmq

from protocol.codec import FrameError, pack, unpack

LOCK_FILE: Final = "lock"
"""Held by `flock` as long as the supervisor lives: a folder without a held lock is a dead node's."""
MAX_PARTS: Final = 4096
"""Parts of one answer, each of at most 1024 rows: far more than any table of ours holds."""
MAX_PART_BYTES: Final = 4 << 20
_MAX_PATH_BYTES: Final = 107
_RECONNECT_MS: Final = 10
_INSTANCE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", re.ASCII)


class NoAnswer(Exception):
    """An actor did not answer, or not properly. `actor` is its name, `reason` is for people."""

    def __init__(self, actor: str, reason: str) -> None:
        super().__init__(actor, reason)
        self.actor = actor
        self.reason = reason

    def __str__(self) -> str:
        return f"no answer from {self.actor}: {self.reason}"


class NoInstance(Exception):
    """No node, or more than one, fits what was asked for; says which there are."""


class Asker:
    """Asks actors through their sockets in `run_folder`.

    One may be used by many threads at once: each question has a socket of its own, and a late answer to a question
    that was given up ends with it.
    """

    def __init__(self, run_folder: Path, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self.run_folder = run_folder
        self.context = context
        self._tokens = itertools.count(1)

    def token(self) -> int:
        """A fresh number to put into a question."""
        return next(self._tokens)

    def ask(self, actor: str, question: Any, deadline_s: float) -> list[Any]:
        """All parts of the answer to `question`, a frame with a `token`, in order.

        Raises `NoAnswer` when the last part has not come after `deadline_s` seconds.
        """
        answer = self.ask_all({actor: question}, deadline_s)[actor]
        if isinstance(answer, NoAnswer):
            raise answer
        return answer

    def ask_any(self, questions: Mapping[str, Any], deadline_s: float) -> list[Any] | None:
        """The first whole answer to any of the questions, None where nobody answers in time."""
        for answer in self._ask(questions, deadline_s, enough=1).values():
            if not isinstance(answer, NoAnswer):
                return answer
        return None

    def ask_all(self, questions: Mapping[str, Any], deadline_s: float) -> dict[str, list[Any] | NoAnswer]:
        """The answers to one question to each of several actors, asked side by side: their deadlines run together."""
        return self._ask(questions, deadline_s, enough=len(questions))

    def _ask(self, questions: Mapping[str, Any], deadline_s: float, enough: int) -> dict[str, list[Any] | NoAnswer]:
        deadline = time.monotonic() + deadline_s
        results: dict[str, list[Any] | NoAnswer] = {}
        waiting: dict[zmq.Socket[bytes], _Conversation] = {}
        poller = zmq.Poller()
        try:
            for actor, question in questions.items():
                conversation = _Conversation(self.context, self.run_folder, actor, question)
                waiting[conversation.socket] = conversation
                poller.register(conversation.socket, zmq.POLLIN)
                if (problem := conversation.start()) is not None:
                    results[actor] = problem
                    poller.unregister(conversation.socket)
            answered = 0
            while answered < enough and len(results) < len(questions) and (left := deadline - time.monotonic()) > 0:
                for socket, _ in poller.poll(math.ceil(left * 1000)):
                    conversation = waiting[socket]
                    if (result := conversation.receive()) is not None:
                        results[conversation.actor] = result
                        answered += not isinstance(result, NoAnswer)
                        poller.unregister(socket)
        finally:
            for conversation in waiting.values():
                conversation.socket.close(linger=0)
        for actor in questions:
            results.setdefault(actor, NoAnswer(actor, f"silent for {deadline_s:g} s"))
        return results


class _Conversation:
    """One question to one actor."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], run_folder: Path, actor: str, question: Any) -> None:
        self.actor = actor
        self.socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVHWM, MAX_PARTS)
        self.socket.setsockopt(zmq.MAXMSGSIZE, MAX_PART_BYTES)
        # An actor that is being restarted is back within milliseconds.
        self.socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
        self._path = run_folder / actor
        self._question = question
        self._parts: list[Any] = []

    def start(self) -> NoAnswer | None:
        """Sends the question. It waits in the socket where the actor is not there yet."""
        if len(os.fsencode(self._path)) > _MAX_PATH_BYTES:
            return NoAnswer(self.actor, f"{self._path} is too long for a Unix socket; use a shorter runtime folder")
        self.socket.connect(f"ipc://{self._path}")
        self.socket.send(pack(self._question))
        return None

    def receive(self) -> list[Any] | NoAnswer | None:
        """The whole answer once its last part is there, None before."""
        while True:
            try:
                data = self.socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return None
            try:
                answer = unpack(data)
            except FrameError as error:
                return NoAnswer(self.actor, f"it answered with something else than a frame ({error})")
            if getattr(answer, "token", None) != self._question.token:
                continue
            self._parts.append(answer)
            if not getattr(answer, "more", False):
                return self._parts
            if len(self._parts) == MAX_PARTS:
                return NoAnswer(self.actor, f"its answer has more than {MAX_PARTS} parts")


# --- which nodes live here --------------------------------------------------------------------------------------------


def runtime_root() -> Path:
    """The folder that holds one folder per node: `/run/septate` for root, else below the user's own runtime folder.

    Without `XDG_RUNTIME_DIR` it lies in /tmp, where anybody could have made it first: whoever uses it checks its owner,
    as `find_instance` does.
    """
    if os.geteuid() == 0:
        return Path("/run/septate")
    if own := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(own) / "septate"
    return Path(f"/tmp/septate-{os.geteuid()}")


def instance_name(name: str) -> str:
    """`name`, if it can name a node. Raises `NoInstance`."""
    if _INSTANCE_NAME.fullmatch(name) is None:
        raise NoInstance(
            f"{name!r} can't name a node; use up to 64 letters, digits, '_', '.' and '-', not starting with '.' or '-'"
        )
    return name


def find_instance(name: str | None) -> Path:
    """The runtime folder of the living node `name`, or of the only one that lives.

    Raises `NoInstance`, naming the choices.
    """
    root = runtime_root()
    check_owner(root)
    if name is not None:
        folder = root / instance_name(name)
        if not _lives(folder):
            raise NoInstance(f"no node named {name!r} runs here; {_choices(_living(root))}")
        return folder
    living = _living(root)
    if len(living) != 1:
        raise NoInstance(f"{'several nodes run' if living else 'no node runs'} here; {_choices(living)}")
    return living[0]


def _choices(living: list[Path]) -> str:
    if not living:
        return "start one, or ask as the user who runs it"
    return "choose one with --instance: " + ", ".join(folder.name for folder in living)


def _living(root: Path) -> list[Path]:
    try:
        folders = sorted(root.iterdir())
    except FileNotFoundError:
        return []
    return [folder for folder in folders if _lives(folder)]


def check_owner(root: Path) -> None:
    """Raises `NoInstance` where somebody else made the folder that should hold this user's nodes."""
    if os.geteuid() == 0:
        # Only root can have made /run/septate, for whichever user the service runs as.
        return
    try:
        status = root.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise NoInstance(f"{root} is not a folder of this user; remove it, or set XDG_RUNTIME_DIR")


def _lives(folder: Path) -> bool:
    # A shared lock, held for this moment only: two people may look at the same time.
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
