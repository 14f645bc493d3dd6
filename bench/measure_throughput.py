"""Rows about rates: iperf3 between the hosts of two nodes, and the processor time that the nodes spend on it."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from bench.accounting import processor_seconds
from bench.contenders import Line
from bench.rows import Figures
from tests.lab.namespaces import LabError, stop_process

GIGA: Final = 1e9
UDP_PAYLOAD_BYTES: Final = 200
GRACE_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class Load:
    """One run of iperf3: its JSON report, and processor seconds of all nodes meanwhile."""

    report: dict[str, Any]
    processor_seconds: float

    @property
    def received_bytes(self) -> int:
        """TCP payload that arrived."""
        return int(self.report["end"]["sum_received"]["bytes"])

    @property
    def bits_per_second(self) -> float:
        """TCP payload rate at the receiver."""
        return float(self.report["end"]["sum_received"]["bits_per_second"])

    @property
    def datagrams_per_second(self) -> float:
        """UDP datagrams that arrived."""
        total = self.report["end"]["sum"]
        return float((total["packets"] - total["lost_packets"]) / total["seconds"])

    @property
    def seconds_per_gigabyte(self) -> float:
        """Processor seconds of the nodes for each 10⁹ bytes that arrived."""
        return self.processor_seconds / (self.received_bytes / GIGA)


def missing_tool() -> str | None:
    """Says so when iperf3 isn't here."""
    return None if shutil.which("iperf3") else "iperf3 is missing; install it for the rates"


def put_load(line: Line, seconds: float, options: Sequence[str] = ()) -> Load:
    """Runs iperf3 from the first node's host to the last's. Raises LabError when it fails."""
    server = line.last.namespace.start(["iperf3", "--server", "--one-off", "--forceflush"], errors=subprocess.DEVNULL)
    try:
        _wait_for_server(server)
        before = processor_seconds(line.process_ids())
        command = ["iperf3", "--client", line.last.address, "--time", f"{seconds:g}", "--json", *options]
        try:
            done = line.first.namespace.run(command, timeout=seconds + GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            raise LabError(f"iperf3 did not end within {seconds + GRACE_SECONDS:g} s") from None
        used = processor_seconds(line.process_ids()) - before
    finally:
        stop_process(server)
    report: dict[str, Any] = json.loads(done.stdout or b"{}")
    if "error" in report or "end" not in report:
        raise LabError(f"iperf3: {report.get('error', 'no report')}")
    return Load(report, used)


def _wait_for_server(server: "subprocess.Popen[bytes]") -> None:
    assert server.stdout is not None
    while line := server.stdout.readline():
        if b"listening" in line:
            return
    raise LabError("the iperf3 server ended at once")


def measure_tcp(line: Line, seconds: float) -> Figures:
    """One stream, and the processor time it costs."""
    load = put_load(line, seconds)
    return {"tcp": load.bits_per_second / GIGA, "cpu_direct": load.seconds_per_gigabyte}


def measure_tcp_four(line: Line, seconds: float) -> Figures:
    """Four streams at once."""
    return {"tcp_four": put_load(line, seconds, ["--parallel", "4"]).bits_per_second / GIGA}


def measure_tcp_reverse(line: Line, seconds: float) -> Figures:
    """One stream from the listening node's host to the dialling one's."""
    return {"tcp_reverse": put_load(line, seconds, ["--reverse"]).bits_per_second / GIGA}


def measure_tcp_relay(line: Line, seconds: float) -> Figures:
    """One stream through the middle of three nodes, and the processor time of all three."""
    load = put_load(line, seconds)
    return {"tcp_relay": load.bits_per_second / GIGA, "cpu_relay": load.seconds_per_gigabyte}


def measure_udp(line: Line, seconds: float) -> Figures:
    """Small datagrams as fast as the sender can; those that arrive count."""
    options = ["--udp", "--bitrate", "0", "--length", str(UDP_PAYLOAD_BYTES)]
    return {"udp": put_load(line, seconds, options).datagrams_per_second}
