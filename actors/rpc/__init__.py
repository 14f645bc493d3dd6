"""The rpc actor: the JSON-RPC API.

Owns      the listening socket of the API, already bound
Rights    no node key, no capability; Landlock: the runtime folder
Receives  answers of other actors, each on the socket of its question
Sends     questions and wishes: to peers, router, messagebox; AskActors to any
Dies      calls fail for under a second; the socket stays open in the supervisor and queues who comes meanwhile

Connections are served by an event loop in a thread of its own, calls by others. The actor's main thread runs the loop
of the runtime and serves none.

    server        uvicorn: socket, thread, limits          application  HTTP and WebSocket
    dialect       JSON-RPC itself: texts in, texts out     method       how a method is declared, read and run
    methods       the methods                              discovery    the document about them
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from actors.api.administration import NodeFacts
from actors.api.asking import Actors
from actors.api.local import is_loopback
from actors.api.node import Node
from actors.api.waiting import Waits
from actors.rpc.application import Application
from actors.rpc.server import Server
from actors.runtime.asking import Asker
from actors.runtime.logs import forward_standard

if TYPE_CHECKING:
    from actors.runtime.actor import Runtime

THREADS: Final = 160
"""For calls; made as they are needed."""
MOST_WAITS: Final = 128
"""Calls that wait for a message or a reply; the rest of the threads is for the others."""
_LOOK_AFTER_THREAD_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class RpcConfig:
    """What the rpc actor is given at birth."""

    public_key: bytes
    """The node's, 32 bytes."""
    listener: int
    """Descriptor of a TCP socket that listens."""
    started_at: int
    """Start of the node in seconds since the Unix epoch."""
    run: Path
    """The runtime folder."""


def main(runtime: Runtime, config: RpcConfig) -> None:
    """Runs the actor."""
    forward_standard(("uvicorn", "asyncio"), runtime.log)
    actors = Actors(Asker(config.run))
    waits = Waits(MOST_WAITS, runtime.counters)
    runtime.gauges.queue("waits", lambda: len(waits))
    node = Node(NodeFacts(config.public_key, config.started_at), actors, waits)
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="call")
    app = Application(node, pool, runtime.counters, check_host=is_loopback(config.listener))
    server = Server(app, config.listener)
    server.start()
    runtime.loop.every(_LOOK_AFTER_THREAD_S, server.check)
    runtime.at_stop(server.stop)
    runtime.at_stop(lambda: pool.shutdown(wait=False, cancel_futures=True))
    runtime.serve()
