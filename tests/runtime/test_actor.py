"""What every actor is: it says hello, serves whoever asks, and no neighbour can crash, starve or block it."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from actors.runtime import actor
from actors.runtime.actor import MAX_ASKERS, Outlet, Runtime
from actors.runtime.channel import ChannelFull
from protocol.codec import pack, unpack
from protocol.frames import (
    SCHEMA,
    ActorList,
    ActorRow,
    AskActors,
    AskPeers,
    AskQueried,
    DeviceFailed,
    Direction,
    Heartbeat,
    Hello,
    PacketsSeen,
    QueriedList,
    Ready,
    Role,
    Stop,
    TableEpoch,
)
from tests.runtime.children import PATIENCE, Child, born, run_folder, tell
from tests.runtime.outside import Neighbour, Outside

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture
def run() -> Iterator[Path]:
    with run_folder() as folder:
        yield folder


@pytest.fixture
def outside(run: Path) -> Iterator[Outside]:
    made = Outside(run, "router")
    yield made
    made.close()


def answer_questions(runtime: Runtime) -> None:
    def answer(sender: bytes, question: AskQueried) -> None:
        runtime.send(sender, QueriedList(question.token, (), False))

    runtime.on(AskQueried, answer)


def echo(runtime: Runtime, _: object) -> None:
    """An actor that answers one question."""
    answer_questions(runtime)
    runtime.serve()


def check(neighbour: Neighbour, token: int) -> None:
    """The neighbour asks what `echo` answers, and is answered."""
    assert neighbour.ask(AskQueried(token)) == QueriedList(token, (), False)


@contextlib.contextmanager
def serving(run: Path, main: Any = echo, name: str = "router") -> Iterator[Child]:
    """An actor that is ready."""
    with born(run, main, name=name) as child:
        child.hear(Ready)
        yield child


def _counted(child: Child, name: str, least: int = 1) -> int:
    """Waits for a heartbeat in which this counter has come so far."""
    beat = child.hear(Heartbeat, lambda beat: beat.figures.counters.get(name, 0) >= least)
    return beat.figures.counters[name]


def _counted_in_the_end(child: Child, name: str) -> int:
    """Ends the actor; what it had counted then."""
    child.channel.send(Stop("enough"))
    assert child.ended() == 0
    child.listen()
    return [message for message, _ in child.heard if isinstance(message, Heartbeat)][-1].figures.counters[name]


# --- towards the supervisor -------------------------------------------------------------------------------------------


def test_actor_says_hello_then_ready_then_how_it_is(run: Path) -> None:
    with born(run, echo, name="router") as child:
        child.hear(Hello, lambda hello: hello == Hello(SCHEMA, Role.STATUS, "router", child.pid))
        child.hear(Ready)
        first = child.hear(Heartbeat)
        second = child.hear(Heartbeat)
    assert first.figures.pss_kib > 0
    assert second.figures.cpu_seconds >= first.figures.cpu_seconds > 0


def test_queue_depths_are_looked_at_for_each_heartbeat(run: Path) -> None:
    def main(runtime: Runtime, _: None) -> None:
        depths = iter((3, 1, 4))
        runtime.gauges.queue("outgoing", lambda: next(depths))
        runtime.serve()

    with born(run, main) as child:
        assert [child.hear(Heartbeat).figures.queues for _ in range(2)] == [{"outgoing": 3}, {"outgoing": 1}]


def test_every_other_heartbeat_is_left_out_while_there_is_nothing_new(run: Path) -> None:
    def main(runtime: Runtime, _: None) -> None:
        looks = itertools.count()
        runtime.gauges.queue("waiting", lambda: next(looks) // 4)
        actor.HEARTBEAT_SECONDS = 0.05
        runtime.serve()

    with born(run, main) as child:
        told = [child.hear(Heartbeat).figures.queues["waiting"] for _ in range(8)]
    # What is new is told at once: the first look at 1, at 2, at 3; of the others each second one.
    assert told == [0, 0, 0, 1, 1, 2, 2, 3]


def test_actor_that_is_told_to_stop_finishes_in_order(run: Path) -> None:
    def main(runtime: Runtime, _: None) -> None:
        runtime.at_stop(lambda: tell(runtime, "first"))
        runtime.at_stop(lambda: tell(runtime, "second"))
        runtime.serve()

    with serving(run, main) as child:
        child.channel.send(Stop("enough"))
        assert [child.told(), child.told()] == ["first", "second"]
        assert child.ended() == 0


def test_actor_without_a_supervisor_ends(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with serving(run) as child:
        child.channel.close()
        assert child.ended() == 0
    assert 'message="the supervisor is gone"' in capfd.readouterr().err


def test_order_that_it_can_not_carry_out_is_said_aloud_and_fatal(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with serving(run) as child:
        child.channel.send(DeviceFailed("not for you"))
        assert child.ended() == 1
    assert "the supervisor sent a DeviceFailed, which router can't handle" in capfd.readouterr().err


def test_supervisor_that_does_not_read_does_not_end_an_actor(run: Path, outside: Outside) -> None:
    def main(runtime: Runtime, _: None) -> None:
        def fill(sender: bytes, question: AskPeers) -> None:
            with contextlib.suppress(ChannelFull):
                while True:
                    runtime.tell_supervisor(Stop("x" * 1000))
            tell_sender(sender, question)

        def tell_sender(sender: bytes, question: Any) -> None:
            counts = runtime.counters["heartbeats.unread"]
            runtime.send(sender, AskQueried(counts))

        runtime.on(AskPeers, fill)
        runtime.on(AskQueried, tell_sender)
        runtime.serve()

    with serving(run, main) as child:
        neighbour = outside.neighbour()
        neighbour.send(AskPeers(1))
        neighbour.receive()
        deadline = time.monotonic() + PATIENCE
        unread = 0
        while not unread and time.monotonic() < deadline:
            neighbour.send(AskQueried(1))
            unread = neighbour.receive().token
            time.sleep(0.02)
        assert unread
        assert _counted(child, "heartbeats.unread") >= 1


# --- towards neighbours -----------------------------------------------------------------------------------------------


def test_whoever_asks_is_answered(run: Path, outside: Outside) -> None:
    with serving(run):
        one, other = outside.neighbour("tun"), outside.neighbour()
        check(one, 1)
        check(other, 2)


def test_question_behind_an_empty_part_is_read(run: Path, outside: Outside) -> None:
    def main(runtime: Runtime, _: None) -> None:
        runtime.on(AskQueried, lambda _, question: tell(runtime, question.token))
        runtime.serve()

    with serving(run, main) as child:
        neighbour = outside.neighbour()
        neighbour.socket.send_multipart((b"", pack(AskQueried(9))))
        assert child.told() == 9


@pytest.mark.parametrize(
    ("data", "counter"),
    [
        (b"", "frames.malformed"),
        (b"\xff\xff", "frames.malformed"),
        (b"\x92\x57\x81\x80\x01", "frames.malformed"),
        (msgpack.packb([0x57, "not a token"]), "frames.malformed"),
        (msgpack.packb([0x7E]), "frames.malformed"),
        (pack(AskPeers(1)), "frames.unexpected"),
        (pack(Ready()), "frames.unexpected"),
    ],
)
def test_frame_that_is_wrong_is_counted_and_the_next_one_answered(
    run: Path, outside: Outside, data: bytes, counter: str
) -> None:
    with serving(run) as child:
        neighbour = outside.neighbour()
        for token in range(3):
            neighbour.send(data)
            check(neighbour, token)
        assert _counted_in_the_end(child, counter) == 3


def test_sender_of_garbage_is_logged_without_its_control_characters(
    run: Path, outside: Outside, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving(run):
        neighbour = outside.neighbour("\x1b[2Jevil")
        neighbour.send(b"\xc1")
        check(neighbour, 1)
    printed = capfd.readouterr().err
    assert "dropped what is no frame" in printed
    assert r"sender=\x1b[2Jevil" in printed
    assert "\x1b" not in printed


def test_message_too_large_costs_its_sender_the_connection_and_nobody_else(run: Path, outside: Outside) -> None:
    with serving(run):
        greedy, modest = outside.neighbour(), outside.neighbour()
        greedy.send(bytes(5 << 20))
        check(modest, 1)


def test_flood_from_one_neighbour_does_not_starve_another(run: Path, outside: Outside) -> None:
    def main(runtime: Runtime, _: None) -> None:
        def answer(sender: bytes, question: AskQueried) -> None:
            time.sleep(0.0005)
            runtime.send(sender, QueriedList(question.token, (), False))

        runtime.on(AskQueried, answer)
        runtime.serve()

    flooder = outside.neighbour()
    flooding = threading.Event()
    flooding.set()

    def flood() -> None:
        question = pack(AskQueried(0))
        while flooding.is_set():
            with contextlib.suppress(zmq.Again):
                flooder.socket.send(question, zmq.NOBLOCK)
                continue
            time.sleep(0.001)

    with serving(run, main) as child:
        thread = threading.Thread(target=flood)
        thread.start()
        try:
            _counted(child, "sends.full")
            neighbour = outside.neighbour()
            check(neighbour, 0)
            begin = time.monotonic()
            for token in range(1, 11):
                check(neighbour, token)
            # A queue in the order of arrival would put hundreds of floods, half a millisecond each, before each.
            assert time.monotonic() - begin < 5
            child.channel.send(Stop("enough"))
            assert child.ended() == 0
        finally:
            flooding.clear()
            thread.join()


def test_flood_does_not_delay_heartbeats(run: Path, outside: Outside) -> None:
    def main(runtime: Runtime, _: None) -> None:
        def answer(_sender: bytes, _question: AskQueried) -> None:
            runtime.counters["asked"] += 1
            time.sleep(0.001)

        runtime.on(AskQueried, answer)
        runtime.serve()

    with serving(run, main) as child:
        neighbour = outside.neighbour()
        question = pack(AskQueried(0))
        child.hear(Heartbeat)
        begin = time.monotonic()
        while time.monotonic() < begin + 2.5:
            with contextlib.suppress(zmq.Again):
                neighbour.socket.send(question, zmq.NOBLOCK)
            child.listen()
        beats = sum(isinstance(message, Heartbeat) for message, _ in child.heard)
        assert beats >= 2


def _send_to(runtime: Runtime, _: object) -> None:
    """An actor that sends to whomever it is told, and tells what came of it."""

    def answer(_sender: bytes, question: AskQueried) -> None:
        tell(runtime, runtime.send(b"neighbour", question))

    runtime.on(AskQueried, answer)
    runtime.serve()


def test_sending_to_nobody_fails_at_once_and_is_counted(run: Path, outside: Outside) -> None:
    with serving(run, _send_to) as child:
        outside.neighbour().send(AskQueried(1))
        assert child.told() is False
        assert _counted_in_the_end(child, "sends.unreachable") == 1


def test_sending_to_one_that_died_fails_and_to_its_successor_succeeds(run: Path, outside: Outside) -> None:
    with serving(run, _send_to) as child:
        asker = outside.neighbour()
        for _ in range(3):
            neighbour = outside.neighbour("neighbour")
            neighbour.send(AskQueried(5))
            assert child.told() is True
            assert neighbour.receive() == AskQueried(5)
            neighbour.socket.close(linger=0)
            _until_unreachable(asker, child)


def _until_unreachable(asker: Neighbour, child: Child) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        asker.send(AskQueried(6))
        if child.told() is False:
            return
    raise AssertionError("the dead are still reachable")


def test_successor_takes_over_the_name_of_one_that_seems_to_live(run: Path, outside: Outside) -> None:
    with serving(run, _send_to) as child:
        stuck = outside.neighbour("neighbour")
        stuck.send(AskQueried(1))
        assert child.told() is True
        successor = outside.neighbour("neighbour")
        successor.send(AskQueried(2))
        assert child.told() is True
        assert successor.receive() == AskQueried(2)


def test_neighbour_that_does_not_read_costs_its_own_frames_only(run: Path, outside: Outside) -> None:
    def main(runtime: Runtime, _: None) -> None:
        def answer(_sender: bytes, question: AskPeers) -> None:
            sent = 0
            while runtime.send(b"deaf", QueriedList(question.token, (), False)):
                sent += 1
            tell(runtime, sent)

        runtime.on(AskPeers, answer)
        answer_questions(runtime)
        runtime.serve()

    with serving(run, main) as child:
        deaf = outside.neighbour("deaf")
        deaf.socket.setsockopt(zmq.RCVHWM, 1)
        deaf.send(AskPeers(1))
        assert child.told() > 10
        check(outside.neighbour(), 2)
        assert _counted_in_the_end(child, "sends.full") >= 1


# --- actors among themselves ------------------------------------------------------------------------------------------


def _asking(runtime: Runtime, _: object) -> None:
    """An actor that asks the router a question every 10 ms, and tells of each question and each answer."""
    outlet: Outlet = runtime.connect("router", answers=True)
    runtime.on(QueriedList, lambda sender, answer: tell(runtime, [sender.decode(), answer.token]))
    tokens = itertools.count(1)

    def ask() -> None:
        token = next(tokens)
        outlet.send(AskQueried(token))
        tell(runtime, ["asked", token])

    runtime.loop.every(0.01, ask)
    runtime.serve()


def _next(tun: Child, what: str) -> int:
    """The next number that `_asking` tells of."""
    while True:
        word, token = tun.told()
        if word == what:
            return int(token)


def test_answers_come_back_to_the_actor_that_asked(run: Path) -> None:
    with serving(run), serving(run, _asking, name="tun") as tun:
        assert _next(tun, "router") == 1


def test_actor_that_is_killed_is_reachable_again_under_its_name(run: Path) -> None:
    with serving(run):
        for _ in range(3):
            with serving(run, _asking, name="tun") as tun:
                _next(tun, "router")


def test_what_is_sent_while_the_receiver_is_dead_reaches_its_successor(run: Path) -> None:
    with serving(run, _asking, name="tun") as tun:
        with serving(run):
            _next(tun, "router")
        tun.listen()
        tun.heard.clear()
        # Some may still have been given to the dead one's socket, before its end was noticed.
        for _ in range(10):
            first = _next(tun, "asked")
        while _next(tun, "asked") < first + 20:
            pass
        with serving(run):
            answered = [_next(tun, "router")]
            while answered[-1] < first + 15:
                answered.append(_next(tun, "router"))
    assert set(range(first, first + 15)) <= set(answered)


def test_outlet_that_is_full_drops_and_counts_and_never_blocks(run: Path) -> None:
    def main(runtime: Runtime, _: None) -> None:
        outlet = runtime.connect("nobody")
        sent = 0
        while outlet.send(AskQueried(1)):
            sent += 1
        tell(runtime, sent)
        runtime.disconnect(outlet)
        runtime.serve()

    with born(run, main, name="tun") as child:
        assert 1 <= child.told() <= 1000
        child.hear(Ready)
        assert _counted_in_the_end(child, "sends.full") == 1


# --- events -----------------------------------------------------------------------------------------------------------


def _publishing(runtime: Runtime, _: object) -> None:
    """An actor that welcomes its subscribers, and publishes only what somebody wants to see."""

    def publish() -> None:
        if runtime.watched(PacketsSeen):
            runtime.publish(PacketsSeen("router", Direction.IN, b""))
        else:
            runtime.counters["nobody.watches"] += 1

    runtime.loop.every(0.01, publish)
    runtime.serve(welcome=TableEpoch(77))


def test_each_new_subscriber_is_welcomed(run: Path, outside: Outside) -> None:
    with serving(run, _publishing):
        for _ in range(2):
            assert unpack(outside.subscriber(TableEpoch).recv()) == TableEpoch(77)


def test_events_come_to_whoever_wants_their_type(run: Path, outside: Outside) -> None:
    with serving(run, _publishing):
        subscriber = outside.subscriber(PacketsSeen)
        assert unpack(subscriber.recv()) == PacketsSeen("router", Direction.IN, b"")


def test_nothing_is_made_up_for_an_empty_room(run: Path, outside: Outside) -> None:
    with serving(run, _publishing) as child:
        before = _counted(child, "nobody.watches")
        subscriber = outside.subscriber(PacketsSeen)
        subscriber.recv()
        subscriber.close(linger=0)
        _counted(child, "nobody.watches", before + 1)


def test_actor_hears_the_events_of_another_and_of_its_successor(run: Path) -> None:
    def main(runtime: Runtime, _: None) -> None:
        runtime.on(TableEpoch, lambda sender, event: tell(runtime, [sender.decode(), event.epoch]))
        runtime.subscribe("router", (TableEpoch,))
        runtime.serve()

    with serving(run, main, name="tun") as tun:
        for _ in range(2):
            with serving(run, _publishing):
                assert tun.told() == ["router", 77]


# --- which actors are there -------------------------------------------------------------------------------------------


def _row(name: str) -> ActorRow:
    return ActorRow(name, Role.TUN, name, 1, 1.0, 0, True, 0.5, 100, {}, {})


def test_question_about_actors_is_passed_on_and_all_parts_come_back(run: Path, outside: Outside) -> None:
    with serving(run) as child:
        neighbour = outside.neighbour()
        neighbour.send(AskActors(4711))
        token = child.hear(AskActors).token
        child.channel.send(ActorList(token, (_row("tun"),), True))
        child.channel.send(ActorList(token, (_row("peers"),), False))
        child.channel.send(ActorList(token, (_row("nobody asked"),), False))
        assert neighbour.receive() == ActorList(4711, (_row("tun"),), True)
        assert neighbour.receive() == ActorList(4711, (_row("peers"),), False)
        check(neighbour, 5)


def test_two_who_ask_with_the_same_token_get_their_own_answers(run: Path, outside: Outside) -> None:
    with serving(run) as child:
        one, other = outside.neighbour(), outside.neighbour()
        one.send(AskActors(1))
        first = child.hear(AskActors).token
        other.send(AskActors(1))
        second = child.hear(AskActors).token
        child.channel.send(ActorList(second, (_row("for the other"),), False))
        child.channel.send(ActorList(first, (_row("for one"),), False))
        assert one.receive().actors == (_row("for one"),)
        assert other.receive().actors == (_row("for the other"),)


def test_questions_that_are_never_answered_do_not_pile_up(run: Path, outside: Outside) -> None:
    with serving(run) as child:
        neighbour = outside.neighbour()
        tokens = []
        for number in range(MAX_ASKERS + 1):
            neighbour.send(AskActors(number))
            tokens.append(child.hear(AskActors).token)
        for token in tokens:
            child.channel.send(ActorList(token, (), False))
        # The oldest was forgotten, the others get their answers.
        assert [neighbour.receive().token for _ in range(MAX_ASKERS)] == list(range(1, MAX_ASKERS + 1))
