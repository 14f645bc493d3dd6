"""The benchmark's table, JSON and plot, from figures made up here."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.machine import Business, look
from bench.plot import draw
from bench.report import Results, figure, pair_table, process_table, ratio, table, write_json
from bench.rows import ROWS, Row, unavailable

TCP = next(row for row in ROWS if row.key == "tcp")
PING = next(row for row in ROWS if row.key == "ping_average")


@pytest.fixture
def results() -> Results:
    """Two contenders, three repetitions of some rows."""
    made = Results({"processor": "x"}, {"Septate": "1", "Mycelium": "2"}, {"Yggdrasil": "not asked for"})
    for own, peer in ((4.0, 2.0), (5.0, 2.1), (9.0, 1.9)):
        made.add("Septate", {"tcp": own, "ping_average": 0.8})
        made.add("Mycelium", {"tcp": peer, "ping_average": 0.4})
    return made


def test_the_median_is_of_the_repetitions_that_gave_a_figure(results: Results) -> None:
    results.add("Septate", unavailable("iperf3 did not end", "tcp"))
    assert results.median("Septate", TCP) == 5.0
    assert results.reasons("Septate", TCP) == ["iperf3 did not end"]


@pytest.mark.parametrize(
    ("row", "expected"),
    [(TCP, "2.50 better"), (PING, "2.00 worse"), (ROWS[-1], "–")],
)
def test_a_ratio_says_whether_it_is_good(results: Results, row: Row, expected: str) -> None:
    assert ratio(results, row, "Mycelium") == expected


def test_a_difference_within_three_percent_is_even(results: Results) -> None:
    results.add("Septate", {"exchange": 1001})
    results.add("Mycelium", {"exchange": 1000})
    exchange = next(row for row in ROWS if row.key == "exchange")
    assert ratio(results, exchange, "Mycelium") == "1.00 even"


def test_the_table_has_every_row_and_names_what_is_missing(results: Results) -> None:
    results.add("Septate", unavailable("iperf3 is missing", "udp"))
    text = table(results)
    assert all(row.title in text for row in ROWS)
    assert "Yggdrasil did not run: not asked for" in text
    assert "UDP, 200-byte datagrams that arrive, Septate: iperf3 is missing" in text


def test_without_contenders_the_table_gives_the_reasons() -> None:
    assert "Septate: no Septate" in table(Results({}, {}, {"Septate": "no Septate"}))


@pytest.mark.parametrize(("value", "text"), [(None, "–"), (0.01234, "0.0123"), (1.5, "1.5"), (71234.6, "71235")])
def test_figures_have_three_digits_and_thousands_in_full(value: float | None, text: str) -> None:
    assert figure(value) == text


def test_the_json_holds_all_values_and_the_medians(results: Results, tmp_path: Path) -> None:
    write_json(results, tmp_path / "r.json")
    read = json.loads((tmp_path / "r.json").read_text())
    assert read["values"]["Septate"]["tcp"] == [4.0, 5.0, 9.0]
    assert read["medians"]["Mycelium"]["tcp"] == 2.0


def test_the_plot_is_well_formed_and_scales_each_row_to_its_largest(results: Results) -> None:
    root = ElementTree.fromstring(draw(results))
    bars = [
        float(bar.attrib["width"])
        for bar in root.iter("{http://www.w3.org/2000/svg}rect")
        if bar.attrib["height"] == "12" and bar.attrib["y"] != "18"
    ]
    assert bars == [420.0, 210.0, 420.0, 168.0]


def test_a_pair_stands_between_both_kinds_alone(results: Results) -> None:
    results.add_pair("Septate → Mycelium", {"tcp": 3.0, "cpu_direct": 4.0})
    results.add_pair("Mycelium → Septate", unavailable("no byte arrived", "tcp", "cpu_direct"))
    lines = pair_table(results).splitlines()
    assert [line.split("  ")[0] for line in lines[2:6]] == [
        "Septate → Septate",
        "Septate → Mycelium",
        "Mycelium → Septate",
        "Mycelium → Mycelium",
    ]
    assert [line.split()[3] for line in lines[2:6]] == ["5", "3", "–", "2"]
    assert lines[6:] == ["Mycelium → Septate: no byte arrived"]


def test_the_processes_have_a_median_at_each_moment_and_a_sum(results: Results) -> None:
    for tun in (10.0, 12.0, 50.0):
        results.add_processes("before", {"tun": tun, "router": 3.0})
    results.add_processes("after", {"tun": 20.0})
    lines = process_table(results).splitlines()
    assert [line.split() for line in lines[2:]] == [["tun", "12", "20"], ["router", "3", "–"], ["sum", "15", "20"]]


def test_tables_of_what_was_not_measured_are_empty(results: Results) -> None:
    assert pair_table(results) == process_table(results) == ""


def test_a_load_above_one_is_warned_of() -> None:
    assert "WARNING" in str(Business(1.1, 0.5))
    assert str(Business(0.9, 0.5)) == "load average 0.9, 50% of the processors in use"


def test_the_share_of_processors_in_use_is_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.machine.LOOK_SECONDS", 0.05)
    assert 0 <= look().share <= 1
