"""Throughput over each transport: between two Septates, with Mycelium, and of two Mycelia."""

from __future__ import annotations

from typing import Final

from bench.links.meeting import NAMES, Choice, joined, refusal
from bench.measure_throughput import put_load
from tests.lab.namespaces import LabError

MEGA: Final = 1e6


def report(choice: Choice) -> None:
    """Prints rates both ways, and the processor time of both nodes."""
    print(f"{'transport':<10} {'dials':<9} {'listens':<9} {'Mbit/s':>9} {'back':>9} {'CPU s/GB':>8}")
    for transport in choice.transports:
        for pair in choice.pairs:
            why_not = refusal(pair, transport)
            row = f"{transport:<10} {NAMES[pair[0]]:<9} {NAMES[pair[1]]:<9} "
            print(row + (f"– {why_not}" if why_not else _measured(pair, transport, choice.seconds)), flush=True)


def _measured(pair: str, transport: str, seconds: int) -> str:
    try:
        with joined(pair, transport) as line:
            there = put_load(line, seconds)
            back = put_load(line, seconds, ["--reverse"])
            costs = f"{there.seconds_per_gigabyte:8.1f}" if there.received_bytes else f"{'–':>8}"
            return f"{there.bits_per_second / MEGA:9.0f} {back.bits_per_second / MEGA:9.0f} {costs}"
    except LabError as error:
        return f"failed: {str(error).splitlines()[0]}"
