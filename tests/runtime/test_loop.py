"""The poll loop: timers in order, priorities, sources that come and go, and no turn without a reason."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import pytest
import zmq

from actors.runtime.loop import Loop

LONG = 3600.0


@pytest.fixture
def loop() -> Iterator[Loop]:
    """A loop with one source on which nothing ever happens, as every process has one: ZeroMQ waits for nothing else."""
    made = Loop()
    reader, writer = os.pipe()
    made.watch(reader, lambda _: None)
    yield made
    os.close(reader)
    os.close(writer)


@pytest.fixture
def pipes() -> Iterator[Callable[[], tuple[int, int]]]:
    """Makes pipes; each has a byte to read."""
    opened: list[int] = []

    def make() -> tuple[int, int]:
        reader, writer = os.pipe()
        opened.extend((reader, writer))
        os.write(writer, b"x")
        return reader, writer

    yield make
    for descriptor in opened:
        os.close(descriptor)


def _turns(loop: Loop, done: Callable[[], bool], most: int = 1000) -> int:
    """Turns until `done`; returns how many it took."""
    for turn in range(1, most + 1):
        loop.turn()
        if done():
            return turn
    raise AssertionError(f"not done after {most} turns")


# --- timers -----------------------------------------------------------------------------------------------------------


def test_timers_fire_in_the_order_of_their_times(loop: Loop) -> None:
    fired: list[str] = []
    now = loop.now()
    for delay, name in ((0.03, "third"), (0.01, "first"), (0.02, "second")):
        loop.call_at(now + delay, lambda name=name: fired.append(name))  # type: ignore[misc]
    _turns(loop, lambda: len(fired) == 3)
    assert fired == ["first", "second", "third"]


def test_timers_of_one_time_fire_in_the_order_of_their_making(loop: Loop) -> None:
    fired: list[int] = []
    when = loop.now()
    for number in range(20):
        loop.call_at(when, lambda number=number: fired.append(number))  # type: ignore[misc]
    _turns(loop, lambda: len(fired) == 20)
    assert fired == list(range(20))


def test_timer_never_fires_early_and_fires_once(loop: Loop) -> None:
    fired: list[float] = []
    due = loop.now() + 0.02
    loop.call_at(due, lambda: fired.append(loop.now()))
    _turns(loop, lambda: bool(fired))
    assert fired[0] >= due
    loop.call_after(0.01, loop.stop)
    loop.run()
    assert len(fired) == 1


def test_cancelled_timer_does_not_fire(loop: Loop) -> None:
    fired: list[str] = []
    timer = loop.call_after(0.005, lambda: fired.append("cancelled"))
    loop.call_after(0.01, loop.stop)
    timer.cancel()
    assert timer.cancelled
    loop.run()
    assert fired == []


def test_timer_that_an_earlier_one_cancels_in_the_same_round_does_not_fire(loop: Loop) -> None:
    fired: list[str] = []
    when = loop.now()
    loop.call_at(when, lambda: later.cancel())
    later = loop.call_at(when, lambda: fired.append("late"))
    loop.call_at(when, loop.stop)
    loop.run()
    assert fired == []


def test_timer_that_fired_is_over(loop: Loop) -> None:
    timer = loop.call_after(0, lambda: None)
    loop.turn()
    assert timer.cancelled


def test_timer_made_by_a_timer_waits_for_the_next_round(loop: Loop) -> None:
    rounds: list[int] = []
    count = 0

    def again() -> None:
        rounds.append(count)
        loop.call_after(0, again)

    loop.call_after(0, again)
    for count in range(5):  # noqa: B007 - `again` reads it
        loop.turn()
    assert rounds == [0, 1, 2, 3, 4]


def test_periodic_call_keeps_its_period(loop: Loop) -> None:
    at: list[float] = []
    start = loop.now()
    loop.every(0.02, lambda: at.append(loop.now()))
    _turns(loop, lambda: len(at) == 3)
    assert all(when >= start + 0.02 * number for number, when in enumerate(at))


def test_periodic_calls_that_began_apart_happen_together(loop: Loop) -> None:
    first: list[float] = []
    second: list[float] = []
    loop.every(0.25, lambda: first.append(loop.now()))
    loop.call_after(0.1, lambda: loop.every(0.25, lambda: second.append(loop.now())))
    _turns(loop, lambda: len(second) == 2)
    apart = [min(abs(when - other) for other in first) for when in second]
    assert all(gap < 0.05 for gap in apart)


def test_periodic_call_does_not_catch_up_on_missed_rounds(loop: Loop) -> None:
    calls: list[float] = []

    def slow() -> None:
        calls.append(loop.now())
        if len(calls) == 1:
            time.sleep(0.05)

    loop.every(0.01, slow)
    loop.call_after(0.075, loop.stop)
    loop.run()
    assert len(calls) <= 4


# --- no turn without a reason -----------------------------------------------------------------------------------------


def test_waiting_for_a_timer_takes_no_turns(loop: Loop) -> None:
    fired: list[bool] = []
    loop.call_after(0.1, lambda: fired.append(True))
    assert _turns(loop, lambda: bool(fired)) <= 2


def test_idle_loop_with_sources_and_timers_does_not_spin(loop: Loop) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
    socket = context.socket(zmq.ROUTER)
    socket.bind("inproc://idle")
    reader, writer = os.pipe()
    loop.watch(socket, lambda _: None)
    loop.watch(reader, lambda _: None)
    for _ in range(100):
        loop.call_after(LONG, lambda: None).cancel()
    end = time.monotonic() + 0.2
    loop.call_at(end, lambda: None)
    before = time.thread_time()
    turns = 0
    while time.monotonic() < end:
        loop.turn()
        turns += 1
    assert turns <= 3
    assert time.thread_time() - before < 0.1
    context.destroy(linger=0)
    os.close(reader)
    os.close(writer)


def test_cancelled_timers_do_not_wake_the_loop(loop: Loop) -> None:
    fired: list[bool] = []
    for number in range(50):
        loop.call_after(0.001 * number, lambda: fired.append(False)).cancel()
    loop.call_after(0.06, lambda: fired.append(True))
    assert _turns(loop, lambda: bool(fired)) <= 2
    assert fired == [True]


# --- sources ----------------------------------------------------------------------------------------------------------


def test_ready_source_is_called_with_what_happened(loop: Loop, pipes: Callable[[], tuple[int, int]]) -> None:
    seen: list[int] = []
    reader, writer = pipes()
    loop.watch(reader, seen.append)
    loop.turn()
    loop.forget(reader)
    loop.watch(writer, seen.append, events=zmq.POLLOUT)
    loop.turn()
    assert seen == [zmq.POLLIN, zmq.POLLOUT]


def test_sources_of_one_round_are_called_by_priority(loop: Loop, pipes: Callable[[], tuple[int, int]]) -> None:
    order: list[int] = []
    for priority in (5, 0, 9, 1):
        reader, _ = pipes()
        loop.watch(reader, lambda _, priority=priority: order.append(priority), priority=priority)  # type: ignore[misc]
    loop.turn()
    assert order == [0, 1, 5, 9]


def test_sources_come_before_timers_of_the_same_round(loop: Loop, pipes: Callable[[], tuple[int, int]]) -> None:
    order: list[str] = []
    loop.watch(pipes()[0], lambda _: order.append("source"))
    loop.call_after(0, lambda: order.append("timer"))
    _turns(loop, lambda: "timer" in order)
    assert order[0] == "source"


def test_forgotten_source_is_not_called(loop: Loop, pipes: Callable[[], tuple[int, int]]) -> None:
    called: list[int] = []
    reader, _ = pipes()
    loop.watch(reader, called.append)
    loop.forget(reader)
    loop.call_after(0.01, loop.stop)
    loop.run()
    assert called == []


def test_source_forgotten_by_an_earlier_call_of_the_round_is_not_called(
    loop: Loop, pipes: Callable[[], tuple[int, int]]
) -> None:
    called: list[str] = []
    first, second = pipes()[0], pipes()[0]

    def drop_second(_events: int) -> None:
        called.append("first")
        loop.forget(second)

    loop.watch(second, lambda _: called.append("second"), priority=5)
    loop.watch(first, drop_second, priority=0)
    loop.turn()
    assert called == ["first"]


def test_source_can_be_forgotten_twice_and_watched_again(loop: Loop, pipes: Callable[[], tuple[int, int]]) -> None:
    called: list[str] = []
    reader, _ = pipes()
    loop.watch(reader, lambda _: called.append("before"))
    loop.forget(reader)
    loop.forget(reader)
    loop.watch(reader, lambda _: called.append("after"))
    loop.turn()
    assert called == ["after"]


def test_second_watch_replaces_the_first(loop: Loop, pipes: Callable[[], tuple[int, int]]) -> None:
    called: list[str] = []
    reader, _ = pipes()
    loop.watch(reader, lambda _: called.append("old"))
    loop.watch(reader, lambda _: called.append("new"))
    loop.turn()
    assert called == ["new"]


def test_silenced_source_is_quiet_until_it_is_wanted_again(loop: Loop, pipes: Callable[[], tuple[int, int]]) -> None:
    called: list[int] = []
    reader, _ = pipes()
    loop.watch(reader, called.append)
    loop.want(reader, 0)
    loop.call_after(0.01, loop.stop)
    loop.run()
    assert called == []
    loop.want(reader, zmq.POLLIN)
    loop.turn()
    assert called == [zmq.POLLIN]


def test_silenced_source_can_be_forgotten(loop: Loop, pipes: Callable[[], tuple[int, int]]) -> None:
    reader, _ = pipes()
    loop.watch(reader, lambda _: None)
    loop.want(reader, 0)
    loop.forget(reader)
    loop.call_after(0, loop.stop)
    loop.run()


# --- deferring --------------------------------------------------------------------------------------------------------


def test_deferred_call_runs_after_all_that_arrived_together(loop: Loop, pipes: Callable[[], tuple[int, int]]) -> None:
    order: list[str] = []

    def first(_events: int) -> None:
        order.append("first")
        loop.defer(lambda: order.append("deferred"))

    loop.watch(pipes()[0], first, priority=0)
    loop.watch(pipes()[0], lambda _: order.append("second"), priority=1)
    loop.turn()
    assert order == ["first", "second", "deferred"]


def test_deferred_call_runs_once(loop: Loop) -> None:
    calls: list[bool] = []
    loop.call_after(0, lambda: loop.defer(lambda: calls.append(True)))
    loop.call_after(0.01, loop.stop)
    loop.run()
    assert calls == [True]


def test_what_a_deferred_call_defers_runs_in_the_same_round(loop: Loop) -> None:
    order: list[str] = []

    def outer() -> None:
        order.append("outer")
        loop.defer(lambda: order.append("inner"))

    loop.defer(outer)
    loop.turn()
    assert order == ["outer", "inner"]


def test_what_was_deferred_before_the_first_round_does_not_wait_for_an_event(loop: Loop) -> None:
    loop.defer(loop.stop)
    loop.call_after(LONG, lambda: None)
    loop.run()


def test_stop_ends_the_loop_after_the_round(loop: Loop, pipes: Callable[[], tuple[int, int]]) -> None:
    order: list[str] = []

    def stop(_events: int) -> None:
        loop.stop()
        order.append("stop")

    loop.watch(pipes()[0], stop, priority=0)
    loop.watch(pipes()[0], lambda _: order.append("rest"), priority=1)
    loop.run()
    assert order == ["stop", "rest"]
