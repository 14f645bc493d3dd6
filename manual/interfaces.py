"""The made parts of docs/api.md: routes, methods and metrics, from the declarations by which they are served."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final, get_args, get_origin, get_type_hints, is_typeddict

from actors.api.schema import may_be_missing
from actors.rpc.discovery import document
from actors.rpc.method import Method
from actors.rpc.methods import DISCOVER, all_methods
from actors.status.application import ROUTES
from actors.status.families import FAMILIES
from actors.status.route import API, JSON, OURS, Answer, Route
from manual.markdown import filled, table

_PART: Final = re.compile(r"<([a-z]+)>")
_COMMON: Final = (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.FORBIDDEN)


def page(text: str) -> str:
    """`text` with its made parts anew. Raises `ValueError` where a part is missing or nobody can make it."""
    routes = {
        "administration": [route for route in ROUTES if route.path.startswith((f"{API}/admin", f"{API}/pubkey"))],
        "messages": [route for route in ROUTES if re.match(rf"{API}/messages(?!/topics)", route.path)],
        "topics": [route for route in ROUTES if route.path.startswith(f"{API}/messages/topics")],
        "ours": [route for route in ROUTES if route.path.startswith(OURS) or not re.match(f"{API}/[amp]", route.path)],
    }
    missing = {route.name for route in ROUTES} - {route.name for part in routes.values() for route in part}
    if missing:
        raise ValueError(f"no part of the page has {', '.join(sorted(missing))}")
    return filled(
        text,
        {
            **{f"routes of {name}": _routes(part) for name, part in routes.items()},
            "objects": _objects(),
            "methods": _methods(all_methods(document).values()),
            "metrics": _metrics(),
        },
    )


def _routes(routes: Iterable[Route]) -> str:
    return table(
        ("Method and path", "Does", "Takes", "Answers", "Refuses with"),
        [
            (
                f"{route.method} `{_path(route)}`",
                route.summary,
                _takes(route),
                "; ".join(_answer(answer) for answer in route.answers),
                ", ".join(str(status.value) for status in route.refusals if status not in _COMMON),
            )
            for route in routes
        ],
    )


def _path(route: Route) -> str:
    return _PART.sub(r"{\1}", route.path.removeprefix(API))


def _takes(route: Route) -> str:
    found = [f"`{parameter.name}=`" for parameter in route.query]
    found += [f"`{header.name}`" for header in route.headers]
    if route.body is not None:
        found.append(_type(route.body.type) if route.body.reader is not None else "bytes")
    return ", ".join(found)


def _answer(answer: Answer) -> str:
    if answer.type is None:
        return str(answer.status.value)
    return f"{answer.status.value} {_type(answer.type) if answer.content == JSON else answer.content.partition(';')[0]}"


def _methods(methods: Iterable[Method]) -> str:
    return table(
        ("Method", "Does", "Parameters", "Result", "Errors"),
        [
            (
                f"`{method.name}`",
                method.summary,
                ", ".join(f"`{param.names[0]}`{'?' if param.optional else ''}" for param in method.params),
                "an OpenRPC document" if method.name == DISCOVER else _type(method.result),
                ", ".join(
                    f"{code} {fault.value}" for fault, code in sorted(method.errors.items(), key=lambda item: -item[1])
                ),
            )
            for method in methods
        ],
    )


def _objects() -> str:
    found: dict[str, Any] = {}
    for route in ROUTES:
        for hint in (*(answer.type for answer in route.answers), route.body.type if route.body else None):
            _collect(hint, found)
    return table(
        ("Object", "Is", "Members"),
        [
            (
                name,
                (hint.__doc__ or "").strip(),
                ", ".join(
                    f"`{member}`{'?' if may_be_missing(part) else ''} {_type(part)}"
                    for member, part in get_type_hints(hint, include_extras=True).items()
                ),
            )
            for name, hint in found.items()
        ],
    )


def _collect(hint: Any, found: dict[str, Any]) -> None:
    if is_typeddict(hint):
        if hint.__name__ not in found:
            found[hint.__name__] = hint
            for part in get_type_hints(hint).values():
                _collect(part, found)
        return
    for part in get_args(hint):
        _collect(part, found)


def _type(hint: Any) -> str:
    if hint is type(None) or hint is None:
        return "null"
    if is_typeddict(hint):
        return f"[{hint.__name__}](#objects)"
    arguments = get_args(hint)
    if hasattr(hint, "__metadata__") or may_be_missing(hint):
        return _type(arguments[0])
    origin = get_origin(hint)
    if origin is list:
        return f"array of {_type(arguments[0])}"
    if origin is dict:
        return "object"
    if arguments and all(isinstance(value, str) for value in arguments):
        return " / ".join(f"`{value}`" for value in arguments)
    if arguments:
        return " or ".join(_type(part) for part in arguments)
    return {str: "text", int: "number", float: "number", bool: "bool", bytes: "bytes"}[hint]


def _metrics() -> str:
    return table(
        ("Name", "Kind", "Counts"),
        [
            (
                f"`{family.name}`" + (f" by `{family.label}`: {', '.join(family.sums)}" if family.label else ""),
                family.kind,
                family.help,
            )
            for family in FAMILIES
        ],
    )
