"""An actor in a process of its own that sends back what comes over its lanes.

`python -m tests.runtime.lane_echo RUN NAME` writes one line when it listens, and lives until it is killed or its
standard input ends.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from actors.runtime.lane import Lane, LaneHub
from actors.runtime.loop import Loop


def main(run: str, name: str) -> None:
    """Serves."""
    loop = Loop()

    def echo(lane: Lane, data: bytes) -> None:
        lane.send(data)

    def ignore(_lane: Lane) -> None:
        pass

    LaneHub(loop, Path(run), name, Counter(), on_frame=echo, on_open=ignore, on_close=ignore).listen()
    loop.watch(sys.stdin.fileno(), lambda _events: loop.stop())
    print("listens", flush=True)
    loop.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
