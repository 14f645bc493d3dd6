"""Memory of a node by the number of its links, over TCP and over QUIC: proportional set size of all its processes."""

from __future__ import annotations

import time
from typing import Final

from bench.accounting import memory_of
from bench.links.meeting import NAMES, Choice, introduced, kind_of
from tests.lab.namespaces import LabError

COUNTS: Final = (1, 16)
SETTLE_SECONDS: Final = 2.0
MEGA: Final = 1e6


def report(choice: Choice) -> None:
    """Prints a row for each transport and kind of node."""
    most = max(COUNTS)
    print(f"{'transport':<10} {'nodes':<10} " + " ".join(f"{f'{n} links':>9}" for n in COUNTS) + "   MB each more")
    for letter, transport in choice.kinds():
        if transport == "unix":
            # All would be dialled at one path, which is one peer.
            continue
        row = f"{transport:<10} {NAMES[letter]:<10} "
        try:
            sizes = [_size(letter, transport, most, count) / MEGA for count in COUNTS]
        except LabError as error:
            print(f"{row}failed: {str(error).splitlines()[0]}", flush=True)
            continue
        each = (sizes[-1] - sizes[0]) / (COUNTS[-1] - COUNTS[0])
        print(row + " ".join(f"{size:>9.1f}" for size in sizes) + f" {each:>14.2f}", flush=True)


def _size(letter: str, transport: str, addresses: int, links: int) -> int:
    with introduced(letter * 2, transport, addresses) as (line, endpoints):
        node = kind_of(letter, transport)(
            line.lab, line.first.namespace, peers=endpoints[:links], options=line.first.options
        ).start()
        node.wait_until_up()
        node.wait_for_links(links)
        time.sleep(SETTLE_SECONDS)
        return memory_of(node.process_id).total
