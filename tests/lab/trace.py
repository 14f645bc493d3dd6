"""The tracer: shows the hops to an address by ICMPv6 echo requests with hop limits 1, 2, 3, …

As a program, inside a namespace: `python -m tests.lab.trace ADDRESS [--json]`. As a library: `trace`.
"""

import argparse
import json
import os
import select
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from tests.lab import icmpv6
from tests.lab.namespaces import LabError, Namespace

PAYLOAD_BYTES: Final = 56


@dataclass(frozen=True, slots=True)
class Hop:
    """Who answered a request with this hop limit: `kind` is the ICMPv6 type (129: the destination itself, 3: a hop).

    Without an answer `source`, `kind`, `code` and `rtt` (seconds) are None.
    """

    hop_limit: int
    source: str | None
    kind: int | None
    code: int | None
    rtt: float | None


def probe(raw: socket.socket, address: str, hop_limit: int, timeout: float) -> Hop:
    """Sends one request with `hop_limit` and waits up to `timeout` seconds for what comes back."""
    identifier = os.getpid() & 0xFFFF
    raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, hop_limit)
    begin = time.monotonic()
    raw.sendto(icmpv6.echo_request(identifier, hop_limit, PAYLOAD_BYTES), (address, 0))
    while (patience := begin + timeout - time.monotonic()) > 0:
        if not select.select([raw], [], [], patience)[0]:
            break
        packet, origin = raw.recvfrom(65536)
        answer = icmpv6.parse_answer(packet, origin[0], identifier)
        if answer is not None and answer.sequence == hop_limit:
            return Hop(hop_limit, answer.source, answer.kind, answer.code, time.monotonic() - begin)
    return Hop(hop_limit, None, None, None, None)


def probe_all(address: str, max_hops: int, timeout: float, tries: int) -> list[Hop]:
    """The hops to `address`, ending with the first that is no `time exceeded`; each asked up to `tries` times."""
    hops: list[Hop] = []
    with icmpv6.open_socket() as raw:
        for hop_limit in range(1, max_hops + 1):
            for _ in range(tries):
                hop = probe(raw, address, hop_limit, timeout)
                if hop.source is not None:
                    break
            hops.append(hop)
            if hop.kind not in (None, icmpv6.TIME_EXCEEDED):
                break
    return hops


def trace(namespace: Namespace, address: str, *, max_hops: int = 8, timeout: float = 1.0, tries: int = 2) -> list[Hop]:
    """Traces from inside `namespace`. Raises LabError when the tracer itself fails."""
    arguments = [address, "--json", f"--max-hops={max_hops}", f"--timeout={timeout}", f"--tries={tries}"]
    limit = max_hops * timeout * tries + 10.0
    done = namespace.run([sys.executable, "-m", "tests.lab.trace", *arguments], timeout=limit)
    if done.returncode != 0:
        raise LabError(f"trace {address} from {namespace.label}: {done.stderr.decode(errors='replace').strip()}")
    raw: list[dict[str, Any]] = json.loads(done.stdout)
    return [Hop(**hop) for hop in raw]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab.trace", description="Show the hops to an IPv6 address.")
    parser.add_argument("address")
    parser.add_argument("--max-hops", type=int, default=30)
    parser.add_argument("--timeout", type=float, default=1.0, help="seconds to wait for each answer")
    parser.add_argument("--tries", type=int, default=2, help="requests per hop without an answer")
    parser.add_argument("--json", action="store_true", help="print the hops as one line of JSON")
    given = parser.parse_args(arguments)
    hops = probe_all(given.address, given.max_hops, given.timeout, given.tries)
    if given.json:
        print(json.dumps([asdict(hop) for hop in hops]))
        return 0
    for hop in hops:
        if hop.rtt is None:
            print(f"{hop.hop_limit:3}  no answer")
        else:
            print(f"{hop.hop_limit:3}  {hop.source}  {hop.rtt * 1e3:.3f} ms  type {hop.kind} code {hop.code}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
