"""Which of our counters are what the reference's metrics count (API spec 7).

Names and labels are the reference's. Where our architecture has no such thing the sum is over nothing, and 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

COUNTER: Final = "counter"
GAUGE: Final = "gauge"

_R: Final = "mycelium_router_"
_P: Final = "mycelium_peer_manager_"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: what it is the sum of, over all processes; with a label, one sum for each of its values."""

    name: str
    kind: str
    help: str
    sums: dict[str, tuple[str, ...]]
    """By value of the label, or under the empty text. A name of a queue begins with `queue:`."""
    label: str = ""


def _plain(name: str, text: str, *counters: str, kind: str = COUNTER) -> Family:
    return Family(name, kind, text, {"": counters})


FAMILIES: Final = (
    _plain(
        f"{_R}received_tlvs",
        "Control TLVs received",
        "routing.hellos",
        "routing.ihus",
        "routing.updates",
        "routing.route_requests",
        "routing.seqno_requests",
        "routing.tlvs_from_unknown_link",
    ),
    Family(
        f"{_R}processed_tlvs",
        COUNTER,
        "Control TLVs processed",
        {
            "hello": ("routing.hellos",),
            "ihu": ("routing.ihus",),
            "seqno_request": ("routing.seqno_requests",),
            "route_request": ("routing.route_requests", "-routing.wildcard_requests"),
            "wildcard_route_request": ("routing.wildcard_requests",),
            "update": ("routing.updates",),
        },
        "tlv_type",
    ),
    Family(
        f"{_R}tlv_handling_time",
        COUNTER,
        "Nanoseconds spent on control TLVs",
        {
            "hello": ("handling_ns.hello",),
            "ihu": ("handling_ns.ihu",),
            "update": ("handling_ns.update",),
            "route_request": ("handling_ns.route_request",),
            "seqno": ("handling_ns.seqno",),
        },
        "tlv_type",
    ),
    _plain(f"{_R}tlv_source_died", "TLVs of a link that was gone", "routing.tlvs_from_unknown_link"),
    _plain(f"{_R}tlv_discarded", "Control packets that the router did not take in time", "dropped.control"),
    _plain(f"{_R}peer_added", "Links that came up", "routing.links_up"),
    _plain(f"{_R}peer_removed", "Links that went down", "routing.links_down"),
    _plain(f"{_R}peer_died", "Links whose neighbour did not answer", "routing.links_dead"),
    _plain(
        f"{_R}route_selections",
        "Selections caused by expiry or a lost link",
        "routing.selections_after_loss",
    ),
    _plain(f"{_R}source_key_expired", "Source entries that ran out", "routing.sources_expired"),
    Family(
        f"{_R}expired_routes",
        COUNTER,
        "Routes that ran out",
        {"removed": ("routing.routes_expired",), "retracted": ("routing.routes_retracted_by_expiry",)},
        "action",
    ),
    _plain(f"{_R}selected_route_expired", "Selected routes that ran out", "routing.routes_retracted_by_expiry"),
    _plain(f"{_R}triggered_updates", "Triggered updates", "routing.triggered_updates"),
    Family(
        f"{_R}packets_routed",
        COUNTER,
        "Data packets",
        {
            "local": ("packets.local",),
            "forward": ("packets.forwarded",),
            "ttl_expired": ("dropped.hop_limit", "answered.hop_limit"),
            "no_route": ("dropped.no_route", "answered.no_route"),
        },
        "verdict",
    ),
    Family(
        f"{_R}seqno_handling",
        COUNTER,
        "Seqno requests",
        {
            "reply_local": ("routing.seqno_requests_answered",),
            "bump_seqno": ("routing.seqno_requests_bumped",),
            "ttl_expired": ("routing.seqno_requests_too_far",),
            "forward_feasible": ("routing.seqno_requests_forwarded", "-routing.seqno_requests_forwarded_unfeasible"),
            "forward_unfeasible": ("routing.seqno_requests_forwarded_unfeasible",),
            "unhandled": (
                "routing.seqno_requests_unhandled",
                "routing.seqno_requests_denied",
                "routing.seqno_requests_repeated",
                "routing.seqno_requests_bump_too_soon",
            ),
        },
        "action",
    ),
    _plain(f"{_R}update_dead_peer", "Control packets for a link that was gone", "control.link_gone"),
    _plain(f"{_R}propagate_selected_route_time", "Nanoseconds; never changes, as in the reference"),
    _plain(
        f"{_R}update_skipped_route_selection",
        "Updates that needed no selection",
        "routing.updates_without_selection",
    ),
    _plain(f"{_R}update_denied", "Updates refused", "routing.updates_denied"),
    _plain(
        f"{_R}update_not_interested",
        "Updates for unknown subnets that are unfeasible or retractions",
        "routing.updates_not_interesting",
    ),
    Family(
        f"{_P}peers_added",
        COUNTER,
        "Peers added while the node runs",
        {
            "static": ("peers.added",),
            "inbound": ("accepts.connected",),
            "link_local": ("peers.discovered",),
        },
        "peer_type",
    ),
    _plain(f"{_P}known_peers", "Peers in the table", "queue:peers", kind=GAUGE),
    Family(
        f"{_P}connection_attempts",
        COUNTER,
        "Outgoing connections",
        {"started": ("dials.started",), "finished": ("dials.connected", "dials.failed")},
        "connection_state",
    ),
    *(
        Family(
            f"{_R}{name}_packet_queue",
            COUNTER,
            text,
            {
                "enqueued": (f"{ours}.enqueued",),
                "dequeued": (f"{ours}.dequeued",),
                "dropped_query_timeout": (f"{ours}.expired",),
                "queue_full_global": (f"{ours}.evicted",),
                "queue_full_subnet": (f"{ours}.refused",),
            },
            "event",
        )
        for name, text, ours in (
            ("outbound", "Packets that wait for a route to their destination", "waiting"),
            ("incoming", "Packets that wait for a route to their source", "unopened"),
        )
    ),
)
"""A name with a minus in front is taken off."""
