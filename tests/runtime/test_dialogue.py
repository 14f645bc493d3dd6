"""Dialogues with an actor over real ZeroMQ sockets: answers, waits that are given up, and an actor that ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from actors.runtime.dialogue import Abandoned, Abandonment, Dialogues, Gone, NoAnswer
from protocol.codec import pack, unpack
from protocol.frames import AskTopics, PushPart, StopWaiting, TopicList
from tests.unit.stand_ins import run_folder

PATIENCE = 10.0


class Box:
    """An actor that answers when it is told to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = f"ipc://{folder / 'box'}"
        self.begin()

    def begin(self) -> None:
        """Lives (again)."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.inbox = self._context.socket(zmq.ROUTER)
        self.inbox.setsockopt(zmq.RCVTIMEO, int(PATIENCE * 1000))
        self.inbox.bind(self._path)

    def answer(self, token: int | None = None) -> bytes:
        """Answers one question, under another token if one is given; who asked."""
        sender, data = self.inbox.recv_multipart()
        self.inbox.send_multipart((sender, pack(TopicList(token or unpack(data).token, True, (), False))))
        return bytes(sender)

    def end(self) -> None:
        """Dies; its connections are closed by then."""
        self.inbox.close(linger=0)
        self._context.term()


@pytest.fixture
def box() -> Iterator[Box]:
    with run_folder() as folder:
        made = Box(folder)
        yield made
        made.end()


@pytest.fixture
def dialogues(box: Box) -> Iterator[Dialogues]:
    made = Dialogues(box.folder, "box")
    yield made
    made.close()


def soon() -> float:
    """A deadline that a living actor keeps."""
    return time.monotonic() + PATIENCE


def test_connection_that_ended_well_serves_the_next_question(box: Box, dialogues: Dialogues) -> None:
    askers = []
    for token in (1, 2):
        with dialogues.open() as talk:
            talk.say(AskTopics(token, None))
            askers.append(box.answer())
            assert talk.hear((token,), soon()).token == token
    assert askers[0] == askers[1]


def test_connection_of_a_question_that_failed_serves_no_other(box: Box, dialogues: Dialogues) -> None:
    def ask() -> None:
        with dialogues.open() as talk:
            talk.say(AskTopics(1, None))
            talk.hear((1,), time.monotonic())

    with pytest.raises(NoAnswer):
        ask()
    first = box.answer()
    with dialogues.open() as talk:
        talk.say(AskTopics(2, None))
        assert box.answer() != first
        assert talk.hear((2,), soon()).token == 2


def test_late_answer_to_an_earlier_question_is_passed_over(box: Box, dialogues: Dialogues) -> None:
    with dialogues.open() as talk:
        for token in (1, 2):
            talk.say(AskTopics(token, None))
            box.answer()
        assert talk.hear((2,), soon()).token == 2


def test_actor_that_ends_is_noticed_at_once(box: Box, dialogues: Dialogues) -> None:
    begin = time.monotonic()
    with dialogues.open() as talk:
        talk.say(AskTopics(1, None))
        box.inbox.recv_multipart()
        box.end()
        with pytest.raises(Gone):
            talk.hear((1,), soon())
    assert time.monotonic() - begin < PATIENCE / 2
    box.begin()


def test_connection_to_an_actor_that_ended_meanwhile_is_made_anew(box: Box, dialogues: Dialogues) -> None:
    with dialogues.open() as talk:
        talk.say(AskTopics(1, None))
        box.answer()
        talk.hear((1,), soon())
    box.end()
    box.begin()
    with dialogues.open() as talk:
        talk.say(AskTopics(2, None))
        box.answer()
        assert talk.hear((2,), soon()).token == 2


def test_wait_that_nobody_wants_any_more_ends(dialogues: Dialogues) -> None:
    abandonment = Abandonment(lambda: True)
    timer = threading.Timer(0.05, abandonment.abandon)
    timer.start()
    with pytest.raises(Abandoned), dialogues.open(abandonment) as talk:
        talk.hear((1,), soon())
    timer.join()
    abandonment.close()


def test_answer_that_is_no_frame_is_an_error_that_names_the_actor(box: Box, dialogues: Dialogues) -> None:
    with dialogues.open() as talk:
        talk.say(AskTopics(1, None))
        sender, _ = box.inbox.recv_multipart()
        box.inbox.send_multipart((sender, b"hello"))
        with pytest.raises(NoAnswer, match="no answer from box: it answered with something else"):
            talk.hear((1,), soon())


@pytest.mark.parametrize("size", [0, 100, 5000, 3_000_000])
def test_frames_of_any_size_go_both_ways(box: Box, dialogues: Dialogues, size: int) -> None:
    data = bytes(range(256)) * (size // 256)
    with dialogues.open() as talk:
        receiving = threading.Thread(target=lambda: heard.extend(box.inbox.recv_multipart() for _ in range(3)))
        heard: list[list[bytes]] = []
        receiving.start()
        for part in (data[:1_000_000], data[1_000_000:2_000_000], data[2_000_000:]):
            talk.say(PushPart(1, 0, part or b"-"))
        receiving.join()
        assert b"".join(unpack(frame).data for _, frame in heard).replace(b"-", b"", 3).count(b"\x01") == size // 256
        for _, frame in heard:
            box.inbox.send_multipart((heard[0][0], frame))
        found = [talk.hear((1,), soon()) for _ in range(3)]
    assert [pack(frame) for frame in found] == [frame for _, frame in heard]


def test_what_is_said_waits_for_an_actor_that_is_not_there_yet(box: Box, dialogues: Dialogues) -> None:
    box.end()
    with dialogues.open() as talk:
        talk.say(AskTopics(1, None))
        talk.say(AskTopics(2, None))
        timer = threading.Timer(0.05, box.begin)
        timer.start()
        answering = threading.Thread(target=lambda: (timer.join(), box.answer(), box.answer()))
        answering.start()
        assert [talk.hear((1, 2), soon()).token for _ in range(2)] == [1, 2]
        answering.join()


def test_what_was_said_last_arrives_though_the_connection_is_closed_behind_it(box: Box, dialogues: Dialogues) -> None:
    with dialogues.open() as talk:
        talk.say(AskTopics(1, None))
        box.answer()
        talk.hear((1,), soon())
        talk.say(StopWaiting(1))
        talk.close()
    assert unpack(box.inbox.recv_multipart()[1]) == StopWaiting(1)
