"""The status actor: the HTTP API, and the metrics where they are asked for.

Owns      the listening sockets of both, already bound
Rights    no node key, no capability; Landlock: the runtime folder
Receives  answers of other actors, each on the socket of its question
Sends     questions and wishes: to peers, router, messagebox; AskActors to any
Dies      requests fail for under a second; the sockets stay open in the supervisor and queue who comes meanwhile

Requests are served by threads of their own. The actor's main thread runs the loop of the runtime and serves none.

    server        waitress: sockets, threads, limits        route       how a route is declared
    http          conventions: paths, bodies, errors        parameters  what routes have in common
    application   all routes together                       openapi     the document about them
    administration, messages, topics, ours                  the routes
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from actors.api.administration import NodeFacts
from actors.api.asking import Actors
from actors.api.local import is_loopback
from actors.api.node import Node
from actors.api.waiting import Waits
from actors.runtime.asking import Asker
from actors.runtime.logs import forward_standard
from actors.status.application import build
from actors.status.http import MAX_BODY_BYTES
from actors.status.metrics import build_metrics
from actors.status.route import OURS
from actors.status.server import BodyLimits, Server
from protocol.mycelium.messages.limits import Limits

if TYPE_CHECKING:
    from actors.runtime.actor import Runtime

THREADS: Final = 272
"""Made as they are needed."""
MOST_WAITS: Final = 240
"""Calls that wait for a message or a reply; the rest of the threads is for the others."""
METRICS_THREADS: Final = 4
MAX_RAW_BYTES: Final = Limits().message_bytes
"""Of a message that is sent as it is: as much as a receiver takes."""
MAX_RAW_TOGETHER: Final = 4 * MAX_RAW_BYTES
"""Of all such messages that are being taken at a time."""
_LOOK_AFTER_THREADS_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class StatusConfig:
    """What the status actor is given at birth."""

    public_key: bytes
    """The node's, 32 bytes."""
    api: int
    """Descriptor of a TCP socket that listens; -1 for none."""
    started_at: int
    """Start of the node in seconds since the Unix epoch."""
    run: Path
    """The runtime folder."""
    metrics: int = -1
    """Descriptor of a TCP socket that listens; -1 for none."""
    body_limit: int = MAX_BODY_BYTES
    """Most bytes of a body in JSON."""


def main(runtime: Runtime, config: StatusConfig) -> None:
    """Runs the actor."""
    forward_standard(("waitress",), runtime.log)
    actors = Actors(Asker(config.run))
    waits = Waits(MOST_WAITS, runtime.counters)
    runtime.gauges.queue("waits", lambda: len(waits))
    node = Node(NodeFacts(config.public_key, config.started_at), actors, waits)
    for server in servers(config, node, runtime.counters):
        server.start()
        runtime.loop.every(_LOOK_AFTER_THREADS_S, server.check)
        runtime.at_stop(server.stop)
    runtime.serve()


def servers(config: StatusConfig, node: Node, counters: Counter[str]) -> list[Server]:
    """The servers of the API and of the metrics, not started yet."""
    found = []
    if config.api >= 0:
        limits = BodyLimits(config.body_limit, MAX_RAW_BYTES, f"{OURS}/messages", MAX_RAW_TOGETHER, counters)
        app = build(node, counters, check_host=is_loopback(config.api))
        found.append(Server(app, config.api, THREADS, limits))
    if config.metrics >= 0:
        none = BodyLimits(0, 0, "", 0, counters)
        app = build_metrics(node.actors, counters, check_host=is_loopback(config.metrics))
        found.append(Server(app, config.metrics, METRICS_THREADS, none))
    return found
