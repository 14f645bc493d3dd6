"""Whether a QUIC peer lives: who answers stays, who is silent goes, who is quiet is asked."""

from __future__ import annotations

from protocol.quic.vigil import (
    AGAIN_SECONDS,
    ANSWER_SECONDS,
    QUIET_SECONDS,
    SILENT_SECONDS,
    WORRY_SECONDS,
    Verdict,
    Vigil,
)

BEGIN = 100.0


def test_peer_that_answers_is_never_given_up() -> None:
    vigil, now = Vigil(BEGIN), BEGIN
    for _ in range(100):
        now += 1.0
        vigil.asked(now)
        assert vigil.judge(now + 0.9, listening=True) is Verdict.WAIT
        vigil.heard(now + 0.9)
        assert not vigil.waits


def test_silent_peer_is_given_up_however_much_is_sent_to_it() -> None:
    vigil = Vigil(BEGIN)
    for tenth in range(10, 40):
        vigil.asked(BEGIN + tenth / 10)
    assert vigil.judge(BEGIN + SILENT_SECONDS - 0.01, listening=True) is not Verdict.GIVE_UP
    assert vigil.judge(BEGIN + SILENT_SECONDS, listening=True) is Verdict.GIVE_UP


def test_who_owes_an_answer_is_asked_more_loudly_again_and_again() -> None:
    vigil = Vigil(BEGIN)
    vigil.asked(BEGIN + 0.5)
    seen = []
    while (verdict := vigil.judge(vigil.deadline, listening=True)) is not Verdict.GIVE_UP:
        assert verdict is Verdict.INSIST
        seen.append(vigil.deadline - AGAIN_SECONDS)
        if len(seen) == 6:
            assert vigil.deadline == BEGIN + SILENT_SECONDS
    assert seen[:2] == [BEGIN + 0.5 + WORRY_SECONDS, BEGIN + 0.5 + WORRY_SECONDS + AGAIN_SECONDS]
    vigil.heard(BEGIN + 10)
    assert vigil.deadline == BEGIN + 10 + QUIET_SECONDS


def test_quiet_peer_is_asked_and_given_up_when_it_does_not_answer() -> None:
    vigil = Vigil(BEGIN)
    assert vigil.judge(BEGIN + QUIET_SECONDS - 0.01, listening=True) is Verdict.WAIT
    assert vigil.judge(BEGIN + QUIET_SECONDS, listening=True) is Verdict.ASK
    vigil.asked(BEGIN + QUIET_SECONDS)
    assert vigil.judge(BEGIN + SILENT_SECONDS, listening=True) is Verdict.GIVE_UP


def test_peer_that_is_asked_late_has_time_to_answer() -> None:
    vigil = Vigil(BEGIN)
    # This process was stopped for a while, say.
    late = BEGIN + 100
    assert vigil.judge(late, listening=True) is Verdict.ASK
    vigil.asked(late)
    assert vigil.judge(late + ANSWER_SECONDS - 0.01, listening=True) is Verdict.INSIST
    assert vigil.judge(late + ANSWER_SECONDS, listening=True) is Verdict.GIVE_UP


def test_peer_is_not_given_up_for_answers_that_we_did_not_read() -> None:
    vigil = Vigil(BEGIN)
    vigil.asked(BEGIN)
    late = BEGIN + 3 * SILENT_SECONDS
    assert vigil.judge(late, listening=False) is Verdict.WAIT
    assert vigil.judge(late + ANSWER_SECONDS, listening=True) is Verdict.GIVE_UP


def test_silence_is_counted_from_the_last_word() -> None:
    vigil = Vigil(BEGIN)
    vigil.asked(BEGIN + 1)
    vigil.heard(BEGIN + 2)
    assert vigil.silent_since == BEGIN + 2
    assert vigil.deadline == BEGIN + 2 + QUIET_SECONDS
