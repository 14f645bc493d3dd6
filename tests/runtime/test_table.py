"""A data actor's copy of the forwarding table: whole, in step with the router, and kept while the router is away."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import zmq

from actors.runtime.actor import Runtime
from actors.runtime.table import MOST_HELD_BACK, TableFollower
from protocol.codec import pack, unpack
from protocol.frames import (
    MAX_CHANGES,
    AskPublicKey,
    AskTable,
    Heartbeat,
    PublicKeyAnswer,
    RouteDelta,
    RouteEntry,
    RouteState,
    Stop,
    TableEpoch,
    TablePart,
    TableSerial,
)
from tests.lab.waiting import wait_until
from tests.runtime.children import PATIENCE, Child, born, run_folder, tell
from tests.runtime.outside import Neighbour, Outside

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def entry(number: int, link: int = 1, state: RouteState = RouteState.SELECTED) -> RouteEntry:
    """The route to the /64 of this number."""
    network = b"\x04" + number.to_bytes(7, "big") + bytes(8)
    key = number.to_bytes(16, "big") + link.to_bytes(16, "big")
    return RouteEntry(network, 64, state, link, key, False)


class Router:
    """A router's sockets: publishes what the test says, and serves its table to whoever asks."""

    def __init__(self, run: Path, epoch: int) -> None:
        self.epoch = epoch
        self.serial = 0
        self.entries: Sequence[RouteEntry] = ()
        self.part_size = 1000
        self.answers = True
        self.asked = 0
        self._unasked: deque[TablePart] = deque()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._inbox = self._context.socket(zmq.ROUTER)
        self._inbox.setsockopt(zmq.RCVTIMEO, 10)
        self._inbox.bind(f"ipc://{run / 'router'}")
        self._events = self._context.socket(zmq.XPUB)
        self._events.setsockopt(zmq.XPUB_WELCOME_MSG, pack(TableEpoch(epoch)))
        self._events.setsockopt(zmq.RCVTIMEO, int(PATIENCE * 1000))
        self._events.bind(f"ipc://{run / 'router.events'}")
        self._serving = True
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def wait_for_subscriber(self) -> None:
        """Until whoever follows hears of epochs, changes and serials: before that, changes go nowhere."""
        for _ in range(3):
            self._events.recv()

    def publish(self, serial: int, *changes: RouteEntry, epoch: int | None = None) -> None:
        """Sends a change to whoever subscribed."""
        self._events.send(pack(RouteDelta(self.epoch if epoch is None else epoch, serial, changes)))

    def remind(self, serial: int, *, epoch: int | None = None) -> None:
        """Says which change was the last."""
        self._events.send(pack(TableSerial(self.epoch if epoch is None else epoch, serial)))

    def send_part(self, serial: int, *entries: RouteEntry, number: int = 0, more: bool = False) -> None:
        """Sends part of a table to the one who follows, asked or not; at the latest a moment later."""
        self._unasked.append(TablePart(self.epoch, serial, number, entries, more))

    def close(self) -> None:
        self._serving = False
        self._thread.join()
        self._context.destroy(linger=0)

    def _serve(self) -> None:
        while self._serving:
            while self._unasked:
                self._inbox.send_multipart((b"tun", pack(self._unasked.popleft())))
            with contextlib.suppress(zmq.Again):
                sender, data = self._inbox.recv_multipart()
                if unpack(data) == AskTable():
                    self.asked += 1
                    if self.answers:
                        self._send_table(sender)

    def _send_table(self, sender: bytes) -> None:
        for number, start in enumerate(range(0, max(1, len(self.entries)), self.part_size)):
            part = tuple(self.entries[start : start + self.part_size])
            more = start + self.part_size < len(self.entries)
            self._inbox.send_multipart((sender, pack(TablePart(self.epoch, self.serial, number, part, more))))


def follow(runtime: Runtime, _: object) -> None:
    """An actor that follows the table, tells of every change, and answers whose address it thinks one is."""

    def changed(changes: Sequence[RouteEntry]) -> None:
        numbers = [(int.from_bytes(change.network[1:8], "big"), change) for change in changes]
        gone = [(number, change.length) for number, change in numbers if change.state is RouteState.FORGOTTEN]
        tell(runtime, ["changed", [number for number, _ in numbers][:100], gone[:100]])

    router = runtime.connect("router", answers=True)
    follower = TableFollower(runtime, router, changed, lambda: tell(runtime, ["introduced", [], []]))

    def answer(sender: bytes, question: AskPublicKey) -> None:
        route = follower.table.lookup(question.address)
        key = b"" if route is None else bytes((route.state, route.link))
        runtime.send(sender, PublicKeyAnswer(question.token, key))

    runtime.on(AskPublicKey, answer)
    runtime.serve()


class Follower:
    """The actor that follows, and a neighbour of it who asks what it believes."""

    def __init__(self, child: Child, neighbour: Neighbour) -> None:
        self.child = child
        self._neighbour = neighbour
        self.forgotten: list[list[int]] = []
        """Number and length of the prefixes that it told last were forgotten."""

    def hears(self, what: str) -> list[int]:
        """The next thing of this kind that it tells."""
        while True:
            word, numbers, self.forgotten = self.child.told()
            if word == what:
                return list(numbers)

    def state(self, number: int) -> tuple[int, int] | None:
        """State and link of the route to an address in the /64 of this number; None where it knows none."""
        answer = self._neighbour.ask(AskPublicKey(number, entry(number).network[:8] + bytes(7) + b"\x01"))
        assert isinstance(answer, PublicKeyAnswer)
        return (answer.public_key[0], answer.public_key[1]) if answer.public_key else None

    def wait_for(self, number: int, state: tuple[int, int] | None) -> None:
        """Until it believes that of a /64."""
        wait_until(f"route {number} is {state}", lambda: self.state(number) == state, PATIENCE)


@pytest.fixture
def run() -> Iterator[Path]:
    with run_folder() as folder:
        yield folder


@pytest.fixture
def follower(run: Path) -> Iterator[Follower]:
    outside = Outside(run, "tun")
    with born(run, follow, name="tun") as child:
        yield Follower(child, outside.neighbour())
    outside.close()


@contextlib.contextmanager
def routing(run: Path, epoch: int = 1, serial: int = 0, entries: Sequence[RouteEntry] = ()) -> Iterator[Router]:
    """A router that lives."""
    router = Router(run, epoch)
    router.serial, router.entries = serial, entries
    try:
        yield router
    finally:
        router.close()


UP = (int(RouteState.SELECTED), 1)
FULL_DELTA = tuple(entry(number) for number in range(MAX_CHANGES))
DELTAS_HELD_BACK = MOST_HELD_BACK // MAX_CHANGES


def _in_step(follower: Follower, router: Router) -> None:
    """Follower and router have met, and the table is whole."""
    router.wait_for_subscriber()
    follower.hears("introduced")
    follower.hears("changed")


def test_table_is_asked_for_and_loaded(run: Path, follower: Follower) -> None:
    with routing(run, serial=7, entries=[entry(1), entry(2, link=9)]) as router:
        router.wait_for_subscriber()
        follower.hears("introduced")
        assert follower.hears("changed") == [1, 2]
        assert follower.state(1) == UP
        assert follower.state(2) == (RouteState.SELECTED, 9)
        assert follower.state(3) is None


def test_table_in_many_parts_is_whole(run: Path, follower: Follower) -> None:
    with routing(run, serial=7, entries=[entry(number) for number in range(1, 5001)]) as router:
        router.part_size = 100
        router.wait_for_subscriber()
        follower.wait_for(5000, UP)
        assert [follower.state(number) for number in (1, 100, 101, 2500, 4999)] == [UP] * 5


def test_empty_table_is_a_table(run: Path, follower: Follower) -> None:
    with routing(run) as router:
        _in_step(follower, router)
        router.publish(1, entry(1))
        assert follower.hears("changed") == [1]


def test_changes_are_applied_in_order(run: Path, follower: Follower) -> None:
    with routing(run, serial=7, entries=[entry(1)]) as router:
        _in_step(follower, router)
        router.publish(8, entry(1, link=5), entry(2))
        router.publish(9, entry(1, link=6))
        router.publish(10, entry(2, state=RouteState.FORGOTTEN), entry(3, state=RouteState.RESOLVING))
        assert [follower.hears("changed") for _ in range(3)] == [[1, 2], [1], [2, 3]]
        assert follower.state(1) == (RouteState.SELECTED, 6)
        assert follower.state(2) is None
        assert follower.state(3) == (RouteState.RESOLVING, 1)
        assert router.asked == 1


def test_missed_change_makes_it_ask_again(run: Path, follower: Follower) -> None:
    with routing(run, serial=7, entries=[entry(1)]) as router:
        _in_step(follower, router)
        router.serial, router.entries = 9, [entry(1), entry(2), entry(3)]
        router.publish(9, entry(3))
        assert follower.hears("changed") == [1, 2, 3]
        assert follower.state(2) == UP
        router.publish(10, entry(4))
        assert follower.hears("changed") == [4]


def test_last_change_that_got_lost_is_noticed_by_its_number(run: Path, follower: Follower) -> None:
    with routing(run, serial=7, entries=[entry(1)]) as router:
        _in_step(follower, router)
        router.serial, router.entries = 8, [entry(1), entry(2)]
        router.remind(8)
        assert follower.hears("changed") == [1, 2]
        assert router.asked == 2


def test_number_of_a_change_that_is_known_already_asks_for_nothing(run: Path, follower: Follower) -> None:
    with routing(run, serial=7, entries=[entry(1)]) as router:
        _in_step(follower, router)
        router.remind(7)
        router.remind(99, epoch=4)
        router.publish(8, entry(2))
        router.remind(8)
        router.publish(9, entry(3))
        assert [follower.hears("changed") for _ in range(2)] == [[2], [3]]
        assert router.asked == 1


def test_change_that_got_lost_behind_the_table_on_its_way_is_noticed(run: Path, follower: Follower) -> None:
    with routing(run, serial=7) as router:
        router.answers = False
        router.wait_for_subscriber()
        follower.hears("introduced")
        wait_until("the table was asked for", lambda: router.asked >= 1, PATIENCE)
        router.remind(8)
        # Serials and parts come by different ways: that it took in the first is to be seen by the change behind it.
        for number in range(DELTAS_HELD_BACK + 1):
            router.publish(number, *FULL_DELTA)
        wait_until("it was asked for again", lambda: router.asked >= 2, PATIENCE)
        router.serial, router.entries, router.answers = 8, [entry(1), entry(2)], True
        router.send_part(7, entry(1))
        follower.wait_for(2, UP)


def test_prefix_that_is_not_in_the_next_whole_table_is_told_as_forgotten(run: Path, follower: Follower) -> None:
    host = RouteEntry(entry(3).network[:8] + bytes(7) + b"\x01", 128, RouteState.SELECTED, 1, bytes(32), False)
    resolving = entry(2, state=RouteState.RESOLVING)
    with routing(run, serial=7, entries=[entry(1), resolving, entry(3), host]) as router:
        _in_step(follower, router)
        assert follower.forgotten == []
        router.serial, router.entries = 9, [entry(1), entry(3), entry(4)]
        router.publish(9, entry(4))
        assert follower.hears("changed") == [1, 3, 4, 2, 3]
        assert follower.forgotten == [[2, 64], [3, 128]]


def test_change_that_the_table_held_already_changes_nothing(run: Path, follower: Follower) -> None:
    with routing(run, serial=7, entries=[entry(1)]) as router:
        _in_step(follower, router)
        router.publish(7, entry(1, link=99))
        router.publish(8, entry(2))
        follower.wait_for(2, UP)
        assert follower.state(1) == UP


def test_change_of_another_router_process_is_not_applied(run: Path, follower: Follower) -> None:
    with routing(run, epoch=5, serial=7, entries=[entry(1)]) as router:
        _in_step(follower, router)
        router.publish(8, entry(1, link=99), epoch=4)
        router.publish(8, entry(2))
        follower.wait_for(2, UP)
        assert follower.state(1) == UP


def test_entry_that_no_table_can_hold_is_counted_and_costs_nothing_else(run: Path, follower: Follower) -> None:
    wide = RouteEntry(b"\x04" + bytes(15), 63, RouteState.SELECTED, 1, bytes(32), False)
    with routing(run, serial=7, entries=[wide, entry(1)]) as router:
        router.wait_for_subscriber()
        assert follower.hears("changed") == [1]
        router.publish(8, entry(2), wide, entry(3))
        assert follower.hears("changed") == [2, 3]
        assert [follower.state(number) for number in (1, 2, 3)] == [UP] * 3
        beat = follower.child.hear(Heartbeat, lambda beat: beat.figures.counters.get("table.unusable_entries") == 2)
        assert "table.missed_deltas" not in beat.figures.counters


def test_changes_while_the_table_is_on_its_way_are_applied_behind_it(run: Path, follower: Follower) -> None:
    with routing(run) as router:
        router.answers = False
        router.wait_for_subscriber()
        follower.hears("introduced")
        wait_until("the table was asked for", lambda: router.asked >= 1, PATIENCE)
        for serial, number in ((8, 2), (9, 3), (10, 4)):
            router.publish(serial, entry(number, link=7))
        router.send_part(8, entry(1), entry(2))
        follower.wait_for(4, (RouteState.SELECTED, 7))
        assert follower.state(3) == (RouteState.SELECTED, 7)
        # Number 8 is in the table already.
        assert follower.state(2) == UP


def test_question_without_an_answer_is_asked_again_and_not_more_and_more_often(run: Path, follower: Follower) -> None:
    with routing(run) as router:
        router.answers = False
        router.wait_for_subscriber()
        wait_until("the table was asked for three times", lambda: router.asked >= 3, PATIENCE)
        before = router.asked
        for number in range(3 * DELTAS_HELD_BACK):
            router.publish(number + 1, *FULL_DELTA)
        after = wait_until("it was asked for again", lambda: router.asked if router.asked > before + 2 else 0, PATIENCE)
        with pytest.raises(AssertionError):
            wait_until("it is asked for in a hurry", lambda: router.asked > after + 2, 1.5)
        router.serial, router.entries, router.answers = 1000, [entry(1)], True
        follower.wait_for(1, UP)


def test_table_that_arrives_slowly_is_not_asked_for_again(run: Path, follower: Follower) -> None:
    with routing(run, serial=7) as router:
        router.answers = False
        router.wait_for_subscriber()
        follower.hears("introduced")
        wait_until("the table was asked for", lambda: router.asked >= 1, PATIENCE)
        asked = router.asked
        for number in range(4):
            time.sleep(0.5)
            router.send_part(7, entry(number), number=number, more=number < 3)
        follower.wait_for(3, UP)
        assert follower.state(0) == UP
        assert router.asked == asked


def test_rest_of_an_earlier_answer_makes_no_table(run: Path, follower: Follower) -> None:
    with routing(run, serial=7) as router:
        router.answers = False
        router.wait_for_subscriber()
        wait_until("the table was asked for", lambda: router.asked >= 1, PATIENCE)
        router.send_part(7, entry(1), more=True)
        router.send_part(7, entry(2), number=1, more=True)
        # Asked again after its patience, the router began anew; this was still on its way.
        wait_until("it was asked for again", lambda: router.asked >= 2, PATIENCE)
        router.send_part(7, entry(3), number=2)
        router.send_part(8, entry(1), more=True)
        router.send_part(7, entry(3), number=1)
        router.send_part(8, entry(2), number=1, more=True)
        router.send_part(8, entry(4), number=2)
        assert follower.hears("changed") == [1, 2, 4]


def test_answer_that_nobody_asked_for_is_not_believed(run: Path, follower: Follower) -> None:
    with routing(run, serial=7, entries=[entry(1)]) as router:
        _in_step(follower, router)
        router.send_part(99, entry(5))
        router.publish(8, entry(2))
        follower.wait_for(2, UP)
        assert follower.state(5) is None
        assert follower.state(1) == UP


# --- a router that dies -----------------------------------------------------------------------------------------------


def test_table_stays_while_the_router_is_away_and_until_its_successors_is_whole(run: Path, follower: Follower) -> None:
    with routing(run, epoch=1, serial=7, entries=[entry(1), entry(2)]) as router:
        _in_step(follower, router)
    assert follower.state(1) == UP
    with routing(run, epoch=2) as router:
        router.answers = False
        router.wait_for_subscriber()
        follower.hears("introduced")
        wait_until("the table was asked for", lambda: router.asked >= 1, PATIENCE)
        router.publish(4, entry(4))
        assert follower.state(1) == UP
        assert follower.state(3) is None
        router.send_part(3, entry(2, link=8), entry(3))
        follower.wait_for(3, UP)
        assert follower.state(1) is None
        assert follower.state(2) == (RouteState.SELECTED, 8)
        follower.wait_for(4, UP)


def test_half_a_table_of_a_dead_router_is_forgotten(run: Path, follower: Follower) -> None:
    with routing(run, epoch=1, serial=7) as router:
        router.answers = False
        router.wait_for_subscriber()
        wait_until("the table was asked for", lambda: router.asked >= 1, PATIENCE)
        router.send_part(7, entry(1), more=True)
        router.publish(8, entry(9))
    with routing(run, epoch=2, serial=3, entries=[entry(2)]) as router:
        router.wait_for_subscriber()
        follower.wait_for(2, UP)
        assert follower.state(1) is None
        assert follower.state(9) is None


def test_same_router_is_introduced_to_once_and_a_new_one_again(run: Path, follower: Follower) -> None:
    for epoch in (1, 2):
        with routing(run, epoch=epoch, serial=7, entries=[entry(1)]) as router:
            _in_step(follower, router)
            follower.child.listen()
            rest = [message.reason for message, _ in follower.child.heard if isinstance(message, Stop)]
            assert not [words for words in rest if "introduced" in words]
