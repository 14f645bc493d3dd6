"""Who may come in from the overlay: the inbound allow-list of the host. Ours, not the reference's."""

from __future__ import annotations

from typing import Final

from actors.api.asking import Actors
from actors.api.faults import ApiError, Fault
from actors.api.objects import AllowList, allow_list_object
from protocol.admission.rules import Rule, RuleError
from protocol.frames import AllowedList, Answer, AskAllowed, ChangeAllowed, Outcome

_FAULTS: Final = {
    Outcome.EXISTS: Fault.RULE_EXISTS,
    Outcome.MISSING: Fault.RULE_UNKNOWN,
    Outcome.REFUSED: Fault.NO_ROOM,
}


class Admission:
    """Calls about the allow-list. All raise `ApiError`."""

    def __init__(self, actors: Actors) -> None:
        self._actors = actors

    def rules(self) -> AllowList:
        """The list, with what each rule let in."""
        return allow_list_object(self._actors.ask("tun", AskAllowed(self._actors.token()), AllowedList)[-1])

    def allow(self, rule: str) -> None:
        """Adds a rule."""
        self._change(True, rule)

    def allow_no_more(self, rule: str) -> None:
        """Removes a rule."""
        self._change(False, rule)

    def _change(self, add: bool, text: str) -> None:
        try:
            rule = Rule.parse(text)
        except RuleError as error:
            raise ApiError(Fault.BAD_RULE, str(error)) from None
        answer = self._actors.ask("tun", ChangeAllowed(self._actors.token(), add, str(rule)), Answer)[-1]
        if answer.outcome is not Outcome.DONE:
            raise ApiError(_FAULTS[answer.outcome], answer.reason)
