"""Throughput over each transport: between two Septates, and beside a reference node where one is named.

`python -m bench.links [--seconds N] [--only quic,tls] [--pairs ss,sm,ms,mm]`. Needs root, as it builds network
namespaces, and iperf3. Mycelium takes part where MYCELIUM_BIN names its program, in private networks where
MYCELIUM_PRIVATE_BIN does. Mycelium's TUN devices get our MTU: with their own, its QUIC links carry no full packet.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from bench.contenders import REACH_TIMEOUT, Line
from bench.measure_throughput import missing_tool, put_load
from tests.lab import namespaces
from tests.lab.namespaces import Lab, LabError
from tests.lab.nodes import LISTEN_PORT, TUN_NAME, MyceliumNode, Node, PrivateMyceliumNode, SeptateNode
from tests.lab.ping import ping_until_reply
from tests.lab.sandbox import enter_if_unprivileged

TRANSPORTS: Final = ("tcp", "tls", "quic", "unix")
PAIRS: Final = ("ss", "sm", "ms", "mm")
"""Who dials and who listens: s is Septate, m the reference."""
REFERENCE_MTU: Final = "1342"
MEGA: Final = 1e6


def kind_of(letter: str, transport: str) -> type[Node]:
    """The program that plays a part."""
    if letter == "s":
        return SeptateNode
    return PrivateMyceliumNode if transport == "tls" else MyceliumNode


def refusal(pair: str, transport: str) -> str | None:
    """Why a pair can't be measured over a transport."""
    if transport == "unix" and "m" in pair:
        return "the reference has no Unix sockets"
    return next(filter(None, (kind_of(letter, transport).missing() for letter in pair)), None)


@contextmanager
def joined(pair: str, transport: str) -> Iterator[Line]:
    """Two nodes whose hosts reach each other over `transport`; the first dials."""
    with Lab() as lab:
        left, right = lab.namespace("left"), lab.namespace("right")
        wire = lab.wire(left, right)
        endpoint = f"{transport}://{wire.right_address}:{LISTEN_PORT}"
        options: list[str] = []
        listening: list[str] = []
        if transport == "tls":
            key_file = lab.folder / "network-key"
            key_file.write_bytes(secrets.token_bytes(32))
            options = ["--network-name", "bench", "--network-key-file", str(key_file)]
        elif transport == "unix":
            endpoint = f"unix://{lab.folder}/peer.sock"
            listening = ["--unix-listen", f"{lab.folder}/peer.sock"]
        listener = kind_of(pair[1], transport)(lab, right, options=[*options, *listening]).start()
        listener.wait_until_up()
        dialler = kind_of(pair[0], transport)(lab, left, peers=[endpoint], options=options).start()
        dialler.wait_until_up()
        ping_until_reply(left, listener.address, REACH_TIMEOUT)
        ping_until_reply(right, dialler.address, REACH_TIMEOUT)
        for node in (dialler, listener):
            if not isinstance(node, SeptateNode):
                node.namespace.ip("link", "set", TUN_NAME, "mtu", REFERENCE_MTU)
        yield Line(lab, (dialler, listener))


def measured(pair: str, transport: str, seconds: int) -> str:
    """One row: rates both ways, and the processor time of both nodes."""
    try:
        with joined(pair, transport) as line:
            there = put_load(line, seconds)
            back = put_load(line, seconds, ["--reverse"])
            costs = f"{there.seconds_per_gigabyte:8.1f}" if there.received_bytes else f"{'–':>8}"
            rates = f"{there.bits_per_second / MEGA:9.0f} {back.bits_per_second / MEGA:9.0f}"
            return f"{rates} {costs}"
    except LabError as error:
        return f"failed: {str(error).splitlines()[0]}"


def main() -> int:
    """Prints the table; 1 where nothing can be measured."""
    parser = argparse.ArgumentParser(prog="bench.links", description=__doc__)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--only", default=",".join(TRANSPORTS))
    parser.add_argument("--pairs", default=",".join(PAIRS))
    arguments = parser.parse_args()
    enter_if_unprivileged("bench.links", sys.argv[1:])
    reason = namespaces.available() or missing_tool()
    if reason is not None:
        print(reason, file=sys.stderr)
        return 1
    names = {"s": "Septate", "m": "Mycelium"}
    print(f"{'transport':<10} {'dials':<9} {'listens':<9} {'Mbit/s':>9} {'back':>9} {'CPU s/GB':>8}")
    for transport in arguments.only.split(","):
        for pair in arguments.pairs.split(","):
            why_not = refusal(pair, transport)
            row = f"{transport:<10} {names[pair[0]]:<9} {names[pair[1]]:<9} "
            print(row + (f"– {why_not}" if why_not else measured(pair, transport, arguments.seconds)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
