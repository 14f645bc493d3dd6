"""Uvicorn, as this API needs it: one listening socket that is handed in, in a thread of its own.

Everything that knows how uvicorn is built stands here.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import Any, Final

import uvicorn

from actors.rpc.dialect import MAX_BYTES

KEEP_ALIVE_S: Final = 60
_STOP_S: Final = 2.0
_TICK_S: Final = 1.0
_ABOVE_MAX_BYTES: Final = 1 << 20
"""A WebSocket message that is larger than what may be called, but not by much, is told so; more ends the connection."""


class Server:
    """An ASGI application under uvicorn."""

    def __init__(self, app: Any, descriptor: int) -> None:
        """Serves the listening TCP socket `descriptor`."""
        self._socket = socket.socket(fileno=descriptor)
        config = uvicorn.Config(
            app,
            http="h11",
            ws="wsproto",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=1,
            ws_max_size=MAX_BYTES + _ABOVE_MAX_BYTES,
        )
        # Now, or the protocols would be imported in the middle of the first call.
        config.load()
        self._server = _Uvicorn(config)
        self._thread = threading.Thread(target=self._run, name="rpc", daemon=True)

    @property
    def port(self) -> int:
        """The TCP port that is served."""
        return int(self._socket.getsockname()[1])

    def _run(self) -> None:
        self._server.run(sockets=[self._socket])

    def start(self) -> None:
        """Serves from now on."""
        self._thread.start()

    def check(self) -> None:
        """Raises `RuntimeError` where nobody serves any more: an actor without its thread would only look alive."""
        if not self._thread.is_alive():
            raise RuntimeError("the thread that serves JSON-RPC has ended")

    def stop(self) -> None:
        """Finishes what is in hand, for a moment, and closes all connections and the socket."""
        self._server.leave()
        self._thread.join(_STOP_S)


class _Uvicorn(uvicorn.Server):
    """Wakes up once a second, for the Date header: the original does so ten times, to see whether it should end."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._leaving = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def main_loop(self) -> None:
        """Serves until `leave`."""
        self._loop = asyncio.get_running_loop()
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._leaving.wait(), _TICK_S)

    def leave(self) -> None:
        """Ends it; from any thread."""
        self.should_exit = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                # It may have ended by itself.
                self._loop.call_soon_threadsafe(self._leaving.set)
