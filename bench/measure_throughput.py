"""Rows about rates: iperf3 between the hosts of two nodes, and the processor time that the nodes spend on it."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from bench.accounting import processor_seconds
from bench.contenders import Line
from bench.rows import Figures
from tests.lab.namespaces import LabError, stop_process

GIGA: Final = 1e9
UDP_PAYLOAD_BYTES: Final = 200
SOCKET_BUFFER_BYTES: Final = 4 << 20
RECEIVE_BUFFER_LIMIT: Final = Path("/proc/sys/net/core/rmem_max")
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
    def bits_per_second_both_ways(self) -> float:
        """TCP payload rate at both receivers of a bidirectional run."""
        return self.bits_per_second + float(self.report["end"]["sum_received_bidir_reverse"]["bits_per_second"])

    @property
    def seconds_per_gigabyte(self) -> float:
        """Processor seconds of the nodes for each 10⁹ bytes that arrived. Raises LabError when none did."""
        if not self.received_bytes:
            raise LabError("iperf3: no byte arrived")
        return self.processor_seconds / (self.received_bytes / GIGA)


@dataclass(frozen=True, slots=True)
class Datagrams:
    """What became of the datagrams of one run of iperf3: numbers of them, and the seconds that the receiver counted.

    `missed` counts gaps in the numbers of those that arrived. What is neither is still on its way, or lost at the end.
    """

    sent: int
    arrived: int
    missed: int
    seconds: float

    @classmethod
    def of(cls, load: Load, size: int) -> Self:
        """Reads the report of a run with datagrams of `size` bytes.

        The receiver's sum is taken, and its bytes: iperf3 gives as `packets` the highest number that it saw.
        """
        end = load.report["end"]
        at_receiver = end["sum_received"]
        return cls(
            sent=int(end["sum_sent"]["packets"]),
            arrived=int(at_receiver["bytes"]) // size,
            missed=int(at_receiver["lost_packets"]),
            seconds=float(at_receiver["seconds"]),
        )

    @property
    def per_second(self) -> float:
        """Datagrams that arrived, each second."""
        return self.arrived / self.seconds if self.seconds else 0.0


def missing_tool() -> str | None:
    """Says so when iperf3 isn't here."""
    return None if shutil.which("iperf3") else "iperf3 is missing; install it for the rates"


def put_load(line: Line, seconds: int, options: Sequence[str] = ()) -> Load:
    """Runs iperf3 from the first node's host to the last's, for whole `seconds` as it wants them.

    Raises LabError when it fails.
    """
    server = line.last.namespace.start(["iperf3", "--server", "--one-off", "--forceflush"], errors=subprocess.DEVNULL)
    try:
        _wait_for_server(server)
        before = processor_seconds(line.process_ids())
        command = ["iperf3", "--client", line.last.address, "--time", str(seconds), "--json", *options]
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


def measure_tcp(line: Line, seconds: int) -> Figures:
    """One stream, and the processor time it costs."""
    load = put_load(line, seconds)
    return {"tcp": load.bits_per_second / GIGA, "cpu_direct": load.seconds_per_gigabyte}


def measure_tcp_four(line: Line, seconds: int) -> Figures:
    """Four streams at once."""
    return {"tcp_four": put_load(line, seconds, ["--parallel", "4"]).bits_per_second / GIGA}


def measure_tcp_reverse(line: Line, seconds: int) -> Figures:
    """One stream from the listening node's host to the dialling one's."""
    return {"tcp_reverse": put_load(line, seconds, ["--reverse"]).bits_per_second / GIGA}


def measure_tcp_both(line: Line, seconds: int) -> Figures:
    """Two streams, one in each direction; the sum counts."""
    return {"tcp_both": put_load(line, seconds, ["--bidir"]).bits_per_second_both_ways / GIGA}


def measure_tcp_relay(line: Line, seconds: int) -> Figures:
    """One stream through the middle of three nodes, and the processor time of all three."""
    load = put_load(line, seconds)
    return {"tcp_relay": load.bits_per_second / GIGA, "cpu_relay": load.seconds_per_gigabyte}


def put_datagrams(line: Line, seconds: int, size: int, rate: float) -> Datagrams:
    """Offers `rate` datagrams of `size` payload bytes per second, as many as the sender can when it is 0.

    The receiver's buffer is as large as the system allows: a burst that waits there for the processor isn't lost.
    """
    window = min(SOCKET_BUFFER_BYTES, int(RECEIVE_BUFFER_LIMIT.read_text()))
    bits = round(rate * size * 8)
    options = ["--udp", "--bitrate", str(bits), "--length", str(size), "--window", str(window)]
    return Datagrams.of(put_load(line, seconds, options), size)


def measure_udp(line: Line, seconds: int) -> Figures:
    """Small datagrams as fast as the sender can; those that arrive count."""
    return {"udp": put_datagrams(line, seconds, UDP_PAYLOAD_BYTES, 0).per_second}
