"""Types of answers and bodies as JSON Schema (2020-12): what the documents about the API say is what the code declares.

A type is a TypedDict, or built of str, int, float, bool, None, list, dict, Literal and unions. `Annotated` adds to it:
`Text(pattern, example)` to strings, `Range(lowest, highest)` to numbers. A TypedDict with a name becomes a component.
"""

from __future__ import annotations

import types
from collections.abc import Iterable
from dataclasses import dataclass
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

JsonSchema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Text:
    """What a string looks like: a regular expression that it matches, and an example of it."""

    pattern: str = ""
    example: str = ""
    encoding: str = ""
    """`base64`, where the string stands for bytes."""


@dataclass(frozen=True, slots=True)
class Range:
    """The bounds of a number, both included."""

    lowest: int = 0
    highest: int | None = None


_SCALARS: Final[dict[Any, str]] = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


class Schemas:
    """Schemas of types, and the components that they refer to."""

    def __init__(self, prefix: str = "#/components/schemas/") -> None:
        self._prefix = prefix
        self.components: dict[str, JsonSchema] = {}

    def of(self, hint: Any) -> JsonSchema:
        """The schema of a type. Raises `TypeError` for one that JSON has not."""
        origin = get_origin(hint)
        if origin is Annotated:
            base, *notes = get_args(hint)
            return self.of(base) | _noted(notes)
        if origin in (Union, types.UnionType):
            return self._any_of(get_args(hint))
        if origin is Literal:
            return {"enum": list(get_args(hint))}
        if origin is list:
            return {"type": "array", "items": self.of(get_args(hint)[0])}
        if origin is dict:
            return {"type": "object", "additionalProperties": self.of(get_args(hint)[1])}
        if is_typeddict(hint):
            return self._component(hint)
        if hint is Any:
            return {}
        if hint in _SCALARS:
            return {"type": _SCALARS[hint]}
        raise TypeError(f"{hint!r} has no JSON schema")

    def _any_of(self, hints: Iterable[Any]) -> JsonSchema:
        return {"anyOf": [self.of(hint) for hint in hints]}

    def _component(self, hint: Any) -> JsonSchema:
        name = hint.__name__
        if name not in self.components:
            self.components[name] = {}
            hints = get_type_hints(hint, include_extras=True)
            self.components[name] = {
                "type": "object",
                "description": (hint.__doc__ or "").strip(),
                "properties": {member: self.of(_unwrapped(part)) for member, part in hints.items()},
                "required": [member for member, part in hints.items() if not may_be_missing(part)],
            }
        return {"$ref": self._prefix + name}


def may_be_missing(hint: Any) -> bool:
    """Whether a member of a TypedDict is `NotRequired`. Its own `__required_keys__` can't see through annotations."""
    return get_origin(hint) is NotRequired


def _unwrapped(hint: Any) -> Any:
    return get_args(hint)[0] if may_be_missing(hint) else hint


def _noted(notes: Iterable[Any]) -> JsonSchema:
    found: JsonSchema = {}
    for note in notes:
        match note:
            case Text():
                found |= {
                    name: value
                    for name, value in (("pattern", note.pattern), ("contentEncoding", note.encoding))
                    if value
                }
                if note.example:
                    found["examples"] = [note.example]
            case Range():
                found["minimum"] = note.lowest
                if note.highest is not None:
                    found["maximum"] = note.highest
            case str():
                found["description"] = note
            case _:
                raise TypeError(f"{note!r} says nothing about JSON")
    return found
