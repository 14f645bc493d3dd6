"""The messagebox actor: messages of this node's people to other nodes, and theirs to these (messages spec).

Owns      its database, and the files of large messages; conversations with forward sockets; a thread that waits for
          the disk
Rights    no node key, no capability; Landlock: the runtime folder and the folder of its database; Unix sockets
Receives  MessagesOpened, MessagesSealed, MessageRoute (tun); PushMessage … ChangeTopic (status, rpc, you); the words of
          consumers of the stream
Sends     SealMessages (tun); answers
Dies      nothing lost, nothing delivered twice; sending resumes where it was

Its order of things is in `rounds.py`: the database first, then what others hear. What it decides is in
`protocol/mycelium/messages/`; here is what stores, seals, and answers:

    rounds, disk        what waits for what            store, statements, database      rows
    towards_tun         packets to be sealed           large, bodies                    files
    programs, uploads, handover, readers, sayings      those who send and read
    stream, forwarding, topics                         consumers, sockets, rules
"""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from actors.messagebox.database import StoreError, is_damaged
from actors.messagebox.disk import Disk
from actors.messagebox.forwarding import Forwarding
from actors.messagebox.programs import Programs
from actors.messagebox.readers import Readers
from actors.messagebox.rounds import Rounds
from actors.messagebox.sayings import Sayings
from actors.messagebox.store import Store
from actors.messagebox.stream import Stream
from actors.messagebox.topics import Topics
from actors.messagebox.towards_tun import TowardsTun
from actors.messagebox.uploads import sync_soon
from actors.runtime.actor import Runtime
from actors.runtime.birth import BirthError
from protocol.frames import MessageRoute, MessagesOpened, opened_heads
from protocol.mycelium.messages.box import MessageBox
from protocol.mycelium.messages.core import MessageBoxError
from protocol.mycelium.messages.events import Send
from protocol.mycelium.messages.limits import Limits
from protocol.mycelium.messages.topics import TopicRules

NICENESS: Final = 10
"""Where processors are scarce packets come first, and this gets a tenth of what each of their processes gets: a message
waits, a flow would lose its pace."""
TIDY_SECONDS: Final = 2.0
FORGET_SECONDS: Final = 30.0
INBOX_SECONDS: Final = 30 * 86_400.0
"""How long a message that nobody reads is kept."""
FULL_WARNING_SECONDS: Final = 60.0
BREATHER_SECONDS: Final = 1.0
"""Before a process dies of a disk that takes nothing: its successor could not do better at once."""


@dataclass(frozen=True, slots=True)
class MessageboxConfig:
    """What the message box is given at birth."""

    public_key: bytes
    """The node's, 32 bytes."""
    folder: Path
    """Of its database; it is there, and nobody else may write to it."""
    topics: TopicRules
    """The rules of the topic configuration file."""
    life: bytes
    """Names this life of the node, 16 bytes."""


def prepare(public_key: bytes, folder: Path | None, topic_rules: str, life: bytes) -> MessageboxConfig:
    """Makes the folder while this process still may. `topic_rules`: as in a file that was found to be good.

    Raises `BirthError`.
    """
    if folder is None:
        raise BirthError("this user has no home where messages could be kept; name a folder with --message-dir")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        raise BirthError(
            f"cannot make the folder of messages {folder}: {error.strerror}; give another with --message-dir"
        ) from None
    if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        # Not made ours by force: somebody may have named a folder that he shares, such as /tmp.
        raise BirthError(
            f"others may write to the folder of messages {folder}; give a folder of your own with --message-dir, "
            "or take their right away"
        )
    return MessageboxConfig(public_key, folder, TopicRules.from_toml(topic_rules), life)


def main(runtime: Runtime, config: MessageboxConfig) -> None:
    """Runs the actor."""
    os.nice(NICENESS)
    try:
        store = Store(config.folder)
    except StoreError as error:
        raise BirthError(str(error)) from None
    if store.set_aside is not None:
        runtime.log.error(
            "the database of messages was damaged: it was set aside, and an empty one made",
            damaged=str(store.set_aside),
        )
        runtime.counters["store.damaged"] += 1
    if store.large.lost:
        runtime.log.error("large messages are lost: somebody removed or changed their files", count=store.large.lost)
        runtime.counters["store.lost"] += store.large.lost
    try:
        Messagebox(runtime, config, store)
        runtime.serve()
    except (sqlite3.DatabaseError, OSError) as error:
        if isinstance(error, sqlite3.DatabaseError) and is_damaged(error):
            store.suspect()
        time.sleep(BREATHER_SECONDS)
        raise
    store.close()


class Messagebox:
    """Ties the box to its store, to tun and to those who ask."""

    def __init__(self, runtime: Runtime, config: MessageboxConfig, store: Store, limits: Limits | None = None) -> None:
        self._runtime = runtime
        self._loop = runtime.loop
        self._store = store
        limits = limits or Limits()
        rules = store.saved_topics(config.life) or config.topics
        self._box = box = MessageBox(config.public_key, store.known, store, topics=rules, limits=limits)
        self._restore()
        disk = Disk(runtime.loop)
        runtime.at_stop(disk.stop)
        store.large.sync_early = lambda name: sync_soon(disk, store.bodies, name)
        self._rounds = rounds = Rounds(runtime.loop, box, store, disk)
        self._towards_tun = TowardsTun(runtime, int.from_bytes(os.urandom(7), "big") | 1)
        rounds.on(Send, self._towards_tun.add)
        rounds.at_end(self._towards_tun.flush)
        readers = Readers(box, rounds)
        sayings = Sayings(runtime)
        Programs(runtime, box, store, rounds, readers, sayings, limits, disk)
        Topics(runtime, store, rounds, sayings, rules, config.life)
        Forwarding(runtime, box, store, rounds, limits)
        Stream(runtime, box, store, rounds, readers)
        runtime.on(MessagesOpened, self._on_opened)
        runtime.on(MessageRoute, self._on_route)
        runtime.gauges.queue("waiting_for_disk", lambda: rounds.waiting)
        for name in box.figures():
            runtime.gauges.queue(name, lambda name=name: box.figures()[name])  # type: ignore[misc]
        self._counted = dict(box.counters)
        self._warned = float("-inf")
        self._busy = self._untidy = False
        rounds.at_end(self._was_busy)
        runtime.loop.every(1.0, self._count)
        runtime.loop.every(TIDY_SECONDS, self._tidy)
        runtime.loop.every(FORGET_SECONDS, self._forget_old)
        rounds.settle()

    def _restore(self) -> None:
        store, box = self._store, self._box
        now, wall = self._loop.now(), time.time()
        for subnet, count, octets in store.stored_by_subnet():
            box.restore_inbox(subnet, count, octets)
        for pending in store.pending(now):
            try:
                box.restore_pending(pending)
            except MessageBoxError as error:
                self._runtime.log.warning("an incoming message begins again", reason=error)
        for outgoing in store.outgoing(wall, now):
            box.restore_outgoing(outgoing, now)
        box.restore_numbers(*store.last_numbers())

    # --- tun ----------------------------------------------------------------------------------------------------------

    def _on_opened(self, _sender: bytes, message: MessagesOpened) -> None:
        bodies, start = memoryview(message.bodies), 0
        now, receive = self._loop.now(), self._box.receive
        for source, destination, key, reserved, size in opened_heads(message.heads):
            receive(source, destination, key, bodies[start : start + size], now, reserved)
            start += size
            self._rounds.settle()

    def _on_route(self, _sender: bytes, message: MessageRoute) -> None:
        self._box.route(message.subnet, message.clean, self._loop.now())
        self._rounds.settle()

    # --- now and then -------------------------------------------------------------------------------------------------

    def _was_busy(self) -> None:
        self._busy = True

    def _count(self) -> None:
        """Adds what the box counted to the counters of this process."""
        counted = dict(self._box.counters)
        for name, value in counted.items():
            if value != self._counted[name]:
                self._runtime.counters[f"messages.{name}"] += value - self._counted[name]
        full = counted["dones_without_room"] - self._counted["dones_without_room"]
        self._counted = counted
        if full and self._loop.now() - self._warned > FULL_WARNING_SECONDS:
            self._warned = self._loop.now()
            figures = self._box.figures()
            self._runtime.log.warning(
                "there is no room for a message: its sender keeps it; have messages read, or removed",
                messages=figures["inbox_messages"],
                octets=figures["inbox_bytes"],
            )

    def _tidy(self) -> None:
        if self._busy:
            self._busy, self._untidy = False, True
        elif self._untidy:
            # In a quiet moment: it takes as long as the disk does.
            self._untidy = False
            self._store.tidy()

    def _forget_old(self) -> None:
        wall = time.time()
        self._store.forget_old(wall)
        for entry in self._store.older_than(wall - INBOX_SECONDS):
            self._box.expire(entry)
        self._rounds.settle()
