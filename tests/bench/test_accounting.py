"""What the benchmark reads from /proc, on processes of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from bench.accounting import memory_by_process, memory_of, processor_seconds, tree_of

FAMILY = (
    "import subprocess, sys\n"
    "child = subprocess.Popen([sys.executable, '-c', 'sum(range(3_000_000)); print(1, flush=True); input()'])\n"
    "child.wait()\n"
)


@pytest.fixture
def family() -> Iterator[int]:
    """A process with one child that has computed a little; yields the parent's id when it has."""
    with subprocess.Popen([sys.executable, "-c", FAMILY], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        yield parent.pid
        assert parent.stdin is not None
        parent.stdin.close()


def test_a_tree_is_the_process_and_its_descendants(family: int) -> None:
    assert len(tree_of(family)) == 2
    assert family in tree_of(os.getpid())


def test_memory_is_told_for_every_process_of_the_tree(family: int) -> None:
    memory = memory_of(family)
    assert len(memory.by_process) == 2
    assert all(size > 500_000 for size in memory.by_process)
    assert memory.mean == memory.total / 2


def test_processor_time_includes_the_children(family: int) -> None:
    child = tree_of(family)[1]
    assert processor_seconds([family]) >= processor_seconds([child]) > 0.001


def test_a_process_that_is_gone_costs_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    assert processor_seconds([gone.pid]) == 0


def test_memory_is_told_process_by_process(family: int) -> None:
    assert set(memory_by_process(family)) == set(tree_of(family))
