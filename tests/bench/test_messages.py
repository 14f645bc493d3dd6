"""The benchmark of messages: its load against a server made up here, its figures."""

import json
import math
from pathlib import Path

import pytest

from bench.messages import calls
from bench.messages.figures import percentile
from bench.messages.load import LoadError
from bench.messages.rows import MESSAGE_ROWS
from bench.report import Results, table, write_json
from tests.unit.scripted_api import ScriptedApi, scripted_api

MESSAGE = {"srcIp": "", "payload": ""}


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([5], 0.99, 5), ([3, 1, 2], 0.5, 2), (list(range(1, 201)), 0.99, 198), ([1, 2], 1, 2)],
)
def test_a_percentile_is_one_of_the_values(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == expected


def test_no_values_have_no_percentile() -> None:
    assert math.isnan(percentile([], 0.5))


def test_pushes_are_counted_by_their_ids() -> None:
    with scripted_api() as api:
        for number in range(20):
            api.answer("POST", "/messages", {"id": f"{number:016x}"}, status=201)
        found = calls.push(api.port, 4, 20, 100, "400::1")
    assert sorted(found["ids"]) == [f"{number:016x}" for number in range(20)]
    assert {len(call.json["payload"]) for call in api.calls} == {136}


def test_pops_go_on_until_all_messages_were_there() -> None:
    with scripted_api() as api:
        for number in (1, 2):
            api.answer("GET", "/messages", status=204)
            api.answer("GET", "/messages", {"id": f"{number:016x}", **MESSAGE})
        found = calls.pop(api.port, 1, 2, 0)
    assert found["different"] == 2
    assert len(api.calls) == 4


def test_batches_hold_all_messages_and_no_more() -> None:
    def answer(count: int) -> list[object]:
        return [
            {"jsonrpc": "2.0", "id": number, "result": {"id": f"{count:08x}{number:08x}"}} for number in range(count)
        ]

    with scripted_api(prefix="") as api:
        for count in (4, 3):
            api.answer("POST", "/", answer(count))
        found = calls.push_batches(api.port, 1, 7, 100, "400::1", 4)
    assert [len(call.json) for call in api.calls] == [4, 3]
    assert len(set(found["ids"])) == 7


def test_batches_of_pops_leave_out_what_was_not_there() -> None:
    with scripted_api(prefix="") as api:
        for ids in ([None, None], ["a", None], ["b", "c"]):
            results = [None if one is None else {"id": one, **MESSAGE} for one in ids]
            api.answer("POST", "/", [{"jsonrpc": "2.0", "id": 0, "result": result} for result in results])
        found = calls.pop_batches(api.port, 1, 3, 2)
    assert found["different"] == 3


def test_requests_are_counted() -> None:
    with scripted_api() as api:
        api.answer("GET", "/admin/peers", [])
        found = calls.ask(api.port, 3, 0.2, "/api/v1/admin/peers")
    assert found["per_second"] == pytest.approx(len(api.calls) / 0.2, rel=0.5)


@pytest.mark.parametrize("status", [404, 500])
def test_a_refusal_ends_the_load_with_its_status(status: int) -> None:
    def pushes(api: ScriptedApi) -> None:
        api.answer("POST", "/messages", b"no", status=status)
        calls.push(api.port, 2, 10, 100, "400::1")

    with scripted_api() as api, pytest.raises(LoadError, match=f"refused with status {status}"):
        pushes(api)


def test_the_table_and_the_file_have_the_rows_of_messages(tmp_path: Path) -> None:
    results = Results({}, {"Septate": "1"}, {})
    results.add("Septate", {"rate": 1234.0})
    assert "messages of 1 KB, one way" in table(results, MESSAGE_ROWS)
    path = tmp_path / "file.json"
    write_json(results, path, MESSAGE_ROWS)
    assert json.loads(path.read_text())["medians"]["Septate"]["rate"] == 1234.0
