"""The row about many small turns: request and response, one at a time."""

import json
import subprocess
import sys
from typing import Final

from bench.contenders import Line
from bench.rows import Figures
from tests.lab.namespaces import LabError, stop_process

GRACE_SECONDS: Final = 35.0


def measure_exchange(line: Line, seconds: float, key: str = "exchange") -> Figures:
    """Exchanges per second between the hosts at both ends of the line, as row `key`."""
    server = line.last.namespace.start_tool("bench.exchange", "serve")
    try:
        assert server.stdout is not None
        port = json.loads(server.stdout.readline())["port"]
        command = [sys.executable, "-m", "bench.exchange", "ask", line.last.address, str(port), str(seconds)]
        try:
            done = line.first.namespace.run(command, timeout=seconds + GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            raise LabError(f"request/response did not end within {seconds + GRACE_SECONDS:g} s") from None
    finally:
        stop_process(server)
    if done.returncode != 0:
        raise LabError(f"request/response: {done.stderr.decode(errors='replace').strip().splitlines()[-1]}")
    return {key: json.loads(done.stdout)["per_second"]}
