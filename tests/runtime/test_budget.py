"""What may be done so often in a second and no more."""

from __future__ import annotations

from actors.runtime.budget import Budget


def test_no_more_is_given_than_a_second_holds() -> None:
    budget = Budget(2)
    assert [budget.take() for _ in range(4)] == [True, True, False, False]


def test_next_second_fills_it_again_and_saves_nothing() -> None:
    budget = Budget(2)
    budget.take()
    budget.next_second()
    assert [budget.take() for _ in range(3)] == [True, True, False]
