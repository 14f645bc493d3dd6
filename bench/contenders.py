"""The contenders, and the networks in which they are measured: two nodes, two nodes with many links, three in line."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from tests.lab.namespaces import Lab
from tests.lab.nodes import MyceliumNode, Node, SeptateNode, YggdrasilNode
from tests.lab.ping import ping_until_reply

KINDS: Final[tuple[type[Node], ...]] = (SeptateNode, MyceliumNode, YggdrasilNode)
REACH_TIMEOUT: Final = 30.0


@dataclass(frozen=True, slots=True)
class Line:
    """Nodes in line; the first dials the second, the third dials the second. Two or three of them."""

    lab: Lab
    nodes: tuple[Node, ...]

    @property
    def first(self) -> Node:
        """The node that sends."""
        return self.nodes[0]

    @property
    def last(self) -> Node:
        """The node at the other end."""
        return self.nodes[-1]

    def process_ids(self) -> list[int]:
        """The process that was started of each node."""
        return [node.process_id for node in self.nodes]


def version_of(kind: type[Node]) -> str:
    """What the program says about its version, on one line."""
    program = kind.find_program()
    if program is None:
        return "missing"
    flag = "-version" if kind is YggdrasilNode else "--version"
    said = subprocess.run([program, flag], capture_output=True, text=True, timeout=10, check=False).stdout
    return " ".join(said.split()) or "unknown"


def split_by_presence(wanted: Sequence[str]) -> tuple[list[type[Node]], dict[str, str]]:
    """The kinds that can run, and for the others the reason. `wanted` names kinds in lower case, all when empty."""
    present: list[type[Node]] = []
    absent: dict[str, str] = {}
    for kind in KINDS:
        reason = "not asked for" if wanted and kind.kind.lower() not in wanted else kind.missing()
        if reason is None:
            present.append(kind)
        else:
            absent[kind.kind] = reason
    return present, absent


@contextmanager
def listening_and_dialling(kind: type[Node], links: int = 1, *, listening: type[Node] | None = None) -> Iterator[Line]:
    """Two wired nodes: the last runs and listens, the first knows `links` endpoints of it and is not started yet.

    Both are of the same kind unless `listening` names another for the last.
    """
    with Lab() as lab:
        left, right = lab.namespace("left"), lab.namespace("right")
        wire = lab.wire(left, right, addresses=links)
        listener = (listening or kind)(lab, right).start()
        listener.wait_until_up()
        dialler = kind(lab, left, peers=[listener.endpoint(address) for address in wire.right_addresses])
        yield Line(lab, (dialler, listener))


@contextmanager
def three_in_line(kind: type[Node], *, relaying: type[Node] | None = None) -> Iterator[Line]:
    """Three running nodes, both ends dialling the middle, each end reachable from the other.

    All are of the same kind unless `relaying` names another for the middle.
    """
    with Lab() as lab:
        left, middle, right = (lab.namespace(label) for label in ("left", "middle", "right"))
        first, second = lab.wire(left, middle), lab.wire(middle, right)
        relay = (relaying or kind)(lab, middle).start()
        relay.wait_until_up()
        near = kind(lab, left, peers=[relay.endpoint(first.right_address)]).start()
        far = kind(lab, right, peers=[relay.endpoint(second.left_address)]).start()
        near.wait_until_up()
        far.wait_until_up()
        ping_until_reply(left, far.address, REACH_TIMEOUT)
        yield Line(lab, (near, relay, far))
