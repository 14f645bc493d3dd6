"""Lanes between real sockets: among themselves, with pyzmq in both roles, and with whoever means no good."""

from __future__ import annotations

import mmap
import os
import resource
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from actors.runtime import lane as lane_module
from actors.runtime.lane import OUT_BYTES, SUFFIX, Lane, LaneError, LaneHub
from actors.runtime.loop import Loop

PATIENCE_SECONDS = 30.0
ROOT = Path(__file__).parents[2]
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
MEGABYTE = os.urandom(1_000_000)


def ready(identity: bytes) -> bytes:
    """The READY command of a DEALER."""
    body = b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity" + len(identity).to_bytes(4, "big") + identity
    return bytes((4, len(body))) + body


def message(body: bytes) -> bytes:
    """A message as ZMTP has it."""
    return (bytes((0, len(body))) if len(body) < 256 else b"\x02" + len(body).to_bytes(8, "big")) + body


def open_descriptors() -> set[str]:
    """The descriptors of this process, each with what it leads to."""
    found = set()
    for number in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{number.name} {number.readlink()}")
        except FileNotFoundError:
            # The one by which the folder itself was read.
            continue
    return found


class Actor:
    """A hub, and what happened to it."""

    def __init__(self, loop: Loop, run: Path, name: str, **options: Any) -> None:
        self.counters: Counter[str] = Counter()
        self.frames: list[tuple[str, bytes]] = []
        self.opened: list[Lane] = []
        self.closed: list[Lane] = []
        self.on_frame: Callable[[Lane, bytes], object] = lambda _lane, _data: None
        self.on_open: Callable[[Lane], object] = lambda _lane: None
        self.on_close: Callable[[Lane], object] = lambda _lane: None
        self.hub = LaneHub(
            loop,
            run,
            name,
            self.counters,
            on_frame=self._on_frame,
            on_open=self._on_open,
            on_close=self._on_close,
            **options,
        )

    def data(self) -> list[bytes]:
        """The frames without their senders."""
        return [data for _, data in self.frames]

    def _on_frame(self, lane: Lane, data: bytes) -> None:
        self.frames.append((lane.name, data))
        self.on_frame(lane, data)

    def _on_open(self, lane: Lane) -> None:
        assert lane.is_open
        self.opened.append(lane)
        self.on_open(lane)

    def _on_close(self, lane: Lane) -> None:
        assert not lane.is_open
        self.closed.append(lane)
        self.on_close(lane)


class House:
    """A runtime folder, actors in one loop, and sockets of pyzmq beside them."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.loop = Loop()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._actors: list[Actor] = []
        self._raw: list[socket.socket] = []
        # As an actor has its channel: pyzmq's poll of nothing does not wait.
        self._silent = socket.socketpair()
        self.loop.watch(self._silent[0].fileno(), lambda _events: None)

    def actor(self, name: str, **options: Any) -> Actor:
        actor = Actor(self.loop, self.run, name, **options)
        self._actors.append(actor)
        return actor

    def listening(self, name: str, **options: Any) -> Actor:
        actor = self.actor(name, **options)
        actor.hub.listen()
        return actor

    def pair(self, **options: Any) -> tuple[Actor, Actor, Lane, Lane]:
        """Two actors; the first listens, the second dialled it; the lane of each."""
        tun, link = self.listening("tun", **options), self.actor("link-1", **options)
        ours = link.hub.connect("tun")
        self.until(lambda: ours.is_open and bool(tun.opened))
        return tun, link, tun.opened[0], ours

    def zmq(self, kind: int, identity: bytes = b"") -> tuple[zmq.Socket[bytes], list[list[bytes]]]:
        """A socket of pyzmq, not yet bound or connected, and the list of what it receives."""
        made = self._context.socket(kind)
        made.setsockopt(zmq.LINGER, 0)
        if identity:
            made.setsockopt(zmq.ROUTING_ID, identity)
        received: list[list[bytes]] = []

        def drain(_events: int) -> None:
            while made.poll(0):
                received.append(made.recv_multipart())

        self.loop.watch(made, drain)
        return made, received

    def address(self, name: str) -> str:
        return f"ipc://{self.run / name}{SUFFIX}"

    def raw(self, name: str, greeting: bytes = b"", descriptors: tuple[int, ...] = ()) -> socket.socket:
        """A plain socket that is connected to an actor, and said this."""
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._raw.append(end)
        end.connect(str(self.run / (name + SUFFIX)))
        end.settimeout(PATIENCE_SECONDS)
        if greeting:
            socket.send_fds(end, [greeting], list(descriptors))
        return end

    def until(self, condition: Callable[[], bool]) -> None:
        """Serves everybody until it is so; fails when that takes too long."""
        late = False

        def too_late() -> None:
            nonlocal late
            late = True

        timer = self.loop.call_after(PATIENCE_SECONDS, too_late)
        while not condition():
            self.loop.turn()
            assert not late, "what the test waits for does not happen"
        timer.cancel()

    def settle(self) -> None:
        """Serves everybody until nothing is left to do."""
        quiet = False

        def nothing_came() -> None:
            nonlocal quiet
            quiet = True

        # Two empty rounds in a row: the first may have deferred what the second one sends.
        for _ in range(2):
            quiet = False
            while not quiet:
                timer = self.loop.call_after(0.02, nothing_came)
                self.loop.turn()
                timer.cancel()

    def close(self) -> None:
        for actor in self._actors:
            actor.hub.close()
        for end in (*self._raw, *self._silent):
            end.close()
        self._context.destroy(linger=0)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.close()


# --- among ourselves --------------------------------------------------------------------------------------------------


def test_frames_arrive_under_the_name_of_who_sent_them(house: House) -> None:
    tun, link, to_link, to_tun = house.pair()
    assert (to_link.name, to_tun.name) == ("link-1", "tun")
    assert to_tun.send(b"up")
    assert to_link.send(b"down")
    house.until(lambda: bool(tun.frames and link.frames))
    assert tun.frames == [("link-1", b"up")]
    assert link.frames == [("tun", b"down")]


def test_thousands_of_frames_of_all_sizes_arrive_in_order_in_both_directions(house: House) -> None:
    tun, link, to_link, to_tun = house.pair()
    sizes = [0, 1, 7, 64, 255, 256, 300, 4095, 4096, 4097, 9000]
    frames = [number.to_bytes(4, "big") + bytes(sizes[number % len(sizes)]) for number in range(5000)]
    waiting = {to_tun: list(reversed(frames)), to_link: list(reversed(frames))}

    def more() -> None:
        for lane, rest in waiting.items():
            while rest and lane.waiting < OUT_BYTES // 2:
                assert lane.send(rest.pop())

    def everything_arrived() -> bool:
        more()
        return len(tun.frames) == len(link.frames) == len(frames)

    house.until(everything_arrived)
    assert tun.data() == link.data() == frames


def test_a_megabyte_arrives_in_both_directions(house: House) -> None:
    tun, link, to_link, to_tun = house.pair()
    assert to_tun.send(MEGABYTE)
    assert to_link.send(MEGABYTE)
    house.until(lambda: bool(tun.frames and link.frames))
    assert tun.data() == link.data() == [MEGABYTE]


def test_pieces_of_a_frame_arrive_as_one(house: House) -> None:
    tun, _, _, to_tun = house.pair()
    assert to_tun.send([b"head ", bytearray(b"body "), memoryview(b"..tail")[2:]])
    assert to_tun.send([MEGABYTE[:5000], memoryview(MEGABYTE)[5000:9000]])
    assert to_tun.send([])
    house.until(lambda: len(tun.frames) == 3)
    assert tun.data() == [b"head body tail", MEGABYTE[:9000], b""]


def test_more_pieces_than_one_sendmsg_takes_arrive_in_order(house: House) -> None:
    tun, _, _, to_tun = house.pair()
    frames = [number.to_bytes(2, "big") for number in range(3000)]
    for frame in frames:
        assert to_tun.send(frame)
    house.until(lambda: len(tun.frames) == len(frames))
    assert tun.data() == frames


def test_an_actor_that_listens_later_is_reached(house: House) -> None:
    link = house.actor("link-1")
    lane = link.hub.connect("tun")
    for _ in range(3):
        house.loop.turn()
    assert not lane.is_open
    tun = house.listening("tun")
    house.until(lambda: lane.is_open)
    assert link.opened == [lane]
    assert lane.send(b"here you are")
    house.until(lambda: bool(tun.frames))


def test_connecting_twice_gives_the_same_lane(house: House) -> None:
    link = house.actor("link-1")
    assert link.hub.connect("tun") is link.hub.connect("tun")


def test_two_actors_that_dial_each_other_have_two_lanes_that_both_stay(house: House) -> None:
    one, two = house.listening("link-1"), house.listening("link-2")
    dialled_by_one, dialled_by_two = one.hub.connect("link-2"), two.hub.connect("link-1")
    house.until(lambda: len(one.opened) == len(two.opened) == 2)
    house.settle()
    assert not one.closed
    assert not two.closed
    assert one.hub.lane("link-2") is dialled_by_one
    assert two.hub.lane("link-1") is dialled_by_two
    dialled_by_one.close()
    house.until(lambda: bool(two.closed))
    assert one.hub.lane("link-2") is not None
    assert two.hub.lane("link-1") is dialled_by_two


def test_who_came_in_is_found_while_our_own_call_is_not_answered(house: House) -> None:
    one, two = house.listening("link-1"), house.actor("link-2")
    unanswered = one.hub.connect("link-2")
    two.hub.connect("link-1")
    house.until(lambda: bool(one.opened))
    assert one.hub.lane("link-2") is one.opened[0]
    assert not unanswered.is_open


def test_a_lane_that_nobody_has_is_none(house: House) -> None:
    tun, link, to_link, to_tun = house.pair()
    assert tun.hub.lane("link-1") is to_link
    assert link.hub.lane("tun") is to_tun
    assert tun.hub.lane("link-2") is None


# --- rounds -----------------------------------------------------------------------------------------------------------


def test_frames_of_one_round_leave_together_at_its_end(house: House) -> None:
    tun = house.listening("tun")
    end = house.raw("tun", GREETING + ready(b"link-1"))
    house.until(lambda: bool(tun.opened))
    end.recv(4096)
    seen_before_the_end: list[bytes] = []

    def send_three() -> None:
        for frame in (b"1", b"2", b"3"):
            tun.opened[0].send(frame)
        end.setblocking(False)
        with pytest.raises(BlockingIOError):
            seen_before_the_end.append(end.recv(4096))

    house.loop.call_after(0, send_three)
    house.loop.turn()
    assert end.recv(4096) == message(b"1") + message(b"2") + message(b"3")
    assert seen_before_the_end == []


def test_flush_does_not_wait_for_the_end_of_the_round(house: House) -> None:
    tun = house.listening("tun")
    end = house.raw("tun", GREETING + ready(b"link-1"))
    house.until(lambda: bool(tun.opened))
    end.recv(4096)
    tun.opened[0].send(b"now")
    tun.opened[0].flush()
    assert end.recv(4096) == message(b"now")


def test_memory_belongs_to_the_sender_again_after_the_round_even_if_the_reader_is_slow(house: House) -> None:
    tun = house.listening("tun")
    end = house.raw("tun", GREETING + ready(b"link-1"))
    house.until(lambda: bool(tun.opened))
    end.recv(4096)
    lane, expected = tun.opened[0], []
    memories = [bytearray(20_000) for _ in range(20)]
    for number in range(1, 3):
        for memory in memories:
            memory[:] = bytes([number]) * len(memory)
            assert lane.send(memoryview(memory))
            expected.append(message(bytes(memory)))
        house.loop.call_after(0, lambda: None)
        house.loop.turn()
    for memory in memories:
        memory[:] = bytes(len(memory))
    assert lane.waiting > 0
    received = bytearray()
    while len(received) < len(b"".join(expected)):
        house.loop.call_after(0, lambda: None)
        house.loop.turn()
        received += end.recv(1 << 20)
    assert received == b"".join(expected)
    assert lane.waiting == 0


# --- pyzmq ------------------------------------------------------------------------------------------------------------


def test_a_dealer_of_pyzmq_talks_to_who_listens(house: House) -> None:
    tun = house.listening("tun")
    dealer, received = house.zmq(zmq.DEALER, b"link-7")
    dealer.connect(house.address("tun"))
    frames = [b"", b"small", bytes(255), bytes(256), MEGABYTE]
    for frame in frames:
        dealer.send(frame)
    house.until(lambda: len(tun.frames) == len(frames))
    assert tun.frames == [("link-7", frame) for frame in frames]
    lane = tun.hub.lane("link-7")
    assert lane is not None
    for frame in (b"", b"small", bytes(255), bytes(256)):
        assert lane.send(frame)
    house.until(lambda: len(received) == 4)
    assert lane.send(MEGABYTE)
    house.until(lambda: len(received) == 5)
    assert received == [[frame] for frame in frames]


def test_a_router_of_pyzmq_is_talked_to_where_we_dial(house: House) -> None:
    router, received = house.zmq(zmq.ROUTER)
    router.bind(house.address("tun"))
    link = house.actor("link-1")
    lane = link.hub.connect("tun")
    house.until(lambda: lane.is_open)
    assert lane.send(b"small")
    assert lane.send(MEGABYTE)
    house.until(lambda: len(received) == 2)
    assert received == [[b"link-1", b"small"], [b"link-1", MEGABYTE]]
    router.send_multipart([b"link-1", b"answer"])
    router.send_multipart([b"link-1", MEGABYTE])
    house.until(lambda: len(link.frames) == 2)
    assert link.frames == [("tun", b"answer"), ("tun", MEGABYTE)]


def test_thousands_of_frames_to_and_from_pyzmq_arrive_in_order(house: House) -> None:
    tun = house.listening("tun")
    tun.on_frame = lambda lane, data: lane.send(data)
    dealer, received = house.zmq(zmq.DEALER, b"link-1")
    dealer.connect(house.address("tun"))
    frames = [number.to_bytes(4, "big") * (number % 90) for number in range(5000)]
    rest = list(reversed(frames))

    def everything_is_back() -> bool:
        while rest and len(frames) - len(rest) - len(received) < 500:
            dealer.send(rest.pop())
        return len(received) == len(frames)

    house.until(everything_is_back)
    assert tun.data() == frames
    assert received == [[frame] for frame in frames]


def test_a_request_of_pyzmq_gets_its_answer(house: House) -> None:
    tun = house.listening("tun")
    tun.on_frame = lambda lane, data: lane.send(data.upper())
    req, received = house.zmq(zmq.REQ)
    req.connect(house.address("tun"))
    req.send(b"question")
    house.until(lambda: bool(received))
    assert received == [[b"QUESTION"]]


def test_several_without_identity_have_lanes_of_their_own(house: House) -> None:
    tun = house.listening("tun")
    for _ in range(3):
        dealer, _ = house.zmq(zmq.DEALER)
        dealer.connect(house.address("tun"))
        dealer.send(b"hello")
    house.until(lambda: len(tun.frames) == 3)
    names = [name for name, _ in tun.frames]
    assert len(set(names)) == 3
    assert all(tun.hub.lane(name) is not None for name in names)
    assert not tun.closed


def test_heartbeats_of_pyzmq_are_answered(house: House) -> None:
    tun = house.listening("tun")
    dealer, _ = house.zmq(zmq.DEALER, b"link-1")
    dealer.setsockopt(zmq.HEARTBEAT_IVL, 50)
    dealer.setsockopt(zmq.HEARTBEAT_TIMEOUT, 400)
    dealer.connect(house.address("tun"))
    house.until(lambda: bool(tun.opened))
    end = time.monotonic() + 1.0
    house.loop.call_after(1.0, lambda: None)
    house.until(lambda: time.monotonic() >= end)
    assert len(tun.opened) == 1
    assert not tun.closed


def test_a_newcomer_takes_the_place_of_who_had_its_name(house: House) -> None:
    tun = house.listening("tun")
    tun.on_close = lambda lane: order.append(("closed", lane, tun.hub.lane("link-1")))
    tun.on_open = lambda lane: order.append(("opened", lane, tun.hub.lane("link-1")))
    order: list[tuple[str, Lane, Lane | None]] = []
    first, _ = house.zmq(zmq.DEALER, b"link-1")
    first.setsockopt(zmq.RECONNECT_IVL, -1)
    first.connect(house.address("tun"))
    house.until(lambda: len(tun.opened) == 1)
    second, received = house.zmq(zmq.DEALER, b"link-1")
    second.connect(house.address("tun"))
    house.until(lambda: len(tun.opened) == 2)
    old, new = tun.opened
    assert order == [("opened", old, old), ("closed", old, None), ("opened", new, new)]
    assert tun.counters["lanes.replaced"] == 1
    assert not old.send(b"too late")
    assert new.send(b"to the new one")
    house.until(lambda: bool(received))
    assert received == [[b"to the new one"]]


# --- coming and going -------------------------------------------------------------------------------------------------


def _start_echo(run: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.runtime.lane_echo", str(run), "tun"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "listens\n"
    return process


def test_a_lane_comes_back_when_its_actor_was_killed_and_started_again(house: House) -> None:
    link = house.actor("link-1")
    with _start_echo(house.run) as first:
        lane = link.hub.connect("tun")
        house.until(lambda: lane.is_open)
        assert lane.send(b"to the first")
        house.until(lambda: len(link.frames) == 1)
        first.kill()
        house.until(lambda: link.closed == [lane])
        assert not lane.send(b"to nobody")
        assert link.counters["lanes.closed"] == 1
        first.wait()
    with _start_echo(house.run) as second:
        house.until(lambda: lane.is_open)
        assert lane.send(b"to the second")
        house.until(lambda: len(link.frames) == 2)
        second.kill()
        second.wait()
    assert link.data() == [b"to the first", b"to the second"]
    assert link.opened == [lane, lane]


def test_what_an_actor_said_before_its_end_still_arrives(house: House) -> None:
    tun = house.listening("tun")
    end = house.raw("tun", GREETING + ready(b"link-1"))
    house.until(lambda: bool(tun.opened))
    end.sendall(message(b"last words"))
    end.close()
    lane = tun.opened[0]
    assert lane.send(b"to a dead one")
    lane.flush()
    assert lane.waiting == 0
    house.until(lambda: bool(tun.closed))
    assert tun.data() == [b"last words"]
    assert tun.hub.lane("link-1") is None


def test_a_closed_lane_is_not_dialled_again(house: House) -> None:
    tun, link, _, to_tun = house.pair()
    to_tun.close()
    assert link.closed == [to_tun]
    house.until(lambda: bool(tun.closed))
    house.settle()
    assert len(tun.opened) == 1
    assert link.hub.lane("tun") is None
    to_tun.close()
    assert link.closed == [to_tun]


def test_a_lane_that_waits_for_its_actor_can_be_closed(house: House) -> None:
    link = house.actor("link-1")
    lane = link.hub.connect("tun")
    lane.close()
    house.listening("tun")
    house.settle()
    assert not link.opened
    assert link.hub.connect("tun") is not lane


def test_an_actor_that_stays_away_is_not_waited_for_by_spinning(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_module, "QUICK_RETRIES", 3)
    house.actor("link-1").hub.connect("tun")
    end = time.monotonic() + 0.5
    house.loop.call_after(0.5, lambda: None)
    turns = 0
    while time.monotonic() < end:
        house.loop.turn()
        turns += 1
    assert turns <= 12


def test_a_lane_that_its_own_callback_closes_delivers_nothing_more(house: House) -> None:
    tun = house.listening("tun")
    tun.on_frame = lambda lane, _data: lane.close()
    house.raw("tun", GREETING + ready(b"link-1") + message(b"first") + message(b"second"))
    house.until(lambda: bool(tun.closed))
    assert tun.data() == [b"first"]


def test_a_lane_that_is_closed_as_it_opens_delivers_nothing(house: House) -> None:
    tun = house.listening("tun")
    tun.on_open = lambda lane: lane.close()
    house.raw("tun", GREETING + ready(b"link-1") + message(b"first"))
    house.until(lambda: bool(tun.closed))
    assert tun.frames == []


def test_a_hub_that_closes_while_a_newcomer_replaces_another_opens_nothing(house: House) -> None:
    tun = house.listening("tun")
    house.raw("tun", GREETING + ready(b"link-1"))
    house.until(lambda: len(tun.opened) == 1)
    tun.on_close = lambda _lane: tun.hub.close()
    house.raw("tun", GREETING + ready(b"link-1") + message(b"first"))
    house.until(lambda: len(tun.closed) == 1)
    house.settle()
    assert len(tun.opened) == 1
    assert tun.frames == []
    assert tun.hub.lane("link-1") is None


def test_one_who_is_deaf_is_closed(house: House) -> None:
    tun = house.listening("tun")
    end = house.raw("tun", GREETING + ready(b"link-1"))
    house.until(lambda: bool(tun.opened))
    end.shutdown(socket.SHUT_RD)
    assert tun.opened[0].send(b"unheard")
    tun.opened[0].flush()
    house.until(lambda: bool(tun.closed))


def test_closing_a_hub_leaves_no_descriptor_and_no_file(house: House) -> None:
    before = open_descriptors()
    tun, link, _, _ = house.pair()
    end = house.raw("tun")
    house.settle()
    tun.hub.close()
    link.hub.close()
    end.close()
    assert open_descriptors() == before
    assert list(house.run.iterdir()) == []
    assert len(tun.closed) == len(link.closed) == 1


def test_a_stale_file_of_a_dead_actor_is_replaced(house: House) -> None:
    stale = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stale.bind(str(house.run / "tun.lane"))
    stale.close()
    _, _, to_link, _ = house.pair()
    assert to_link.is_open


# --- descriptors ------------------------------------------------------------------------------------------------------


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "arena"
    path.write_bytes(b"payload".ljust(4096, b"\0"))
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    yield descriptor
    os.close(descriptor)


def test_either_side_hands_over_one_descriptor_that_can_only_be_read(house: House, arena: int) -> None:
    _, _, to_link, to_tun = house.pair(attach=arena)
    for lane in (to_link, to_tun):
        assert os.pread(lane.attached, 7, 0) == b"payload"
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(lane.attached, b"x", 0)
        with pytest.raises(PermissionError):
            mmap.mmap(lane.attached, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        with mmap.mmap(lane.attached, 4096, mmap.MAP_SHARED, mmap.PROT_READ) as mapped:
            assert mapped[:7] == b"payload"
        assert not os.get_inheritable(lane.attached)


def test_what_was_handed_over_is_closed_with_the_lane_and_comes_again_with_the_next(house: House, arena: int) -> None:
    tun, link, to_link, to_tun = house.pair(attach=arena)
    seen_at_close: list[bytes] = []
    link.on_close = lambda lane: seen_at_close.append(os.pread(lane.attached, 7, 0))
    before = open_descriptors()
    to_link.close()
    assert to_link.attached == -1
    house.until(lambda: len(link.closed) == 1)
    assert seen_at_close == [b"payload"]
    assert to_tun.attached == -1
    house.until(lambda: len(link.opened) == len(tun.opened) == 2)
    assert os.pread(to_tun.attached, 7, 0) == b"payload"
    assert len(open_descriptors()) == len(before)


def test_pyzmq_gets_frames_from_one_who_attaches(house: House, arena: int) -> None:
    tun = house.listening("tun", attach=arena)
    dealer, received = house.zmq(zmq.DEALER, b"link-1")
    dealer.connect(house.address("tun"))
    house.until(lambda: bool(tun.opened))
    assert tun.opened[0].attached == -1
    assert tun.opened[0].send(b"as ever")
    house.until(lambda: bool(received))
    assert received == [[b"as ever"]]


def test_a_descriptor_that_can_be_written_to_is_not_handed_over(house: House, tmp_path: Path) -> None:
    with (tmp_path / "arena").open("w+b") as writable, pytest.raises(LaneError, match="open it read-only"):
        house.actor("tun", attach=writable.fileno())


def test_descriptors_that_nobody_expects_are_closed(house: House, arena: int) -> None:
    tun = house.listening("tun")
    end = house.raw("tun")
    house.settle()
    before = len(open_descriptors())
    socket.send_fds(end, [GREETING[:10]], [arena, arena, arena])
    house.settle()
    socket.send_fds(end, [GREETING[10:]], [arena])
    house.settle()
    assert tun.counters["lanes.descriptors"] == 1
    end.sendall(ready(b"link-1"))
    house.until(lambda: bool(tun.opened))
    socket.send_fds(end, [message(b"with one more")], [arena])
    house.until(lambda: bool(tun.frames))
    assert len(open_descriptors()) == before + 1
    tun.opened[0].close()
    assert len(open_descriptors()) == before - 1


def test_a_descriptor_of_one_who_never_gets_ready_is_closed(house: House, arena: int) -> None:
    tun = house.listening("tun")
    before = open_descriptors()
    end = house.raw("tun", b"\xff" + b"garbage" * 10, (arena,))
    house.until(lambda: tun.counters["lanes.garbage"] == 1)
    end.close()
    assert open_descriptors() == before


# --- slow and hostile -------------------------------------------------------------------------------------------------


def test_one_who_does_not_read_gets_a_bounded_number_of_frames_and_all_of_those(house: House) -> None:
    tun = house.listening("tun")
    end = house.raw("tun", GREETING + ready(b"link-1"))
    house.until(lambda: bool(tun.opened))
    end.recv(4096)
    lane = tun.opened[0]
    taken: list[bytes] = []
    while len(taken) < 100_000:
        frame = message(len(taken).to_bytes(4, "big") + bytes(200))
        if not lane.send(frame):
            break
        taken.append(frame)
        if len(taken) % 10 == 0:
            house.loop.call_after(0, lambda: None)
            house.loop.turn()
    assert tun.counters["lanes.full"] == 1
    assert OUT_BYTES // 2 < lane.waiting <= OUT_BYTES
    assert tun.hub.waiting() == lane.waiting
    received = bytearray()
    expected = b"".join(message(frame) for frame in taken)
    while len(received) < len(expected):
        received += end.recv(1 << 20)
        house.loop.call_after(0, lambda: None)
        house.loop.turn()
    assert received == expected
    assert lane.waiting == 0
    # Nothing is left to write: the loop has to wait again.
    begin = time.monotonic()
    house.loop.call_after(0.05, lambda: None)
    house.loop.turn()
    assert time.monotonic() - begin > 0.04
    assert lane.send(b"room again")


def test_empty_frames_are_no_way_past_the_bound(house: House) -> None:
    _, _, _, to_tun = house.pair()
    taken = 0
    while to_tun.send(b""):
        taken += 1
    assert taken <= OUT_BYTES // lane_module.PIECE_BYTES


def test_a_frame_over_the_limit_is_not_sent_and_the_lane_stays(house: House) -> None:
    tun, link, _, to_tun = house.pair(max_message=1000)
    assert not to_tun.send(bytes(1001))
    assert to_tun.send(bytes(1000))
    house.until(lambda: bool(tun.frames))
    assert link.counters["lanes.oversize"] == 1
    assert to_tun.is_open


def test_a_frame_as_large_as_the_bound_fits_an_empty_lane(house: House) -> None:
    tun, _, _, to_tun = house.pair()
    assert to_tun.send(bytes(OUT_BYTES))
    assert not to_tun.send(b"behind it")
    house.until(lambda: bool(tun.frames))
    assert tun.data() == [bytes(OUT_BYTES)]


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        GREETING + message(b"no READY before"),
        GREETING + ready(b"link-9") + b"\xff" * 20,
        GREETING + ready(b"link-9") + b"\x02\x7f" + bytes(7),
        b"\xff" + bytes(200),
    ],
    ids=["http", "message before ready", "flags", "size", "greeting"],
)
def test_garbage_closes_its_lane_and_no_other(house: House, garbage: bytes) -> None:
    tun, _, to_link, to_tun = house.pair()
    end = house.raw("tun", garbage)
    house.until(lambda: tun.counters["lanes.garbage"] == 1)
    while end.recv(4096):
        pass
    assert tun.hub.lane("link-9") is None
    assert to_tun.send(b"goes on")
    house.until(lambda: bool(tun.frames))
    assert tun.frames == [("link-1", b"goes on")]
    assert to_link not in tun.closed


def test_a_dialled_actor_that_talks_garbage_is_dialled_again(house: House) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(house.run / "tun.lane"))
    listener.listen()
    link = house.actor("link-1")
    lane = link.hub.connect("tun")
    end, _ = listener.accept()
    end.sendall(b"what?" * 20)
    house.until(lambda: link.counters["lanes.garbage"] == 1)
    end.close()
    listener.close()
    house.listening("tun")
    house.until(lambda: lane.is_open)
    assert link.opened == [lane]


def test_one_who_says_nothing_is_closed_in_time(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_module, "HANDSHAKE_SECONDS", 0.05)
    tun = house.listening("tun")
    end = house.raw("tun", GREETING)
    house.until(lambda: tun.counters["lanes.late"] == 1)
    while end.recv(4096):
        pass
    assert not tun.opened
    assert not tun.closed


def test_one_who_is_ready_in_time_is_not_closed_later(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_module, "HANDSHAKE_SECONDS", 0.05)
    tun, link, _, _ = house.pair()
    end = time.monotonic() + 0.15
    house.loop.call_after(0.15, lambda: None)
    house.until(lambda: time.monotonic() >= end)
    assert not tun.closed
    assert not link.closed


def test_one_who_closes_with_our_bytes_unread_is_closed(house: House) -> None:
    tun = house.listening("tun")
    end = house.raw("tun", GREETING + ready(b"link-1"))
    house.until(lambda: bool(tun.opened))
    # Its end of the connection goes with our greeting unread: the kernel reports a reset, not an end.
    end.close()
    house.until(lambda: bool(tun.closed))
    assert tun.hub.lane("link-1") is None


def test_pings_without_end_from_one_who_does_not_read_fill_no_memory(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = 16_000
    monkeypatch.setattr(lane_module, "OUT_BYTES", bound)
    tun = house.listening("tun")
    end = house.raw("tun", GREETING + ready(b"link-1"))
    house.until(lambda: bool(tun.opened))
    pings = (b"\x04\x17\x04PING\0\0" + b"sixteen octets !") * 500
    for _ in range(600):
        end.sendall(pings)
        house.loop.call_after(0, lambda: None)
        house.loop.turn()
    assert bound // 2 < tun.opened[0].waiting <= bound + lane_module.PIECE_BYTES
    end.sendall(message(b"still heard"))
    house.until(lambda: bool(tun.frames))


# --- limits -----------------------------------------------------------------------------------------------------------


def test_who_comes_in_past_the_limit_is_refused_and_a_place_that_is_left_is_free_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane_module, "MAX_ACCEPTED", 2)
    tun = house.listening("tun")
    ends = [house.raw("tun", GREETING + ready(b"link-%d" % number)) for number in range(2)]
    house.until(lambda: len(tun.opened) == 2)
    third = house.raw("tun")
    house.until(lambda: tun.counters["lanes.refused"] == 1)
    assert third.recv(4096) == b""
    ends[0].close()
    house.until(lambda: len(tun.closed) == 1)
    house.raw("tun", GREETING + ready(b"link-4"))
    house.until(lambda: len(tun.opened) == 3)


def test_dialling_past_the_limit_is_an_error_that_names_the_actor(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane_module, "MAX_DIALLED", 2)
    link = house.actor("link-1")
    first = link.hub.connect("tun")
    link.hub.connect("link-2")
    with pytest.raises(LaneError, match="no lane to link-3"):
        link.hub.connect("link-3")
    first.close()
    link.hub.connect("link-3")


def test_a_path_that_is_too_long_is_an_error_that_names_it(house: House) -> None:
    name = "n" * 107
    with pytest.raises(LaneError, match=name):
        house.actor("link-1").hub.connect(name)
    with pytest.raises(LaneError, match=name):
        house.actor(name).hub.listen()


def test_a_folder_in_the_way_is_an_error_that_names_it(house: House) -> None:
    (house.run / "tun.lane").mkdir()
    with pytest.raises(LaneError, match=r"cannot listen on .*tun\.lane"):
        house.actor("tun").hub.listen()


def test_running_out_of_descriptors_delays_who_comes_in_and_does_not_spin(house: House) -> None:
    tun = house.listening("tun")
    house.raw("tun", GREETING + ready(b"link-1"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        house.until(lambda: tun.counters["lanes.refused"] > 0)
        begin = time.monotonic()
        house.loop.turn()
        assert time.monotonic() - begin > lane_module.ACCEPT_PAUSE_SECONDS / 2
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    house.until(lambda: bool(tun.opened))
