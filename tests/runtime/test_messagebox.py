"""The message box's process, between tun and the APIs: both are played here, over real sockets, with real frames."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgpack
import pytest
import zmq

from actors import messagebox
from actors.messagebox.database import FILE
from actors.runtime.birth import BirthError
from protocol.codec import pack, unpack
from protocol.frames import (
    MAX_PART_BYTES,
    PART_WINDOW,
    Answer,
    AskMessage,
    AskTopics,
    CancelMessage,
    ChangeTopic,
    Heartbeat,
    MessageFailed,
    MessageFailure,
    MessagePart,
    MessagePushed,
    MessagesOpened,
    MessagesSealed,
    NoMessage,
    Outcome,
    PartTaken,
    PushMessage,
    PushPart,
    Ready,
    SealMessages,
    StillWaiting,
    StopWaiting,
    TopicChange,
    TopicList,
    opened_head,
    sealing_heads,
)
from tests.lab.post import Post, PostError
from tests.runtime.children import PATIENCE, Child, born, run_folder
from tests.unit import message_factory as factory
from tests.unit.message_factory import ALICE, BOB, ID, payload

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

ROOT: Final = Path(__file__).parents[2]
LIFE: Final = b"one life of node"
IDS: Final = [bytes(7) + bytes([number]) for number in range(256)]


@pytest.fixture
def run() -> Iterator[Path]:
    with run_folder() as folder:
        yield folder


@contextlib.contextmanager
def serving(run: Path, *, rules: str = "", life: bytes = LIFE) -> Iterator[Child]:
    """Bob's message box; its database lies in the runtime folder, and outlives it."""

    def prepare() -> messagebox.MessageboxConfig:
        return messagebox.prepare(BOB.key, run / "messages", rules, life)

    with born(run, messagebox.main, name="messagebox", prepare=prepare) as child:
        child.hear(Ready)
        yield child


class Tun:
    """What tun does: it opens what others send, and seals what the message box sends."""

    def __init__(self, run: Path) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.ROUTING_ID, b"tun")
        self._socket.connect(f"ipc://{run / 'messagebox'}")
        self._sent: list[bytes] = []
        self.send(MessagesSealed(0, 0))

    def __enter__(self) -> Tun:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close(linger=0)
        self._context.term()

    def send(self, frame: object) -> None:
        self._socket.send(pack(frame))

    def open(self, *bodies: bytes) -> None:
        """Alice's message packets arrive, in one frame."""
        heads = [opened_head(ALICE.address, BOB.address, ALICE.key, 0, len(body)) for body in bodies]
        self.send(MessagesOpened(b"".join(heads), b"".join(bodies)))

    def sealed(self, deadline: float = PATIENCE) -> bytes | None:
        """The next body that the message box sends to Alice; None where none comes."""
        until = time.monotonic() + deadline
        while not self._sent:
            left = until - time.monotonic()
            if left <= 0 or not self._socket.poll(max(1, int(1000 * left))):
                return None
            frame = unpack(self._socket.recv())
            assert isinstance(frame, SealMessages)
            start = 0
            for source, destination, _, size in sealing_heads(frame.heads):
                assert (source, destination) == (BOB.address, ALICE.address)
                self._sent.append(frame.bodies[start : start + size])
                start += size
            self.send(MessagesSealed(frame.life, frame.number))
        return self._sent.pop(0)

    def wait_for(self, wanted: Callable[[bytes], bool]) -> bytes:
        """The next body that is wanted."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            body = self.sealed(until - time.monotonic())
            if body is not None and wanted(body):
                return body
        raise AssertionError("the message box did not send it")

    def deliver(self, data: bytes, topic: bytes = b"", message_id: bytes = ID, flags: int = 0x8000) -> None:
        """One whole message of Alice's; returns when it was acknowledged."""
        plan = factory.reference_plan(len(data))
        if len(data) > 1_000_000:
            # As a sender of our kind may cut it.
            plan = [(n, at, min(60_000, len(data) - at)) for n, at in enumerate(range(0, len(data), 60_000))]
        pieces = [factory.chunk(n, at, data[at : at + size], message_id=message_id) for n, at, size in plan]
        self.open(factory.init(len(data), topic, flags, message_id))
        step = 700 if len(data) <= 1_000_000 else 16
        for start in range(0, len(pieces), step):
            self.open(*pieces[start : start + step])
        done = factory.done(len(plan), data, message_id=message_id)
        self.open(done)
        self.wait_for(lambda body: body == factory.done_ack(len(plan), data, message_id))

    def receive(self, *, read: bool = True) -> tuple[bytes, bytes]:
        """Plays Alice, who gets one message of Bob's: its id and its data."""
        init = self.wait_for(lambda body: flags_of(body) & 0xFB00 == 0x8000)
        message_id, length = init[:8], int.from_bytes(init[12:20], "big")
        self.open(init[:8] + (flags_of(init) | 0x0100).to_bytes(2, "big") + init[10:21])
        chunks: dict[int, bytes] = {}
        while True:
            body = self.wait_for(lambda body: body.startswith(message_id))
            match flags_of(body):
                case 0x1000:
                    chunks[int.from_bytes(body[12:20], "big")] = body[36:]
                    self.open(body[:8] + b"\x11\x00" + body[10:36])
                case 0x4000:
                    data = b"".join(chunks[index] for index in sorted(chunks))
                    assert len(data) == length
                    self.open(body[:8] + b"\x41\x00" + body[10:], *([factory.read(message_id)] if read else []))
                    return message_id, data


def flags_of(body: bytes) -> int:
    return int.from_bytes(body[8:10], "big")


@pytest.fixture
def tun(run: Path) -> Iterator[Tun]:
    with Tun(run) as made:
        yield made


@pytest.fixture
def post(run: Path) -> Iterator[Post]:
    with Post(run) as made:
        yield made


def wait_for_state(post: Post, message_id: bytes, state: str) -> None:
    until = time.monotonic() + PATIENCE
    while post.state(message_id) != state:
        assert time.monotonic() < until, f"never {state}"
        time.sleep(0.01)


class TestReading:
    @pytest.mark.parametrize("size", [0, 5, 1300, 1549, 3_000_000])
    def test_a_message_of_another_node_is_read_whole(self, run: Path, tun: Tun, post: Post, size: int) -> None:
        data = payload(size)
        with serving(run):
            tun.deliver(data, b"demo")
            found = post.pop()
            assert found is not None
            head, got = found
            assert got == data
            assert (head.id, head.source, head.source_key) == (ID, ALICE.address, ALICE.key)
            assert (head.destination, head.topic, head.length) == (BOB.address, b"demo", size)
            assert tun.sealed() == factory.read()
            assert post.pop() is None

    def test_a_reader_that_waits_is_answered_when_the_message_comes(self, run: Path, tun: Tun, post: Post) -> None:
        with serving(run):
            other, wanted = post.ask(topic=b"b", wait_ms=60_000), post.ask(topic=b"a", wait_ms=60_000)
            tun.deliver(b"hello", b"a")
            found = post.receive(wanted)
            assert found is not None
            assert found[1] == b"hello"
            post.stop(other)

    def test_a_reader_hears_that_nothing_came_in_time(self, run: Path, post: Post) -> None:
        with serving(run):
            assert post.pop(wait_ms=50) is None

    def test_looking_leaves_the_message(self, run: Path, tun: Tun, post: Post) -> None:
        with serving(run):
            tun.deliver(b"hello")
            for take in (False, False, True):
                found = post.pop(take=take)
                assert found is not None
                assert found[1] == b"hello"
            assert post.pop() is None

    def test_two_hundred_waiting_readers_hold_nobody_up(self, run: Path, tun: Tun, post: Post) -> None:
        with serving(run):
            waiting = [post.ask(topic=b"never", wait_ms=60_000) for _ in range(200)]
            started = time.monotonic()
            assert post.outbox() == []
            tun.deliver(b"hello")
            assert post.pop() is not None
            assert time.monotonic() - started < PATIENCE / 2
            for token in waiting:
                post.stop(token)
            assert post.outbox() == [], "by now that was heard"
            tun.deliver(b"late", b"never", IDS[1])
            assert post.pop() is not None, "nobody waits any more"

    def test_who_goes_away_while_he_waits_swallows_nothing(self, run: Path, tun: Tun, post: Post) -> None:
        with serving(run):
            with Post(run) as gone:
                gone.ask(wait_ms=60_000)
                gone.outbox()
            tun.deliver(b"hello")
            found = post.pop(wait_ms=30_000)
            assert found is not None
            assert found[1] == b"hello"

    def test_who_goes_away_in_the_middle_leaves_the_message_where_it_was(self, run: Path, tun: Tun, post: Post) -> None:
        data = payload(PART_WINDOW + 3 * MAX_PART_BYTES)
        with serving(run):
            tun.deliver(data)
            with Post(run) as gone:
                token = gone.token()
                gone.send(AskMessage(token, None, True, 0))
                part = gone.hear(token)
                assert isinstance(part, MessagePart)
                gone.send(PartTaken(token, len(part.data)))
                gone.send(StopWaiting(token))
                gone.outbox()
            found = post.pop(wait_ms=30_000)
            assert found is not None
            assert found[1] == data

    def test_no_more_than_a_window_is_sent_to_who_takes_nothing(self, run: Path, tun: Tun, post: Post) -> None:
        data = payload(PART_WINDOW + 3 * MAX_PART_BYTES)
        with serving(run):
            tun.deliver(data)
            token = post.ask()
            sent = 0
            with contextlib.suppress(PostError):
                while True:
                    sent += len(post.hear(token, 1.0).data)
            assert PART_WINDOW <= sent < PART_WINDOW + MAX_PART_BYTES

    def test_a_message_that_was_not_taken_up_is_there_after_a_death(self, run: Path, tun: Tun, post: Post) -> None:
        with serving(run) as child:
            tun.deliver(b"hello")
            token = post.ask()
            assert isinstance(post.hear(token), MessagePart)
            os.kill(child.pid, signal.SIGKILL)
            assert child.ended() == -signal.SIGKILL
        with serving(run):
            found = post.pop(wait_ms=30_000)
            assert found is not None
            assert found[1] == b"hello"

    def test_a_message_that_was_taken_up_never_comes_back(self, run: Path, tun: Tun, post: Post) -> None:
        with serving(run) as child:
            tun.deliver(b"hello")
            assert post.pop() is not None
            os.kill(child.pid, signal.SIGKILL)
            assert child.ended() == -signal.SIGKILL
        with serving(run):
            assert post.pop() is None


class TestSending:
    @pytest.mark.parametrize("size", [0, 5, 1300, 1301, 5_000_000])
    def test_a_message_goes_out_and_its_state_is_known(self, run: Path, tun: Tun, post: Post, size: int) -> None:
        data = payload(size)
        with serving(run):
            _, message_id = post.push(ALICE.address, data, topic=b"demo")
            assert tun.receive() == (message_id, data)
            wait_for_state(post, message_id, "read")
            (row,) = post.outbox()
            assert (row.id, row.destination, row.topic, row.length) == (message_id, ALICE.address, b"demo", size)
            assert row.deadline == pytest.approx(row.created + 300)
            assert row.created == pytest.approx(time.time(), abs=60)

    def test_a_message_is_on_disk_before_it_is_acknowledged(self, run: Path, tun: Tun, post: Post) -> None:
        data = payload(100_000)
        with serving(run) as child:
            _, message_id = post.push(ALICE.address, data)
            os.kill(child.pid, signal.SIGKILL)
            assert child.ended() == -signal.SIGKILL
        with serving(run):
            assert tun.receive() == (message_id, data)

    def test_a_large_message_goes_on_where_it_was(self, run: Path, post: Post) -> None:
        data = payload(1_000_000)
        # Gone before its successor comes: of two with the same name the message box would hear the one that is first.
        with Tun(run) as tun, serving(run) as child:
            _, message_id = post.push(ALICE.address, data)
            init = tun.wait_for(lambda body: flags_of(body) == 0x8000)
            tun.open(init[:8] + b"\x81\x00" + init[10:21])
            early: set[int] = set()
            while len(early) < 400:
                body = tun.wait_for(lambda body: flags_of(body) == 0x1000)
                early.add(int.from_bytes(body[12:20], "big"))
                tun.open(body[:8] + b"\x11\x00" + body[10:36])
            until = time.monotonic() + PATIENCE
            while post.outbox(message_id)[0].acked < 400:
                assert time.monotonic() < until
            # Its progress is written several times between two heartbeats; those that wait to be heard are older.
            child.listen()
            child.heard.clear()
            for _ in range(3):
                child.hear(Heartbeat)
            os.kill(child.pid, signal.SIGKILL)
            assert child.ended() == -signal.SIGKILL
        with Tun(run) as successor, serving(run):
            late = int.from_bytes(successor.wait_for(lambda body: flags_of(body) == 0x1000)[12:20], "big")
            assert late not in early

    def test_who_waits_gets_the_reply_and_nobody_else(self, run: Path, tun: Tun, post: Post) -> None:
        with serving(run):
            token, message_id = post.push(ALICE.address, b"question", wait_ms=60_000)
            tun.receive(read=False)
            tun.deliver(b"answer", message_id=message_id, flags=0x8400)
            found = post.receive(token)
            assert found is not None
            assert (found[0].id, found[1]) == (message_id, b"answer")
            assert post.pop() is None

    def test_a_reply_that_nobody_waits_for_any_more_is_in_the_inbox(self, run: Path, tun: Tun, post: Post) -> None:
        with serving(run):
            token, message_id = post.push(ALICE.address, b"question", wait_ms=50)
            assert isinstance(post.hear(token), NoMessage)
            tun.deliver(b"answer", message_id=message_id, flags=0x8400)
            found = post.pop()
            assert found is not None
            assert found[1] == b"answer"

    def test_a_repeated_push_with_the_same_key_sends_nothing_more(self, run: Path, post: Post) -> None:
        with serving(run) as child:
            _, first = post.push(ALICE.address, b"once", key=b"order 4711")
            os.kill(child.pid, signal.SIGKILL)
            assert child.ended() == -signal.SIGKILL
        with serving(run):
            _, second = post.push(ALICE.address, b"once", key=b"order 4711")
            assert second == first
            assert len(post.outbox()) == 1
            with pytest.raises(PostError, match="mismatch: this idempotency key was used for another message"):
                post.push(ALICE.address, b"twice", key=b"order 4711")

    def test_a_message_that_is_given_up_is_aborted(self, run: Path, tun: Tun, post: Post) -> None:
        with serving(run):
            _, message_id = post.push(ALICE.address, b"never mind")
            tun.wait_for(lambda body: flags_of(body) == 0x8000)
            token = post.token()
            post.send(CancelMessage(token, message_id))
            assert post.hear(token).outcome is Outcome.DONE
            assert tun.wait_for(lambda body: flags_of(body) == 0x2000) == factory.aborted(message_id)
            assert post.state(message_id) == "aborted"
            post.send(CancelMessage(token, message_id))
            assert post.hear(token).outcome is Outcome.REFUSED
            post.send(CancelMessage(token, bytes(8)))
            assert post.hear(token).outcome is Outcome.MISSING

    def test_who_waits_for_a_reply_hears_first_that_the_message_was_taken(
        self, run: Path, post: Post, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # A disk so slow that those who wait are asked whether they are still there before it is done.
        sync = os.fdatasync
        monkeypatch.setattr(os, "fdatasync", lambda descriptor: (time.sleep(0.3), sync(descriptor)))
        monkeypatch.setattr("actors.messagebox.programs.PROBE_SECONDS", 0.02)
        with serving(run):
            post.send(PushMessage(1, ALICE.address, b"", b"", 30_000, b"", 1, b"a"))
            heard = [type(unpack(post.socket.recv())) for _ in range(2)]
        assert heard == [MessagePushed, StillWaiting]

    @pytest.mark.parametrize(
        ("frames", "why"),
        [
            ([PushMessage(1, ALICE.address, bytes(256), b"", None, b"", 0, b"")], MessageFailure.REFUSED),
            ([PushMessage(1, ALICE.address, b"", b"", None, b"", 1 << 40, b"a")], MessageFailure.REFUSED),
            ([PushPart(1, 5, b"a")], MessageFailure.REFUSED),
            (
                [PushMessage(1, ALICE.address, b"", b"", None, b"", 9, b"abc"), PushPart(1, 4, b"d")],
                MessageFailure.REFUSED,
            ),
        ],
    )
    def test_what_can_not_be_sent_is_refused(
        self, run: Path, post: Post, frames: list[Any], why: MessageFailure
    ) -> None:
        with serving(run):
            for frame in frames:
                post.send(frame)
            answer = post.hear(1)
            if len(frames) == 2:
                answer = post.hear(1)
            assert isinstance(answer, MessageFailed)
            assert answer.why is why
            assert post.outbox() == []

    def test_a_flood_never_has_more_than_its_credit_at_tun(self, run: Path, post: Post) -> None:
        with serving(run), Tun(run) as deaf:
            for _ in range(8):
                post.push(ALICE.address, payload(1_000_000))
            inits: set[bytes] = set()
            while len(inits) < 8:
                inits.add(deaf.wait_for(lambda body: flags_of(body) == 0x8000)[:8])
            for message_id in inits:
                deaf.open(factory.init_ack(1_000_000, message_id=message_id))
            taken = 0
            # From here on nothing is said to be sealed.
            while deaf._socket.poll(500):
                frame = unpack(deaf._socket.recv())
                taken += len(frame.bodies)
                if taken > messagebox.towards_tun.CREDIT_BYTES:
                    break
            assert taken <= messagebox.towards_tun.CREDIT_BYTES + messagebox.towards_tun.FRAME_BYTES


class TestTopics:
    def change(self, post: Post, change: TopicChange, topic: bytes = b"web", value: str = "") -> Answer:
        token = post.token()
        post.send(ChangeTopic(token, change, topic, value))
        answer = post.hear(token)
        assert isinstance(answer, Answer)
        return answer

    def rules(self, post: Post, topic: bytes | None = None) -> TopicList:
        token = post.token()
        post.send(AskTopics(token, topic))
        answer = post.hear(token)
        assert isinstance(answer, TopicList)
        return answer

    def test_rules_of_the_file_count_until_they_are_changed_and_changes_outlive_the_process(
        self, run: Path, post: Post
    ) -> None:
        file = 'default = "Reject"\n[web]\nsubnets = ["400::/7"]\n'
        with serving(run, rules=file):
            assert not self.rules(post).accept
            assert self.change(post, TopicChange.DEFAULT, value="accept").outcome is Outcome.DONE
            assert self.change(post, TopicChange.ADD, b"empty").outcome is Outcome.DONE
            assert self.change(post, TopicChange.ADD_SOURCE, value="500::/8").outcome is Outcome.DONE
            assert self.change(post, TopicChange.SET_FORWARD, value="/run/web.sock").outcome is Outcome.DONE
        with serving(run, rules=file):
            found = self.rules(post)
            assert found.accept
            assert sorted(row.topic for row in found.topics) == [b"empty", b"web"]
            (row,) = self.rules(post, b"web").topics
            assert (row.sources, row.forward) == (("400::/7", "500::/8"), "/run/web.sock")
        with serving(run, rules=file, life=b"the next of them"):
            assert not self.rules(post).accept

    def test_what_is_no_subnet_is_refused_by_name(self, run: Path, post: Post) -> None:
        with serving(run):
            answer = self.change(post, TopicChange.ADD_SOURCE, value="nonsense")
            assert answer.outcome is Outcome.REFUSED
            assert "'nonsense' is not a subnet" in answer.reason
            assert self.rules(post, b"web").topics == ()

    def test_a_topic_that_rejects_its_sender_gives_no_answer(self, run: Path, tun: Tun, post: Post) -> None:
        with serving(run):
            self.change(post, TopicChange.ADD, b"web")
            tun.open(factory.init(5, b"web"))
            tun.open(factory.init(5, b"other", message_id=IDS[1]))
            assert tun.sealed() == factory.init_ack(5, 5, message_id=IDS[1])
            self.change(post, TopicChange.REMOVE, b"web")
            tun.open(factory.init(5, b"web"))
            assert tun.sealed() == factory.init_ack(5, 3)


class Service:
    """A program behind a forward socket: reads to the end, answers, closes."""

    def __init__(self, path: Path, answer: bytes = b"pong") -> None:
        self.heard: list[bytes] = []
        self._answer = answer
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                with connection:
                    data = b""
                    while part := connection.recv(65536):
                        data += part
                    self.heard.append(data)
                    connection.sendall(self._answer)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


class TestForwarding:
    def rules(self, path: Path) -> str:
        return f'[web]\nsubnets = ["400::/7"]\nforward_socket = "{path}"\n'

    @pytest.mark.parametrize("size", [1, 1_000_000])
    def test_a_message_goes_to_its_socket_and_the_answer_back(self, run: Path, tun: Tun, post: Post, size: int) -> None:
        path, data = run / "web", payload(size)
        service = Service(path, data[::-1])
        with serving(run, rules=self.rules(path)):
            tun.deliver(data, b"web")
            reply = tun.wait_for(lambda body: flags_of(body) == 0x8400)
            assert reply == factory.init(size, flags=0x8400)
            assert service.heard == [data]
            assert post.pop() is None
        service.close()

    def test_a_dead_socket_is_tried_again_and_its_messages_stay(self, run: Path, tun: Tun, post: Post) -> None:
        path = run / "web"
        with serving(run, rules=self.rules(path)):
            for number in range(3):
                tun.deliver(b"request %d" % number, b"web", IDS[number])
            found = post.pop()
            assert found is not None
            assert found[1] == b"request 0", "whoever likes may read it meanwhile"
            service = Service(path)
            replies = {tun.wait_for(lambda body: flags_of(body) == 0x8400)[:8] for _ in range(2)}
            assert replies == {IDS[1], IDS[2]}
            assert sorted(service.heard) == [b"request 1", b"request 2"]
            assert post.pop() is None
            service.close()

    def test_a_socket_that_comes_after_a_restart_gets_what_waited(self, run: Path, tun: Tun) -> None:
        path = run / "web"
        with serving(run, rules=self.rules(path)):
            tun.deliver(b"request", b"web")
        service = Service(path)
        with serving(run, rules=self.rules(path)):
            assert tun.wait_for(lambda body: flags_of(body) == 0x8400).startswith(ID)
            assert service.heard == [b"request"]
        service.close()

    def test_a_socket_that_does_not_answer_is_asked_once(self, run: Path, tun: Tun, post: Post) -> None:
        path = run / "web"
        service = Service(path, b"")
        with serving(run, rules=self.rules(path)):
            tun.deliver(b"request", b"web")
            found = post.pop(wait_ms=30_000)
            assert found is not None
            assert found[1] == b"request"
            assert service.heard == [b"request"]
        service.close()


class Consumer:
    """A program at the stream endpoint, as `docs/messages.md` shows one."""

    def __init__(self, run: Path, **subscription: Any) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.PROBE_ROUTER, 1)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 10)
        self._subscription = subscription
        self._socket.connect(f"ipc://{run / 'messagebox.stream'}")

    def __enter__(self) -> Consumer:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close(linger=0)
        self._context.term()

    def say(self, **word: Any) -> None:
        self._socket.send(msgpack.packb(word))

    def hear(self, deadline: float = PATIENCE) -> dict[str, Any] | None:
        until = time.monotonic() + deadline
        while (left := until - time.monotonic()) > 0:
            if self._socket.poll(max(1, int(1000 * left))):
                word: dict[str, Any] = msgpack.unpackb(self._socket.recv())
                if word["word"] == "welcome":
                    self.say(word="subscribe", **self._subscription)
                elif word["word"] != "probe":
                    return word
        return None

    def message(self) -> dict[str, Any]:
        word = self.hear()
        assert word is not None
        assert word["word"] == "message", word
        return word

    def acknowledge(self, uid: bytes) -> None:
        self.say(word="acknowledge", uid=uid)
        assert self.hear() == {"word": "acknowledged", "uid": uid}


class TestStream:
    def test_a_consumer_gets_what_is_there_and_what_comes_in_order(self, run: Path, tun: Tun, post: Post) -> None:
        with serving(run):
            tun.deliver(b"first", b"demo", IDS[0])
            with Consumer(run) as consumer:
                first = consumer.message()
                tun.deliver(b"second", b"demo", IDS[1])
                second = consumer.message()
                assert (first["data"], first["id"], first["topic"]) == (b"first", IDS[0], b"demo")
                assert (first["source"], first["source_key"], first["reply"]) == (ALICE.address, ALICE.key, False)
                assert second["data"] == b"second"
                for word in (first, second):
                    consumer.acknowledge(word["uid"])
            assert post.pop() is None
            assert sum(tun.wait_for(lambda body: flags_of(body) == 0x0800)[8] == 8 for _ in range(2)) == 2

    def test_what_was_not_acknowledged_comes_again_under_its_name(self, run: Path, tun: Tun) -> None:
        with serving(run):
            for number in range(3):
                tun.deliver(b"message %d" % number, message_id=IDS[number])
            with Consumer(run) as consumer:
                words = [consumer.message() for _ in range(3)]
                consumer.acknowledge(words[1]["uid"])
            with Consumer(run) as successor:
                assert [successor.message()["uid"] for _ in range(2)] == [words[0]["uid"], words[2]["uid"]]

    def test_a_window_is_not_exceeded(self, run: Path, tun: Tun) -> None:
        with serving(run):
            for number in range(4):
                tun.deliver(b"message %d" % number, message_id=IDS[number])
            with Consumer(run, window=2) as consumer:
                words = [consumer.message() for _ in range(2)]
                assert consumer.hear(0.3) is None
                consumer.say(word="acknowledge", uid=words[0]["uid"])
                heard = [consumer.hear() for _ in range(2)]
                assert sorted(word["word"] for word in heard if word) == ["acknowledged", "message"]

    def test_a_topic_is_all_that_is_heard(self, run: Path, tun: Tun) -> None:
        with serving(run):
            tun.deliver(b"other", b"other", IDS[0])
            tun.deliver(b"wanted", b"wanted", IDS[1])
            with Consumer(run, topic=b"wanted") as consumer:
                assert consumer.message()["data"] == b"wanted"
                assert consumer.hear(0.3) is None

    def test_a_consumer_that_stays_gets_what_it_had_again_from_the_next_process(self, run: Path, tun: Tun) -> None:
        with serving(run) as child:
            tun.deliver(b"hello")
            with Consumer(run) as consumer:
                uid = consumer.message()["uid"]
                os.kill(child.pid, signal.SIGKILL)
                assert child.ended() == -signal.SIGKILL
                with serving(run):
                    assert consumer.message()["uid"] == uid
                    consumer.acknowledge(uid)

    @pytest.mark.parametrize("program", ["the documentation", "the example"])
    def test_a_program_as_it_is_documented_gets_messages(self, run: Path, tun: Tun, post: Post, program: str) -> None:
        if program == "the example":
            command = [str(ROOT / "examples/stream.py"), str(run), str(run / "done.sqlite"), "orders"]
        else:
            code = (ROOT / "docs/messages.md").read_text().split("```python\n")[1].split("```")[0]
            command = ["-uc", code.replace("/run/septate/main", str(run))]
        with serving(run):
            tun.deliver(b"other", b"other", IDS[0])
            tun.deliver(b"two pounds", b"orders", IDS[1])
            with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE) as consumer:
                assert consumer.stdout is not None
                assert b"two pounds" in consumer.stdout.readline()
                tun.wait_for(lambda body: body == factory.read(IDS[1]))
                consumer.kill()
            assert post.pop(topic=b"orders") is None

    def test_an_acknowledgement_repeated_in_the_next_life_is_confirmed(self, run: Path, tun: Tun) -> None:
        with serving(run) as child:
            tun.deliver(b"hello")
            with Consumer(run) as consumer:
                uid = consumer.message()["uid"]
                consumer.acknowledge(uid)
            os.kill(child.pid, signal.SIGKILL)
            assert child.ended() == -signal.SIGKILL
        with serving(run), Consumer(run) as successor:
            successor.acknowledge(uid)

    @pytest.mark.parametrize(
        "word",
        [
            b"\xc1",
            msgpack.packb([1]),
            msgpack.packb({"word": "sing"}),
            msgpack.packb({"word": "subscribe", "window": 0}),
            msgpack.packb({"word": "subscribe", "topic": "text"}),
            msgpack.packb({"word": "acknowledge", "uid": b"short"}),
        ],
    )
    def test_a_word_that_is_none_is_refused_with_the_reason(self, run: Path, word: bytes) -> None:
        with serving(run), Consumer(run) as consumer:
            consumer._socket.send(word)
            answer = consumer.hear()
            assert answer is not None
            assert answer["word"] == "refused"
            assert answer["reason"]


class TestDatabase:
    def test_a_damaged_database_costs_its_messages_and_says_so(
        self, run: Path, post: Post, capfd: pytest.CaptureFixture[str]
    ) -> None:
        (run / "messages").mkdir()
        (run / "messages" / FILE).write_bytes(b"garbage" * 1000)
        with serving(run):
            assert post.pop() is None
        assert "the database of messages was damaged" in capfd.readouterr().err
        assert len(list((run / "messages").glob("*.damaged-*"))) == 1

    def test_a_folder_that_others_may_write_to_is_left_as_it_is(self, run: Path) -> None:
        shared = run / "shared"
        shared.mkdir()
        shared.chmod(0o777)
        with pytest.raises(BirthError, match=r"others may write to the folder of messages .*/shared; give a folder"):
            messagebox.prepare(BOB.key, shared, "", LIFE)
        assert shared.stat().st_mode & 0o777 == 0o777

    def test_nobody_else_may_enter_the_folder(self, run: Path) -> None:
        with serving(run):
            assert (run / "messages").stat().st_mode & 0o777 == 0o700
