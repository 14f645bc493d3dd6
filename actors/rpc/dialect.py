"""JSON-RPC 2.0 as the reference speaks it (API spec 6.1): texts in, texts out; who runs a call is somebody else's.

Where the reference silently drops a call that has an unusable id, that is an invalid request here (its quirk Q11).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from actors.api.faults import ApiError
from actors.api.reading import MAX_U64, Members, parse

MAX_BYTES: Final = 10_485_760
"""Of a request, and of a response."""
_MOST_SPACE: Final = 127
_SPACE: Final = b" \t\r\n"

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
REQUEST_TOO_BIG: Final = -32007
RESPONSE_TOO_BIG: Final = -32008
_MESSAGES: Final = {
    PARSE_ERROR: "Parse error",
    INVALID_REQUEST: "Invalid request",
    METHOD_NOT_FOUND: "Method not found",
    INVALID_PARAMS: "Invalid params",
    INTERNAL_ERROR: "Internal error",
    REQUEST_TOO_BIG: "Request is too big",
    RESPONSE_TOO_BIG: "Response is too big",
}
_LIMIT: Final = f"Exceeded max limit of {MAX_BYTES}"

Id = int | str | None


class RpcError(Exception):
    """What a call answers instead of a result."""

    def __init__(self, code: int, message: str = "", data: Any = None) -> None:
        super().__init__(code, message, data)
        self.code = code
        self.message = message or _MESSAGES[code]
        self.data = data


Run = Callable[[str, Any], Any]
"""Runs a method by name with its parameters, as JSON with objects as `Members`; raises `RpcError`."""
RunAll = Callable[[Sequence[tuple[str, Any]]], Iterator[Any]]
"""Runs the calls of a batch, each given like that of a `Run`: their results in order, or each one's `RpcError`.

Whoever stops asking for more does not want the rest to be run; how many were begun already is up to it.
"""


@dataclass(frozen=True, slots=True)
class Reply:
    """What comes back: a JSON text, None where nothing is to be said; `bad` where no request could be seen at all."""

    text: str | None
    bad: bool = False


def answer(data: bytes, run: Run, run_all: RunAll | None = None) -> Reply:
    """What a request, or a batch of them, is answered with; without a `run_all` a batch is run call by call."""
    start = data[: _MOST_SPACE + 1].lstrip(_SPACE)[:1]
    if start not in (b"{", b"["):
        return Reply(_dump(_error(None, RpcError(PARSE_ERROR))), bad=True)
    try:
        value = parse(data)
    except ApiError:
        return Reply(_dump(_error(None, RpcError(PARSE_ERROR))))
    if isinstance(value, Members):
        found = _one(value, alone=True)
        if isinstance(found, _Call):
            found = _result(found, next(_one_by_one(run)([(found.method, found.params)])))
        return Reply(None if found is None else _fitting(found))
    if not value:
        return Reply(_dump(_error(None, RpcError(INVALID_REQUEST))))
    return _batch(value, run_all or _one_by_one(run))


def too_big() -> str:
    """The answer to a request that is larger than `MAX_BYTES`."""
    return _dump(_error(None, RpcError(REQUEST_TOO_BIG, data=_LIMIT)))


def _batch(calls: list[Any], run_all: RunAll) -> Reply:
    members = [found for found in map(_one, calls) if found is not None]
    results = run_all([(member.method, member.params) for member in members if isinstance(member, _Call)])
    answers: list[str] = []
    size = len("[]")
    for member in members:
        text = _fitting(_result(member, next(results)) if isinstance(member, _Call) else member)
        size += len(text.encode()) + len(",")
        if size > MAX_BYTES:
            # What is left is not run: nobody would hear of it.
            return Reply(_dump(_error(None, RpcError(RESPONSE_TOO_BIG, data=_LIMIT))))
        answers.append(text)
    return Reply(f"[{','.join(answers)}]" if answers else None)


def _one_by_one(run: Run) -> RunAll:
    def run_all(calls: Sequence[tuple[str, Any]]) -> Iterator[Any]:
        for method, params in calls:
            try:
                yield run(method, params)
            except RpcError as error:
                yield error

    return run_all


def _fitting(found: dict[str, Any]) -> str:
    text = _dump(found)
    if len(text) <= MAX_BYTES and (text.isascii() or len(text.encode()) <= MAX_BYTES):
        return text
    return _dump(_error(found["id"], RpcError(RESPONSE_TOO_BIG, data=_LIMIT)))


@dataclass(frozen=True, slots=True)
class _Call:
    """A call that can be run."""

    id: Id
    method: str
    params: Any


def _one(value: Any, *, alone: bool = False) -> _Call | dict[str, Any] | None:
    """The call, the answer to what is none, or nothing for a notification."""
    if not isinstance(value, Members):
        return _error(None, RpcError(INVALID_REQUEST))
    names = [name for name, _ in value if name in _MEMBERS]
    if not names or names == ["params"]:
        return _error(None, RpcError(PARSE_ERROR if alone else INVALID_REQUEST))
    ids, versions, methods = value.get("id"), value.get("jsonrpc"), value.get("method")
    if len(set(names)) < len(names) or not all(map(_is_id, ids)):
        return _error(None, RpcError(INVALID_REQUEST))
    if versions != ["2.0"] or not methods or not isinstance(methods[0], str):
        return _error(ids[0] if ids else None, RpcError(INVALID_REQUEST))
    if not ids:
        # The reference does not run any.
        return None
    params = value.get("params")
    return _Call(ids[0], methods[0], params[0] if params else None)


def _result(call: _Call, result: Any) -> dict[str, Any]:
    if isinstance(result, RpcError):
        return _error(call.id, result)
    return {"jsonrpc": "2.0", "id": call.id, "result": result}


_MEMBERS: Final = ("jsonrpc", "id", "method", "params")


def _is_id(value: Any) -> bool:
    return value is None or isinstance(value, str) or (type(value) is int and 0 <= value <= MAX_U64)


def _error(call: Id, error: RpcError) -> dict[str, Any]:
    found = {"code": error.code, "message": error.message}
    if error.data is not None:
        found["data"] = error.data
    return {"jsonrpc": "2.0", "id": call, "error": found}


def _dump(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
