"""The pair between the supervisor and a child: frames with descriptors, a dead end, a full one, garbage."""

from __future__ import annotations

import array
import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest

from actors.runtime.channel import MAX_DESCRIPTORS, MAX_FRAME, Channel, ChannelClosed, ChannelFull, close_all
from protocol.codec import FrameError
from protocol.frames import AskActors, Ready, SocketOpened, SpawnLink, Stop
from protocol.mycelium.endpoint import Protocol

Pair = tuple[Channel, Channel]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ends = Channel.pair()
    yield ends
    for end in ends:
        end.close()


@pytest.fixture
def raw() -> Iterator[tuple[Channel, socket.socket]]:
    """A channel, and a bare socket at its other end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(ours)
    with theirs:
        yield channel, theirs
    channel.close()


def _fill(channel: Channel) -> int:
    for sent in range(1_000_000):
        try:
            channel.send(Stop("x" * 1000))
        except ChannelFull:
            return sent
    raise AssertionError("the channel took a million frames")


def _open_descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def test_frames_arrive_whole_and_in_order(pair: Pair) -> None:
    ours, theirs = pair
    ours.send(Stop("first"))
    ours.send(AskActors(2))
    assert list(theirs.receive()) == [(Stop("first"), []), (AskActors(2), [])]


def test_both_ends_may_speak(pair: Pair) -> None:
    ours, theirs = pair
    theirs.send(Ready())
    ours.send(Stop("now"))
    assert list(ours.receive()) == [(Ready(), [])]
    assert list(theirs.receive()) == [(Stop("now"), [])]


def test_nothing_is_received_where_nothing_was_sent(pair: Pair) -> None:
    assert list(pair[0].receive()) == []


def test_descriptors_come_along_with_their_frame(pair: Pair) -> None:
    ours, theirs = pair
    reader, writer = os.pipe()
    ours.send(SpawnLink(1, "tcp://192.0.2.1:9651", True, Protocol.TCP, b"", "tcp://192.0.2.1:9651"), (writer,))
    ours.send(Ready())
    os.close(writer)
    (spawn, (received,)), (ready, none) = theirs.receive()
    assert (type(spawn), ready, none) == (SpawnLink, Ready(), [])
    assert not os.get_inheritable(received)
    os.write(received, b"through")
    os.close(received)
    assert os.read(reader, 64) == b"through"
    os.close(reader)


def test_as_many_descriptors_as_promised_come_along(pair: Pair) -> None:
    ours, theirs = pair
    ends = [end for _ in range(MAX_DESCRIPTORS // 2) for end in os.pipe()]
    ours.send(SocketOpened(1, ""), ends)
    ((_, received),) = theirs.receive()
    assert [os.fstat(number).st_ino for number in received] == [os.fstat(number).st_ino for number in ends]
    close_all([*received, *ends])


def test_dead_end_is_closed_for_the_receiver_after_its_last_words(pair: Pair) -> None:
    ours, theirs = pair
    theirs.send(Stop("last words"))
    theirs.close()
    words = ours.receive()
    assert next(words) == (Stop("last words"), [])
    with pytest.raises(ChannelClosed):
        next(words)


def test_dead_end_is_closed_for_the_sender(pair: Pair) -> None:
    ours, theirs = pair
    theirs.close()
    with pytest.raises(ChannelClosed):
        ours.send(Ready())


def test_end_that_died_with_unread_frames_is_closed(pair: Pair) -> None:
    ours, theirs = pair
    ours.send(Ready())
    theirs.close()
    with pytest.raises(ChannelClosed):
        list(ours.receive())


def test_end_that_does_not_read_is_full_and_nothing_blocks(pair: Pair) -> None:
    ours, theirs = pair
    sent = _fill(ours)
    assert sent > 50
    assert len(list(theirs.receive())) == sent
    ours.send(Ready())
    assert list(theirs.receive()) == [(Ready(), [])]


def test_largest_frame_passes(pair: Pair) -> None:
    ours, theirs = pair
    largest = Stop("x" * (MAX_FRAME - 7))
    ours.send(largest)
    assert list(theirs.receive()) == [(largest, [])]


def test_frame_too_large_is_refused_by_its_sender(pair: Pair) -> None:
    with pytest.raises(FrameError, match=f"Stop of {MAX_FRAME + 1} bytes on a channel, at most {MAX_FRAME}"):
        pair[0].send(Stop("x" * (MAX_FRAME - 6)))
    assert list(pair[1].receive()) == []


@pytest.mark.parametrize("garbage", [b"\xc1", b"no frame", msgpack.packb([0x7E]), msgpack.packb([0x04, 5])])
def test_garbage_is_a_frame_error_and_the_next_frame_is_read(
    raw: tuple[Channel, socket.socket], garbage: bytes
) -> None:
    channel, theirs = raw
    theirs.send(garbage)
    theirs.send(msgpack.packb([0x02]))
    with pytest.raises(FrameError):
        list(channel.receive())
    assert list(channel.receive()) == [(Ready(), [])]


def test_frame_longer_than_allowed_is_garbage(raw: tuple[Channel, socket.socket]) -> None:
    channel, theirs = raw
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 * MAX_FRAME)
    theirs.send(msgpack.packb([0x04, "x" * MAX_FRAME]))
    with pytest.raises(FrameError):
        list(channel.receive())


@pytest.mark.parametrize("data", [b"garbage", b""])
def test_descriptors_that_come_with_garbage_are_closed(raw: tuple[Channel, socket.socket], data: bytes) -> None:
    channel, theirs = raw
    before = _open_descriptors()
    theirs.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1]).tobytes())])
    with pytest.raises((FrameError, ChannelClosed)):
        list(channel.receive())
    assert _open_descriptors() == before


def test_more_descriptors_than_promised_are_not_kept(raw: tuple[Channel, socket.socket]) -> None:
    channel, theirs = raw
    before = _open_descriptors()
    many = array.array("i", [0] * (MAX_DESCRIPTORS + 4))
    theirs.sendmsg([msgpack.packb([0x02])], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, many.tobytes())])
    ((_, received),) = channel.receive()
    assert len(received) <= MAX_DESCRIPTORS
    close_all(received)
    assert _open_descriptors() == before


def test_channel_is_readable_when_a_frame_waits(pair: Pair) -> None:
    ours, theirs = pair
    assert select.select([theirs], [], [], 0)[0] == []
    ours.send(Ready())
    assert select.select([theirs], [], [], 5)[0] == [theirs]


def test_closing_what_is_closed_already_is_harmless() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    close_all([reader, writer])
    with pytest.raises(OSError):
        os.fstat(writer)
