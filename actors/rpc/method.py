"""How a method of the JSON-RPC API is declared, and how a call of it is read and run.

From the same declarations calls are served and the OpenRPC document is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from actors.api.faults import ApiError, Fault
from actors.api.node import Node
from actors.api.reading import Members
from actors.rpc.dialect import INVALID_PARAMS, METHOD_NOT_FOUND, REQUEST_TOO_BIG, RpcError

UNAVAILABLE: Final = -32000
NOT_IN_THIS_VERSION: Final = -32001
NO_ROOM: Final = -32002
REFUSED: Final = -32003
OF_ANY_METHOD: Final[Mapping[Fault, int]] = {
    Fault.UNAVAILABLE: UNAVAILABLE,
    Fault.NOT_IN_THIS_VERSION: NOT_IN_THIS_VERSION,
    Fault.NO_ROOM: NO_ROOM,
    Fault.REFUSED: REFUSED,
    Fault.KEY_IN_USE: REFUSED,
}
"""Ours: the reference has no such errors."""
_SHAPES: Final = (Fault.WRONG_SHAPE, Fault.NOT_JSON)
_REFERENCE_TEXT: Final = "Server error"
_MISSING: Final = "No more params"


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter; `names` are those that it goes by in an object, the proper one first."""

    names: tuple[str, ...]
    type: Any
    """Its type, as `actors.api.schema` understands it."""
    reader: Callable[[Any], Any]
    description: str
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and what can be called."""

    node: Node
    is_gone: Callable[[], bool]
    """Whether the caller went away meanwhile."""


@dataclass(frozen=True, slots=True)
class Together:
    """How several calls of one method that follow each other in a batch are run at once: as if one after the other."""

    may: Callable[..., bool]
    """Whether a call with these values may be one of them."""
    run: Callable[[Caller, Sequence[Sequence[Any]]], Sequence[Any]]
    """Gets the values of each, and gives each one's result, or its `ApiError`, in the same order."""
    most: int
    """So many at a time."""


@dataclass(frozen=True, slots=True)
class Method:
    """A method; `run` gets the caller and one value for each parameter, None for a missing optional one."""

    name: str
    summary: str
    result: Any
    """Type of the result."""
    run: Callable[..., Any]
    params: tuple[Param, ...] = ()
    errors: Mapping[Fault, int] = field(default_factory=dict)
    """The codes of its own errors."""
    together: Together | None = None
    """How several calls of it are run at once."""


def call(method: Method, caller: Caller, params: Any) -> Any:
    """The result of one call. Raises `RpcError`."""
    return _run(method, caller, _values(method.params, params))


def call_all(methods: Mapping[str, Method], caller: Caller, calls: Sequence[tuple[str, Any]]) -> Iterator[Any]:
    """The results of the calls of a batch, (method, params) each, in order; for each that failed its `RpcError`.

    They are run in order, those of one method that follow each other side by side where it knows how.
    """
    waiting: list[list[Any]] = []
    method: Method | None = None
    for name, params in calls:
        following = methods.get(name)
        together = method.together if method is not None else None
        if method is not None and (following is not method or (together and len(waiting) == together.most)):
            yield from _run_together(method, caller, waiting)
            waiting = []
        method = following
        if method is None:
            yield RpcError(METHOD_NOT_FOUND)
            continue
        try:
            values = _values(method.params, params)
        except RpcError as error:
            yield from _run_together(method, caller, waiting)
            waiting = []
            yield error
            continue
        if method.together is not None and method.together.may(*values):
            waiting.append(values)
            continue
        yield from _run_together(method, caller, waiting)
        waiting = []
        try:
            yield _run(method, caller, values)
        except RpcError as error:
            yield error
    if method is not None:
        yield from _run_together(method, caller, waiting)


def _run(method: Method, caller: Caller, values: Sequence[Any]) -> Any:
    try:
        return method.run(caller, *values)
    except ApiError as error:
        raise _translated(method, error) from None


def _run_together(method: Method, caller: Caller, waiting: Sequence[Sequence[Any]]) -> Iterator[Any]:
    if not waiting or method.together is None:
        return
    for found in method.together.run(caller, waiting):
        yield _translated(method, found) if isinstance(found, ApiError) else found


def _translated(method: Method, error: ApiError) -> RpcError:
    if error.fault in method.errors:
        code = method.errors[error.fault]
        # The reference says here what its transport says of another error with the same number (its quirk Q7).
        return RpcError(code, error.text if code == REQUEST_TOO_BIG else _REFERENCE_TEXT)
    data = {"actor": error.actor} if error.actor else None
    return RpcError(OF_ANY_METHOD[error.fault], str(error), data)


def _values(wanted: Sequence[Param], given: Any) -> list[Any]:
    if not wanted:
        return []
    if given is None:
        given = []
    if isinstance(given, Members):
        return [_read(param, _named(param, given)) for param in wanted]
    if isinstance(given, list):
        # What is too much is ignored.
        padded = [*given[: len(wanted)], *[_Absent] * (len(wanted) - len(given))]
        return [_read(param, value) for param, value in zip(wanted, padded, strict=True)]
    raise RpcError(INVALID_PARAMS, data="params has to be an array or an object")


class _Absent:
    """Stands for a parameter that is not given."""


def _named(param: Param, given: Members) -> Any:
    found = [value for name in param.names for value in given.get(name)]
    if len(found) > 1:
        raise RpcError(INVALID_PARAMS, data=f"parameter {param.names[0]!r} is given twice")
    return found[0] if found else _Absent


def _read(param: Param, value: Any) -> Any:
    if param.optional and (value is _Absent or value is None):
        return None
    if value is _Absent:
        raise RpcError(INVALID_PARAMS, data=f"{_MISSING}: {param.names[0]!r} is missing")
    try:
        return param.reader(value)
    except ApiError as error:
        if error.fault in _SHAPES:
            raise RpcError(INVALID_PARAMS, data=f"{param.names[0]}: {error.text}") from None
        raise
