"""What a node costs: memory and processor time of its process and all descendants, from /proc.

Needs to be allowed to read other processes' memory maps: root, as the benchmark is.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
NANOSECONDS: Final = 1e9


@dataclass(frozen=True, slots=True)
class Memory:
    """Proportional set size of each process of a node, in bytes: shared pages count by share."""

    by_process: tuple[int, ...]

    @property
    def total(self) -> int:
        """Of the whole node."""
        return sum(self.by_process)

    @property
    def mean(self) -> float:
        """Per process."""
        return self.total / len(self.by_process)


def parent_of(process: int) -> int | None:
    """The parent's process id, None when the process is gone. The name, in parentheses, may hold anything."""
    try:
        text = (PROC / str(process) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(text.rpartition(")")[2].split()[1])


def tree_of(root: int) -> list[int]:
    """The process `root` and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            parent = parent_of(int(entry.name))
            if parent is not None:
                children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for process in found:
        found.extend(children.get(process, ()))
    return found


def memory_by_process(root: int) -> dict[int, int]:
    """Proportional set size, in bytes, of `root` and each of its descendants; none of those that are gone."""
    sizes = {process: _proportional_set_size(process) for process in tree_of(root)}
    return {process: size for process, size in sizes.items() if size is not None}


def memory_of(root: int) -> Memory:
    """The memory of `root` and its descendants."""
    return Memory(tuple(memory_by_process(root).values()))


def _proportional_set_size(process: int) -> int | None:
    try:
        text = (PROC / str(process) / "smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return None


def processor_seconds(roots: Iterable[int]) -> float:
    """Processor time that these processes and their descendants, as they are now, have used so far, in seconds.

    From `schedstat`, which counts nanoseconds; `stat` counts ticks of 10 ms and misses short idle wake-ups.
    """
    total = 0
    for root in roots:
        for process in tree_of(root):
            try:
                threads = list((PROC / str(process) / "task").iterdir())
            except (FileNotFoundError, ProcessLookupError):
                continue
            total += sum(_thread_nanoseconds(thread) for thread in threads)
    return total / NANOSECONDS


def _thread_nanoseconds(thread: Path) -> int:
    try:
        return int((thread / "schedstat").read_text().split()[0])
    except (FileNotFoundError, ProcessLookupError):
        return 0
