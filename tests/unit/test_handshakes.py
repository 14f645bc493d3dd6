"""Handshakes that go on: whose they are, and how many strangers may have."""

from protocol.handshakes import MOST_OF_ONE_SOURCE, MOST_OF_STRANGERS, Handshake, Handshakes


def full() -> Handshakes:
    """Of strangers, each with an address of his own; links count from 1."""
    handshakes = Handshakes()
    for link in range(1, MOST_OF_STRANGERS + 1):
        handshakes.accepted(link, f"tls://192.0.2.{link}:1", f"192.0.2.{link}")
    return handshakes


def test_what_ended_tells_whose_it_was_once() -> None:
    handshakes = Handshakes()
    handshakes.dialled(1, "tls://192.0.2.1:9651")
    handshakes.accepted(2, "tls://192.0.2.2:5", "192.0.2.2")
    assert len(handshakes) == 2
    assert handshakes.ended(1) == Handshake("tls://192.0.2.1:9651", True, "")
    assert handshakes.ended(2) == Handshake("tls://192.0.2.2:5", False, "192.0.2.2")
    assert (handshakes.ended(1), handshakes.ended(3), len(handshakes)) == (None, None, 0)


def test_one_source_gets_its_few_and_another_its_own() -> None:
    handshakes = Handshakes()
    for link in range(1, MOST_OF_ONE_SOURCE + 1):
        assert not handshakes.too_many_of("here")
        handshakes.accepted(link, "tls://192.0.2.1:1", "here")
    assert handshakes.too_many_of("here")
    assert not handshakes.too_many_of("there")
    handshakes.ended(1)
    assert not handshakes.too_many_of("here")


def test_oldest_stranger_makes_room_when_there_is_none() -> None:
    handshakes = full()
    assert handshakes.oldest_of_too_many() == 1
    handshakes.ended(1)
    assert handshakes.oldest_of_too_many() == 0


def test_what_we_dialled_neither_counts_nor_makes_room() -> None:
    handshakes = Handshakes()
    for link in range(100, 200):
        handshakes.dialled(link, "tls://192.0.2.1:9651")
    assert handshakes.oldest_of_too_many() == 0
    for link in range(1, MOST_OF_STRANGERS + 1):
        handshakes.accepted(link, "tls://192.0.2.2:5", f"192.0.2.{link}")
    assert handshakes.oldest_of_too_many() == 1
