"""The metrics: names and labels of the reference, sums over all processes, in the format that Prometheus reads."""

from __future__ import annotations

import re
from typing import Any

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from actors.status.families import FAMILIES
from actors.status.metrics import render
from protocol.frames import ActorRow, Role
from tests.unit.stand_ins import actor_row


def rendered(*rows: ActorRow) -> dict[str, Metric]:
    """The families as a scraper sees them."""
    return {family.name: family for family in text_string_to_metric_families("".join(render(list(rows))))}


def value(families: dict[str, Metric], name: str, **labels: str) -> float | None:
    """One sample; None where there is none."""
    samples = families[name].samples if name in families else []
    return next((sample.value for sample in samples if sample.labels == labels), None)


def row(name: str, role: Role, counters: dict[str, int], **more: Any) -> ActorRow:
    """A process that counted something."""
    return actor_row(name, role, counters=counters, queues=more.pop("queues", {}), **more)


def test_families_without_labels_are_there_from_the_start_and_those_with_labels_are_not() -> None:
    found = {name for name in rendered() if name.startswith("mycelium_")}
    assert found == {family.name for family in FAMILIES if not family.label}
    assert all(value(rendered(), name) == 0 for name in found)


def test_names_are_those_of_the_reference() -> None:
    assert len(FAMILIES) == 25
    assert {re.match("mycelium_(router|peer_manager)_", family.name) is not None for family in FAMILIES} == {True}


def test_counters_of_all_processes_are_added_up_and_those_of_links_that_ended_too() -> None:
    families = rendered(
        row("link-1", Role.LINK, {"dropped.hop_limit": 2, "dropped.no_route": 1}),
        row("link-2", Role.LINK, {"dropped.hop_limit": 3}),
        row("tun", Role.TUN, {"answered.hop_limit": 4}),
        row("supervisor", Role.SUPERVISOR, {"gone_links.dropped.hop_limit": 10}),
    )
    routed = "mycelium_router_packets_routed"
    assert value(families, routed, verdict="ttl_expired") == 19
    assert value(families, routed, verdict="no_route") == 1
    assert value(families, routed, verdict="local") is None


def test_what_is_part_of_another_count_is_taken_off() -> None:
    families = rendered(row("router", Role.ROUTER, {"routing.route_requests": 5, "routing.wildcard_requests": 2}))
    processed = "mycelium_router_processed_tlvs"
    assert value(families, processed, tlv_type="route_request") == 3
    assert value(families, processed, tlv_type="wildcard_route_request") == 2
    assert value(families, "mycelium_router_received_tlvs") == 5


def test_known_peers_is_the_true_number() -> None:
    families = rendered(row("peers", Role.PEERS, {}, queues={"peers": 7}))
    assert value(families, "mycelium_peer_manager_known_peers") == 7
    assert families["mycelium_peer_manager_known_peers"].type == "gauge"


def test_each_process_has_its_own_figures() -> None:
    families = rendered(row("link-3", Role.LINK, {"sends.full": 2}, queues={"send_bytes": 9}))
    labels = {"actor": "link-3", "role": "link"}
    assert value(families, "septate_actor_restarts", **labels) == 2
    assert value(families, "septate_actor_memory_pss_bytes", **labels) == 20992 * 1024
    assert value(families, "septate_actor_queue", queue="send_bytes", **labels) == 9
    assert value(families, "septate_actor_events", event="sends.full", **labels) == 2


def test_letters_that_mean_something_in_the_format_are_escaped() -> None:
    families = rendered(row('a"b\\c\nd', Role.LINK, {}))
    (sample,) = families["septate_actor_ready"].samples
    assert sample.labels["actor"] == 'a"b\\c\nd'
