"""What programs ask, by way of the HTTP and JSON-RPC APIs: push, read, wait for a reply, look at the outbox."""

from __future__ import annotations

import os
import time
from typing import Final

from blake3 import blake3

from actors.messagebox.bodies import LARGE_BYTES
from actors.messagebox.disk import Disk
from actors.messagebox.handover import Asker, Handovers
from actors.messagebox.readers import Readers
from actors.messagebox.rounds import Rounds
from actors.messagebox.sayings import Sayings
from actors.messagebox.store import Store
from actors.messagebox.uploads import UploadRefused, Uploads
from actors.runtime.actor import Runtime, Sent
from actors.runtime.answers import Answers, LongAnswer
from actors.runtime.loop import Timer
from protocol.codec import pack
from protocol.frames import (
    MESSAGE_ID_BYTES,
    Answer,
    AskMessage,
    AskOutbox,
    CancelMessage,
    MessageFailed,
    MessageFailure,
    MessagePushed,
    NoMessage,
    OutboxList,
    OutboxRow,
    OutboxState,
    Outcome,
    PushMessage,
    PushPart,
    PushTaken,
    StillWaiting,
    StopWaiting,
    in_parts,
)
from protocol.mycelium.messages.box import MessageBox
from protocol.mycelium.messages.core import MessageRefused
from protocol.mycelium.messages.events import Deliver, DeliverNothing, DeliverReply
from protocol.mycelium.messages.limits import Limits
from protocol.mycelium.messages.records import Status
from protocol.mycelium.messages.sender import OutboxFull

PROBE_SECONDS: Final = 5.0
"""So often those who wait are asked whether they are still there: their process may have been killed."""


class _Waiter:
    """Who waits for a reply."""

    __slots__ = ("asker", "timer", "told")

    def __init__(self, asker: Asker, timer: Timer) -> None:
        self.asker = asker
        self.timer = timer
        self.told = False
        """Whether he knows that the message was taken, which has to be the first that he hears."""


class Programs:
    """Questions and answers about messages."""

    def __init__(
        self,
        runtime: Runtime,
        box: MessageBox,
        store: Store,
        rounds: Rounds,
        readers: Readers,
        sayings: Sayings,
        limits: Limits,
        disk: Disk,
    ) -> None:
        self._runtime = runtime
        self._sayings = sayings
        self._loop = runtime.loop
        self._box = box
        self._store = store
        self._rounds = rounds
        self._readers = readers
        self._limits = limits
        self._uploads = Uploads(runtime, store.bodies, disk, self._push)
        self._handovers = Handovers(runtime, box, store, rounds, sayings)
        self._answers = Answers(runtime)
        self._asking: dict[Asker, int] = {}
        """Who waits for a message of the inbox: the number of his reader."""
        self._waiters: dict[bytes, _Waiter] = {}
        """Message id → who waits for a reply to it."""
        runtime.on(PushMessage, self._on_push)
        runtime.on(PushPart, self._on_part)
        runtime.on(AskMessage, self._on_ask)
        runtime.on(StopWaiting, self._on_stop)
        runtime.on(AskOutbox, self._on_outbox)
        runtime.on(CancelMessage, self._on_cancel)
        rounds.on(DeliverReply, self._on_reply)
        runtime.loop.every(PROBE_SECONDS, self._probe)
        runtime.gauges.queue("waiting_readers", lambda: len(self._asking))
        runtime.gauges.queue("waiting_for_replies", lambda: len(self._waiters))

    # --- sending ------------------------------------------------------------------------------------------------------

    def _on_push(self, sender: bytes, push: PushMessage) -> None:
        asker = (sender, push.token)
        if push.length > self._limits.message_bytes:
            limit = self._limits.message_bytes
            self._fail(asker, MessageFailure.REFUSED, f"message of {push.length} bytes, at most {limit}")
        elif len(push.data) == push.length < LARGE_BYTES:
            self._push(asker, push, bytes(push.data), None)
        else:
            try:
                there = self._uploads.begin(asker, push)
            except UploadRefused as refused:
                self._fail(asker, MessageFailure.FULL, str(refused))
                return
            self._say_taken(asker, there)

    def _on_part(self, sender: bytes, part: PushPart) -> None:
        asker = (sender, part.token)
        try:
            there = self._uploads.go_on(asker, part)
        except UploadRefused as refused:
            self._fail(asker, MessageFailure.REFUSED, str(refused))
            return
        self._say_taken(asker, there)

    def _say_taken(self, asker: Asker, octets: int | None) -> None:
        if octets is not None:
            self._sayings.say(asker[0], PushTaken(asker[1], octets))

    def _push(self, asker: Asker, push: PushMessage, data: bytes, file: str | None) -> None:
        """A whole message, whose data is in `file`, too, where it is large."""
        number = self._try_push(asker, push, data)
        if file is None:
            pass
        elif number is None:
            self._store.bodies.remove(file)
        else:
            self._store.large.hand_over(number, file)
        self._rounds.settle()

    def _try_push(self, asker: Asker, push: PushMessage, data: bytes) -> int | None:
        """The number of the message in the outbox; None where there is none, or was one already."""
        digest = _digest(push, data) if push.key else b""
        before = self._store.repeated(push.key) if push.key else None
        if before is not None and before.digest != digest:
            reason = "this idempotency key was used for another message; use a new key for a new message"
            self._fail(asker, MessageFailure.MISMATCH, reason)
            return None
        reply = bool(push.reply_to)
        message_id = before.id if before is not None else push.reply_to or os.urandom(MESSAGE_ID_BYTES)
        now, number = self._loop.now(), None
        try:
            if before is None:
                number = self._box.push(
                    message_id,
                    push.destination,
                    data,
                    now,
                    topic=push.topic,
                    reply=reply,
                    wait=push.wait_ms is not None,
                )
                if push.key:
                    self._store.remember_key(push.key, message_id, push.destination, digest, time.time())
            elif push.wait_ms is not None:
                self._box.wait_again(message_id, before.destination)
        except OutboxFull as full:
            self._fail(asker, MessageFailure.FULL, str(full))
            return None
        except MessageRefused as refused:
            self._fail(asker, MessageFailure.REFUSED, str(refused))
            return None
        if push.wait_ms is not None:
            self._wait_for_reply(message_id, asker, push.wait_ms / 1000)
        # What follows the answer, a reply from this very node, must not overtake it.
        self._rounds.after_commit(self._say_pushed, (asker, message_id))
        return number

    def _say_pushed(self, pushed: tuple[Asker, bytes]) -> None:
        (sender, token), message_id = pushed
        waiter = self._waiters.get(message_id)
        if waiter is not None and waiter.asker == (sender, token):
            waiter.told = True
        self._sayings.say(sender, MessagePushed(token, message_id))

    def _fail(self, asker: Asker, why: MessageFailure, reason: str) -> None:
        self._runtime.counters[f"questions.{why.value}"] += 1
        self._sayings.say(asker[0], MessageFailed(asker[1], why, reason))

    # --- replies ------------------------------------------------------------------------------------------------------

    def _wait_for_reply(self, message_id: bytes, asker: Asker, seconds: float) -> None:
        self._end_wait(message_id)
        timer = self._loop.call_after(seconds, lambda: self._stop_waiting(message_id))
        self._waiters[message_id] = _Waiter(asker, timer)

    def _stop_waiting(self, message_id: bytes) -> None:
        self._box.stop_waiting(message_id)
        self._end_wait(message_id)

    def _end_wait(self, message_id: bytes) -> None:
        waiter = self._waiters.pop(message_id, None)
        if waiter is not None:
            waiter.timer.cancel()
            # Behind the answer that it was sent, if that waits for the disk.
            self._rounds.after_commit(self._say_nothing, waiter.asker)

    def _on_reply(self, event: DeliverReply) -> None:
        waiter = self._waiters.pop(event.id, None)
        if waiter is None:
            self._box.put_back(event.number, self._loop.now())
            self._rounds.settle()
            return
        waiter.timer.cancel()
        self._handovers.begin(waiter.asker, event.number, True)

    # --- reading ------------------------------------------------------------------------------------------------------

    def _on_ask(self, sender: bytes, question: AskMessage) -> None:
        asker = (sender, question.token)
        self._stop(asker)
        now = self._loop.now()

        def deliver(event: Deliver | DeliverNothing) -> None:
            del self._asking[asker]
            if isinstance(event, Deliver):
                self._handovers.begin(asker, event.number, event.take)
            else:
                self._say_nothing(asker)

        until = now + question.wait_ms / 1000 if question.wait_ms else now
        self._asking[asker] = self._readers.read(question.topic, question.take, until, now, deliver)
        self._rounds.settle()

    def _say_nothing(self, asker: Asker) -> None:
        self._sayings.say(asker[0], NoMessage(asker[1]))

    def _on_stop(self, sender: bytes, message: StopWaiting) -> None:
        if not self._stop((sender, message.token)):
            self._runtime.counters["questions.stopped_late"] += 1

    def _stop(self, asker: Asker) -> bool:
        """He wants no answer any more; whether there was something to stop."""
        reader = self._asking.pop(asker, None)
        if reader is not None:
            self._readers.stop(reader)
            return True
        for message_id, waiter in self._waiters.items():
            if waiter.asker == asker:
                waiter.timer.cancel()
                del self._waiters[message_id]
                self._box.stop_waiting(message_id)
                return True
        return self._handovers.stop(asker) or self._uploads.stop(asker)

    def _probe(self) -> None:
        for asker in [*self._asking, *(waiter.asker for waiter in self._waiters.values() if waiter.told)]:
            if self._runtime.offer(asker[0], pack(StillWaiting(asker[1]))) is Sent.UNREACHABLE:
                self._runtime.counters["answers.gone"] += 1
                self._stop(asker)

    # --- own messages -------------------------------------------------------------------------------------------------

    def _on_outbox(self, sender: bytes, question: AskOutbox) -> None:
        if question.id:
            status = self._box.status(question.id)
            found = [] if status is None else [status]
        else:
            found = self._box.outbox()
        # One moment for all, or those of one second would seem to be of two.
        wall = time.time() - self._loop.now()
        rows = [_row(status, wall) for status in found]
        answer = LongAnswer(in_parts(rows), lambda part, more: OutboxList(question.token, part, more))
        self._answers.send(sender, question.token, answer)

    def _on_cancel(self, sender: bytes, question: CancelMessage) -> None:
        cancelled = self._box.cancel(question.id, self._loop.now())
        self._rounds.settle()
        if cancelled is None:
            answer = Answer(question.token, Outcome.MISSING, "no message of the last 10 minutes has this id")
        elif not cancelled:
            answer = Answer(question.token, Outcome.REFUSED, "the message is finished: there is nothing to give up")
        else:
            answer = Answer(question.token, Outcome.DONE, "")
        self._rounds.after_commit(self._say, (sender, answer))

    def _say(self, answer: tuple[bytes, Answer]) -> None:
        self._sayings.say(*answer)


def _digest(push: PushMessage, data: bytes) -> bytes:
    """What makes two messages with one idempotency key the same."""
    parts = (push.destination, push.topic, push.reply_to)
    hasher = blake3(b"".join(len(part).to_bytes(4, "big") + part for part in parts))
    hasher.update(data)
    return hasher.digest()


def _row(status: Status, wall: float) -> OutboxRow:
    return OutboxRow(
        id=status.id,
        destination=status.destination,
        topic=status.topic,
        reply=status.reply,
        state=OutboxState(status.state.value),
        unsent=status.pending,
        sent=status.sent,
        acked=status.acked,
        created=wall + status.created,
        deadline=wall + status.deadline,
        length=status.length,
    )
