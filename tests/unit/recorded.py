"""Comparison of an answer with a recorded one of the reference, under the rules that are recorded beside it."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import Any
from urllib.parse import quote

VECTORS = Path(__file__).parents[1] / "vectors"


def load(name: str) -> dict[str, Any]:
    """One file of recorded cases."""
    loaded: dict[str, Any] = json.loads((VECTORS / name).read_text())
    return loaded


def fill(value: Any, variables: dict[str, str]) -> Any:
    """`value` with `{{name}}` and `{{name|url}}` replaced in all its strings."""
    if isinstance(value, str):

        def one(match: re.Match[str]) -> str:
            name, _, coding = match[1].partition("|")
            if name not in variables:
                return match[0]
            return quote(variables[name], safe="") if coding == "url" else variables[name]

        return re.sub(r"\{\{([A-Za-z0-9_.|]+)\}\}", one, value)
    if isinstance(value, list):
        return [fill(part, variables) for part in value]
    if isinstance(value, dict):
        return {fill(name, variables): fill(part, variables) for name, part in value.items()}
    return value


def differences(case: dict[str, Any], expected: Any, actual: Any) -> list[str]:
    """What is wrong with `actual`; nothing where it fits the recording or one of the accepted improvements."""
    problems = [
        f"{path}: lacks /{wanted}/"
        for path, wanted in case.get("must", {}).items()
        for holder, key in places(actual, path)
        if not re.search(wanted, _text(holder[key]), re.DOTALL)
    ]
    if case.get("must_only"):
        return problems
    ours, theirs = _softened(actual, case, problems), _softened(expected, case, None)
    if ours != theirs:
        problems.append(f"expected {json.dumps(theirs, indent=1)}\n got {json.dumps(ours, indent=1)}")
    if problems and any(_contains(actual, other["response"]) for other in case.get("also_accepted", [])):
        return []
    return problems


def _softened(answer: Any, case: dict[str, Any], problems: list[str] | None) -> Any:
    answer = copy.deepcopy(answer)
    for rule in case.get("volatile", []):
        for holder, key in places(answer, rule.get("path") or rule["in"]):
            if "path" not in rule:
                if isinstance(holder[key], str):
                    holder[key] = re.sub(rule["regex"], rule.get("as", "<v>"), holder[key])
                continue
            if problems is not None and "is" in rule and not re.fullmatch(rule["is"], _text(holder[key]), re.DOTALL):
                problems.append(f"{rule['path']}: {holder[key]!r} is not /{rule['is']}/")
            low, high = rule.get("between", (-inf, inf))
            if problems is not None and "between" in rule and not low <= holder[key] <= high:
                problems.append(f"{rule['path']}: {holder[key]!r} is not between {low} and {high}")
            holder[key] = "<volatile>"
    for path in case.get("free", []):
        for holder, key in places(answer, path):
            holder[key] = "<free>"
    for path in case.get("unordered", []):
        for holder, key in places(answer, path):
            holder[key] = sorted(holder[key], key=lambda part: json.dumps(part, sort_keys=True))
    return answer


def places(value: Any, path: str) -> Iterator[tuple[Any, Any]]:
    """Each place that `path` names: what holds it, and its name or number there; `[*]` is every part."""
    reached: list[tuple[Any, Any]] = [({"root": value}, "root")]
    for token in re.findall(r"\[\*\]|\[\d+\]|\.[A-Za-z0-9_-]+|\['[^']*'\]", path[1:]):
        found: list[tuple[Any, Any]] = []
        for holder, key in reached:
            here = holder[key]
            if token == "[*]" and isinstance(here, list | dict):
                found += [(here, name) for name in (range(len(here)) if isinstance(here, list) else here)]
            elif token[1].isdigit():
                if isinstance(here, list) and int(token[1:-1]) < len(here):
                    found.append((here, int(token[1:-1])))
            else:
                name = token[2:-2] if token[0] == "[" else token[1:]
                if isinstance(here, dict) and name in here:
                    found.append((here, name))
        reached = found
    yield from reached


def _contains(whole: Any, part: Any) -> bool:
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(name in whole and _contains(whole[name], part[name]) for name in part)
    return bool(whole == part)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
