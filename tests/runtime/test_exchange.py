"""Packets between processes through shared arenas: real forks, real memory, real lanes, and whoever dies or lies."""

from __future__ import annotations

import os
import signal
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Final

import pytest

from actors.runtime import exchange as exchange_module
from actors.runtime.exchange import INLINE_BYTES
from actors.runtime.lane import MAX_DIALLED, Lane, LaneHub
from actors.runtime.loop import Loop
from actors.runtime.pages import shared
from protocol.arena import SLOT_BYTES, pack_pieces
from protocol.codec import pack
from protocol.frames import SCHEMA, AskActors, LaneHello, Packets, Recovered, ReportUndelivered, Returned, Undelivered
from tests.lab.waiting import wait_until
from tests.runtime.children import PATIENCE, run_folder
from tests.runtime.exchange_actor import Actor, company, fingerprint, packet

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

SLOTS: Final = 8
LARGE: Final = [60_000, 60_000, 60_000]
"""A run that is leased."""
SMALL: Final = [100, 1400]
"""A run that is copied into its frame."""
FOR_EVER: Final = 600.0


@pytest.fixture
def run() -> Iterator[Path]:
    with run_folder() as folder:
        yield folder


@pytest.fixture
def actor(run: Path) -> Iterator[Callable[..., Actor]]:
    with company(run) as make:
        yield make


def expected(first: int, sizes: list[int]) -> str:
    return fingerprint([packet(first + index, size) for index, size in enumerate(sizes)])


def introduce(writer: Actor, reader: Actor, already: int = 0) -> None:
    """Lets a small run through: then the lane stands, and large ones are leased."""
    writer.send(reader, 900_000, SMALL)
    reader.wait_for_runs(already + 1)


def fill(writer: Actor, reader: Actor, first: int, count: int = 1) -> list[bool]:
    """Sends large runs whether there is room or not."""
    return [writer.try_to_send(reader.link, first + 10 * number, LARGE) for number in range(count)]


# --- what arrives -----------------------------------------------------------------------------------------------------


def test_runs_of_all_sizes_arrive_whole_and_in_order_and_every_slot_comes_back(actor: Callable[..., Actor]) -> None:
    writer, reader = actor("tun"), actor("link-1")
    dice, first, wanted = Random(11), 0, []
    introduce(writer, reader)
    for number in range(150):
        largest = dice.choice((200, 3000, 60_000))
        sizes = [dice.randint(1, largest) for _ in range(dice.randint(1, 4))]
        gaps = number % 3 == 0 and sum(sizes) > INLINE_BYTES
        writer.send(reader, first, sizes, gaps=gaps)
        # Pieces with gaps between them arrive one by one.
        parts = [[size] for size in sizes] if gaps else [sizes]
        for part in parts:
            wanted.append(expected(first, part))
            first += len(part)
    arrived = reader.wait_for_runs(1 + len(wanted))[1:]
    assert [run["fingerprint"] for run in arrived] == wanted
    assert {run["link"] for run in arrived} == {1}
    writer.wait_until_all_is_free()
    assert writer.state(reader)["busy"] == [False]


def test_what_is_sent_while_the_lane_is_being_opened_arrives_too(actor: Callable[..., Actor]) -> None:
    writer = actor("tun")
    for number in range(3):
        assert writer.try_to_send(1, number, [50_000])
    assert writer.free() == SLOTS
    reader = actor("link-1")
    arrived = reader.wait_for_runs(3)
    assert [run["fingerprint"] for run in arrived] == [expected(number, [50_000]) for number in range(3)]


def test_what_waits_for_a_lane_is_bounded(actor: Callable[..., Actor]) -> None:
    writer = actor("tun")
    passed = [writer.try_to_send(1, 0, [60_000]) for _ in range(6)]
    assert passed == [True] * 4 + [False] * 2
    assert writer.counter("dropped.lane_full") == 2


@pytest.mark.parametrize("connected", [True, False])
def test_copies_that_are_too_much_for_one_frame_leave_in_several(actor: Callable[..., Actor], connected: bool) -> None:
    writer, reader = actor("tun"), actor("link-1")
    before = 0
    if connected:
        introduce(writer, reader)
        before = 1
    # Some more than a frame may hold, and some more than may wait for a lane.
    sizes = [60_000] * (16 if connected else 4)
    writer.send(reader, 0, sizes, copy=True)
    wait_until(
        "every packet", lambda: sum(run["packets"] for run in reader.do("runs")[before:]) == len(sizes), PATIENCE
    )
    runs = reader.do("runs")[before:]
    first = 0
    for run in runs:
        assert run["fingerprint"] == expected(first, sizes[first : first + run["packets"]])
        first += run["packets"]
    assert len(runs) > 1
    assert writer.counter("lanes.oversize") == reader.counter("lanes.confused") == 0


def test_both_ends_of_a_lane_can_lease_to_each_other(actor: Callable[..., Actor]) -> None:
    left, right = actor("link-1"), actor("link-2")
    introduce(left, right)
    for number in range(5):
        left.send(right, 10 * number, LARGE)
        right.send(left, 1000 + 10 * number, LARGE)
    assert [run["fingerprint"] for run in left.wait_for_runs(5)] == [
        expected(1000 + 10 * number, LARGE) for number in range(5)
    ]
    right.wait_for_runs(6)
    left.wait_until_all_is_free()
    right.wait_until_all_is_free()


# --- readers that are slow or dead ------------------------------------------------------------------------------------


def test_reader_that_returns_nothing_pins_its_share_and_nobody_else_waits(actor: Callable[..., Actor]) -> None:
    writer, stuck, quick = actor("tun"), actor("link-1"), actor("link-2")
    introduce(writer, stuck)
    introduce(writer, quick)
    stuck.do("hold", holding=True)
    passed = fill(writer, stuck, 0, 6)
    share = writer.state()["share"]
    assert passed == [True] * share + [False] * (6 - share)
    assert writer.counter("dropped.over_share") == (6 - share) * len(LARGE)
    for number in range(20):
        writer.send(quick, 100 + 10 * number, LARGE)
    assert [run["fingerprint"] for run in quick.wait_for_runs(21)[1:]] == [
        expected(100 + 10 * number, LARGE) for number in range(20)
    ]
    writer.wait_for("only the stuck one's left", lambda state: bool(state["free"] == SLOTS - share))
    assert writer.state(stuck)["pinned"] == [share]
    stuck.do("give_back")
    writer.wait_until_all_is_free()


def test_part_of_a_slot_keeps_it_until_the_last_piece_is_back(actor: Callable[..., Actor]) -> None:
    writer, reader = actor("tun"), actor("link-1")
    introduce(writer, reader)
    reader.do("hold", holding=True)
    writer.send(reader, 0, LARGE, gaps=True)
    reader.wait_for_runs(4)
    reader.do("give_back", count=2)
    time.sleep(0.1)
    assert writer.free() == SLOTS - 1
    reader.do("give_back")
    writer.wait_until_all_is_free()


def test_leases_of_a_killed_reader_stay_pinned_until_its_successor_has_recovered(
    actor: Callable[..., Actor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange_module, "PIN_SECONDS", FOR_EVER)
    writer, reader, other = actor("tun"), actor("link-1"), actor("link-2")
    introduce(writer, reader)
    introduce(writer, other)
    reader.do("hold", holding=True)
    assert fill(writer, reader, 0, 2) == [True, True]
    reader.wait_for_runs(3)
    reader.kill()
    writer.wait_for("told of the death", lambda state: state["busy"] == [False], reader)
    writer.send(other, 500, LARGE)
    writer.wait_for("the living one's back", lambda state: bool(state["free"] == SLOTS - 2))
    assert writer.state(reader)["pinned"] == [2]
    reader.start()
    writer.wait_until_all_is_free()
    writer.send(reader, 700, LARGE)
    assert reader.wait_for_runs(1)[-1]["fingerprint"] == expected(700, LARGE)


def test_leases_of_a_killed_reader_without_successor_come_back_by_themselves(
    actor: Callable[..., Actor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange_module, "PIN_SECONDS", 0.3)
    writer, reader = actor("tun"), actor("link-1")
    introduce(writer, reader)
    reader.do("hold", holding=True)
    fill(writer, reader, 0, 2)
    rooms = writer.state()["rooms"]
    reader.kill()
    writer.wait_until_all_is_free()
    assert writer.state()["rooms"] > rooms


def test_leases_stay_pinned_from_the_last_death_whatever_the_time_since_an_earlier_one(
    actor: Callable[..., Actor],
) -> None:
    writer, reader = actor("tun"), actor("link-1")
    introduce(writer, reader)
    writer.do("pin_seconds", seconds=0.5)
    reader.kill()
    reader.start()
    introduce(writer, reader)
    reader.do("hold", holding=True)
    fill(writer, reader, 0, 2)
    reader.wait_for_runs(3)
    writer.do("pin_seconds", seconds=FOR_EVER)
    reader.kill()
    writer.wait_for("told of the death", lambda state: state["busy"] == [False], reader)
    time.sleep(0.8)
    assert writer.free() == SLOTS - 2


def test_leases_come_back_where_the_dead_one_had_said_much_that_is_not_read_yet(
    actor: Callable[..., Actor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange_module, "PIN_SECONDS", FOR_EVER)
    writer, reader = actor("tun"), actor("link-1")
    # The writer dials the reader, and the reader's successor will dial the writer.
    introduce(writer, reader)
    reader.do("hold", holding=True)
    assert fill(writer, reader, 0, 2) == [True, True]
    reader.wait_for_runs(3)
    os.kill(writer.pid, signal.SIGSTOP)
    for _ in range(100):
        reader.try_to_send(0, 0, SMALL)
    reader.kill()
    reader.start()
    reader.do("connect", to="tun")
    os.kill(writer.pid, signal.SIGCONT)
    writer.wait_for("the successor", lambda state: "link-1" in state["lanes"] and state["rooms"] > 1)
    writer.wait_until_all_is_free()
    writer.send(reader, 700, LARGE)
    assert reader.wait_for_runs(1)[-1]["fingerprint"] == expected(700, LARGE)


# --- writers that die -------------------------------------------------------------------------------------------------


def test_pieces_of_a_killed_writer_stay_as_they_were_until_they_are_given_back(actor: Callable[..., Actor]) -> None:
    writer, reader = actor("tun"), actor("link-1")
    introduce(writer, reader)
    reader.do("hold", holding=True)
    assert fill(writer, reader, 0, 3) == [True] * 3
    reader.wait_for_runs(4)
    before, old_number = reader.do("held"), writer.arena.number
    writer.kill()
    assert reader.do("held") == before
    writer.start()
    assert writer.arena.number != old_number
    introduce(writer, reader, 4)
    # Into the same slots of another arena.
    assert fill(writer, reader, 5000, 3) == [True] * 3
    reader.wait_for_runs(8)
    assert reader.do("held")[: len(before)] == before


def test_pieces_of_a_dead_writer_are_never_given_back_to_its_successor(actor: Callable[..., Actor]) -> None:
    writer, reader = actor("tun"), actor("link-1")
    # The one lane, which the reader dials, is the same to it before and after.
    reader.do("connect", to="tun")
    writer.wait_for("the lane", lambda state: state["lanes"] == ["link-1"])
    introduce(writer, reader)
    reader.do("hold", holding=True)
    # So many that they would leave at once.
    assert fill(writer, reader, 0, 5) == [True] * 5
    reader.wait_for_runs(6)
    writer.kill()
    writer.start()
    writer.wait_for("the lane again", lambda state: state["lanes"] == ["link-1"])
    introduce(writer, reader, 6)
    assert fill(writer, reader, 5000) == [True]
    reader.wait_for_runs(8)
    # Those of the dead one, and what needs not be given back.
    reader.do("give_back", count=6)
    writer.send(reader, 6000, SMALL)
    reader.wait_for_runs(9)
    assert writer.counter("lanes.confused") == 0
    assert writer.free() == SLOTS - 1
    reader.do("give_back")
    writer.wait_until_all_is_free()


# --- rights -----------------------------------------------------------------------------------------------------------


def test_reader_cannot_write_to_what_it_is_shown(actor: Callable[..., Actor]) -> None:
    writer, reader = actor("tun"), actor("link-1")
    introduce(writer, reader)
    reader.do("hold", holding=True)
    fill(writer, reader, 0)
    reader.wait_for_runs(2)
    before = reader.do("held")
    ways = reader.do("tamper", sender="tun")
    if os.fstat(writer.arena.readable).st_uid == os.geteuid():
        # Where files can't be given away, the memory belongs to its readers' user, who may do this.
        del ways["change its mode"]
    assert [way for way, outcome in ways.items() if outcome == "done"] == []
    assert reader.do("view_is_read_only")
    assert reader.do("held") == before


# --- memory and lanes at rest -----------------------------------------------------------------------------------------


def test_slots_that_nobody_uses_give_their_memory_back(
    actor: Callable[..., Actor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange_module, "IDLE_SECONDS", 0.1)
    writer, reader = actor("tun"), actor("link-1")
    introduce(writer, reader)
    reader.do("hold", holding=True)
    fill(writer, reader, 0, 5)
    reader.wait_for_runs(6)
    assert os.fstat(writer.arena.readable).st_blocks * 512 > 5 * sum(LARGE) // 2
    reader.do("give_back")
    wait_until("no page in use", lambda: os.fstat(writer.arena.readable).st_blocks == 0, PATIENCE)
    reader.do("hold", holding=False)
    writer.send(reader, 100, LARGE)
    assert reader.wait_for_runs(7)[-1]["fingerprint"] == expected(100, LARGE)


def test_lane_that_nobody_uses_is_closed_and_opened_again_when_it_is_needed(
    actor: Callable[..., Actor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange_module, "LANE_IDLE_SECONDS", 0.2)
    writer, reader = actor("tun"), actor("link-1")
    introduce(writer, reader)
    writer.wait_for("no lane", lambda state: state["lanes"] == [])
    writer.send(reader, 100, [60_000])
    assert reader.wait_for_runs(2)[-1]["fingerprint"] == expected(100, [60_000])


def test_lane_with_pieces_to_come_back_is_not_closed(
    actor: Callable[..., Actor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange_module, "LANE_IDLE_SECONDS", 0.1)
    writer, reader = actor("tun"), actor("link-1")
    writer.do("connect", to="link-1")
    introduce(writer, reader)
    reader.do("hold", holding=True)
    fill(writer, reader, 0)
    time.sleep(0.5)
    assert writer.state(reader)["busy"] == [True]


def test_links_that_are_over_are_dialled_no_more(actor: Callable[..., Actor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_module, "LANE_IDLE_SECONDS", 0.2)
    writer, reader = actor("tun"), actor("link-1")
    writer.do("connect", to="link-2")
    introduce(writer, reader)
    assert writer.try_to_send(3, 0, SMALL)
    reader.kill()
    # Whom it is told to keep a lane to is dialled for ever.
    writer.wait_for("it has given up", lambda state: state["dialled"] == ["link-2"])


def test_links_that_are_over_do_not_keep_others_from_being_dialled(
    actor: Callable[..., Actor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange_module, "LANE_IDLE_SECONDS", FOR_EVER)
    writer = actor("tun")
    for number in range(1, MAX_DIALLED + 1):
        assert writer.try_to_send(number, 0, SMALL)
    assert not writer.try_to_send(MAX_DIALLED + 1, 0, SMALL)
    assert writer.counter("lanes.too_many") == 1
    reader = actor(f"link-{MAX_DIALLED + 2}")
    writer.send(reader, 0, [60_000])
    assert reader.wait_for_runs(1)[0]["fingerprint"] == expected(0, [60_000])


# --- those who lie ----------------------------------------------------------------------------------------------------


class Liar:
    """An actor of the test's own process that says on a lane whatever it likes."""

    def __init__(self, run: Path, name: str, attach: int) -> None:
        self.frames: list[bytes] = []
        self.closed = 0
        self._loop = Loop()
        self._hub = LaneHub(
            self._loop,
            run,
            name,
            Counter(),
            on_frame=lambda _lane, data: self.frames.append(data),
            on_open=lambda _lane: None,
            on_close=self._on_close,
            attach=attach,
        )

    def dial(self, name: str) -> Lane:
        lane = self._hub.connect(name)
        self.turn_until("a lane", lambda: lane.is_open)
        return lane

    def say(self, lane: Lane, *frames: bytes) -> None:
        for frame in frames:
            assert lane.send(frame)
        lane.flush()

    def turn_until(self, what: str, wanted: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not wanted():
            assert time.monotonic() < deadline, f"{what}: never"
            self._loop.call_after(0.01, lambda: None)
            self._loop.turn()

    def close(self) -> None:
        self._hub.close()

    def _on_close(self, lane: Lane) -> None:
        self.closed += 1
        self._hub.drop(lane)


@pytest.fixture
def memory() -> Iterator[tuple[int, int]]:
    """The liar's arena: two slots, writable and readable."""
    descriptors = shared("liar", 2 * SLOT_BYTES)
    yield descriptors
    for descriptor in descriptors:
        os.close(descriptor)


HELLO: Final = pack(LaneHello(SCHEMA, 77, 2))
IN_ORDER: Final = pack(Packets(0, b"", b"", pack_pieces([(0, (100, 200))])))


def raw_pieces(*words: int) -> bytes:
    return pack(Packets(0, b"", b"", struct.pack(f"<{len(words)}I", *words)))


def returned(*slots: int, link: int = 9) -> bytes:
    words = [word for slot in slots for word in (slot, link)]
    return pack(Returned(struct.pack(f"<{len(words)}Q", *words)))


LIES: Final = {
    "a piece past the arena": [HELLO, raw_pieces(2 * SLOT_BYTES - 50, 1, 100)],
    "a piece far past the arena": [HELLO, raw_pieces(0xFFFF_FFF0, 1, 100)],
    "a piece in two slots": [HELLO, raw_pieces(SLOT_BYTES - 50, 1, 100)],
    "an empty packet": [HELLO, raw_pieces(0, 2, 100, 100)],
    "packets that go backwards": [HELLO, raw_pieces(0, 2, 100, 50)],
    "descriptors cut short": [HELLO, raw_pieces(0, 9, 100)],
    "pieces before a hello": [IN_ORDER],
    "a return of what was never leased": [HELLO, returned(0)],
    "a return of a slot that is none": [HELLO, returned(1 << 63)],
    "a return for somebody else": [HELLO, returned(0, link=1)],
    "another schema": [pack(LaneHello(SCHEMA + 1, 77, 2))],
    "an arena of another size": [pack(LaneHello(SCHEMA, 77, 3))],
    "a second hello": [HELLO, HELLO],
    "a frame that belongs elsewhere": [HELLO, pack(AskActors(1))],
    "a report to who takes none": [HELLO, pack(ReportUndelivered(Undelivered.NO_ROUTE, b"packet"))],
    "garbage": [b"\xc1\xff\x00garbage"],
    "nothing": [b""],
    "an unknown type": [b"\x92\xcc\xff\x90"],
}


@pytest.mark.parametrize("lie", LIES)
def test_who_lies_loses_its_lane_and_nothing_else_happens(
    lie: str, actor: Callable[..., Actor], run: Path, memory: tuple[int, int], capfd: pytest.CaptureFixture[str]
) -> None:
    honest, target = actor("link-1"), actor("tun")
    introduce(honest, target)
    liar = Liar(run, "link-9", memory[1])
    lane = liar.dial("tun")
    liar.say(lane, *LIES[lie])
    liar.turn_until("its end", lambda: bool(liar.closed))
    assert target.counter("lanes.confused") == 1
    assert "closed a lane: it sent nonsense" in capfd.readouterr().err
    honest.send(target, 100, LARGE)
    assert target.wait_for_runs(2)[-1]["fingerprint"] == expected(100, LARGE)
    honest.wait_until_all_is_free()
    liar.close()


def test_who_returns_the_same_piece_twice_loses_its_lane(
    actor: Callable[..., Actor], run: Path, memory: tuple[int, int]
) -> None:
    target = actor("tun")
    liar = Liar(run, "link-9", memory[1])
    lane = liar.dial("tun")
    liar.say(lane, HELLO)
    assert target.try_to_send(9, 0, LARGE)
    liar.turn_until("the lease", lambda: len(liar.frames) == 3)
    # The first slot that is taken of all.
    liar.say(lane, returned(0, 0))
    liar.turn_until("its end", lambda: bool(liar.closed))
    assert target.counter("lanes.confused") == 1
    target.wait_until_all_is_free()
    liar.close()


def strange_descriptor(kind: str, path: Path) -> int:
    """A descriptor, not of shared memory of a fixed size."""
    if kind == "a pipe":
        reader, writer = os.pipe()
        os.close(writer)
        return reader
    if kind == "a folder":
        return os.open(path, os.O_RDONLY)
    file = path / "file"
    file.write_bytes(bytes(2 * SLOT_BYTES))
    if kind == "a file":
        return os.open(file, os.O_RDONLY)
    made = os.memfd_create("unsealed")
    os.ftruncate(made, 2 * SLOT_BYTES)
    readable = os.open(f"/proc/self/fd/{made}", os.O_RDONLY)
    os.close(made)
    return readable


@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a file", "memory that can be cut short"])
def test_who_shows_what_cannot_be_looked_into_safely_loses_its_lane(
    kind: str, actor: Callable[..., Actor], run: Path, tmp_path: Path
) -> None:
    target = actor("tun")
    descriptor = strange_descriptor(kind, tmp_path)
    liar = Liar(run, "link-9", descriptor)
    liar.say(liar.dial("tun"), HELLO)
    liar.turn_until("its end", lambda: bool(liar.closed))
    assert target.counter("lanes.confused") == 1
    liar.close()
    os.close(descriptor)


def test_who_shows_no_arena_may_still_send_small_runs(actor: Callable[..., Actor], run: Path) -> None:
    target = actor("tun")
    liar = Liar(run, "link-9", -1)
    lane = liar.dial("tun")
    liar.say(lane, pack(Recovered()), pack(Packets(0, struct.pack("<I", 100), packet(5, 100), b"")))
    assert target.wait_for_runs(1)[0]["fingerprint"] == expected(5, [100])
    liar.say(lane, IN_ORDER)
    liar.turn_until("its end", lambda: bool(liar.closed))
    liar.close()


@pytest.mark.parametrize("seed", range(5))
def test_any_bytes_on_a_lane_cost_at_most_that_lane(
    seed: int, actor: Callable[..., Actor], run: Path, memory: tuple[int, int]
) -> None:
    target = actor("tun")
    pid, dice = target.pid, Random(seed)
    good: list[bytes] = [
        HELLO,
        IN_ORDER,
        returned(0, 1),
        pack(Recovered()),
        pack(Packets(0, struct.pack("<I", 4), b"abcd", b"")),
    ]
    for number in range(30):
        liar = Liar(run, f"link-{number}", memory[1])
        lane = liar.dial("tun")
        for _ in range(6):
            frame = bytearray(dice.choice(good))
            for _ in range(dice.randint(0, 3)):
                frame[dice.randrange(len(frame))] = dice.randrange(256)
            if not lane.send(bytes(frame)):
                break
        lane.flush()
        liar.close()
    # It answers, and what was leased to it or by it is nobody's loss.
    target.wait_until_all_is_free()
    assert target.pid == pid
