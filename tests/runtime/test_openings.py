"""Sockets that the supervisor opens: what is in the way, what gives way, and what is said where one can't be had."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from actors import openings
from actors.openings import OpeningError
from actors.runtime import udp
from protocol.frames import SocketKind
from tests.runtime.children import run_folder

LOOPBACK: Final = "127.0.0.1"


class Lines:
    """A log that keeps what was written."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    def error(self, text: str) -> None:
        self.errors.append(text)


@pytest.fixture
def log() -> Lines:
    return Lines()


@pytest.fixture
def folder() -> Iterator[Path]:
    with run_folder() as found:
        yield found


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def as_socket(opened: ExitStack, descriptor: int) -> socket.socket:
    return opened.enter_context(socket.socket(fileno=descriptor))


# --- Unix sockets -----------------------------------------------------------------------------------------------------


def test_unix_socket_is_for_its_user_and_group(folder: Path, log: Lines, opened: ExitStack) -> None:
    path = folder / "peer.sock"
    as_socket(opened, openings.listen_on_unix(str(path), log))
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert log.errors == []


def test_socket_that_nobody_listens_on_gives_way(folder: Path, log: Lines, opened: ExitStack) -> None:
    path = folder / "peer.sock"
    as_socket(opened, openings.listen_on_unix(str(path), log)).close()
    as_socket(opened, openings.listen_on_unix(str(path), log))
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))


@pytest.mark.parametrize("what", ["a listener", "a file", "no folder"])
def test_path_that_is_taken_stays_and_is_named(folder: Path, log: Lines, opened: ExitStack, what: str) -> None:
    path = folder / "peer.sock"
    if what == "a listener":
        as_socket(opened, openings.listen_on_unix(str(path), log))
    elif what == "a file":
        path.write_text("kept")
    else:
        path = folder / "missing" / "peer.sock"
    before = path.stat().st_ino if path.exists() else 0
    assert openings.listen_on_unix(str(path), log) == -1
    (line,) = log.errors
    assert str(path) in line
    assert "--unix-listen" in line
    assert (path.stat().st_ino if path.exists() else 0) == before


# --- UDP --------------------------------------------------------------------------------------------------------------


def test_second_listener_for_quic_is_refused_though_connections_share_the_port(opened: ExitStack) -> None:
    first = as_socket(opened, openings.listen_for_quic(0, None))
    port = first.getsockname()[1]
    with pytest.raises(openings.OpeningError, match=rf"QUIC port {port} \(UDP\).*--quic-listen-port"):
        openings.listen_for_quic(port, None)
    opened.enter_context(openings.datagram_socket(f"[::ffff:{LOOPBACK}]:{port}", f"[::ffff:{LOOPBACK}]:9", None))


def test_connected_socket_gets_what_its_peer_sends_and_the_listener_the_rest(opened: ExitStack) -> None:
    listener = as_socket(opened, openings.listen_for_quic(0, None))
    port = listener.getsockname()[1]
    peer, stranger = (opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2))
    for one in (peer, stranger):
        one.bind((LOOPBACK, 0))
    remote = f"[::ffff:{LOOPBACK}]:{peer.getsockname()[1]}"
    connected = opened.enter_context(openings.datagram_socket(f"[::ffff:{LOOPBACK}]:{port}", remote, None))
    peer.sendto(b"from the peer", (LOOPBACK, port))
    stranger.sendto(b"from a stranger", (LOOPBACK, port))
    for one in (connected, listener):
        one.settimeout(5)
    assert (connected.recv(100), listener.recv(100)) == (b"from the peer", b"from a stranger")


@pytest.mark.parametrize("remote", ["", "nowhere:1", "192.0.2.1"])
def test_address_that_is_none_is_an_error_and_no_crash(remote: str) -> None:
    with pytest.raises(OpeningError, match="cannot open a UDP socket"):
        openings.datagram_socket("", remote, None)


def test_local_address_that_is_not_ours_is_an_error() -> None:
    with pytest.raises(OpeningError, match="assign requested address"):
        openings.datagram_socket("192.0.2.1:1", f"{LOOPBACK}:9", None)


def test_datagrams_in_bunches_arrive_as_they_were(opened: ExitStack) -> None:
    one, other = (opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2))
    for end in (one, other):
        end.bind((LOOPBACK, 0))
    one.connect(other.getsockname())
    other.connect(one.getsockname())
    for end in (one, other):
        udp.prepare(end)
    # One size, a shorter one that ends the first bunch, a longer one that can't be in a bunch with what comes before.
    sent = [os.urandom(1200) for _ in range(70)] + [os.urandom(500), os.urandom(1400), os.urandom(1)]
    left = list(sent)
    arrived: list[bytes] = []
    while left:
        count = udp.send(one, left, None)
        assert 1 <= count <= udp.MOST_SEGMENTS
        del left[:count]
        data, size, sender = udp.receive(other)
        assert sender == one.getsockname()
        arrived += [data[at : at + size] for at in range(0, len(data), size)]
    assert arrived == sent
    with pytest.raises(BlockingIOError):
        udp.receive(other)


def test_kernel_knows_how_much_goes_in_one_piece(opened: ExitStack) -> None:
    one = opened.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
    one.connect(("::1", 9))
    assert udp.largest_payload(one) == 65_536 - 48
    mapped = opened.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
    mapped.connect((f"::ffff:{LOOPBACK}", 9))
    assert udp.largest_payload(mapped) == 65_535 - 28


def test_socket_that_connects_anew_hears_its_peer_again(opened: ExitStack) -> None:
    one, other = (opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2))
    other.bind((LOOPBACK, 0))
    one.connect(other.getsockname())
    udp.connect_anew(one, other.getsockname())
    one.send(b"here")
    other.settimeout(5)
    data, sender = other.recvfrom(100)
    assert (data, sender) == (b"here", one.getsockname())


# --- others -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(SocketKind))
def test_socket_of_each_kind_to_dial_with(kind: SocketKind) -> None:
    if kind is SocketKind.VSOCK and not Path("/dev/vsock").exists():
        pytest.skip("this kernel has no vsock")
    with openings.socket_to_dial_with(kind, None) as made:
        assert (made.type, made.gettimeout()) == (socket.SOCK_STREAM, 0)


def test_vsock_listener_is_there_or_its_absence_is_named(log: Lines, opened: ExitStack) -> None:
    descriptor = openings.listen_on_vsock(31_999, log)
    if descriptor < 0:
        assert "--vsock-listen-port" in log.errors[0]
        return
    as_socket(opened, descriptor)
    assert openings.listen_on_vsock(31_999, log) == -1
    assert "vsock port 31999" in log.errors[0]
