"""The profile of every actor under one TCP stream, by py-spy, for each node of three in line in turn.

Run by `python -m bench.run --profile`. Writes one file of collapsed stacks per actor, as flame graph programs read
them, and prints where each actor spends its time. py-spy looks from outside: the actors run as they always do.
"""

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.contenders import Line, three_in_line
from bench.measure_throughput import GIGA, missing_tool, put_load
from tests.lab.namespaces import LabError
from tests.lab.nodes import SeptateNode

SAMPLES_PER_SECOND: Final = 100
LEAD_SECONDS: Final = 1
END_TIMEOUT: Final = 20.0
PLACES_SHOWN: Final = 4
WAITS_NOTE: Final = "waits for events (Loop.turn, select, poll2, Condition.wait) count where py-spy takes them for work"


@dataclass(frozen=True, slots=True)
class Recorder:
    """py-spy at work on one actor."""

    actor: str
    path: Path
    process: "subprocess.Popen[bytes]"


def find_profiler() -> str | None:
    """The path of py-spy, beside the interpreter or on PATH."""
    return shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")


def missing() -> str | None:
    """Says what a profile lacks, on one line."""
    if find_profiler() is None:
        return "py-spy is missing; `pip install py-spy` for a profile"
    return missing_tool() or SeptateNode.missing()


def busiest_places(collapsed: Iterable[str], count: int) -> list[tuple[str, int]]:
    """The `count` functions in which most samples ended, from lines `outer;inner 12`, with their samples."""
    samples: Counter[str] = Counter()
    for line in collapsed:
        stack, _, number = line.rpartition(" ")
        if stack:
            samples[stack.rpartition(";")[2]] += int(number)
    return samples.most_common(count)


def profile(folder: Path, seconds: int) -> None:
    """Profiles the sender's, the relay's and the receiver's actors in turn, `seconds` each, into `folder`.

    Raises LabError when the nodes don't get up or the flow fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with three_in_line(SeptateNode) as line:
        for part, node in zip(("sender", "relay", "receiver"), line.nodes, strict=True):
            assert isinstance(node, SeptateNode)
            _profile_node(line, node, part, folder, seconds)
    print(f"\n{WAITS_NOTE}\nwritten: one file of collapsed stacks per actor in {folder}")


def _profile_node(line: Line, node: SeptateNode, part: str, folder: Path, seconds: int) -> None:
    profiler = find_profiler()
    assert profiler is not None
    recorders: list[Recorder] = []
    try:
        for actor in node.actors():
            path = folder / f"{part}-{actor.name}.txt"
            command = [profiler, "record", "--pid", str(actor.process_id), "--duration", str(seconds)]
            options = ["--rate", str(SAMPLES_PER_SECOND), "--format", "raw", "--output", str(path)]
            process = node.namespace.start([*command, *options], output=subprocess.DEVNULL, errors=subprocess.PIPE)
            recorders.append(Recorder(actor.name, path, process))
        load = put_load(line, seconds + LEAD_SECONDS)
        print(f"\nactors of the {part}, {load.bits_per_second / GIGA:.2f} Gbit/s meanwhile")
        for recorder in recorders:
            print(f"  {recorder.actor:<14} {_describe(recorder, seconds)}")
    finally:
        for recorder in recorders:
            recorder.process.kill()


def _describe(recorder: Recorder, seconds: int) -> str:
    try:
        said = recorder.process.communicate(timeout=END_TIMEOUT)[1]
    except subprocess.TimeoutExpired:
        raise LabError(f"py-spy did not end within {END_TIMEOUT:g} s of the flow") from None
    if recorder.process.returncode != 0 or not recorder.path.exists():
        lines = said.decode(errors="replace").strip().splitlines()
        return f"no profile: {lines[-1] if lines else f'py-spy ended with code {recorder.process.returncode}'}"
    places = busiest_places(recorder.path.read_text().splitlines(), PLACES_SHOWN)
    total = seconds * SAMPLES_PER_SECOND
    return ", ".join(f"{place} {samples / total:.0%}" for place, samples in places) or "idle"
