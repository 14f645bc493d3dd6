"""JSON Schema is what the types say."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

import pytest

from actors.api.schema import Range, Schemas, Text


class Inner(TypedDict):
    """The inner one."""

    name: Annotated[str, Text(r"^x$", "x", "base64"), "A name."]


class Outer(TypedDict):
    """The outer one."""

    inner: Inner
    maybe: NotRequired[Annotated[int, Range(0, 7)] | None]


@pytest.mark.parametrize(
    ("hint", "schema"),
    [
        (str, {"type": "string"}),
        (list[bool], {"type": "array", "items": {"type": "boolean"}}),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (str | None, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        (Literal["a", "b"], {"enum": ["a", "b"]}),
        (Any, {}),
        (Annotated[int, Range(1)], {"type": "integer", "minimum": 1}),
    ],
)
def test_type_has_its_schema(hint: Any, schema: dict[str, Any]) -> None:
    assert Schemas().of(hint) == schema


def test_object_becomes_a_component_and_says_what_may_be_missing() -> None:
    schemas = Schemas()
    assert schemas.of(Outer) == {"$ref": "#/components/schemas/Outer"}
    assert schemas.components == {
        "Inner": {
            "type": "object",
            "description": "The inner one.",
            "properties": {
                "name": {
                    "type": "string",
                    "pattern": "^x$",
                    "contentEncoding": "base64",
                    "examples": ["x"],
                    "description": "A name.",
                }
            },
            "required": ["name"],
        },
        "Outer": {
            "type": "object",
            "description": "The outer one.",
            "properties": {
                "inner": {"$ref": "#/components/schemas/Inner"},
                "maybe": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 7}, {"type": "null"}]},
            },
            "required": ["inner"],
        },
    }


def test_type_that_json_has_not_is_an_error() -> None:
    with pytest.raises(TypeError, match="has no JSON schema"):
        Schemas().of(bytes)
    with pytest.raises(TypeError, match="says nothing about JSON"):
        Schemas().of(Annotated[int, 5])
