"""One node, with all calls that can be made to it."""

from __future__ import annotations

from actors.api.administration import Administration, NodeFacts
from actors.api.admission import Admission
from actors.api.asking import Actors
from actors.api.batches import Batches
from actors.api.messages import Messages
from actors.api.neighbours import Neighbours
from actors.api.topics import Topics
from actors.api.waiting import Waits


class Node:
    """What both dialects call."""

    __slots__ = ("actors", "administration", "admission", "batches", "messages", "neighbours", "topics", "waits")

    def __init__(self, facts: NodeFacts, actors: Actors, waits: Waits) -> None:
        """`waits` bounds the calls that wait, of the server that makes them."""
        self.actors = actors
        self.waits = waits
        self.administration = Administration(facts, actors)
        self.messages = Messages(facts.public_key, actors)
        self.batches = Batches(self.messages)
        self.topics = Topics(actors)
        self.admission = Admission(actors)
        self.neighbours = Neighbours(actors)
