"""Questions to actors: whole answers, silence, nonsense; and which nodes live here."""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from actors.runtime import asking
from actors.runtime.asking import Asker, NoInstance, find_instance
from actors.runtime.dialogue import NoAnswer
from protocol.codec import pack, unpack
from protocol.frames import AskPeers, AskQueried, PeerList, QueriedList, QueriedRow
from tests.unit.stand_ins import actor, context, run_folder

SOON = 0.2
LATE = 10.0
ROW = QueriedRow(bytes(16), 64, 3.0)


@pytest.fixture
def folder() -> Iterator[Path]:
    with run_folder() as made:
        yield made


@pytest.fixture
def asker(folder: Path) -> Iterator[Asker]:
    with Asker(folder) as made:
        yield made


def test_all_parts_of_an_answer_come_in_order(asker: Asker, folder: Path) -> None:
    def reply(question: Any) -> Any:
        return [QueriedList(question.token, (QueriedRow(bytes(16), n, 1.0),), n < 9) for n in range(10)]

    with actor(folder, "router", reply):
        answers = asker.ask("router", AskQueried(asker.token()), LATE)
    assert [answer.queried[0].length for answer in answers] == list(range(10))


def test_silence_is_no_answer_and_names_the_actor(asker: Asker, folder: Path) -> None:
    with actor(folder, "router", lambda _: ()), pytest.raises(NoAnswer, match=r"router.*silent") as caught:
        asker.ask("router", AskQueried(1), SOON)
    assert caught.value.actor == "router"


def test_actor_that_is_not_there_is_no_answer(asker: Asker) -> None:
    with pytest.raises(NoAnswer, match="no answer from nobody"):
        asker.ask("nobody", AskQueried(1), SOON)


def test_question_waits_for_an_actor_that_comes_back_in_time(asker: Asker, folder: Path) -> None:
    found: list[Any] = []
    asked = threading.Thread(target=lambda: found.extend(asker.ask("router", AskQueried(5), LATE)))
    asked.start()
    with actor(folder, "router", lambda question: [QueriedList(question.token, (ROW,), False)]):
        asked.join()
    assert found == [QueriedList(5, (ROW,), False)]


def test_answer_to_another_question_is_dropped(asker: Asker, folder: Path) -> None:
    def reply(question: Any) -> Any:
        return [PeerList(question.token + 1, (), False), QueriedList(question.token, (ROW,), False)]

    with actor(folder, "router", reply):
        assert asker.ask("router", AskQueried(7), LATE) == [QueriedList(7, (ROW,), False)]


def test_answer_that_is_no_frame_is_no_answer(asker: Asker, folder: Path) -> None:
    with actor(folder, "router", lambda _: [b"\xff"]), pytest.raises(NoAnswer, match="something else than a frame"):
        asker.ask("router", AskQueried(1), LATE)


def test_answer_without_an_end_is_given_up(asker: Asker, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "MAX_PARTS", 3)
    with (
        actor(folder, "router", lambda question: [QueriedList(question.token, (), True)] * 9),
        pytest.raises(NoAnswer, match="more than 3 parts"),
    ):
        asker.ask("router", AskQueried(1), LATE)


def test_path_too_long_for_a_socket_is_no_answer_that_says_so(folder: Path) -> None:
    with pytest.raises(NoAnswer, match="too long for a Unix socket"):
        Asker(folder / ("x" * 120)).ask("router", AskQueried(1), SOON)


def test_one_silent_actor_does_not_hide_the_answers_of_others(asker: Asker, folder: Path) -> None:
    with (
        actor(folder, "router", lambda question: [QueriedList(question.token, (ROW,), False)]),
        actor(folder, "peers", lambda _: ()),
    ):
        answers = asker.ask_all({"router": AskQueried(1), "peers": AskPeers(2)}, SOON)
    assert answers["router"] == [QueriedList(1, (ROW,), False)]
    assert isinstance(answers["peers"], NoAnswer)


def test_first_answer_is_enough_when_anyone_may_answer(asker: Asker, folder: Path) -> None:
    with (
        actor(folder, "router", lambda question: [QueriedList(question.token, (ROW,), False)]),
        actor(folder, "peers", lambda _: ()),
    ):
        assert asker.ask_any({"peers": AskQueried(1), "router": AskQueried(2)}, LATE) == [QueriedList(2, (ROW,), False)]


def test_nobody_answers_when_anyone_may(asker: Asker) -> None:
    assert asker.ask_any({"peers": AskQueried(1)}, 0.05) is None


def test_many_threads_get_their_own_answers(asker: Asker, folder: Path) -> None:
    results: dict[int, Any] = {}

    def ask(length: int) -> None:
        results[length] = asker.ask("router", AskQueried(length), LATE)[0].queried[0].length

    def reply(question: Any) -> Any:
        return [QueriedList(question.token, (QueriedRow(bytes(16), question.token, 1.0),), False)]

    with actor(folder, "router", reply):
        threads = [threading.Thread(target=ask, args=(n,)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == {n: n for n in range(16)}


def test_question_is_one_part_as_actors_expect_it(asker: Asker, folder: Path) -> None:
    with context() as made:
        inbox = made.socket(zmq.ROUTER)
        inbox.bind(f"ipc://{folder / 'router'}")
        asking_thread = threading.Thread(target=lambda: asker.ask("router", AskQueried(3), LATE))
        asking_thread.start()
        sender, *parts = inbox.recv_multipart()
        inbox.send_multipart((sender, pack(QueriedList(3, (), False))))
        asking_thread.join()
    assert parts == [pack(AskQueried(3))]


def test_second_question_goes_over_the_connection_of_the_first(asker: Asker, folder: Path) -> None:
    senders: list[bytes] = []
    with context() as made:
        inbox = made.socket(zmq.ROUTER)
        inbox.bind(f"ipc://{folder / 'router'}")

        def answer() -> None:
            for _ in range(2):
                sender, data = inbox.recv_multipart()
                senders.append(sender)
                inbox.send_multipart((sender, pack(QueriedList(unpack(data).token, (), False))))

        answering = threading.Thread(target=answer)
        answering.start()
        for _ in range(2):
            asker.ask("router", AskQueried(asker.token()), LATE)
        answering.join()
    assert len(set(senders)) == 1


def test_actor_that_ends_while_it_is_asked_is_told_of_at_once(asker: Asker, folder: Path) -> None:
    begin = time.monotonic()
    with context() as made:
        inbox = made.socket(zmq.ROUTER)
        inbox.bind(f"ipc://{folder / 'router'}")

        def end() -> None:
            inbox.recv_multipart()
            inbox.close(linger=0)

        ending = threading.Thread(target=end)
        ending.start()
        with pytest.raises(NoAnswer, match="no answer from router: it ended while it was asked"):
            asker.ask("router", AskQueried(1), LATE)
        ending.join()
    assert time.monotonic() - begin < LATE / 2


@pytest.mark.parametrize("first", [b"HTTP/1.1 400 Bad Request", b"\xff" + bytes(8) + b"\x7f\x02"])
def test_what_is_no_actor_is_no_answer(asker: Asker, folder: Path, first: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "router"))
        listener.listen()

        def answer() -> None:
            made, _ = listener.accept()
            with made:
                made.sendall(first)
                made.recv(1 << 16)

        answering = threading.Thread(target=answer)
        answering.start()
        with pytest.raises(NoAnswer, match="what it says is no ZeroMQ"):
            asker.ask("router", AskQueried(1), LATE)
        answering.join()


# --- instances --------------------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(asking, "runtime_root", lambda: tmp_path)
    return tmp_path


@pytest.fixture
def live(root: Path) -> Iterator[Any]:
    locks = []

    def make(name: str, *, held: bool = True) -> Path:
        (root / name).mkdir()
        lock = (root / name / asking.LOCK_FILE).open("w")
        locks.append(lock)
        if held:
            fcntl.flock(lock, fcntl.LOCK_EX)
        return root / name

    yield make
    for lock in locks:
        lock.close()


def test_only_living_node_is_found_without_a_name(live: Any) -> None:
    here = live("one")
    live("dead", held=False)
    assert find_instance(None) == here


def test_name_chooses_among_several_nodes(live: Any) -> None:
    live("one")
    there = live("two")
    assert find_instance("two") == there


def test_several_nodes_without_a_name_is_an_error_that_names_them(live: Any) -> None:
    live("one")
    live("two")
    with pytest.raises(NoInstance, match="--instance: one, two"):
        find_instance(None)


def test_no_node_is_an_error(root: Path) -> None:
    with pytest.raises(NoInstance, match="no node runs here; start one"):
        find_instance(None)


def test_missing_runtime_folder_means_no_node(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "runtime_root", lambda: root / "absent")
    with pytest.raises(NoInstance, match="no node runs here"):
        find_instance(None)


def test_dead_node_by_name_is_an_error_that_names_the_living(live: Any) -> None:
    live("dead", held=False)
    live("one")
    with pytest.raises(NoInstance, match=r"no node named 'dead' runs here; choose one with --instance: one"):
        find_instance("dead")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-x", "x" * 65, "ü"])
def test_name_that_could_leave_the_folder_is_refused(root: Path, name: str) -> None:
    with pytest.raises(NoInstance, match="can't name a node"):
        find_instance(name)


def test_folder_of_somebody_else_is_not_trusted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: root.stat().st_uid + 1)
    with pytest.raises(NoInstance, match="not a folder of this user"):
        find_instance(None)


def test_root_finds_nodes_of_any_user(live: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    here = live("one")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert find_instance(None) == here


@pytest.mark.parametrize(
    ("user", "own", "expected"),
    [
        (0, "/run/user/0", "/run/septate"),
        (1000, "/run/user/1000", "/run/user/1000/septate"),
        (1000, "", "/tmp/septate-1000"),
    ],
)
def test_runtime_folder_depends_on_the_user(
    user: int, own: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setenv("XDG_RUNTIME_DIR", own)
    assert asking.runtime_root() == Path(expected)
