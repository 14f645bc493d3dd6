"""The flow: a stream of TCP or UDP bytes whose arrival can be proven, sender and receiver.

As a program, inside a namespace: `python -m tests.lab.flow receive` prints `{"port": N}` and then its report;
`python -m tests.lab.flow send ADDRESS PORT --bytes N` prints its own. Reports hold bytes, seconds, datagrams and the
SHA-256 of all payload. A TCP stream is complete when both digests are equal; UDP datagrams are numbered, their loss
is counted and the digest is of what was sent or arrived. Over TCP SIGTERM ends a flow early, in an orderly way. As a
library: `start_receiver`, `start_sender`, `Receiver.finish`, or `transfer` for all of them.
"""

import argparse
import hashlib
import json
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from tests.lab.namespaces import LabError, Namespace, stop_process

BLOCK_BYTES: Final = 256 * 1024
SEED: Final = 4
QUIET_END: Final = 1.0
_NUMBER: Final = struct.Struct("!Q")


@dataclass(frozen=True, slots=True)
class FlowReport:
    """What one end of a flow saw. `datagrams` is 0 for TCP; `seconds` runs from first to last byte."""

    bytes: int
    seconds: float
    datagrams: int
    sha256: str

    @property
    def bits_per_second(self) -> float:
        """The rate of payload."""
        return self.bytes * 8 / self.seconds if self.seconds else 0.0


def blocks(total: int, size: int) -> Iterator[bytes]:
    """Bytes that look random, `total` of them in blocks of `size`, no two blocks alike: each begins with its number."""
    template = bytearray(random.Random(SEED).randbytes(size))
    for number in range((total + size - 1) // size):
        if size >= _NUMBER.size:
            _NUMBER.pack_into(template, 0, number)
        yield bytes(template[: min(size, total - number * size)])


def send_tcp(address: str, port: int, total: int, pause: float) -> FlowReport:
    """Sends `total` bytes over TCP, or what SIGTERM leaves of them, and waits until the receiver has closed.

    So everything is known to be there. `pause` are the seconds between two blocks.
    """
    digest = hashlib.sha256()
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: told.append(number))
    sent = 0
    with socket.create_connection((address, port), timeout=60) as stream:
        begin = time.monotonic()
        for block in blocks(total, BLOCK_BYTES):
            if told:
                break
            digest.update(block)
            stream.sendall(block)
            sent += len(block)
            time.sleep(pause)
        stream.shutdown(socket.SHUT_WR)
        stream.recv(1)
        return FlowReport(sent, time.monotonic() - begin, 0, digest.hexdigest())


def send_udp(address: str, port: int, total: int, size: int, rate: float) -> FlowReport:
    """Sends `total` bytes in datagrams of `size`, `rate` datagrams per second; empty ones in the end mark it."""
    digest = hashlib.sha256()
    count = 0
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as datagrams:
        datagrams.connect((address, port))
        begin = time.monotonic()
        for block in blocks(total, size):
            digest.update(block)
            datagrams.send(block)
            count += 1
            ahead = begin + count / rate - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)
        seconds = time.monotonic() - begin
        datagrams.send(b"")
    return FlowReport(total, seconds, count, digest.hexdigest())


def receive_tcp(listener: socket.socket) -> FlowReport:
    """Takes one connection and reads it to its end."""
    digest = hashlib.sha256()
    total = 0
    buffer = bytearray(BLOCK_BYTES)
    stream, _ = listener.accept()
    with stream:
        stream.settimeout(60)
        begin = time.monotonic()
        while count := stream.recv_into(buffer):
            digest.update(memoryview(buffer)[:count])
            total += count
        return FlowReport(total, time.monotonic() - begin, 0, digest.hexdigest())


def receive_udp(datagrams: socket.socket, timeout: float) -> FlowReport:
    """Reads datagrams until an empty one comes, or none for `QUIET_END` seconds after the first (`timeout` before)."""
    digest = hashlib.sha256()
    total = count = 0
    begin = end = time.monotonic()
    while select.select([datagrams], [], [], QUIET_END if count else timeout)[0]:
        block = datagrams.recv(65536)
        if not block:
            break
        end = time.monotonic()
        if not count:
            begin = end
        digest.update(block)
        total += len(block)
        count += 1
    return FlowReport(total, end - begin, count, digest.hexdigest())


class Receiver:
    """A receiver that runs in a namespace and listens on `port`."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self._process = process
        self.port = port

    def finish(self, timeout: float = 60.0) -> FlowReport:
        """Waits for the end of the flow and returns what arrived."""
        try:
            output = self._process.communicate(timeout=timeout)[0]
        except subprocess.TimeoutExpired:
            stop_process(self._process)
            raise LabError(f"the flow did not end within {timeout:g} s") from None
        if self._process.returncode != 0:
            raise LabError(f"the receiver of the flow failed with code {self._process.returncode}")
        return FlowReport(**json.loads(output))

    def kill(self) -> None:
        """Ends the receiver without a report."""
        stop_process(self._process)


def start_receiver(namespace: Namespace, *, udp: bool = False) -> Receiver:
    """Starts a receiver in `namespace`; it listens when this returns."""
    process = namespace.start_tool("tests.lab.flow", "receive", *(["--udp"] if udp else []))
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        stop_process(process)
        raise LabError(f"the receiver in {namespace.label} ended with code {process.returncode}")
    return Receiver(process, json.loads(line)["port"])


def start_sender(
    namespace: Namespace,
    address: str,
    port: int,
    total: int,
    *,
    udp: bool = False,
    size: int = 1200,
    rate: float = 1000,
    pause: float = 0.0,
) -> "subprocess.Popen[bytes]":
    """Starts sending `total` bytes from `namespace`; the report comes on the process's output."""
    options = ["--udp", f"--size={size}", f"--rate={rate}"] if udp else [f"--pause={pause}"]
    return namespace.start_tool("tests.lab.flow", "send", address, str(port), f"--bytes={total}", *options)


def transfer(
    source: Namespace, destination: Namespace, address: str, total: int, *, timeout: float = 60.0
) -> tuple[FlowReport, FlowReport]:
    """Sends `total` bytes over TCP from `source` to `address` in `destination`; returns both ends' reports."""
    receiver = start_receiver(destination)
    sender = start_sender(source, address, receiver.port, total)
    try:
        arrived = receiver.finish(timeout)
        output = sender.communicate(timeout=timeout)[0]
    except subprocess.TimeoutExpired:
        raise LabError(f"the sender of the flow did not end within {timeout:g} s") from None
    finally:
        receiver.kill()
        stop_process(sender)
    return FlowReport(**json.loads(output)), arrived


def _receive(udp: bool, timeout: float) -> FlowReport:
    kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET6, kind) as bound:
        bound.bind(("::", 0))
        if udp:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        else:
            bound.listen(1)
            bound.settimeout(timeout)
        print(json.dumps({"port": bound.getsockname()[1]}), flush=True)
        return receive_udp(bound, timeout) if udp else receive_tcp(bound)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab.flow", description="Send or receive a proven flow.")
    roles = parser.add_subparsers(dest="role", required=True)
    receive = roles.add_parser("receive")
    receive.add_argument("--udp", action="store_true")
    receive.add_argument("--timeout", type=float, default=60.0, help="seconds to wait for the beginning")
    send = roles.add_parser("send")
    send.add_argument("address")
    send.add_argument("port", type=int)
    send.add_argument("--bytes", type=int, default=1_000_000, dest="total")
    send.add_argument("--udp", action="store_true")
    send.add_argument("--size", type=int, default=1200, help="payload bytes of a datagram")
    send.add_argument("--rate", type=float, default=1000.0, help="datagrams per second")
    send.add_argument("--pause", type=float, default=0.0, help="seconds between blocks of TCP")
    given = parser.parse_args(arguments)
    if given.role == "receive":
        report = _receive(given.udp, given.timeout)
    elif given.udp:
        report = send_udp(given.address, given.port, given.total, given.size, given.rate)
    else:
        report = send_tcp(given.address, given.port, given.total, given.pause)
    print(json.dumps(asdict(report)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
