"""The status page: one node at a glance, for a person with a browser. Plain HTML, no script, nothing to click."""

from __future__ import annotations

from typing import Any, Final

from flask import Response, render_template_string

from actors.api.node import Node
from actors.api.objects import METRIC_INFINITE, subnet_text
from actors.runtime.dialogue import NoAnswer
from protocol.frames import (
    ActorList,
    AskActors,
    AskPeers,
    AskRoutes,
    PeerList,
    RouteKind,
    RouteList,
)

MAX_ROUTES: Final = 200
"""Rows shown: a browser is no tool for a table of thousands, the API is."""

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"

_TEMPLATE: Final = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="refresh" content="5">
<title>septate {{ info.nodeIp }}</title>
<style>
body { font: 14px system-ui, sans-serif; margin: 2em; color: #222 }
table { border-collapse: collapse; margin-bottom: 2em }
td, th { border: 1px solid #ccc; padding: .2em .6em; text-align: left }
</style>
<h1>{{ info.nodeIp }}</h1>
<p>Public key {{ info.nodePubkey }}, subnet {{ info.nodeSubnet }}</p>
{% for table in tables %}
<h2>{{ table.title }}</h2>
{% if table.problem %}<p>{{ table.problem }}</p>{% else %}
<table>
<tr>{% for name in table.header %}<th>{{ name }}{% endfor %}
{% for row in table.rows %}<tr>{% for cell in row %}<td>{{ cell }}{% endfor %}
{% endfor %}</table>
{% endif %}
{% endfor %}
</html>
"""


def page(node: Node) -> Response:
    """The page. Actors that don't answer in time are named where their table would be."""
    actors = node.actors
    answers = actors.ask_all(
        {
            "peers": AskPeers(actors.token()),
            "router": AskRoutes(actors.token(), RouteKind.SELECTED),
            "tun": AskActors(actors.token()),
        }
    )
    tables = (
        _table("Peers", ("Endpoint", "Type", "State", "Sent", "Received", "Last problem"), answers["peers"], _peers),
        _table("Routes in use", ("Subnet", "Next hop", "Metric"), answers["router"], _routes),
        _table("Processes", ("Title", "PID", "Age s", "Restarts", "CPU s", "KiB"), answers["tun"], _actors),
    )
    text = render_template_string(_TEMPLATE, info=node.administration.info(), tables=tables)
    return Response(text, content_type="text/html; charset=utf-8", headers={"Content-Security-Policy": _POLICY})


def _table(title: str, header: tuple[str, ...], answer: list[Any] | NoAnswer, rows: Any) -> dict[str, Any]:
    if isinstance(answer, NoAnswer):
        return {"title": title, "problem": str(answer)}
    return {"title": title, "header": header, "rows": rows(answer)}


def _peers(parts: list[PeerList]) -> list[tuple[object, ...]]:
    return [
        (row.endpoint, row.kind, row.state, row.sent_octets, row.received_octets, row.reason)
        for part in parts
        for row in part.peers
    ]


def _routes(parts: list[RouteList]) -> list[tuple[object, ...]]:
    rows = [row for part in parts for row in part.routes]
    shown: list[tuple[object, ...]] = [
        (
            subnet_text(row.network, row.length),
            row.next_hop,
            "infinite" if row.metric >= METRIC_INFINITE else row.metric,
        )
        for row in rows[:MAX_ROUTES]
    ]
    if len(rows) > MAX_ROUTES:
        shown.append((f"and {len(rows) - MAX_ROUTES} more", "", ""))
    return shown


def _actors(parts: list[ActorList]) -> list[tuple[object, ...]]:
    return [
        (row.title, row.pid, round(row.age_seconds), row.restarts, round(row.cpu_seconds, 2), row.pss_kib)
        for part in parts
        for row in part.actors
    ]
