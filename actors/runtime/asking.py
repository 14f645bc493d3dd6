"""Questions to the actors of a living node: which nodes live here, and one question with its whole answer."""

from __future__ import annotations

import fcntl
import itertools
import math
import os
import re
import select
import stat
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from actors.runtime.dialogue import Dialogue, Dialogues, Gone, NoAnswer, Silent

LOCK_FILE: Final = "lock"
"""Held by `flock` as long as the supervisor lives: a folder without a held lock is a dead node's."""
MAX_PARTS: Final = 4096
"""Parts of one answer, each of at most 1024 rows: far more than any table of ours holds."""
_LOOK_AGAIN_S: Final = 0.01
_INSTANCE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", re.ASCII)


class NoInstance(Exception):
    """No node, or more than one, fits what was asked for; says which there are."""


class Asker:
    """Asks actors through their inboxes in `run_folder`.

    One may be used by many threads at once: each question has a connection of its own. One on which a question was
    answered is kept for the next.
    """

    def __init__(self, run_folder: Path) -> None:
        self.run_folder = run_folder
        self._tokens = itertools.count(1)
        self._dialogues: dict[str, Dialogues] = {}

    def token(self) -> int:
        """A fresh number to put into a question."""
        return next(self._tokens)

    def close(self) -> None:
        """Closes the connections that are kept."""
        for dialogues in self._dialogues.values():
            dialogues.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, actor: str, question: Any, deadline_s: float) -> list[Any]:
        """All parts of the answer to `question`, a frame with a `token`, in order.

        Raises `NoAnswer` when the last part has not come after `deadline_s` seconds.
        """
        deadline = time.monotonic() + deadline_s
        try:
            with self.dialogues(actor).open() as dialogue:
                dialogue.say(question)
                answer: list[Any] = []
                while not _take(answer, dialogue.hear((question.token,), deadline), actor):
                    pass
                return answer
        except Silent:
            raise NoAnswer(actor, f"silent for {deadline_s:g} s") from None
        except Gone:
            raise _ended(actor) from None

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
        waiting: dict[str, Dialogue] = {}
        parts: dict[str, list[Any]] = {actor: [] for actor in questions}
        answered = 0
        try:
            for actor, question in questions.items():
                try:
                    waiting[actor] = self.dialogues(actor).take()
                    waiting[actor].say(question)
                except NoAnswer as error:
                    results[actor] = error
            while answered < enough and len(results) < len(questions):
                for actor, dialogue in waiting.items():
                    if actor in results:
                        continue
                    try:
                        while not _take(parts[actor], dialogue.hear((questions[actor].token,), 0.0), actor):
                            pass
                        results[actor] = parts[actor]
                        answered += 1
                    except Silent:
                        continue
                    except Gone:
                        results[actor] = _ended(actor)
                    except NoAnswer as error:
                        results[actor] = error
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                _wait([dialogue for actor, dialogue in waiting.items() if actor not in results], left)
        finally:
            for actor, dialogue in waiting.items():
                if isinstance(results.get(actor), list):
                    self.dialogues(actor).give_back(dialogue)
                else:
                    dialogue.close()
        for actor in questions:
            results.setdefault(actor, NoAnswer(actor, f"silent for {deadline_s:g} s"))
        return results

    def dialogues(self, actor: str) -> Dialogues:
        """The connections to an actor, for more than a question and its answer."""
        dialogues = self._dialogues.get(actor)
        if dialogues is None:
            dialogues = self._dialogues.setdefault(actor, Dialogues(self.run_folder, actor))
        return dialogues


def _take(parts: list[Any], answer: Any, actor: str) -> bool:
    """Adds a part of an answer; whether it was the last. Raises `NoAnswer` where there are too many."""
    parts.append(answer)
    if not getattr(answer, "more", False):
        return True
    if len(parts) >= MAX_PARTS:
        raise NoAnswer(actor, f"its answer has more than {MAX_PARTS} parts")
    return False


def _wait(dialogues: Sequence[Dialogue], seconds: float) -> None:
    """Until one of them may have something to hear, or whoever is not there yet is to be looked for again."""
    poller = select.poll()
    for dialogue in dialogues:
        if dialogue.fileno() >= 0:
            poller.register(dialogue, select.POLLIN)
        else:
            seconds = min(seconds, _LOOK_AGAIN_S)
    if dialogues:
        poller.poll(math.ceil(seconds * 1000))


def _ended(actor: str) -> NoAnswer:
    return NoAnswer(actor, "it ended while it was asked")


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
