"""How a route of the HTTP API is declared: what it takes, what it answers, who answers it.

From the same declarations the application serves, reads and refuses, and the OpenAPI document is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from flask import Response

from actors.api.node import Node

API: Final = "/api/v1"
OURS: Final = f"{API}/septate"
JSON: Final = "application/json"
OCTETS: Final = "application/octet-stream"
TEXT: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A part of the path, of the query or a header; `reader` makes a value of its text or raises `ApiError`."""

    name: str
    type: Any
    """Its type, as `actors.api.schema` understands it."""
    reader: Callable[[str], Any]
    description: str
    default: Any = None
    """What a missing one stands for; parts of a path are never missing."""


@dataclass(frozen=True, slots=True)
class Body:
    """What a request brings; `reader` makes a value of parsed JSON or raises `ApiError`; None takes the bytes."""

    type: Any
    reader: Callable[[Any], Any] | None
    example: Any = None


@dataclass(frozen=True, slots=True)
class Answer:
    """One way in which a call ends well, or in which it ends otherwise without anything being wrong with it."""

    status: HTTPStatus
    description: str
    type: Any = None
    """Type of the JSON body, None where there is none."""
    content: str = JSON
    headers: tuple[Parameter, ...] = ()


@dataclass(frozen=True, slots=True)
class Call:
    """One request, read."""

    node: Node
    path: Mapping[str, Any]
    query: Mapping[str, Any]
    headers: Mapping[str, Any]
    body: Any
    is_gone: Callable[[], bool]
    """Whether the caller went away meanwhile."""


@dataclass(frozen=True, slots=True)
class Route:
    """A method of a path."""

    method: str
    path: str
    """Parts in `<angle brackets>` are named like the parameters."""
    handler: Callable[[Call], Response]
    summary: str
    answers: tuple[Answer, ...]
    parts: tuple[Parameter, ...] = ()
    query: tuple[Parameter, ...] = ()
    headers: tuple[Parameter, ...] = ()
    body: Body | None = None
    refusals: tuple[HTTPStatus, ...] = ()
    """Statuses of refusals that are this route's own; those that any route has are not listed."""
    head: bool = True
    """Whether HEAD may run it, where its method is GET (API spec Q3)."""

    @property
    def name(self) -> str:
        """What names it: method and path."""
        return f"{self.method} {self.path}"


def done(status: HTTPStatus, description: str, hint: Any = None) -> tuple[Answer, ...]:
    """The one answer of a call that ends well."""
    return (Answer(status, description, hint),)
