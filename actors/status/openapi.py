"""The OpenAPI 3.1 document, made of the declarations by which the application serves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final

from actors.api.objects import Unavailable
from actors.api.schema import JsonSchema, Schemas
from actors.status.route import JSON, OCTETS, TEXT, Answer, Body, Parameter, Route
from septate import __version__

_PART: Final = re.compile(r"<([a-z]+)>")
_OF_ANY_ROUTE: Final = (HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN)
_OF_ANY_BODY: Final = (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
_DESCRIPTION: Final = (
    "The HTTP API of a node. Paths, objects and status codes below /api/v1 are those of Mycelium 0.7.10, but for "
    "those below /api/v1/septate. There is no authentication: whoever reaches it rules the node."
)


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """The document about `routes`, as JSON."""
    schemas = Schemas()
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(_PART.sub(r"{\1}", route.path), {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Septate", "version": __version__, "description": _DESCRIPTION},
        "paths": paths,
        "components": {"schemas": dict(sorted(schemas.components.items()))},
    }


def _operation(route: Route, schemas: Schemas) -> dict[str, Any]:
    parameters = [
        *(_parameter(part, "path", schemas) for part in route.parts),
        *(_parameter(part, "query", schemas) for part in route.query),
        *(_parameter(part, "header", schemas) for part in route.headers),
    ]
    found: dict[str, Any] = {"operationId": _operation_id(route), "summary": route.summary}
    if parameters:
        found["parameters"] = parameters
    if route.body is not None:
        found["requestBody"] = {"required": True, "content": _content_of_body(route.body, schemas)}
    answers = {str(answer.status.value): _answer(answer, schemas) for answer in route.answers}
    found["responses"] = answers | {
        str(status.value): _refusal(status, schemas) for status in _refusals(route) if str(status.value) not in answers
    }
    return found


def _operation_id(route: Route) -> str:
    words = re.findall(r"[A-Za-z0-9]+", route.path.removeprefix("/api/v1"))
    return route.method.lower() + "".join(word.capitalize() for word in words)


def _parameter(parameter: Parameter, where: str, schemas: Schemas) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": where,
        "required": where == "path",
        "description": parameter.description,
        "schema": schemas.of(parameter.type),
    }


def _content_of_body(body: Body, schemas: Schemas) -> dict[str, Any]:
    if body.reader is None:
        return {OCTETS: {"schema": {}}}
    found: dict[str, Any] = {"schema": schemas.of(body.type)}
    if body.example is not None:
        found["example"] = body.example
    return {JSON: found}


def _answer(answer: Answer, schemas: Schemas) -> dict[str, Any]:
    found: dict[str, Any] = {"description": answer.description}
    if answer.type is not None:
        # Bytes have no schema in OpenAPI 3.1, only their content type.
        schema = {} if answer.type is bytes else schemas.of(answer.type)
        found["content"] = {answer.content: {"schema": schema}}
    if answer.headers:
        found["headers"] = {
            header.name: {"description": header.description, "schema": schemas.of(header.type)}
            for header in answer.headers
        }
    return found


def _refusals(route: Route) -> list[HTTPStatus]:
    found = {*route.refusals, *_OF_ANY_ROUTE, HTTPStatus.SERVICE_UNAVAILABLE}
    if route.body is not None:
        found |= set(_OF_ANY_BODY)
        if route.body.reader is not None:
            found.add(HTTPStatus.UNPROCESSABLE_ENTITY)
    if route.headers:
        found.add(HTTPStatus.UNPROCESSABLE_ENTITY)
    return sorted(found)


def _refusal(status: HTTPStatus, schemas: Schemas) -> Mapping[str, Any]:
    text: JsonSchema = {"schema": {"type": "string"}}
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        return {
            "description": "A part of the node does not answer, and is named; or the node has no room, in a text.",
            "content": {JSON: {"schema": schemas.of(Unavailable)}, TEXT: text},
        }
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.BAD_REQUEST):
        # Like those of the reference: some have a text, some have none.
        return {"description": f"{status.phrase}; a text may say why."}
    return {"description": status.phrase, "content": {TEXT: text}}
