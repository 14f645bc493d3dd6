"""Questions of calls to actors: answers of the right kind, or an error that names who did not answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

from actors.api.faults import ApiError, Fault
from actors.runtime.asking import Asker
from actors.runtime.dialogue import NoAnswer
from protocol.frames import ActorList, ActorRow, AskActors

DEADLINE_S: Final = 1.0
VITAL: Final = ("peers", "router", "tun")
"""A node lives if these do."""

_T = TypeVar("_T")


class Actors:
    """The actors of one node, to be asked by many threads at once."""

    def __init__(self, asker: Asker, deadline_s: float = DEADLINE_S) -> None:
        self._asker = asker
        self._deadline_s = deadline_s

    @property
    def asker(self) -> Asker:
        """Whom the questions go through."""
        return self._asker

    def token(self) -> int:
        """A fresh number to put into a question."""
        return self._asker.token()

    def ask(self, actor: str, question: Any, kind: type[_T], deadline_s: float | None = None) -> list[_T]:
        """All parts of the answer, each a `kind`. Raises `ApiError` (`UNAVAILABLE`)."""
        try:
            answers = self._asker.ask(actor, question, deadline_s or self._deadline_s)
        except NoAnswer as error:
            raise unavailable(error) from None
        return _checked(actor, answers, kind)

    def ask_all(self, questions: Mapping[str, Any]) -> dict[str, list[Any] | NoAnswer]:
        """The answers of several actors, asked side by side."""
        return self._asker.ask_all(questions, self._deadline_s)

    def processes(self) -> list[ActorRow]:
        """All processes of the node, as the supervisor knows them. Raises `ApiError` (`UNAVAILABLE`)."""
        found = self._asker.ask_any({actor: AskActors(self.token()) for actor in VITAL}, self._deadline_s)
        if found is None:
            raise unavailable(NoAnswer("supervisor", f"none of {', '.join(VITAL)} passed the question on"))
        return [row for part in _checked("supervisor", found, ActorList) for row in part.actors]

    def silent(self) -> list[str]:
        """Those of the vital actors that don't answer."""
        answers = self.ask_all({actor: AskActors(self.token()) for actor in VITAL})
        return [actor for actor, answer in answers.items() if isinstance(answer, NoAnswer)]


def unavailable(error: NoAnswer) -> ApiError:
    """The error of a call whose actor did not answer."""
    return ApiError(Fault.UNAVAILABLE, str(error), actor=error.actor)


def wrong_answer(actor: str, answer: object, kind: type[Any]) -> ApiError:
    """The error of a call whose actor answered with another frame than it should."""
    return unavailable(NoAnswer(actor, f"it answered with {type(answer).__name__} where {kind.__name__} belongs"))


def _checked(actor: str, answers: list[Any], kind: type[_T]) -> list[_T]:
    for answer in answers:
        if not isinstance(answer, kind):
            raise wrong_answer(actor, answer, kind)
    return answers
