"""The verdict on a long flow, from reports made up here."""

import pytest

from bench.check import WAYS, Verdict, Way, check, send_along
from tests.lab.flow import FlowReport
from tests.lab.nodes import MyceliumNode

WHOLE = FlowReport(2_000_000_000, 10.0, 0, "aa")
OTHER_BYTES = FlowReport(2_000_000_000, 10.0, 0, "bb")
SHORT = FlowReport(1_999_999_999, 10.0, 0, "aa")


@pytest.mark.parametrize(
    ("verdict", "good", "words"),
    [
        (Verdict(WAYS[0], WHOLE, WHOLE), True, "1.60 Gbit/s, sha256 aa at the sender, the same at the receiver"),
        (Verdict(WAYS[0], WHOLE, OTHER_BYTES), False, "DIFFERENT: 2000000000 bytes, sha256 bb"),
        (Verdict(WAYS[0], WHOLE, SHORT), False, "DIFFERENT: 1999999999 bytes"),
        (Verdict(WAYS[0], failed="no pong"), False, "FAILED: no pong"),
        (Verdict(WAYS[0], skipped="no Mycelium"), True, "not checked: no Mycelium"),
    ],
)
def test_a_flow_is_good_when_both_digests_are_equal(verdict: Verdict, good: bool, words: str) -> None:
    assert verdict.good is good
    assert words in str(verdict)


def test_a_way_that_needs_a_missing_program_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MYCELIUM_BIN", raising=False)
    foreign = next(way for way in WAYS if way.needs is MyceliumNode)
    skipped = send_along(foreign, 1).skipped
    assert skipped is not None
    assert skipped.startswith("no ")


def test_one_bad_way_spoils_the_check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    verdicts = {way: Verdict(way, WHOLE, WHOLE) for way in WAYS} | {WAYS[1]: Verdict(WAYS[1], WHOLE, SHORT)}

    def made_up(way: Way, total: int) -> Verdict:
        return verdicts[way]

    monkeypatch.setattr("bench.check.send_along", made_up)
    assert not check(1)
    assert check(1, [WAYS[0], WAYS[2]])
    assert "DIFFERENT" in capsys.readouterr().out
