"""Long answers: each reader gets one whole and in order or without an end, and nobody waits for a slow one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from actors.runtime import answers
from actors.runtime.actor import Runtime
from actors.runtime.answers import MOST_ANSWERS, Answers, LongAnswer
from actors.runtime.channel import ChannelFull
from protocol.frames import (
    ActorList,
    ActorRow,
    AskActors,
    AskPublicKey,
    AskQueried,
    Heartbeat,
    PublicKeyAnswer,
    QueriedList,
    QueriedRow,
    Ready,
    Role,
    Stop,
)
from tests.lab.waiting import wait_until
from tests.runtime.children import PATIENCE, Child, born, run_folder
from tests.runtime.outside import Neighbour, Outside

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

PARTS = 400
ROWS = 100
"""In each part: 400 of 3 kB are far more than queues and socket buffers hold."""


@pytest.fixture
def run() -> Iterator[Path]:
    with run_folder() as folder:
        yield folder


@pytest.fixture
def outside(run: Path) -> Iterator[Outside]:
    made = Outside(run, "router")
    yield made
    made.close()


def _part(number: int) -> tuple[QueriedRow, ...]:
    return (QueriedRow(number.to_bytes(16, "big"), 64, 0.0),) * ROWS


def answering(runtime: Runtime, patience: float | None) -> None:
    """An actor that answers one question in many parts, and another at once."""
    if patience is not None:
        vars(answers).update(GIVE_UP_SECONDS=patience)
    on_their_way = Answers(runtime)

    def long(sender: bytes, question: AskQueried) -> None:
        parts = ((_part(number), number + 1 < PARTS) for number in range(PARTS))
        answer = LongAnswer(parts, lambda rows, more: QueriedList(question.token, rows, more))
        on_their_way.send(sender, question, answer)

    runtime.on(AskQueried, long)
    runtime.on(AskPublicKey, lambda sender, question: _answer_at_once(runtime, sender, question))
    runtime.serve()


def _answer_at_once(runtime: Runtime, sender: bytes, question: AskPublicKey) -> None:
    runtime.send(sender, PublicKeyAnswer(question.token, b""))


@contextlib.contextmanager
def _serving(run: Path, patience: float | None = None) -> Iterator[Child]:
    with born(run, answering, name="router", prepare=lambda: patience) as child:
        child.hear(Ready)
        yield child


def _on_their_way(child: Child, count: int) -> Heartbeat:
    return child.hear(Heartbeat, lambda beat: beat.figures.queues.get("answers") == count)


def _numbers(reader: Neighbour, count: int) -> list[int]:
    return [int.from_bytes(reader.receive().queried[0].network, "big") for _ in range(count)]


def test_reader_that_does_not_read_for_a_while_gets_every_part_in_order(run: Path, outside: Outside) -> None:
    with _serving(run) as child:
        slow = outside.neighbour(room=1)
        slow.send(AskQueried(1))
        _on_their_way(child, 1)
        received = [slow.receive() for _ in range(PARTS)]
        assert [part.queried for part in received] == [_part(number) for number in range(PARTS)]
        assert [part.more for part in received] == [True] * (PARTS - 1) + [False]
        counters = _on_their_way(child, 0).figures.counters
        assert "sends.full" not in counters


def test_nobody_waits_for_a_reader_that_does_not_read(run: Path, outside: Outside) -> None:
    with _serving(run) as child:
        slow, quick, other = outside.neighbour(room=1), outside.neighbour(), outside.neighbour()
        slow.send(AskQueried(1))
        _on_their_way(child, 1)
        quick.send(AskQueried(1))
        assert other.ask(AskPublicKey(2, bytes(16))) == PublicKeyAnswer(2, b"")
        assert _numbers(quick, PARTS) == list(range(PARTS))


def test_reader_that_takes_nothing_for_long_gets_no_end(run: Path, outside: Outside) -> None:
    with _serving(run, patience=0.2) as child:
        slow = outside.neighbour(room=1)
        slow.send(AskQueried(1))
        child.hear(Heartbeat, lambda beat: beat.figures.counters.get("answers.given_up") == 1)
        _on_their_way(child, 0)
        # What was in the queues is a beginning without a hole.
        parts = _all(slow)
        assert 0 < len(parts) < PARTS
        assert [part.queried for part in parts] == [_part(number) for number in range(len(parts))]
        assert slow.ask(AskPublicKey(2, bytes(16))) == PublicKeyAnswer(2, b"")


def test_reader_that_asks_the_same_again_gets_a_new_answer_and_no_more_of_the_old(run: Path, outside: Outside) -> None:
    with _serving(run) as child:
        slow = outside.neighbour(room=1)
        slow.send(AskQueried(1))
        _on_their_way(child, 1)
        slow.send(AskQueried(1))
        _on_their_way(child, 1)
        first = _numbers(slow, 1)
        while first[-1] + 1 < PARTS and (following := _numbers(slow, 1)[0]):
            first.append(following)
        assert first == list(range(len(first)))
        assert len(first) < PARTS
        # The part that ended the loop was the first of the new answer.
        assert _numbers(slow, PARTS - 1) == list(range(1, PARTS))


def test_reader_that_is_gone_costs_nothing_more(run: Path, outside: Outside) -> None:
    with _serving(run) as child:
        slow = outside.neighbour(room=1)
        slow.send(AskQueried(1))
        _on_their_way(child, 1)
        slow.socket.close(linger=0)
        child.hear(Heartbeat, lambda beat: beat.figures.counters.get("sends.unreachable") == 1)
        _on_their_way(child, 0)


def test_answers_on_their_way_are_bounded_and_the_one_that_is_stuck_longest_goes(run: Path, outside: Outside) -> None:
    with _serving(run, patience=3600.0) as child:
        slow = outside.neighbour(room=1)
        for token in range(MOST_ANSWERS + 5):
            slow.send(AskQueried(token))
        beat = child.hear(Heartbeat, lambda beat: beat.figures.counters.get("answers.crowded_out", 0) >= 5)
        assert beat.figures.queues["answers"] <= MOST_ANSWERS
        quick = outside.neighbour()
        quick.send(AskQueried(1))
        assert _numbers(quick, PARTS) == list(range(PARTS))


def test_frames_of_an_answer_are_packed_when_they_are_needed_and_once() -> None:
    made: list[int] = []

    def make(number: int) -> QueriedList:
        made.append(number)
        return QueriedList(number, (), False)

    answer = LongAnswer(((number,) for number in range(3)), make)
    assert (len(answer), made) == (3, [])
    assert answer.frame(0) == answer.frame(0) == bytes.fromhex("94580090c2")
    assert made == [0]
    assert [answer.frame(number) for number in (1, 0)] == [bytes.fromhex("94580190c2"), bytes.fromhex("94580090c2")]
    assert made == [0, 1]


def test_list_of_actors_that_finds_no_room_has_no_end(run: Path, outside: Outside) -> None:
    row = ActorRow("link-1", Role.LINK, "x" * 3000, 1, 0.0, 0, True, 0.0, 0, {}, {})
    with born(run, lambda runtime, _: runtime.serve(), name="router") as child:
        child.hear(Ready)
        slow = outside.neighbour(room=1)
        slow.send(AskActors(7))
        token = child.hear(AskActors).token
        for number in range(PARTS):
            wait_until(
                "the channel has room", partial(_sent, child, ActorList(token, (row,), number + 1 < PARTS)), PATIENCE
            )
        child.channel.send(Stop("enough"))
        assert child.ended() == 0
        child.listen()
        last_beat = [message for message, _ in child.heard if isinstance(message, Heartbeat)][-1]
        assert last_beat.figures.counters["sends.full"] == 1
        assert {part.more for part in _all(slow)} == {True}


def _sent(child: Child, message: object) -> bool:
    try:
        child.channel.send(message)
    except ChannelFull:
        return False
    return True


def _all(reader: Neighbour) -> list[Any]:
    """Everything that comes until nothing comes any more."""
    received = []
    while reader.socket.poll(500):
        received.append(reader.receive())
    return received
