"""A question that takes several frames each way, may wait for long, and may be given up meanwhile.

When the actor at the other end is gone, whoever talks hears of it at once, not at a deadline.
"""

from __future__ import annotations

import math
import os
import select
import time
from collections import deque
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from actors.runtime.dealer import Dealer, DealerError
from protocol.codec import FrameError, pack, unpack

_LONGEST_POLL_S: Final = 3600.0
"""`poll` counts milliseconds in 32 bits; a wait for ever is made of such pieces."""
_RETRY_S: Final = 0.01
"""An actor that is being restarted is back within milliseconds."""
_GREETING_S: Final = 0.25
"""Its inbox answers at once, whatever it is doing itself."""
_SEND_S: Final = 5.0
MAX_PART_BYTES: Final = 4 << 20
MOST_IDLE: Final = 32
"""Connections to one actor that are kept for the next questions."""


class NoAnswer(Exception):
    """An actor did not answer, or not properly. `actor` is its name, `reason` is for people."""

    def __init__(self, actor: str, reason: str) -> None:
        super().__init__(actor, reason)
        self.actor = actor
        self.reason = reason

    def __str__(self) -> str:
        return f"no answer from {self.actor}: {self.reason}"


class Silent(NoAnswer):
    """It said nothing in time."""


class Gone(Exception):
    """The actor was there and is not any more: it is being restarted."""


class Abandoned(Exception):
    """Whoever wanted the answer went away."""


class Abandonment:
    """Says, from any thread, that nobody wants an answer any more.

    `is_gone` tells whether that is so: who looks after callers asks it now and then, and whoever is about to take
    something that can't be given back asks it last.
    """

    def __init__(self, is_gone: Callable[[], bool]) -> None:
        self.is_gone: Final = is_gone
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        """Readable once the answer is not wanted any more."""
        return self._descriptor

    def abandon(self) -> None:
        """Ends the wait, now or when it begins."""
        os.eventfd_write(self._descriptor, 1)

    def close(self) -> None:
        """Gives the descriptor back; nobody may call `abandon` any more."""
        os.close(self._descriptor)


class Dialogues:
    """Dialogues with one actor, a connection for each; one that ended well is kept for the next.

    May be used by many threads at once.
    """

    def __init__(self, run_folder: Path, actor: str) -> None:
        self._run_folder = run_folder
        self._actor = actor
        self._idle: deque[Dialogue] = deque()

    @contextmanager
    def open(self, abandonment: Abandonment | None = None) -> Iterator[Dialogue]:
        """A dialogue for one question. Raises `NoAnswer` where there can't be one."""
        dialogue = self.take()
        dialogue.attach(abandonment)
        try:
            yield dialogue
        except BaseException:
            # What is still on its way there belongs to a question that nobody asks any more.
            dialogue.close()
            raise
        self.give_back(dialogue)

    def take(self) -> Dialogue:
        """A dialogue, to be given back or closed. Raises `NoAnswer` where there can't be one."""
        with suppress(IndexError):
            return self._idle.pop()
        return Dialogue(self._run_folder, self._actor)

    def give_back(self, dialogue: Dialogue) -> None:
        """Its question was answered, or is of no interest: it serves the next."""
        dialogue.detach()
        if len(self._idle) < MOST_IDLE:
            self._idle.append(dialogue)
        else:
            dialogue.close()

    def close(self) -> None:
        """Closes the connections that are kept."""
        while self._idle:
            self._idle.pop().close()


class Dialogue:
    """A connection to one actor; used by one thread at a time."""

    def __init__(self, run_folder: Path, actor: str) -> None:
        self.actor = actor
        try:
            self._dealer = Dealer(run_folder / actor, MAX_PART_BYTES)
        except DealerError as error:
            raise NoAnswer(actor, error.reason) from None
        self._unsaid: list[bytes] = []
        """What waits for an actor that is not there yet."""
        self._was_told = False
        """Whether anything of the present question was said."""
        self._abandonment: Abandonment | None = None

    def attach(self, abandonment: Abandonment | None) -> None:
        """The next question: from now on `abandonment` ends what it waits for."""
        self._abandonment = abandonment

    def detach(self) -> None:
        """The inverse of `attach`."""
        self._abandonment = None
        self._was_told = False

    def fileno(self) -> int:
        """Readable when there is something to `hear`; -1 while the actor is not there."""
        return self._dealer.fileno()

    def close(self) -> None:
        """Ends the connection. What was said still arrives where somebody reads."""
        self._dealer.close()

    def say(self, message: object) -> None:
        """Sends a frame. It waits where the actor is not there yet. Raises `NoAnswer` where it does not read."""
        data = pack(message)
        with self._named():
            self._unsaid.append(data)
            if not self._connected(_GREETING_S) or not self._dealer.ended or self._was_told:
                return
            # The actor of the last question ended since; its successor may have this one.
            self._dealer.close()
            self._unsaid.append(data)
            self._connected(_GREETING_S)

    def hear(self, tokens: Container[int], deadline: float) -> Any:
        """The next frame with one of these tokens; `deadline` is monotonic seconds.

        Raises `NoAnswer`, as `Silent` when none has come by then, `Gone` when the actor ended, `Abandoned`.
        """
        dealer = self._dealer
        with self._named():
            while True:
                while dealer.received:
                    # First what it said, then that it is gone: these may have been its last words.
                    if (answer := self._understand(dealer.received.popleft(), tokens)) is not None:
                        return answer
                if dealer.ended:
                    raise Gone(self.actor)
                left = deadline - time.monotonic()
                if self._connected(min(max(left, 0.0), _RETRY_S)):
                    self._wait(min(left, _LONGEST_POLL_S), left <= 0)
                elif left <= 0:
                    raise Silent(self.actor, "it is not there")
                else:
                    self._pause(min(left, _RETRY_S))

    def _connected(self, wait_s: float) -> bool:
        dealer = self._dealer
        if not dealer.ready and not dealer.ended and not dealer.connect(wait_s):
            return False
        if self._unsaid:
            unsaid, self._unsaid = self._unsaid, []
            for data in unsaid:
                dealer.send(data, _SEND_S)
            self._was_told = not dealer.ended
        return True

    def _wait(self, seconds: float, last: bool) -> None:
        """Takes in what comes."""
        if self._abandonment is None:
            self._dealer.read(seconds)
            if last and not self._dealer.received and not self._dealer.ended:
                raise Silent(self.actor, "silent for too long")
            return
        poller = select.poll()
        poller.register(self._dealer, select.POLLIN)
        poller.register(self._abandonment, select.POLLIN)
        ready = dict(poller.poll(math.ceil(max(seconds, 0.0) * 1000)))
        if self._dealer.fileno() in ready:
            self._dealer.read()
        elif ready:
            raise Abandoned
        elif last:
            raise Silent(self.actor, "silent for too long")

    def _pause(self, seconds: float) -> None:
        poller = select.poll()
        if self._abandonment is not None:
            poller.register(self._abandonment, select.POLLIN)
        if poller.poll(math.ceil(seconds * 1000)):
            raise Abandoned

    def _understand(self, data: bytes, tokens: Container[int]) -> Any:
        try:
            answer = unpack(data)
        except FrameError as error:
            raise NoAnswer(self.actor, f"it answered with something else than a frame ({error})") from None
        return answer if getattr(answer, "token", None) in tokens else None

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except DealerError as error:
            raise NoAnswer(self.actor, error.reason) from None
