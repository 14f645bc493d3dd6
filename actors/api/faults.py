"""Why a call is refused. Each dialect has a table that says what becomes of each fault."""

from __future__ import annotations

import enum


class Fault(enum.Enum):
    """What is wrong with a call, or in its way. The value completes "the call was refused: …"."""

    BAD_ENDPOINT = "malformed endpoint"
    BAD_ADDRESS = "malformed address"
    BAD_TOPIC = "malformed topic"
    BAD_SUBNET = "malformed subnet"
    BAD_MESSAGE_ID = "malformed message id"
    BAD_RULE = "malformed rule"
    BAD_QUERY = "malformed query parameter"
    BAD_HEADER = "malformed header"
    NOT_JSON = "the body is not JSON"
    WRONG_TYPE = "the body has another content type"
    WRONG_SHAPE = "JSON of another shape"
    TOO_LARGE = "too large"
    TOPIC_TOO_LONG = "topic too long"
    PEER_EXISTS = "the peer is known already"
    PEER_UNKNOWN = "the peer is not known"
    RULE_EXISTS = "the rule is there already"
    RULE_UNKNOWN = "there is no such rule"
    NO_ROUTE = "no route leads there"
    TOPIC_UNKNOWN = "the topic is not known"
    MESSAGE_UNKNOWN = "the message is not known"
    WAITER_LOST = "who waited for the reply was lost"
    KEY_IN_USE = "the idempotency key belongs to another call"
    REFUSED = "the message box can't take it"
    NO_ROOM = "the node has no room for it"
    UNAVAILABLE = "a part of the node does not answer"
    NOT_IN_THIS_VERSION = "not in this version"
    FOREIGN_NAME = "asked under a foreign name"


class ApiError(Exception):
    """A call that is refused. `text` is for people and says why; `actor` names who did not answer, where that is it."""

    def __init__(self, fault: Fault, text: str = "", *, actor: str = "") -> None:
        super().__init__(fault, text, actor)
        self.fault = fault
        self.text = text
        self.actor = actor

    def __str__(self) -> str:
        return self.text or self.fault.value
