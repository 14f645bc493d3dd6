"""The OpenRPC document that `rpc.discover` answers, made of the declarations of the methods."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from actors.api.schema import Schemas
from actors.rpc.method import OF_ANY_METHOD, Method, Param
from septate import __version__

_OPENRPC: Final = "1.2.6"


def document(methods: Iterable[Method]) -> dict[str, Any]:
    """The document about `methods`, as JSON."""
    schemas = Schemas()
    described = [_method(method, schemas) for method in methods]
    return {
        "openrpc": _OPENRPC,
        "info": {"title": "Septate JSON-RPC API", "version": __version__},
        "methods": described,
        "components": {"schemas": dict(sorted(schemas.components.items()))},
    }


def _method(method: Method, schemas: Schemas) -> dict[str, Any]:
    errors = {code: fault.value for fault, code in {**method.errors, **OF_ANY_METHOD}.items()}
    return {
        "name": method.name,
        "summary": method.summary,
        "paramStructure": "either",
        "params": [_param(param, schemas) for param in method.params],
        "result": {"name": "result", "schema": schemas.of(method.result)},
        "errors": [{"code": code, "message": text} for code, text in sorted(errors.items())],
    }


def _param(param: Param, schemas: Schemas) -> dict[str, Any]:
    return {
        "name": param.names[0],
        "description": param.description,
        "required": not param.optional,
        "schema": schemas.of(param.type),
    }
