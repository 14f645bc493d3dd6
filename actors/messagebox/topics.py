"""Rules about topics: asked for and changed while the node runs; changes last until it ends, as the reference's do.

They are kept in the store for a successor of this process, which must not fall back to what the file says.
"""

from __future__ import annotations

from typing import Final

from actors.messagebox.rounds import Rounds
from actors.messagebox.sayings import Sayings
from actors.messagebox.store import Store
from actors.runtime.actor import Runtime
from actors.runtime.answers import Answers, LongAnswer
from protocol.frames import Answer, AskTopics, ChangeTopic, Outcome, TopicChange, TopicList, TopicRow
from protocol.mycelium.messages.topics import Source, TopicError, TopicRules, UnknownTopic

TOPICS_PER_PART: Final = 256
_DEFAULTS: Final = {"accept": True, "reject": False}


class Topics:
    """The rules of one node."""

    def __init__(
        self, runtime: Runtime, store: Store, rounds: Rounds, sayings: Sayings, rules: TopicRules, life: bytes
    ) -> None:
        """`life`: 16 bytes that name this life of the node; its successor has others, and reads the file."""
        self._sayings = sayings
        self._store = store
        self._rounds = rounds
        self._rules = rules
        self._life = life
        self._answers = Answers(runtime)
        runtime.on(AskTopics, self._on_ask)
        runtime.on(ChangeTopic, self._on_change)

    def _on_ask(self, sender: bytes, question: AskTopics) -> None:
        rules, token = self._rules, question.token
        if question.topic is not None:
            rows: list[TopicRow] = []
            if question.topic in rules:
                forward = rules.forward_path(question.topic)
                rows = [TopicRow(question.topic, rules.sources(question.topic), forward)]
        else:
            rows = [TopicRow(topic, (), None) for topic in rules]
        starts = range(0, max(1, len(rows)), TOPICS_PER_PART)
        parts = [(tuple(rows[start : start + TOPICS_PER_PART]), start != starts[-1]) for start in starts]
        answer = LongAnswer(parts, lambda part, more: TopicList(token, rules.accept, part, more))
        self._answers.send(sender, token, answer)

    def _on_change(self, sender: bytes, change: ChangeTopic) -> None:
        try:
            self._change(change)
        except UnknownTopic as unknown:
            self._sayings.say(sender, Answer(change.token, Outcome.MISSING, str(unknown)))
            return
        except TopicError as error:
            self._sayings.say(sender, Answer(change.token, Outcome.REFUSED, str(error)))
            return
        self._store.save_topics(self._life, self._rules)
        self._rounds.after_commit(self._confirm, (sender, change.token))

    def _confirm(self, asker: tuple[bytes, int]) -> None:
        sender, token = asker
        self._sayings.say(sender, Answer(token, Outcome.DONE, ""))

    def _change(self, change: ChangeTopic) -> None:
        rules, topic = self._rules, change.topic
        match change.change:
            case TopicChange.DEFAULT:
                if change.value not in _DEFAULTS:
                    raise TopicError(f"{change.value!r} is no default; write accept or reject")
                rules.accept = _DEFAULTS[change.value]
            case TopicChange.ADD:
                rules.add(topic)
            case TopicChange.REMOVE:
                rules.remove(topic)
            case TopicChange.ADD_SOURCE:
                rules.add_source(topic, Source.parse(change.value))
            case TopicChange.REMOVE_SOURCE:
                rules.remove_source(topic, Source.parse(change.value))
            case TopicChange.SET_FORWARD:
                rules.set_forward(topic, change.value)
            case TopicChange.REMOVE_FORWARD:
                rules.set_forward(topic, None)
