"""Topic rules: who may send what, and what a topic configuration file means."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.mycelium.messages import topics
from protocol.mycelium.messages.topics import Source, TopicError, TopicRules, UnknownTopic
from tests.unit.message_factory import ALICE, BOB

ALICE_SUBNET = Source.parse(f"{IPv6Address(ALICE.address)}/64")

EXAMPLE = """
default = "Reject"

["billing.invoices"]
subnets = ["5a5:ddb0:8295:ef60::/64", "400::/16"]
forward_socket = "/run/billing.sock"

[open]
subnets = ["400::/7"]
"""


class TestDecision:
    @pytest.mark.parametrize("accept", [True, False])
    def test_the_default_decides_on_topics_without_rules(self, accept: bool) -> None:
        assert TopicRules(accept).accepts(b"anything", ALICE.address) is accept

    @pytest.mark.parametrize("accept", [True, False])
    def test_a_topic_without_sources_accepts_nobody(self, accept: bool) -> None:
        rules = TopicRules(accept)
        rules.add(b"closed")
        assert not rules.accepts(b"closed", ALICE.address)

    def test_a_topic_accepts_its_sources_only(self) -> None:
        rules = TopicRules()
        rules.add_source(b"", ALICE_SUBNET)
        assert rules.accepts(b"", ALICE.address)
        assert not rules.accepts(b"", BOB.address)

    def test_nothing_of_the_overlay_lies_in_an_ipv4_subnet(self) -> None:
        assert not Source.parse("0.0.0.0/0").contains(ALICE.address)

    @settings(deadline=None)
    @given(st.binary(min_size=16, max_size=16), st.integers(0, 128), st.binary(min_size=16, max_size=16))
    def test_a_subnet_contains_what_the_standard_library_says(self, base: bytes, length: int, address: bytes) -> None:
        network = IPv6Network((base, length), strict=False)
        for tried in (address, base, base[: length // 8] + address[length // 8 :]):
            assert Source.parse(f"{IPv6Address(base)}/{length}").contains(tried) is (IPv6Address(tried) in network)


class TestSources:
    @pytest.mark.parametrize(
        ("text", "listed"),
        [
            ("400::1", "400::1/128"),
            ("500::1/64", "500::1/64"),
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("192.0.2.1", "192.0.2.1/32"),
            ("0400:0::/7", "400::/7"),
        ],
    )
    def test_a_source_is_listed_with_its_host_bits_and_length(self, text: str, listed: str) -> None:
        assert Source.parse(text).text == listed

    @pytest.mark.parametrize(
        "text",
        ["foo", "", "/64", "400::/", "400::/129", "400::/-1", "400::/٦٤", "1.2.3.0/255.255.255.0", "fe80::1%eth0/64"],
    )
    def test_what_is_no_subnet_is_an_error_that_says_how_to_write_one(self, text: str) -> None:
        with pytest.raises(TopicError, match="write ADDRESS/LENGTH"):
            Source.parse(text)

    def test_removing_a_source_removes_all_that_equal_it(self) -> None:
        rules = TopicRules()
        for text in ("500::1/64", "400::/7", "500::2/64", "500::/63"):
            rules.add_source(b"t", Source.parse(text))
        rules.remove_source(b"t", Source.parse("500::/64"))
        assert rules.sources(b"t") == ("400::/7", "500::/63")
        rules.remove_source(b"unknown", Source.parse("500::/64"))
        assert b"unknown" not in rules

    def test_an_ipv4_subnet_equals_no_ipv6_subnet(self) -> None:
        assert Source.parse("0.0.0.0/0") != Source.parse("::/96")


class TestChanges:
    def test_adding_a_topic_again_changes_nothing(self) -> None:
        rules = TopicRules()
        rules.add_source(b"t", ALICE_SUBNET)
        rules.add(b"t")
        assert len(rules.sources(b"t")) == 1
        assert list(rules) == [b"t"]

    def test_removing_a_topic_removes_its_rules_and_needs_none(self) -> None:
        rules = TopicRules()
        rules.add(b"t")
        rules.set_forward(b"t", "/run/t.sock")
        rules.remove(b"t")
        rules.remove(b"t")
        assert rules.forward_path(b"t") is None
        with pytest.raises(UnknownTopic):
            rules.sources(b"t")

    def test_a_forward_socket_is_set_on_topics_with_rules_only(self) -> None:
        rules = TopicRules()
        rules.set_forward(b"t", "/run/t.sock")
        assert rules.forward_path(b"t") is None
        rules.add(b"t")
        rules.set_forward(b"t", "")
        assert rules.forward_path(b"t") == ""
        rules.set_forward(b"t", None)
        assert rules.forward_path(b"t") is None

    def test_topics_and_sources_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(topics, "MAX_TOPICS", 2)
        monkeypatch.setattr(topics, "MAX_SOURCES", 2)
        rules = TopicRules()
        for _ in range(2):
            rules.add_source(b"t", ALICE_SUBNET)
        with pytest.raises(TopicError, match="2 sources"):
            rules.add_source(b"t", ALICE_SUBNET)
        rules.add(b"u")
        with pytest.raises(TopicError, match="2 topics"):
            rules.add(b"v")


class TestFile:
    def test_the_example_of_the_specification_is_understood(self) -> None:
        rules = TopicRules.from_toml(EXAMPLE)
        assert rules.accept is False
        assert rules.sources(b"billing.invoices") == ("5a5:ddb0:8295:ef60::/64", "400::/16")
        assert rules.forward_path(b"billing.invoices") == "/run/billing.sock"
        assert rules.sources(b"open") == ("400::/7",)
        assert rules.forward_path(b"open") is None

    def test_a_list_alone_is_a_list_of_subnets(self) -> None:
        rules = TopicRules.from_toml('old = ["400::/7"]\nclosed = []')
        assert rules.accept is True
        assert rules.sources(b"old") == ("400::/7",)
        assert rules.sources(b"closed") == ()

    def test_other_keys_of_a_topic_are_ignored(self) -> None:
        assert TopicRules.from_toml("[t]\ncomment = 1").sources(b"t") == ()

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("not toml", "is not TOML"),
            ('default = "accept"', "default"),
            ("default = 1", "default"),
            ("t = 5", "write a table"),
            ("[t]\nsubnets = 5", "no list"),
            ("[t]\nsubnets = [5]", "no string"),
            ('[t]\nsubnets = ["foo"]', "of 't': 'foo' is not a subnet"),
            ("[t]\nforward_socket = 5", "forward_socket of 't'"),
        ],
    )
    def test_a_broken_file_is_an_error_and_never_a_set_of_rules(self, text: str, reason: str) -> None:
        with pytest.raises(TopicError, match=reason):
            TopicRules.from_toml(text)
