"""The benchmark's table, JSON and plot, from figures made up here."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.plot import draw
from bench.report import Results, figure, ratio, table, write_json
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
