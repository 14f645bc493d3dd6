"""Waitress, as this API needs it: threads that come when they are needed, and a limit of bodies by path.

Everything that knows how waitress is built stands here.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import create_server
from waitress.task import ThreadedTaskDispatcher, WSGITask
from waitress.utilities import RequestEntityTooLarge
from waitress.wasyncore import close_all

if TYPE_CHECKING:
    from flask import Flask

CONNECTIONS: Final = 1000
MAX_ANSWER_BYTES: Final = 256 << 20
_JOIN_BELOW: Final = 64 << 10
"""A copy of so few bytes costs less than a second call of send."""
_READ_BELOW: Final = 256 << 10
"""Who has so much of an answer to read is not read from until he has."""
IDLE_S: Final = 20.0
"""A thread that had nothing to do for so long ends."""
KEPT_THREADS: Final = 4
_STOP_S: Final = 2.0


class Server:
    """A WSGI application under waitress, in a thread of its own that hands requests to others."""

    def __init__(self, app: Flask, descriptor: int, threads: int, limits: BodyLimits) -> None:
        """Serves the listening TCP socket `descriptor` with at most so many threads."""
        listener = socket.socket(fileno=descriptor)
        self._server = create_server(
            app,
            sockets=[listener],
            _dispatcher=_ThreadsAsNeeded(threads),
            connection_limit=CONNECTIONS,
            # Sees a client leave while its request waits.
            channel_request_lookahead=1,
            # What is not smaller than this is refused; `_Parser` refuses more.
            max_request_body_size=limits.raw + 1,
            # No temporary files: Landlock allows none.
            inbuf_overflow=limits.raw + 1,
            outbuf_overflow=MAX_ANSWER_BYTES,
            asyncore_use_poll=True,
            ident=None,
        )
        self._server.channel_class = _channel_class(limits)
        self._server.pull_trigger = _Waker(self._server.pull_trigger)
        self._thread = threading.Thread(target=self._server.run, name="http", daemon=True)

    @property
    def port(self) -> int:
        """The TCP port that is served."""
        return int(self._server.effective_port)

    def start(self) -> None:
        """Serves from now on."""
        self._thread.start()

    def check(self) -> None:
        """Raises `RuntimeError` where nobody serves any more: an actor without its thread would only look alive."""
        if not self._thread.is_alive():
            raise RuntimeError("the thread that serves HTTP has ended")

    def stop(self) -> None:
        """Finishes the requests in hand, closes all connections and the socket, and waits for the thread."""
        # First the threads that answer: each wakes the serving thread through a pipe, which has to be open then.
        self._server.task_dispatcher.shutdown(cancel_pending=True, timeout=_STOP_S)
        # Everything in this map belongs to the serving thread, so that is where it is closed; with nothing left in it
        # waitress returns.
        # Under the trigger's lock: else a wake-up that is on its way already closes it before it is pulled.
        trigger = self._server.trigger
        with trigger.lock:
            trigger.thunks.append(lambda: close_all(self._server._map))
            trigger.pull_trigger()
        self._thread.join(_STOP_S)


class _ThreadsAsNeeded(ThreadedTaskDispatcher):  # type: ignore[misc]
    """Starts a thread when a request finds none idle, up to a limit; behind it requests wait in the queue.

    Those that have had nothing to do for a while end, but for a few.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most
        self._tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
        """None tells a thread to end."""
        self._unserved = 0
        """Tasks that wait, or are being served."""

    def add_task(self, task: Any) -> None:
        with self.lock:
            self._unserved += 1
            if self._unserved > len(self.threads) and len(self.threads) < self._most and not self.stop_count:
                number = next(number for number in range(self._most) if number not in self.threads)
                self.threads.add(number)
                self.start_new_thread(self.handler_thread, number)
        self._tasks.put(task)

    def handler_thread(self, thread_no: int) -> None:
        while True:
            try:
                task = self._tasks.get(timeout=IDLE_S)
            except queue.Empty:
                with self.lock:
                    if self._unserved < len(self.threads) and len(self.threads) > KEPT_THREADS:
                        self._leave(thread_no)
                        return
                continue
            if task is None:
                with self.lock:
                    self._leave(thread_no)
                return
            # What goes wrong inside, waitress answers with a 500.
            task.service()
            with self.lock:
                self._unserved -= 1

    def shutdown(self, cancel_pending: bool = True, timeout: float = 5.0) -> bool:
        """Ends all threads, behind what each is serving, and waits for them."""
        del cancel_pending
        deadline = time.monotonic() + timeout
        waiting = []
        with self.lock:
            self.stop_count = len(self.threads)
            with contextlib.suppress(queue.Empty):
                while True:
                    waiting.append(self._tasks.get_nowait())
            for _ in self.threads:
                self._tasks.put(None)
            while self.threads and (left := deadline - time.monotonic()) > 0:
                self.thread_exit_cv.wait(left)
            done = not self.threads
        for task in waiting:
            task.cancel()
        return done

    def _leave(self, thread_no: int) -> None:
        self.threads.discard(thread_no)
        self.thread_exit_cv.notify()


class _Waker:
    """Wakes the serving thread when a request was answered, where there is anything for it to do.

    It reads from a connection while a request of that is served. So it needs to hear of the end of one only when
    something is left to be sent, to be closed, or to be read that it may have put off: of hardly any.
    """

    def __init__(self, pull: Callable[[], None]) -> None:
        self._pull = pull

    def __call__(self) -> None:
        channel = getattr(_served, "channel", None)
        if channel is None or channel.needs_the_serving_thread():
            self._pull()


_served: Final = threading.local()
"""What a thread is just serving."""


class BodyLimits:
    """How large bodies may be: those in JSON, and those below `raw_path` that are data; and all the latter together."""

    def __init__(self, json: int, raw: int, raw_path: str, raw_together: int, counters: Counter[str]) -> None:
        self.json = json
        self.raw = raw
        self.counters = counters
        self._raw_path = raw_path
        self._raw_together = raw_together
        self._raw_now = 0
        self._lock = threading.Lock()

    def of(self, path: str) -> int:
        """The most bytes that a body sent to `path` may have."""
        return self.raw if path == self._raw_path else self.json

    def take(self, size: int) -> bool:
        """Whether there is room for `size` more bytes of large bodies; it is taken, then, until it is given back."""
        with self._lock:
            if self._raw_now + size > self._raw_together:
                self.counters["http.bodies_refused"] += 1
                return False
            self._raw_now += size
            return True

    def give_back(self, size: int) -> None:
        """So many bytes that `take` gave are not used any more."""
        with self._lock:
            self._raw_now -= size


def _channel_class(limits: BodyLimits) -> type[Any]:
    class Parser(_Parser):
        body_limits = limits

    class Channel(HTTPChannel):  # type: ignore[misc]
        parser_class = Parser
        task_class = _Task

        held: list[Any] | None = None
        """While it is a list: what was written, to be sent in one piece."""

        def service(self) -> None:
            _served.channel, self.written = self, 0
            try:
                super().service()
            finally:
                _served.channel = None

        written = 0
        """By the request that is being served."""

        def needs_the_serving_thread(self) -> bool:
            return bool(
                self.will_close
                or self.close_when_flushed
                or self.total_outbufs_len
                or self.requests
                or self.written > _READ_BELOW
            )

        def readable(self) -> bool:
            # As in waitress, but while a short answer is on its way, too: else the serving thread, if it looks in that
            # moment, reads no more until it is woken.
            return not (
                self.will_close
                or self.close_when_flushed
                or len(self.requests) > self.adj.channel_request_lookahead
                or self.total_outbufs_len > _READ_BELOW
            )

        def write_soon(self, data: Any) -> int:
            if self.held is None:
                self.written += len(data)
                return int(super().write_soon(data))
            self.held.append(data)
            return len(data)

        def handle_close(self) -> None:
            if self.request is not None:
                # It broke off in the middle of a request, which nobody will answer.
                self.request.close()
            super().handle_close()

    return Channel


class _Task(WSGITask):  # type: ignore[misc]
    """Sends the header with the first bytes of the body.

    And keeps the connection after an answer that has no body by its status: waitress closes it for lack of a length.
    """

    def write(self, data: bytes) -> None:
        """Writes a piece of the body, behind the header where that is still to be written."""
        if self.wrote_header:
            super().write(data)
            return
        channel = self.channel
        channel.held = []
        try:
            super().write(data)
        finally:
            held, channel.held = channel.held, None
        for piece in (b"".join(held),) if len(data) < _JOIN_BELOW else held:
            channel.write_soon(piece)

    def set_close_on_finish(self) -> None:
        asked = self.request.headers.get("CONNECTION", "").lower() == "close"
        if asked or self.has_body or self.version != "1.1":
            super().set_close_on_finish()


class _Parser(HTTPRequestParser):  # type: ignore[misc]
    """Refuses a body that is too large for its path as soon as that is known."""

    body_limits: BodyLimits
    taken = 0

    def received(self, data: bytes) -> int:
        consumed = int(super().received(data))
        if self.error is None and self.headers_finished and not self.empty:
            limit = self.body_limits.of(self.path)
            size = max(self.content_length, self.body_bytes_received)
            if size > limit:
                self._refuse(f"a body of more than {limit} bytes")
            elif size > max(self.body_limits.json, self.taken) and not self._take(size):
                self._refuse("too many large bodies at a time")
        return consumed

    def _take(self, size: int) -> bool:
        if not self.body_limits.take(size - self.taken):
            return False
        self.taken = size
        return True

    def _refuse(self, why: str) -> None:
        self.error = RequestEntityTooLarge(why)
        self.completed = True

    def close(self) -> None:
        """The request is over: waitress calls this once it is answered, or its connection closed."""
        if self.taken:
            self.body_limits.give_back(self.taken)
            self.taken = 0
        super().close()
