"""The whole HTTP API: all routes, and the document about them, as one WSGI application."""

from __future__ import annotations

from collections import Counter
from http import HTTPStatus
from typing import Any, Final

from flask import Flask, Response
from werkzeug.exceptions import MethodNotAllowed

from actors.api.node import Node
from actors.status import administration, messages, ours, topics
from actors.status.http import add_routes, json_answer, make_app
from actors.status.openapi import document
from actors.status.route import API, Answer, Call, Route

DOCUMENT_PATH: Final = f"{API}/openapi.json"


def _serve_document(_call: Call) -> Response:
    return json_answer(_DOCUMENT)


ROUTES: Final = (
    *administration.ROUTES,
    *messages.ROUTES,
    *topics.ROUTES,
    *ours.ROUTES,
    Route(
        "GET",
        DOCUMENT_PATH,
        _serve_document,
        "This document",
        (Answer(HTTPStatus.OK, "OpenAPI 3.1.", dict[str, Any]),),
    ),
)
_DOCUMENT: Final = document(ROUTES)


def build(node: Node, counters: Counter[str], *, check_host: bool) -> Flask:
    """The application, to be served by any WSGI server that has threads."""
    app = make_app(counters, check_host=check_host)
    add_routes(app, node, ROUTES)
    _keep_topic_name_default_apart(app)
    return app


def _keep_topic_name_default_apart(app: Flask) -> None:
    """`default` is no topic: a DELETE of it is a wrong method, not the removal of a topic of that name."""

    def refuse() -> Response:
        raise MethodNotAllowed(valid_methods=["GET", "HEAD", "PUT"])

    path = f"{topics.TOPICS}/default"
    for method in ("DELETE", "OPTIONS", "PATCH", "POST"):
        app.add_url_rule(path, f"{method} {path}", refuse, methods=[method], provide_automatic_options=False)
