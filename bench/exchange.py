"""The request/response program: 64 bytes there, 64 bytes back, one at a time over one TCP connection.

Inside namespaces: `python -m bench.exchange serve` prints its port and answers one connection;
`python -m bench.exchange ask ADDRESS PORT SECONDS` prints how many answers per second it got.
"""

import argparse
import json
import socket
import sys
import time
from collections.abc import Sequence
from typing import Final

MESSAGE: Final = bytes(64)
TIMEOUT: Final = 30.0


def serve() -> None:
    """Answers one connection until it ends."""
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as listener:
        listener.bind(("::", 0))
        listener.listen(1)
        listener.settimeout(TIMEOUT)
        print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
        connection, _ = listener.accept()
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while request := connection.recv(len(MESSAGE), socket.MSG_WAITALL):
                connection.sendall(request)


def ask(address: str, port: int, seconds: float) -> float:
    """Asks for so long; returns answers per second."""
    with socket.create_connection((address, port), timeout=TIMEOUT) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(None)
        count = 0
        begin = time.monotonic()
        while (passed := time.monotonic() - begin) < seconds:
            connection.sendall(MESSAGE)
            if len(connection.recv(len(MESSAGE), socket.MSG_WAITALL)) != len(MESSAGE):
                raise ConnectionError(f"{address} closed the connection after {count} answers")
            count += 1
        return count / passed


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.exchange", description="Request and response over TCP.")
    roles = parser.add_subparsers(dest="role", required=True)
    roles.add_parser("serve")
    asking = roles.add_parser("ask")
    asking.add_argument("address")
    asking.add_argument("port", type=int)
    asking.add_argument("seconds", type=float)
    given = parser.parse_args(arguments)
    if given.role == "serve":
        serve()
    else:
        print(json.dumps({"per_second": ask(given.address, given.port, given.seconds)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
