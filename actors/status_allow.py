"""What the HTTP API serves about the inbound allow-list: ours, not the reference's."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from flask import Flask, Response

from actors.runtime.asking import Asker, NoAnswer
from actors.status_http import Refused, add_route, body_string, empty_answer, json_answer, path_text
from protocol.admission.rules import Rule, RuleError
from protocol.frames import AllowedList, AllowedRow, Answer, AskAllowed, ChangeAllowed, Outcome

DEADLINE_S: Final = 1.0
_STATUS: Final = {
    Outcome.EXISTS: HTTPStatus.CONFLICT,
    Outcome.MISSING: HTTPStatus.NOT_FOUND,
    Outcome.REFUSED: HTTPStatus.SERVICE_UNAVAILABLE,
}


def add_allow_routes(app: Flask, prefix: str, asker: Asker) -> None:
    """Serves the list, and changes to it, below `prefix`."""
    api = _AllowApi(asker)
    add_route(app, "GET", f"{prefix}/allow", api.show)
    add_route(app, "POST", f"{prefix}/allow", api.add)
    add_route(app, "DELETE", f"{prefix}/allow/<rule>", api.remove)


class _AllowApi:
    def __init__(self, asker: Asker) -> None:
        self._asker = asker

    def show(self) -> Response:
        answer = self._ask(AskAllowed(self._asker.token()), AllowedList)
        return json_answer(allowed_object(answer))

    def add(self) -> Response:
        return self._change(True, body_string("rule"))

    def remove(self, rule: str) -> Response:
        return self._change(False, path_text(rule))

    def _change(self, add: bool, text: str) -> Response:
        try:
            rule = Rule.parse(text)
        except RuleError as error:
            raise Refused(HTTPStatus.BAD_REQUEST, str(error)) from None
        answer = self._ask(ChangeAllowed(self._asker.token(), add, str(rule)), Answer)
        if answer.outcome is not Outcome.DONE:
            raise Refused(_STATUS[answer.outcome], answer.reason)
        return empty_answer(HTTPStatus.NO_CONTENT)

    def _ask(self, question: Any, kind: type[Any]) -> Any:
        answer = self._asker.ask("tun", question, DEADLINE_S)[-1]
        if not isinstance(answer, kind):
            raise NoAnswer("tun", f"it answered with {type(answer).__name__} where {kind.__name__} belongs")
        return answer


def allowed_object(answer: AllowedList) -> dict[str, Any]:
    """The allow-list as JSON."""
    return {
        "active": bool(answer.rules),
        "rules": [_rule_object(row) for row in answer.rules],
        "ownFlows": answer.own_flows,
        "refusedPackets": answer.refused,
    }


def _rule_object(row: AllowedRow) -> dict[str, Any]:
    return {
        "rule": row.rule,
        "origin": "configured" if row.configured else "added",
        "packets": row.packets,
        "bytes": row.octets,
        "lastUsed": None if row.idle is None else int(row.idle),
    }
