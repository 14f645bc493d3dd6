"""Sockets that the supervisor opens for the peers actor: it has the right to mark them."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from actors.runtime.actor import Runtime
from protocol.frames import SocketOpened

OnOpened = Callable[[SocketOpened, list[int]], None]
"""Is given the supervisor's answer and the socket that came along, if any."""


class Sockets:
    """Asks the supervisor for sockets, which it marks and hands over."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._asked: dict[int, OnOpened] = {}
        self._tokens = itertools.count(1)
        runtime.on_channel(SocketOpened, self._on_opened)

    def ask(self, question: Callable[[int], object], then: OnOpened) -> None:
        """Sends the frame that `question` makes of a token, and calls `then` with the answer."""
        token = next(self._tokens)
        self._asked[token] = then
        self._runtime.tell_supervisor(question(token))

    def _on_opened(self, message: SocketOpened, descriptors: list[int]) -> None:
        self._asked.pop(message.token)(message, descriptors)
