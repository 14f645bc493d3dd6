"""What is known of other nodes: the right cipher, bounded memory, and capabilities that are forgotten."""

from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocol.mycelium.identity import IdentityError, address_of, public_key
from protocol.mycelium.remotes import FORGET_SECONDS, MAX_REMOTES, Remote, Remotes
from protocol.mycelium.sealing import CAP_SESSIONS, CAP_SUPER_PACKETS

# RFC 7748, section 6.1.
ALICE_SECRET = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
BOB_PUBLIC = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
SHARED = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
SMALL_ORDER = [bytes(32), b"\x01" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"]


def _key(number: int) -> bytes:
    return public_key(number.to_bytes(32, "big"))


def _remote() -> Remote:
    return Remote(AESGCM(SHARED), bytes(32), bytes(8))


def test_cipher_is_that_of_the_shared_secret() -> None:
    remote = Remotes(ALICE_SECRET).get(BOB_PUBLIC)
    assert remote is not None
    sealed = AESGCM(SHARED).encrypt(bytes(12), b"hello", None)
    assert remote.cipher.decrypt(bytes(12), sealed, None) == b"hello"
    with pytest.raises(InvalidTag):
        remote.cipher.decrypt(bytes(12), AESGCM(bytes(32)).encrypt(bytes(12), b"hello", None), None)


def test_node_that_is_known_is_the_same_object_again() -> None:
    remotes = Remotes(ALICE_SECRET)
    assert remotes.get(BOB_PUBLIC) is remotes.get(BOB_PUBLIC)
    assert len(remotes) == 1


def test_node_that_was_not_asked_for_longest_makes_room() -> None:
    remotes = Remotes(ALICE_SECRET, limit=2)
    first, second = remotes.get(_key(1)), remotes.get(_key(2))
    assert remotes.get(_key(1)) is first
    remotes.get(_key(3))
    assert len(remotes) == 2
    assert remotes.get(_key(1)) is first
    assert remotes.get(_key(2)) is not second


def test_table_is_bounded_without_being_told() -> None:
    assert repr(Remotes(ALICE_SECRET)) == f"Remotes(0 of at most {MAX_REMOTES})"


@pytest.mark.parametrize("key", SMALL_ORDER)
def test_key_of_small_order_is_nobody_and_takes_its_place_once(key: bytes) -> None:
    remotes = Remotes(ALICE_SECRET)
    assert remotes.get(key) is None
    assert remotes.get(key) is None
    assert len(remotes) == 1


@pytest.mark.parametrize("size", [0, 31, 33])
def test_key_of_another_size_is_refused_and_not_kept(size: int) -> None:
    remotes = Remotes(ALICE_SECRET)
    with pytest.raises(IdentityError, match=f"{size}"):
        remotes.get(bytes(size))
    assert len(remotes) == 0


def test_text_form_shows_no_key() -> None:
    remotes = Remotes(ALICE_SECRET)
    remotes.get(BOB_PUBLIC)
    assert repr(remotes) == f"Remotes(1 of at most {MAX_REMOTES})"
    assert ALICE_SECRET.hex() not in repr(vars(remotes)["_remotes"])


def test_node_that_was_never_heard_takes_no_super_packets() -> None:
    assert not _remote().takes_super_packets(0.0)


def test_node_takes_super_packets_once_it_said_so() -> None:
    remote = _remote()
    remote.heard(CAP_SUPER_PACKETS | CAP_SESSIONS, 10.0)
    assert remote.takes_super_packets(10.0)


def test_other_capabilities_are_not_mistaken_for_super_packets() -> None:
    remote = _remote()
    remote.heard(CAP_SESSIONS, 10.0)
    assert not remote.takes_super_packets(10.0)


def test_node_that_stops_saying_so_is_believed_at_once() -> None:
    remote = _remote()
    remote.heard(CAP_SUPER_PACKETS, 10.0)
    remote.heard(0, 11.0)
    assert not remote.takes_super_packets(11.0)


def test_capabilities_are_forgotten_after_a_minute_of_silence() -> None:
    remote = _remote()
    remote.heard(CAP_SUPER_PACKETS, 10.0)
    assert remote.takes_super_packets(10.0 + FORGET_SECONDS - 0.001)
    assert not remote.takes_super_packets(10.0 + FORGET_SECONDS)


def test_address_tells_whose_it_is() -> None:
    secret, other = bytes(range(32)), bytes(range(1, 33))
    key = public_key(other)
    remotes = Remotes(secret)
    address = address_of(key)
    assert remotes.owner(key, address) is remotes.get(key)
    assert remotes.owner(key, address[:8] + bytes(8)) is remotes.get(key)
    assert remotes.owner(key, bytes((address[0] ^ 1,)) + address[1:]) is None
