"""What the API says of several links to one neighbour, and why one of them is used."""

from __future__ import annotations

import pytest

from actors.api.neighbours import neighbour_objects
from protocol.frames import LinkRow, PeerRow
from protocol.mycelium.identity import address_of

KEY = bytes(range(32))


def peer(endpoint: str, link: int, kind: str = "static") -> PeerRow:
    return PeerRow(
        endpoint, endpoint, kind, "alive" if link else "dead", link, 0, 0, 1.0, None, "" if link else "refused"
    )


def link(number: int, cost: int, prefixes: int, key: bytes = KEY) -> LinkRow:
    return LinkRow(number, f"TCP {number}", key, 10, cost, cost - 10, prefixes)


@pytest.mark.parametrize(
    ("links", "why"),
    [
        ([link(1, 20, 3)], ["the only link to this neighbour"]),
        ([link(1, 20, 0, b"")], ["the neighbour has announced nothing yet"]),
        (
            [link(1, 20, 3), link(2, 40, 0)],
            ["in use: 20 is cheapest; link 2 costs 40", "waits, at 40: link 1 costs 20"],
        ),
        (
            [link(1, 25, 3), link(2, 20, 0)],
            [
                "in use: 25 is kept: another has to be cheaper by more than 10; link 2 costs 20",
                "waits, at 20: link 1 costs 25",
            ],
        ),
        ([link(1, 20, 3), link(2, 9, 3, bytes(32))], ["the only link to this neighbour"] * 2),
    ],
)
def test_each_link_says_why_it_is_used_or_not(links: list[LinkRow], why: list[str]) -> None:
    peers = [peer(f"tcp://192.0.2.{row.link}:9651", row.link) for row in links]
    assert [found["why"] for found in neighbour_objects(peers, links)] == why


def test_peer_without_a_link_says_why_not() -> None:
    (found,) = neighbour_objects([peer("tcp://peer.example.org:9651", 0)], [link(1, 20, 3)])
    assert (found["state"], found["reason"], found["cost"], found["neighbour"]) == ("dead", "refused", None, None)


def test_neighbour_is_named_by_its_address_and_a_peer_by_its_origin() -> None:
    (found,) = neighbour_objects([peer("tcp://[fe80::1%3]:9651", 1, "linkLocalDiscovery")], [link(1, 20, 3)])
    assert found["origin"] == "discovered"
    assert found["neighbour"] is not None
    assert found["neighbour"].startswith(f"{address_of(KEY)[0]:x}")
