"""Runs a node for a test, as the command line does, with shorter patience or with an actor that is broken on purpose.

`python -m tests.runtime.node JSON`: see `Orders`. Everything but what is ordered there is the real thing.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import protocol.restarts
import supervisor
from actors import births
from actors.births import Surroundings
from actors.runtime.actor import Runtime
from actors.runtime.birth import Birth
from actors.runtime.channel import Channel
from protocol.frames import AskActors, Ready, TableEpoch
from septate.config import NodeConfig


@dataclass(frozen=True, slots=True)
class Orders:
    """What the node is told."""

    key_file: str
    port: int
    api_port: int
    instance: str
    set_up_seconds: float = supervisor.SET_UP_SECONDS
    silent_seconds: float = supervisor.SILENT_SECONDS
    start_seconds: float = supervisor.START_SECONDS
    give_up_after: int = protocol.restarts.GIVE_UP_AFTER
    broken: str = ""
    """The name of an actor."""
    how: str = ""
    """A key of `WAYS`."""


def _dies(_runtime: Runtime, _config: Any) -> None:
    raise RuntimeError("broken on purpose")


def _never_ready(_runtime: Runtime, _config: Any) -> None:
    time.sleep(3600)


def _ready_twice(runtime: Runtime, _config: Any) -> None:
    runtime.tell_supervisor(Ready())
    runtime.serve()


def _says_nonsense(runtime: Runtime, _config: Any) -> None:
    runtime.tell_supervisor(TableEpoch(1))
    runtime.serve()


def _dies_with_garbage_on_its_lips(runtime: Runtime, _config: Any) -> None:
    os.write(runtime._channel.fileno(), b"\xc1 no frame")


def _asks_and_never_listens(runtime: Runtime, _config: Any) -> None:
    runtime.tell_supervisor(Ready())
    while True:
        try:
            runtime.tell_supervisor(AskActors(1))
        except Exception:  # noqa: BLE001 - whatever it meets, it goes on being a nuisance
            time.sleep(0.001)


def _serves_once(runtime: Runtime, _config: Any) -> None:
    served = runtime.start.run / "served-once"
    if served.exists():
        raise RuntimeError("broken on purpose")
    served.touch()
    runtime.serve()


def _shows_late_imports(runtime: Runtime, around: Any) -> None:
    """The real status or rpc, which shows how many modules it has imported since it said that it is ready."""
    known: set[str] = set()
    tell_supervisor = runtime.tell_supervisor

    def tell(message: object, descriptors: tuple[int, ...] = ()) -> None:
        if isinstance(message, Ready):
            known.update(sys.modules)
        tell_supervisor(message, descriptors)

    runtime.tell_supervisor = tell  # type: ignore[method-assign]
    runtime.gauges.queue("late_imports", lambda: len(known.symmetric_difference(sys.modules)))
    main = births._rpc_main if runtime.start.name == "rpc" else births._status_main
    main(runtime, around)


WAYS: dict[str, Callable[[Runtime, Any], None]] = {
    "dies": _dies,
    "never ready": _never_ready,
    "serves once": _serves_once,
    "shows late imports": _shows_late_imports,
    "ready twice": _ready_twice,
    "says nonsense": _says_nonsense,
    "dies with garbage on its lips": _dies_with_garbage_on_its_lips,
    "asks and never listens": _asks_and_never_listens,
}


class StillBirth(Birth[Any]):
    """A child for which there is no room."""

    def fork(self) -> tuple[int, Channel]:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def _break(birth: Birth[Any], orders: Orders) -> Birth[Any]:
    if birth.start.name != orders.broken:
        return birth
    if orders.how == "no room":
        return StillBirth(birth.start, birth.main, birth.prepare)
    return dataclasses.replace(birth, main=WAYS[orders.how])


def main() -> int:
    """Runs the node; its exit code."""
    orders = Orders(**json.loads(sys.argv[1]))
    permanent = births.permanent

    def broken(around: Surroundings) -> tuple[Birth[Any], ...]:
        return tuple(_break(birth, orders) for birth in permanent(around))

    births.permanent = broken
    vars(supervisor).update(
        SET_UP_SECONDS=orders.set_up_seconds,
        SILENT_SECONDS=orders.silent_seconds,
        START_SECONDS=orders.start_seconds,
    )
    vars(protocol.restarts).update(GIVE_UP_AFTER=orders.give_up_after)
    return supervisor.run(
        NodeConfig(
            key_file=Path(orders.key_file),
            make_key_folder=False,
            tcp_listen_port=orders.port,
            tun=False,
            quic=False,
            api_addr=("127.0.0.1", orders.api_port),
            jsonrpc_addr=("127.0.0.1", 0),
            discovery=False,
            instance=orders.instance,
            message_dir=Path(orders.key_file).with_name("messages"),
            log_format="plain",
        )
    )


if __name__ == "__main__":
    sys.exit(main())
