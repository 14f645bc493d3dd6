"""The kernel's count of bytes, on real connections over loopback."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator

import pytest

from actors.runtime.positions import Positions, PositionsError, positions

DEADLINE = 10.0


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dialled = socket.create_connection(listener.getsockname(), timeout=DEADLINE)
        accepted, _ = listener.accept()
    accepted.settimeout(DEADLINE)
    with dialled, accepted:
        yield dialled, accepted


def wait_for_input(connection: socket.socket) -> None:
    ready, _, _ = select.select([connection], [], [], DEADLINE)
    assert ready, "nothing arrived"


def receive(connection: socket.socket, count: int) -> None:
    while count:
        count -= len(connection.recv(count))


@pytest.mark.parametrize("side", [0, 1], ids=["dialled", "accepted"])
def test_positions_count_what_was_written_and_read(pair: tuple[socket.socket, socket.socket], side: int) -> None:
    here, there = pair[side], pair[1 - side]
    base = positions(here)
    here.sendall(bytes(1000))
    there.sendall(bytes(500))
    receive(here, 300)
    assert positions(here).since(base) == Positions(1000, 300)
    receive(there, 1000)
    receive(here, 200)
    assert positions(here).since(base) == Positions(1000, 500)


def test_bytes_that_arrived_before_the_base_was_taken_count_when_they_are_read(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    here, there = pair
    there.sendall(bytes(100))
    wait_for_input(here)
    base = positions(here)
    receive(here, 100)
    assert positions(here).since(base) == Positions(0, 100)


def test_bytes_that_the_peer_does_not_take_count_as_written(pair: tuple[socket.socket, socket.socket]) -> None:
    here, there = pair
    base = positions(here)
    here.setblocking(False)
    written = 0
    while True:
        try:
            written += here.send(bytes(1 << 20))
        except BlockingIOError:
            break
    assert positions(here).since(base) == Positions(written, 0)
    receive(there, written)
    assert positions(here).since(base) == Positions(written, 0)


@pytest.mark.parametrize("read", [0, 60, 100])
def test_end_of_the_peers_stream_is_not_counted_as_a_byte(pair: tuple[socket.socket, socket.socket], read: int) -> None:
    here, there = pair
    base = positions(here)
    there.sendall(bytes(100))
    receive(here, read)
    there.shutdown(socket.SHUT_WR)
    # Behind the bytes, the end: POLLRDHUP says that it has come.
    poller = select.poll()
    poller.register(here, select.POLLRDHUP)
    assert poller.poll(DEADLINE * 1000)
    assert positions(here).since(base) == Positions(0, read)
    receive(here, 100 - read)
    assert here.recv(1) == b""
    assert positions(here).since(base) == Positions(0, 100)


def test_duplicate_of_the_socket_tells_the_same(pair: tuple[socket.socket, socket.socket]) -> None:
    here, there = pair
    base = positions(here)
    duplicate = here.dup()
    here.sendall(bytes(77))
    here.close()
    with duplicate:
        assert positions(duplicate).since(base) == Positions(77, 0)
        receive(there, 77)


def test_urgent_data_counts_like_other_data_where_it_is_read_inline(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    here, there = pair
    here.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    base = positions(here)
    there.sendall(bytes(10))
    there.send(b"!", socket.MSG_OOB)
    there.sendall(bytes(10))
    receive(here, 15)
    assert positions(here).since(base) == Positions(0, 15)


def test_connection_that_its_peer_reset_has_no_positions(pair: tuple[socket.socket, socket.socket]) -> None:
    here, there = pair
    there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    there.close()
    wait_for_input(here)
    with pytest.raises(PositionsError, match="TCP state 7"):
        positions(here)


def test_connection_that_was_shut_down_has_no_positions(pair: tuple[socket.socket, socket.socket]) -> None:
    here, _ = pair
    here.shutdown(socket.SHUT_RDWR)
    with pytest.raises(PositionsError, match="the connection is over"):
        positions(here)


def test_socket_that_never_connected_has_no_positions() -> None:
    with socket.socket() as unconnected, pytest.raises(PositionsError, match="not yet there"):
        positions(unconnected)


def test_socket_of_another_kind_has_no_positions() -> None:
    one, other = socket.socketpair()
    with one, other, pytest.raises(PositionsError, match="no TCP connection"):
        positions(one)
    with pytest.raises(PositionsError, match="no TCP connection"):
        positions(one)
