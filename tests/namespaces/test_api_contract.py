"""The served OpenAPI document is kept: whatever is sent, the answer is one that it promises, and never a 500."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from actors.api.administration import NodeFacts
from actors.api.asking import Actors
from actors.api.node import Node
from actors.api.waiting import Waits
from actors.runtime.asking import Asker, runtime_root
from actors.status.application import DOCUMENT_PATH, ROUTES, build
from tests.lab.namespaces import Lab
from tests.lab.nodes import SeptateNode
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.namespaces

EXAMPLES: Final = 8
WAITS: Final = ("timeout", "reply_timeout")
CHECKS: Final[list[CheckFunction]] = [
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]


@pytest.fixture(scope="module")
def app(module_lab: Lab) -> Iterator[Flask]:
    """The API in this process, in front of the actors of a real node."""
    node = SeptateNode(module_lab, module_lab.namespace("api"), options=["--no-tun"]).start()
    node.wait_until_up()
    wait_until("the message box", lambda: node.api.get("/api/v1/messages/topics") == [], 20.0)
    info = node.api.get("/api/v1/admin")
    facts = NodeFacts(bytes.fromhex(info["nodePubkey"]), info["nodeStartTime"])
    with Asker(runtime_root() / node.instance) as asker:
        actors = Actors(asker)
        yield build(Node(facts, actors, Waits(8, Counter())), Counter(), check_host=False)


@pytest.mark.parametrize("route", [(route.path, route.method) for route in ROUTES], ids=lambda pair: " ".join(pair))
def test_any_request_gets_an_answer_that_the_document_promises(route: tuple[str, str], app: Flask) -> None:
    path, method = route
    schema = schemathesis.openapi.from_wsgi(DOCUMENT_PATH, app)
    operation = schema[path.replace("<", "{").replace(">", "}")][method]

    @given(case=operation.as_strategy())
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    def check(case: Any) -> None:
        for name in WAITS:
            if name in (case.query or {}):
                # It would wait for as long as it is told to.
                case.query[name] = 0
        answer = case.call()
        assert answer.status_code != 500
        assert b"Traceback" not in answer.content
        case.validate_response(answer, checks=CHECKS)

    check()


def test_document_is_served(app: Flask) -> None:
    served = json.loads(app.test_client().get(DOCUMENT_PATH).data)
    assert served["openapi"] == "3.1.0"
    assert sum(map(len, served["paths"].values())) == len(ROUTES)
