"""Programs that were written for the reference get the reference's answers, from a network of two real nodes."""

from __future__ import annotations

import re
import time
from typing import Any, Final

import pytest

from tests.lab.namespaces import Lab
from tests.lab.nodes import SeptateNode
from tests.lab.waiting import wait_until
from tests.namespaces.replay import Replay, expanded
from tests.unit.recorded import load

pytestmark = pytest.mark.namespaces

RECORDED: Final = load("api_recorded.json")
OTHERWISE: Final = {
    r"http\.proxy\.(?!nobody|bad)": "the SOCKS5 proxy is not in this version: 501",
    r"rpc\.(getProxies|connectProxy\.(?!bad)|disconnectProxy|startProxyProbe|stopProxyProbe)": "likewise: -32001",
    r"http\.live\.": "it waits for minutes until a second way, by QUIC, was announced; links have tests of their own",
    r"http\.common\.cors$": "these nodes serve a loopback address, where a foreign Origin is refused",
    r"http\.msg\.(push_self|status_self|self_inbox)$": "a message to oneself is delivered (messages spec Q12)",
}
"""Cases that are not made, and why; patterns of their ids."""
LONGEST_S: Final = 55.0


def group_of(case: dict[str, Any]) -> str:
    """All of a case's id but its last part."""
    return re.sub(r"\.[^.]+$", "", case["id"])


def why_not(case: dict[str, Any]) -> str | None:
    """Why a case is not made."""
    if '"kind": "cli"' in str(case).replace("'", '"'):
        return "the command line's own tests make it"
    return next((reason for pattern, reason in OTHERWISE.items() if re.match(pattern, case["id"])), None)


CASES: Final = [case for case in RECORDED["cases"] if why_not(case) is None]
GROUPS: Final = sorted({group_of(case) for case in CASES})


@pytest.fixture(scope="module")
def problems(module_lab: Lab) -> dict[str, dict[str, list[str]]]:
    """What differs, by group and case. All cases are made once, in their order, whichever test comes first."""
    near, far = module_lab.namespace("a"), module_lab.namespace("b")
    wire = module_lab.wire(near, far)
    first = SeptateNode(module_lab, near, options=["--metrics-api-address", "127.0.0.1:9999"]).start()
    second = SeptateNode(module_lab, far, peers=[first.endpoint(wire.left_address)]).start()
    replay = Replay({"A": near, "B": far})
    for name, node, under in (("A", first, wire.left_address), ("B", second, wire.right_address)):
        node.wait_until_up()
        info = node.api.get("/api/v1/admin")
        subnet = info["nodeSubnet"]
        replay.variables |= {
            f"{name}.ip": info["nodeIp"],
            f"{name}.pk": info["nodePubkey"],
            f"{name}.PK": info["nodePubkey"].upper(),
            f"{name}.subnet": subnet,
            f"{name}.other": subnet.replace("::/64", "::1234"),
            f"{name}.under": under,
        }
        wait_until("a route", lambda node=node: node.api.get("/api/v1/admin/routes/selected"), 30.0)
        wait_until("the message box", lambda node=node: node.api.get("/api/v1/messages/topics") == [], 30.0)
    begin = time.monotonic()
    found: dict[str, dict[str, list[str]]] = {group: {} for group in GROUPS}
    for case in CASES:
        found[group_of(case)][case["id"]] = replay.problems(expanded(case, RECORDED["volatile_rules"]))
    assert time.monotonic() - begin < LONGEST_S
    return found


@pytest.mark.parametrize("group", GROUPS)
def test_answers_are_those_of_the_reference(group: str, problems: dict[str, dict[str, list[str]]]) -> None:
    wrong = {case: differing for case, differing in problems[group].items() if differing}
    assert not wrong, "\n".join(f"{case}: {line}" for case, lines in wrong.items() for line in lines)


@pytest.mark.parametrize("pattern", OTHERWISE)
def test_every_exception_is_about_a_recorded_case(pattern: str) -> None:
    assert any(re.match(pattern, case["id"]) for case in RECORDED["cases"])
