"""Two nodes whose programs write to each other while processes of both are killed, one after the other.

Programs do what `docs/messages.md` tells them: each push has an idempotency key and is repeated until it is answered,
each message of the stream is dealt with once by its `uid`, acknowledged until that is confirmed.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any, Final

import msgpack
import zmq

from actors.messagebox.bodies import LARGE_BYTES
from actors.runtime.asking import runtime_root
from tests.lab.nodes import SeptateNode
from tests.lab.post import Post, PostError

ANSWER_SECONDS: Final = 2.0
SILENT_SECONDS: Final = 3.0
"""A stream says something at least twice a second."""


LARGE_EVERY: Final = 40


class Correspondent:
    """The program at one node: begins chains of messages, answers what it gets, and keeps count."""

    def __init__(self, node: SeptateNode, other: SeptateNode, steps: int) -> None:
        self._run = runtime_root() / node.instance
        self._other = IPv6Address(other.address).packed
        self._steps = steps
        self.seen: defaultdict[int, list[int]] = defaultdict(list)
        """Chain → the steps that arrived here, in order; each time that one was new to the stream."""
        self.repeated = 0
        self._handled: set[bytes] = set()
        self._to_begin: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self.error: BaseException | None = None

    def start(self, chains: Sequence[int]) -> None:
        """Begins these chains, and answers all others."""
        self._to_begin = list(chains)
        self._thread.start()

    def stop(self) -> None:
        """Ends its life, and raises what went wrong in it."""
        self._stop.set()
        self._thread.join()
        if self.error is not None:
            raise self.error

    def arrived(self) -> int:
        """How many messages came."""
        return sum(map(len, list(self.seen.values())))

    def _live(self) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            with Post(self._run) as post:
                stream = self._stream(context)
                heard = time.monotonic()
                while not self._stop.is_set():
                    if self._to_begin:
                        self._push(post, self._to_begin.pop(0), 0, b"")
                    if stream.poll(0 if self._to_begin else 100):
                        heard = time.monotonic()
                        self._on_word(stream, post, msgpack.unpackb(stream.recv()))
                    elif time.monotonic() - heard > SILENT_SECONDS:
                        stream.close(linger=0)
                        stream = self._stream(context)
                        heard = time.monotonic()
                stream.close(linger=0)
        except Exception as error:  # noqa: BLE001 - told to the test by `stop`
            self.error = error
        finally:
            context.term()

    def _stream(self, context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
        stream = context.socket(zmq.DEALER)
        stream.immediate = stream.probe_router = 1
        stream.setsockopt(zmq.RECONNECT_IVL, 10)
        stream.connect(f"ipc://{self._run / 'messagebox.stream'}")
        return stream

    def _on_word(self, stream: zmq.Socket[bytes], post: Post, word: dict[str, Any]) -> None:
        match word["word"]:
            case "welcome":
                stream.send(msgpack.packb({"word": "subscribe", "window": 64}))
            case "message":
                uid = word["uid"]
                if uid in self._handled:
                    self.repeated += 1
                else:
                    chain, step, filler = msgpack.unpackb(word["data"])
                    assert filler == filler_of(chain, step), f"message {step} of chain {chain} is not what was sent"
                    self.seen[chain].append(step)
                    if step + 1 < self._steps:
                        self._push(post, chain, step + 1, word["id"])
                    self._handled.add(uid)
                stream.send(msgpack.packb({"word": "acknowledge", "uid": uid}))
            case "acknowledged":
                self._handled.discard(word["uid"])

    def _push(self, post: Post, chain: int, step: int, reply_to: bytes) -> None:
        data, key = msgpack.packb([chain, step, filler_of(chain, step)]), b"%d.%d" % (chain, step)
        while not self._stop.is_set():
            try:
                post.push(self._other, data, reply_to=reply_to, key=key, deadline=ANSWER_SECONDS)
            except PostError:
                # It was killed in the middle, or is not back yet; the key makes the repetition harmless.
                continue
            return


def filler_of(chain: int, step: int) -> bytes:
    """What makes one message in so many a large one, which is kept in a file."""
    if (chain + step) % LARGE_EVERY:
        return b""
    dice = random.Random(chain << 16 | step)
    return dice.randbytes(dice.randrange(LARGE_BYTES, 8 * LARGE_BYTES))


class Killer:
    """Kills processes of some nodes, never their supervisors."""

    def __init__(self, nodes: Sequence[SeptateNode], seed: int, pause: float) -> None:
        self._nodes = tuple(nodes)
        self._dice = random.Random(seed)
        self._pause = pause
        self.killed: Counter[str] = Counter()

    def run(self, seconds: float) -> None:
        """One process every so often, for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            node = self._dice.choice(self._nodes)
            victims = children_of(node.process_id)
            if victims:
                pid, title = self._dice.choice(victims)
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
                self.killed[title.split()[0]] += 1
            time.sleep(self._pause)


def children_of(supervisor: int) -> list[tuple[int, str]]:
    """(process id, title) of each actor of a node."""
    found = []
    for pid in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split():
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode(errors="replace")
        except FileNotFoundError:
            continue
        if title.startswith("septate: "):
            found.append((int(pid), title.removeprefix("septate: ")))
    return sorted(found)
