"""The rows of the table: what is measured, in which unit, and which direction is better."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias


@dataclass(frozen=True, slots=True)
class Row:
    """One quantity, the same for every contender."""

    key: str
    title: str
    unit: str
    higher_is_better: bool


Value: TypeAlias = float | str
"""A figure in the row's unit, or the reason why there is none."""

Figures: TypeAlias = Mapping[str, Value]
"""Row key → value, of one contender in one repetition."""

Measurement: TypeAlias = Callable[[], Figures]

ROWS: Final = (
    Row("ping_average", "idle ping, average", "ms", False),
    Row("ping_p99", "idle ping, 99th percentile", "ms", False),
    Row("ping_load_average", "ping beside a TCP stream, average", "ms", False),
    Row("ping_load_p99", "ping beside a TCP stream, 99th percentile", "ms", False),
    Row("ping_load_lost", "ping beside a TCP stream, lost", "%", False),
    Row("tcp", "TCP, one stream", "Gbit/s", True),
    Row("tcp_four", "TCP, four streams", "Gbit/s", True),
    Row("tcp_reverse", "TCP, one stream, reverse", "Gbit/s", True),
    Row("tcp_both", "TCP, two streams in opposite directions, sum", "Gbit/s", True),
    Row("tcp_relay", "TCP, one stream through a relay", "Gbit/s", True),
    Row("udp", "UDP, 200-byte datagrams that arrive", "1/s", True),
    Row("udp_lossless_64", "UDP without loss, 64-byte datagrams", "1/s", True),
    Row("udp_lossless_512", "UDP without loss, 512-byte datagrams", "1/s", True),
    Row("udp_lossless_1300", "UDP without loss, 1300-byte datagrams", "1/s", True),
    Row("exchange", "request/response, one at a time", "1/s", True),
    Row("exchange_relay", "request/response through a relay", "1/s", True),
    Row("cold_start", "start of the dialling node to first pong", "ms", False),
    Row("recovery_dialling", "kill -9 of a node that dials, to first pong", "ms", False),
    Row("recovery_listening", "kill -9 of a node that listens, to first pong", "ms", False),
    Row("memory", "memory of the whole node (PSS)", "MB", False),
    Row("memory_process", "memory per process (PSS, mean)", "MB", False),
    Row("memory_link_1", "memory of the first link (PSS)", "MB", False),
    Row("memory_link_4", "memory per further link, up to 4 (PSS)", "MB", False),
    Row("memory_link_16", "memory per further link, up to 16 (PSS)", "MB", False),
    Row("cpu_direct", "CPU of both nodes, TCP direct", "s/GB", False),
    Row("cpu_relay", "CPU of all three nodes, TCP by relay", "s/GB", False),
    Row("idle_cpu", "idle CPU of the whole node", "% of a core", False),
)

ROW_KEYS: Final = frozenset(row.key for row in ROWS)

PAIR_ROWS: Final = tuple(row for row in ROWS if row.key in {"tcp", "cpu_direct"})
"""What is measured between nodes of two kinds."""


def unavailable(reason: str, *keys: str) -> Figures:
    """The same reason for several rows."""
    return dict.fromkeys(keys, reason)
