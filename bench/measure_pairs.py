"""Pairs of nodes of different kinds: one TCP stream, and what it costs both nodes."""

from typing import Final

from bench.contenders import REACH_TIMEOUT, listening_and_dialling
from bench.measure_throughput import measure_tcp, missing_tool
from bench.report import PAIR_SIGN
from bench.rows import PAIR_ROWS, Figures, unavailable
from tests.lab.namespaces import LabError
from tests.lab.nodes import MyceliumNode, Node, SeptateNode
from tests.lab.ping import ping_until_reply

MIXED_PAIRS: Final[tuple[tuple[type[Node], type[Node]], ...]] = (
    (SeptateNode, MyceliumNode),
    (MyceliumNode, SeptateNode),
)


def name_of(sending: type[Node], receiving: type[Node]) -> str:
    """The pair's name: whose host sends the bulk, then whose host gets it."""
    return f"{sending.kind}{PAIR_SIGN}{receiving.kind}"


def measure_pair(sending: type[Node], receiving: type[Node], seconds: int) -> Figures:
    """The rows `PAIR_ROWS` of a sending node that dials a receiving one."""
    reason = missing_tool()
    if reason is None:
        try:
            with listening_and_dialling(sending, listening=receiving) as line:
                line.first.start().wait_until_up()
                ping_until_reply(line.first.namespace, line.last.address, REACH_TIMEOUT)
                return measure_tcp(line, seconds)
        except LabError as error:
            reason = str(error).splitlines()[0]
    return unavailable(reason, *(row.key for row in PAIR_ROWS))
