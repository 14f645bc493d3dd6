"""The status actor: the HTTP API.

Owns      the listening socket of the API, already bound
Rights    no node key, no capability; Landlock: the runtime folder
Receives  answers of other actors, each on the socket of its question
Sends     AskPeers, AddPeer, RemovePeer, AskTraffic to peers; AskRoutes, AskQueried, AskPublicKey to router; AskActors
Dies      requests fail for under a second; the socket stays open in the supervisor and queues who comes meanwhile

Requests are served by threads of their own. The actor's main thread runs the loop of the runtime and serves none.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections import Counter
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from waitress.server import create_server
from waitress.wasyncore import close_all

from actors.runtime.asking import Asker
from actors.status_http import MAX_BODY_BYTES
from actors.status_routes import NodeFacts, build

if TYPE_CHECKING:
    from flask import Flask

    from actors.runtime.actor import Runtime
    from actors.runtime.logs import Log

THREADS: Final = 16
CONNECTIONS: Final = 1000
MAX_ANSWER_BYTES: Final = 256 << 20
_LOOK_AFTER_THREAD_S: Final = 1.0
_STOP_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class StatusConfig:
    """What the status actor is given at birth."""

    public_key: bytes
    """The node's, 32 bytes."""
    api: int
    """Descriptor of a TCP socket that listens."""
    started_at: int
    """Start of the node in seconds since the Unix epoch."""
    run: Path
    """The runtime folder."""


def main(runtime: Runtime, config: StatusConfig) -> None:
    """Runs the actor."""
    _log_through(runtime.log)
    asker = Asker(config.run, runtime.context)
    server = StatusServer(config, asker, runtime.counters)
    server.start()
    runtime.loop.every(_LOOK_AFTER_THREAD_S, server.check)
    runtime.at_stop(server.stop)
    runtime.serve()


class StatusServer:
    """The application under waitress, in a thread of its own that hands requests to others."""

    def __init__(self, config: StatusConfig, asker: Asker, counters: Counter[str]) -> None:
        listener = socket.socket(fileno=config.api)
        here = ip_address(listener.getsockname()[0].partition("%")[0])
        app = build(
            NodeFacts(config.public_key, config.started_at),
            asker,
            counters,
            check_host=here.is_loopback,
        )
        self._server = _serve_with_waitress(app, listener)
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
        self._server.trigger.pull_trigger(lambda: close_all(self._server._map))
        self._thread.join(_STOP_S)


def _serve_with_waitress(app: Flask, listener: socket.socket) -> Any:
    return create_server(
        app,
        sockets=[listener],
        threads=THREADS,
        connection_limit=CONNECTIONS,
        # Sees a client leave while its request waits.
        channel_request_lookahead=1,
        # Refuses what is not smaller than this.
        max_request_body_size=MAX_BODY_BYTES + 1,
        # No temporary files: Landlock allows none.
        inbuf_overflow=MAX_BODY_BYTES + 1,
        outbuf_overflow=MAX_ANSWER_BYTES,
        asyncore_use_poll=True,
        ident=None,
    )


def _log_through(log: Log) -> None:
    """Has waitress, which uses the standard library's logging, write its warnings as ours."""
    logger = logging.getLogger("waitress")
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    logger.addHandler(_Forward(log))


class _Forward(logging.Handler):
    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        write = self._log.error if record.levelno >= logging.ERROR else self._log.warning
        write(record.getMessage(), part=record.name)
