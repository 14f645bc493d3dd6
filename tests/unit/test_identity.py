"""Keys, addresses, router-ids and shared secrets against computed vectors."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from protocol.mycelium import identity
from protocol.mycelium.identity import IdentityError, KeyFileError
from protocol.prefix import address_text, subnet_of
from tests.unit import wire_factory

WIRE = wire_factory.vectors("wire.json")
SECRETS = {entry["name"]: bytes.fromhex(entry["secret_key"]) for entry in WIRE["identity"]}


@pytest.mark.parametrize("entry", WIRE["identity"], ids=lambda entry: entry["name"])
def test_public_key_address_and_subnet_follow_from_the_secret(entry: dict[str, str]) -> None:
    key = identity.public_key(bytes.fromhex(entry["secret_key"]))
    address = identity.address_of(key)
    assert key.hex() == entry["public_key"]
    assert address.hex() == entry["address_bytes"]
    assert address_text(address) == entry["address"]
    assert str(subnet_of(address)) == entry["subnet"]


@pytest.mark.parametrize("entry", WIRE["documented_keys"], ids=lambda entry: entry["public_key"][:8])
def test_address_of_a_documented_key_is_the_current_one(entry: dict[str, str]) -> None:
    assert address_text(identity.address_of(bytes.fromhex(entry["public_key"]))) == entry["current_address"]


@pytest.mark.parametrize("entry", WIRE["router_id"], ids=lambda entry: entry["name"])
def test_router_id_has_bytes_text_and_key_of_the_vector(entry: dict[str, str]) -> None:
    made = identity.router_id(bytes.fromhex(entry["public_key"]), bytes.fromhex(entry["random"]))
    assert made.hex() == entry["bytes"]
    assert identity.router_id_text(made) == entry["display"]
    assert identity.router_id_key(made).hex() == entry["public_key"]


@pytest.mark.parametrize("entry", WIRE["shared_secret"], ids=lambda entry: entry["a"] + "-" + entry["b"])
def test_shared_secret_is_the_same_from_both_ends(entry: dict[str, str]) -> None:
    a, b = SECRETS[entry["a"]], SECRETS[entry["b"]]
    assert identity.shared_secret(a, identity.public_key(b)).hex() == entry["shared_secret"]
    assert identity.shared_secret(b, identity.public_key(a)).hex() == entry["shared_secret"]


@pytest.mark.parametrize("point", [bytes(32), b"\x01" + bytes(31)], ids=["zero", "one"])
def test_point_of_small_order_is_refused_as_a_public_key(point: bytes) -> None:
    with pytest.raises(IdentityError, match="small order"):
        identity.shared_secret(SECRETS["alice"], point)


def test_key_file_is_read_up_to_32_bytes() -> None:
    assert identity.read_secret(SECRETS["alice"] + b"\n") == SECRETS["alice"]


def test_short_key_file_is_refused_without_quoting_it() -> None:
    with pytest.raises(KeyFileError, match="17 bytes") as caught:
        identity.read_secret(b"this is a secret!")
    assert "secret!" not in str(caught.value)


def test_wrong_sizes_are_refused_by_name() -> None:
    key = bytes(32)
    attempts: dict[str, Callable[[], object]] = {
        "secret key has 32 bytes, this one has 31": lambda: identity.public_key(key[1:]),
        "public key has 32 bytes, this one has 33": lambda: identity.address_of(key + b"x"),
        "random part of a router-id has 6 bytes": lambda: identity.router_id(key, bytes(5)),
        "public key has 32 bytes, this one has 0": lambda: identity.router_id(b"", bytes(6)),
        "router-id has 40 bytes, this one has 39": lambda: identity.router_id_text(bytes(39)),
        "router-id has 40 bytes, this one has 41": lambda: identity.router_id_key(bytes(41)),
    }
    for message, attempt in attempts.items():
        with pytest.raises(IdentityError, match=message):
            attempt()
