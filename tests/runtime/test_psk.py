"""TLS with a pre-shared key in memory: what two ends make of each other, and of bytes that no peer should send."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from actors.runtime import psk
from actors.runtime.psk import Session, SessionError
from protocol.mycelium.network import Network, NetworkError

OURS = Network("vector-net", bytes(range(32)))


def pair(client: Network = OURS, server: Network = OURS) -> tuple[Session, Session]:
    return psk.session(client, outbound=True), psk.session(server, outbound=False)


def outcome(one: Session) -> str:
    """How its handshake stands: done, open, or why it failed."""
    try:
        return "done" if one.handshake() else "open"
    except SessionError as error:
        return str(error)


def shake_hands(client: Session, server: Session) -> tuple[str, str]:
    """How it ended for the client and for the server."""
    seen = {client: "open", server: "open"}
    for _ in range(4):
        for one, other in ((client, server), (server, client)):
            if seen[one] in ("open", "done"):
                seen[one] = outcome(one)
            other.feed(memoryview(one.drain()))
    return seen[client], seen[server]


def everything(one: Session, room: int = 1 << 20) -> bytes:
    memory = memoryview(bytearray(room))
    total = 0
    while (count := one.read_into(memory[total:])) > 0:
        total += count
    return bytes(memory[:total])


def test_machine_passes_the_check_that_a_node_makes_at_its_start() -> None:
    psk.check()


def test_it_works_where_no_memory_can_be_written_and_executed() -> None:
    # As in a service with MemoryDenyWriteExecute (prctl PR_SET_MDWE).
    forbid = "import ctypes; assert ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) == 0"
    program = f"{forbid}; from actors.runtime import psk; psk.check()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    if "AssertionError" in done.stderr:
        pytest.skip("this kernel has no PR_SET_MDWE (Linux 6.3)")
    assert (done.returncode, done.stderr) == (0, "")


def test_bytes_of_any_number_come_out_as_they_went_in() -> None:
    client, server = pair()
    assert shake_hands(client, server) == ("done", "done")
    for size in (1, 16_384, 16_385, 300_000):
        data = os.urandom(size)
        for one, other in ((client, server), (server, client)):
            one.write(memoryview(data))
            other.feed(memoryview(one.drain()))
            assert everything(other) == data


def test_records_that_arrive_in_pieces_wait_for_their_rest() -> None:
    client, server = pair()
    shake_hands(client, server)
    client.write(memoryview(b"one packet"))
    record = client.drain()
    for octet in record[:-1]:
        server.feed(memoryview(bytes((octet,))))
        assert server.read_into(memoryview(bytearray(100))) == -1
    server.feed(memoryview(record[-1:]))
    assert everything(server) == b"one packet"


@pytest.mark.parametrize(
    ("network", "client_says", "server_says"),
    [
        (
            Network("another-net", OURS.key),
            "it does not know this network's name",
            "its network is 'another-net', ours is 'vector-net'",
        ),
        (Network(OURS.name, bytes(32)), "its network key is another", "its network key is another"),
    ],
    ids=["name", "key"],
)
def test_both_ends_say_what_differs(network: Network, client_says: str, server_says: str) -> None:
    assert shake_hands(*pair(client=network)) == (client_says, server_says)


@pytest.mark.parametrize("outbound", [True, False], ids=["client", "server"])
@pytest.mark.parametrize(
    ("garbage", "reason"),
    [(b"\x01\x01\x00\x00\x00\x00" * 20, "it speaks no TLS"), (b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", "TLS")],
    ids=["a packet", "a broken hello"],
)
def test_garbage_ends_a_handshake_with_a_reason(outbound: bool, garbage: bytes, reason: str) -> None:
    session = psk.session(OURS, outbound=outbound)
    session.handshake()
    session.feed(memoryview(garbage))
    assert reason in outcome(session)


def test_record_that_was_changed_on_its_way_ends_the_session() -> None:
    client, server = pair()
    shake_hands(client, server)
    client.write(memoryview(b"one packet"))
    record = bytearray(client.drain())
    record[-1] ^= 1
    server.feed(memoryview(record))
    with pytest.raises(SessionError, match="TLS failed"):
        server.read_into(memoryview(bytearray(100)))


def test_key_of_a_network_is_never_shown() -> None:
    assert "key" not in repr(OURS)


@pytest.mark.parametrize("name", ["", "a", "a" * 65, "ä" * 33, "a\0b", "\udcff\udcff"])
def test_name_that_no_network_can_have_is_refused(name: str) -> None:
    with pytest.raises(NetworkError, match="network name"):
        Network(name, bytes(32))


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_key_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(NetworkError, match="32 bytes"):
        Network("name", bytes(size))
