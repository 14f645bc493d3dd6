"""Reading what the profiler wrote."""

from bench.profiling import busiest_places


def test_a_sample_belongs_to_the_innermost_function() -> None:
    stacks = ["main (a.py:1);run (a.py:9);poll (b.py:3) 5", "main (a.py:1);poll (b.py:3) 4", "main (a.py:1) 1", ""]
    assert busiest_places(stacks, 2) == [("poll (b.py:3)", 9), ("main (a.py:1)", 1)]


def test_an_idle_actor_has_no_places() -> None:
    assert busiest_places([], 3) == []
