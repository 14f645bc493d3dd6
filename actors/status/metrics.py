"""The metrics: the reference's families from our counters, and ours for each process, as Prometheus reads them."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from flask import Flask, Response

from actors.api.asking import Actors
from actors.status.families import COUNTER, FAMILIES, GAUGE, Family
from actors.status.http import make_app
from protocol.frames import ActorRow, Role

METRICS_PATH: Final = "/metrics"
_CONTENT: Final = "text/plain; charset=utf-8"
_QUEUE: Final = "queue:"
_GONE: Final = "gone_links."
_UNSAFE: Final = re.compile(r'[\\"\n]')


def build_metrics(actors: Actors, counters: Counter[str], *, check_host: bool) -> Flask:
    """The application behind the metrics address."""
    app = make_app(counters, check_host=check_host)
    app.add_url_rule(METRICS_PATH, "metrics", lambda: _serve(actors), methods=["GET"], provide_automatic_options=False)
    return app


def _serve(actors: Actors) -> Response:
    rows = actors.processes()
    return Response("".join(render(rows)), content_type=_CONTENT)


def render(rows: list[ActorRow]) -> Iterator[str]:
    """The text exposition format, line by line."""
    totals = _totals(rows)
    for family in FAMILIES:
        yield from _family(family, totals)
    yield from _ours(rows)
    yield from _whole_node(rows)


def _totals(rows: Iterable[ActorRow]) -> Counter[str]:
    totals: Counter[str] = Counter()
    for row in rows:
        for name, count in row.counters.items():
            # Links that ended live on in the sums of the supervisor.
            totals[name.removeprefix(_GONE)] += count
        for name, depth in row.queues.items():
            totals[_QUEUE + name] += depth
    return totals


def _family(family: Family, totals: Counter[str]) -> Iterator[str]:
    sums = {
        value: max(0, sum(-totals[name[1:]] if name.startswith("-") else totals[name] for name in names))
        for value, names in family.sums.items()
    }
    if family.label:
        # Like the reference: a value of a label appears once it counted something, and the family with the first one.
        sums = {value: total for value, total in sums.items() if total}
    if sums:
        yield _head(family.name, family.kind, family.help)
    for value, total in sums.items():
        yield _sample(family.name, {family.label: value} if family.label else {}, total)


def _ours(rows: list[ActorRow]) -> Iterator[str]:
    figures = (
        ("cpu_seconds_total", COUNTER, "Processor time", lambda row: row.cpu_seconds),
        (
            "memory_pss_bytes",
            GAUGE,
            "Own memory and its share of shared",
            lambda row: row.pss_kib * 1024,
        ),
        ("restarts_total", COUNTER, "How often it was restarted", lambda row: row.restarts),
        ("age_seconds", GAUGE, "Since when this process lives", lambda row: row.age_seconds),
        ("ready", GAUGE, "Whether it serves", lambda row: int(row.ready)),
    )
    for name, kind, text, figure in figures:
        yield _head(f"septate_actor_{name}", kind, text)
        for row in rows:
            yield _sample(f"septate_actor_{name}", _labels(row), figure(row))
    yield _head("septate_actor_queue", GAUGE, "What waits in a queue")
    for row in rows:
        for name, depth in sorted(row.queues.items()):
            yield _sample("septate_actor_queue", _labels(row) | {"queue": name}, depth)
    yield _head("septate_actor_events_total", COUNTER, "What a process counted; begins at 0 when it is restarted")
    for row in rows:
        for name, count in sorted(row.counters.items()):
            yield _sample("septate_actor_events_total", _labels(row) | {"event": name}, count)


def _labels(row: ActorRow) -> dict[str, str]:
    return {"actor": row.name, "role": row.role.value}


# --- the usual metrics of a process, for all processes of the node together -------------------------------------------


def _whole_node(rows: list[ActorRow]) -> Iterator[str]:
    memory = virtual = descriptors = threads = 0
    for row in rows:
        # A process may be gone since.
        with suppress(OSError, ValueError):
            status = _status_of(row.pid)
            virtual += status.get("VmSize", 0) * 1024
            threads += status.get("Threads", 0)
        with suppress(OSError):
            # The kernel (6.2 and later) says how many are open, also of a process whose files are not ours to see.
            descriptors += Path(f"/proc/{row.pid}/fd").stat().st_size
        memory += row.pss_kib * 1024
    age = max((row.age_seconds for row in rows if row.role is Role.SUPERVISOR), default=0.0)
    for name, kind, text, value in (
        ("cpu_seconds_total", COUNTER, "Processor time, whole seconds", int(sum(row.cpu_seconds for row in rows))),
        ("open_fds", GAUGE, "Open descriptors", descriptors),
        ("max_fds", GAUGE, "The most descriptors of one process", _most_descriptors()),
        ("virtual_memory_bytes", GAUGE, "Virtual memory", virtual),
        ("resident_memory_bytes", GAUGE, "Memory, what is shared counted once", memory),
        ("start_time_seconds", GAUGE, "Start of the node since the Unix epoch", int(time.time() - age)),
        ("threads", GAUGE, "Threads", threads),
    ):
        yield _head(f"process_{name}", kind, text)
        yield _sample(f"process_{name}", {}, value)


def _status_of(pid: int) -> dict[str, int]:
    found = {}
    with Path(f"/proc/{pid}/status").open(encoding="ascii", errors="replace") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name in ("VmSize", "Threads"):
                found[name] = int(value.split()[0])
    return found


def _most_descriptors() -> int:
    with Path("/proc/self/limits").open(encoding="ascii") as lines:
        for line in lines:
            if line.startswith("Max open files"):
                return int(line.split()[3])
    return 0


# --- the format -------------------------------------------------------------------------------------------------------


def _head(name: str, kind: str, text: str) -> str:
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"


def _sample(name: str, labels: dict[str, str], value: float) -> str:
    inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    return f"{name}{{{inside}}} {value}\n" if inside else f"{name} {value}\n"


def _escaped(text: str) -> str:
    return _UNSAFE.sub(lambda found: {"\\": r"\\", '"': r"\"", "\n": r"\n"}[found[0]], text)
