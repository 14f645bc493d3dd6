"""Which process a link goes to, and that no number is given twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocol.frames import actor_of, index_of, link_number, process_of
from protocol.linknumbers import MOST_PROCESSES, LinkNumbers


def test_first_links_get_a_process_each() -> None:
    numbers = LinkNumbers(1, (), ())
    links = [numbers.next() for _ in range(MOST_PROCESSES)]
    assert links == list(range(1, MOST_PROCESSES + 1))
    assert [actor_of(link) for link in links[:2]] == ["link-1", "link-2"]


def test_further_links_go_where_fewest_are() -> None:
    numbers = LinkNumbers(1, (), ())
    for _ in range(MOST_PROCESSES):
        numbers.next()
    further = [numbers.next() for _ in range(MOST_PROCESSES + 1)]
    assert sorted(process_of(link) for link in further) == sorted([*range(1, MOST_PROCESSES + 1), 1])
    assert index_of(further[-1]) == 2


def test_process_without_links_is_not_used_again() -> None:
    numbers = LinkNumbers(1, (), ())
    first = numbers.next()
    numbers.gone(first)
    assert process_of(numbers.next()) == 2


def test_restarted_peers_goes_on_behind_the_numbers_that_were_used() -> None:
    kept = [link_number(process, 0) for process in range(1, MOST_PROCESSES + 1)]
    highest = [link_number(1, 7), *kept[1:]]
    numbers = LinkNumbers(40, highest, kept)
    link = numbers.next()
    assert (process_of(link), index_of(link)) == (1, 8)


def test_tun_is_no_link() -> None:
    assert actor_of(0) == "tun"


@given(st.lists(st.integers(0, 5), max_size=200))
def test_no_number_is_given_twice(choices: list[int]) -> None:
    numbers = LinkNumbers(1, (), ())
    living: list[int] = []
    seen: set[int] = set()
    for choice in choices:
        if choice == 0 and living:
            numbers.gone(living.pop(len(living) // 2))
        else:
            link = numbers.next()
            assert link not in seen
            seen.add(link)
            living.append(link)
