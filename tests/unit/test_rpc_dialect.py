"""JSON-RPC as texts: what is a request, what is none, and what comes back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.api.reading import Members
from actors.rpc.dialect import MAX_BYTES, METHOD_NOT_FOUND, RpcError, answer


def run(name: str, params: Any) -> Any:
    """Methods that a test can call."""
    match name:
        case "echo":
            return params
        case "large":
            return "x" * MAX_BYTES
    raise RpcError(METHOD_NOT_FOUND)


def said(text: str | bytes) -> Any:
    """What comes back, parsed; None for nothing."""
    reply = answer(text.encode() if isinstance(text, str) else text, run)
    return None if reply.text is None else json.loads(reply.text)


def code_of(text: str | bytes) -> tuple[Any, int]:
    """Id and code of an error."""
    found = said(text)
    return found["id"], found["error"]["code"]


def test_call_is_answered_under_its_id() -> None:
    assert said('{"jsonrpc":"2.0","id":"a","method":"echo","params":[1]}') == {
        "jsonrpc": "2.0",
        "id": "a",
        "result": [1],
    }


@pytest.mark.parametrize("ident", ['"x"', "null", "0", "18446744073709551615"])
def test_usable_id_comes_back(ident: str) -> None:
    assert said(f'{{"jsonrpc":"2.0","id":{ident},"method":"echo"}}')["id"] == json.loads(ident)


@pytest.mark.parametrize("ident", ["18446744073709551616", "-1", "1.5", "true", "[1]", '{"a":1}'])
def test_unusable_id_is_an_invalid_request_and_not_silence(ident: str) -> None:
    assert code_of(f'{{"jsonrpc":"2.0","id":{ident},"method":"echo"}}') == (None, -32600)


@pytest.mark.parametrize("text", ["", "   ", "hello", "null", '"x"', "1", " " * 128 + "{}", b"\xff\xff"])
def test_what_does_not_begin_like_a_request_is_a_bad_one(text: str | bytes) -> None:
    reply = answer(text if isinstance(text, bytes) else text.encode(), run)
    assert (reply.bad, json.loads(reply.text or "")["error"]["code"]) == (True, -32700)


@pytest.mark.parametrize("text", ["{}", '{"params":[]}', "{", "[{]", '{"jsonrpc":"2.0"} x', '{"id":"\\ud800"}'])
def test_what_can_not_be_read_is_a_parse_error(text: str) -> None:
    assert code_of(text) == (None, -32700)
    assert not answer(text.encode(), run).bad


@pytest.mark.parametrize(
    ("text", "ident"),
    [
        ('{"id":1,"method":"echo"}', 1),
        ('{"jsonrpc":"1.0","id":1,"method":"echo"}', 1),
        ('{"jsonrpc":"2.0","id":1}', 1),
        ('{"jsonrpc":"2.0","id":1,"method":5}', 1),
        ('{"jsonrpc":"2.0","id":1,"id":1,"method":"echo"}', None),
        ('{"method":"echo"}', None),
        ("[]", None),
    ],
)
def test_request_that_is_none_is_refused_under_its_id(text: str, ident: Any) -> None:
    assert code_of(text) == (ident, -32600)


def test_notification_is_neither_run_nor_answered() -> None:
    ran: list[str] = []
    assert answer(b'{"jsonrpc":"2.0","method":"echo"}', lambda name, _: ran.append(name)).text is None
    assert answer(b'[{"jsonrpc":"2.0","method":"echo"}]', lambda name, _: ran.append(name)).text is None
    assert ran == []


def test_batch_is_answered_in_order_and_one_by_one() -> None:
    batch = '[{"jsonrpc":"2.0","id":1,"method":"echo"},7,{"jsonrpc":"2.0","id":2,"method":"no"},[]]'
    found = said(batch)
    assert [(one["id"], one.get("error", {}).get("code")) for one in found] == [
        (1, None),
        (None, -32600),
        (2, -32601),
        (None, -32600),
    ]


def test_response_that_is_too_large_says_so_under_its_id() -> None:
    assert code_of('{"jsonrpc":"2.0","id":3,"method":"large"}') == (3, -32008)


def test_batch_whose_answers_are_too_large_together_ends_there() -> None:
    ran: list[str] = []

    def half(name: str, _params: Any) -> str:
        ran.append(name)
        return "x" * (MAX_BYTES // 2)

    one = '{"jsonrpc":"2.0","id":1,"method":"half"}'
    found = json.loads(answer(f"[{','.join([one] * 5)}]".encode(), half).text or "")
    assert (found["id"], found["error"]["code"], len(ran)) == (None, -32008, 2)


def test_objects_in_parameters_keep_doubled_members() -> None:
    given_to: list[Any] = []
    answer(b'{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":1,"a":2}}', lambda _, params: given_to.append(params))
    assert given_to == [Members([("a", 1), ("a", 2)])]


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_answered(garbage: bytes) -> None:
    assert isinstance(answer(garbage, run).text, str)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "method", "params", "x"]), inner)
    ),
    max_leaves=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(["jsonrpc", "id", "method", "params"]), _json | st.just("2.0")))
def test_any_object_is_answered_or_a_notification(value: dict[str, Any]) -> None:
    reply = answer(json.dumps(value).encode(), run)
    assert reply.text is not None or ("id" not in value and value["jsonrpc"] == "2.0")
