"""Messages on topics with a forward socket: each handed to a Unix socket, its answer sent back (messages spec 8.4).

All in the loop, nothing blocks. A socket that can't be reached is tried again, less and less often, while its messages
stay in the inbox for whoever likes to read them; one that has read a message and does not answer is not asked twice.
"""

from __future__ import annotations

import os
import socket
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

from actors.messagebox.rounds import Rounds
from actors.messagebox.store import Store
from actors.runtime.actor import Runtime
from actors.runtime.loop import READABLE, WRITABLE, Timer
from protocol.mycelium.messages.box import MessageBox
from protocol.mycelium.messages.core import MessageBoxError
from protocol.mycelium.messages.events import Forward
from protocol.mycelium.messages.limits import Limits

WRITE_SECONDS: Final = 5.0
"""As the reference (messages spec 4)."""
READ_SECONDS: Final = 30.0
"""The reference waits for ever (Q10)."""
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0
"""Between two attempts at a socket that can't be reached."""
AT_ONCE: Final = 16
"""Conversations in all; what is more waits."""
_READ_BYTES: Final = 256 << 10


class _Pause:
    """Of a socket that can't be reached."""

    __slots__ = ("seconds", "tries", "until")

    def __init__(self, seconds: float, until: float) -> None:
        self.seconds = seconds
        self.until = until
        self.tries = 0
        """The message that is tried next, 0 before its time."""


class _Unreachable(Exception):
    """The message was not handed over."""


class _Conversation:
    """One message and one socket."""

    def __init__(self, number: int, path: str, data: bytes) -> None:
        self.number = number
        self.path = path
        self.unwritten = memoryview(data)
        self.answer = bytearray()
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.timer: Timer | None = None

    def connect(self) -> None:
        """A Unix socket connects at once, or not at all. Raises `_Unreachable`."""
        try:
            self.socket.connect(self.path)
        except (OSError, ValueError) as error:
            raise _Unreachable(_reason(error)) from None

    def write(self) -> bool:
        """Writes what the socket takes; whether that was all. Raises `_Unreachable`."""
        try:
            while self.unwritten:
                written = self.socket.send(self.unwritten)
                self.unwritten = self.unwritten[written:]
            self.socket.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            return False
        except OSError as error:
            raise _Unreachable(_reason(error)) from None
        return True


class Forwarding:
    """All conversations, and the sockets that can't be reached."""

    def __init__(self, runtime: Runtime, box: MessageBox, store: Store, rounds: Rounds, limits: Limits) -> None:
        self._loop = runtime.loop
        self._log = runtime.log
        self._counters: Counter[str] = runtime.counters
        self._box = box
        self._store = store
        self._rounds = rounds
        self._limits = limits
        self._talking: dict[int, _Conversation] = {}
        """By descriptor."""
        self._waiting: deque[Forward] = deque()
        self._pauses: dict[str, _Pause] = {}
        """Of sockets that can't be reached."""
        rounds.on(Forward, self._on_forward)
        runtime.gauges.queue("forwards", lambda: len(self._talking) + len(self._waiting))
        # What a predecessor did not hand over.
        self._loop.defer(self._all_again)

    # --- a message ----------------------------------------------------------------------------------------------------

    def _on_forward(self, event: Forward) -> None:
        pause = self._pauses.get(event.path)
        if pause is not None and event.number != pause.tries:
            # Its turn comes when that of the first one was good.
            self._keep(event.number)
            return
        self._waiting.append(event)
        self._begin()

    def _begin(self) -> None:
        while self._waiting and len(self._talking) < AT_ONCE:
            event = self._waiting.popleft()
            conversation = _Conversation(event.number, event.path, self._store.data_of(event.number))
            try:
                conversation.connect()
                self._talking[conversation.socket.fileno()] = conversation
                self._on_time(conversation, WRITE_SECONDS, self._unreachable, "it does not take what is written")
                self._write(conversation)
            except _Unreachable as error:
                self._unreachable(conversation, str(error))

    def _write(self, conversation: _Conversation) -> None:
        descriptor = conversation.socket.fileno()
        if not conversation.write():
            self._loop.watch(descriptor, lambda _: self._on_writable(conversation), events=WRITABLE)
            return
        if self._pauses.pop(conversation.path, None) is not None:
            self._log.info("a forward socket is back", socket=conversation.path)
            self._loop.defer(self._all_again)
        self._on_time(conversation, READ_SECONDS, self._no_answer, "no answer in time")
        self._loop.watch(descriptor, lambda _: self._on_readable(conversation), events=READABLE)

    def _on_writable(self, conversation: _Conversation) -> None:
        try:
            self._write(conversation)
        except _Unreachable as error:
            self._unreachable(conversation, str(error))

    def _on_readable(self, conversation: _Conversation) -> None:
        try:
            data = conversation.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._no_answer(conversation, _reason(error))
            return
        if data:
            conversation.answer += data
            if len(conversation.answer) > self._limits.message_bytes:
                self._no_answer(conversation, f"its answer is longer than {self._limits.message_bytes} bytes")
        elif conversation.answer:
            self._answer(conversation)
        else:
            self._no_answer(conversation, "it closed the connection without an answer")

    # --- how it ends --------------------------------------------------------------------------------------------------

    def _answer(self, conversation: _Conversation) -> None:
        facts = self._store.facts(conversation.number)
        try:
            self._box.push(facts.id, facts.source, bytes(conversation.answer), self._loop.now(), reply=True)
        except MessageBoxError as error:
            self._no_answer(conversation, f"its answer can't be sent: {error}")
            return
        self._counters["forwards.answered"] += 1
        self._end(conversation)
        # In one transaction with the answer: neither is lost, and none is sent twice.
        self._box.taken(conversation.number, self._loop.now())
        self._rounds.settle()
        self._begin()

    def _no_answer(self, conversation: _Conversation, reason: str) -> None:
        """It has the message, and may have acted on it: once more could be once too much."""
        self._counters["forwards.unanswered"] += 1
        self._log.warning(
            "a forward socket did not answer: the message is in the inbox", socket=conversation.path, reason=reason
        )
        self._end(conversation)
        self._box.put_back(conversation.number, self._loop.now())
        self._rounds.settle()
        self._begin()

    def _unreachable(self, conversation: _Conversation, reason: str) -> None:
        self._counters["forwards.unreachable"] += 1
        path = conversation.path
        before = self._pauses.get(path)
        seconds = FIRST_PAUSE if before is None else min(2 * before.seconds, LONGEST_PAUSE)
        if before is None:
            self._log.warning(
                "a forward socket can't be reached: its messages stay in the inbox, and it is tried again",
                socket=path,
                reason=reason,
            )
        self._pauses[path] = _Pause(seconds, self._loop.now() + seconds)
        self._end(conversation)
        self._keep(conversation.number)
        for event in [event for event in self._waiting if event.path == path]:
            self._waiting.remove(event)
            self._keep(event.number)
        self._loop.call_after(seconds, self._all_again)
        self._begin()

    def _keep(self, number: int) -> None:
        self._box.not_forwarded(number, self._loop.now())
        self._rounds.settle()

    def _end(self, conversation: _Conversation) -> None:
        descriptor = conversation.socket.fileno()
        self._talking.pop(descriptor, None)
        if conversation.timer is not None:
            conversation.timer.cancel()
        self._loop.forget(descriptor)
        conversation.socket.close()

    def _on_time(
        self, conversation: _Conversation, seconds: float, end: Callable[[_Conversation, str], None], reason: str
    ) -> None:
        if conversation.timer is not None:
            conversation.timer.cancel()
        conversation.timer = self._loop.call_after(seconds, lambda: end(conversation, reason))

    # --- once more ----------------------------------------------------------------------------------------------------

    def _all_again(self) -> None:
        """Tries what is stored and was not handed over, in order; one for each socket that could not be reached."""
        now, rules = self._loop.now(), self._box.topics
        for topic in rules:
            path = rules.forward_path(topic)
            pause = None if path is None else self._pauses.get(path)
            if path is None or (pause is not None and pause.until > now):
                continue
            for entry in self._store.to_forward(topic):
                if pause is not None:
                    if pause.tries:
                        break
                    pause.tries = entry.number
                self._box.forward(entry, path)
        self._rounds.settle()


def _reason(error: Exception) -> str:
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
