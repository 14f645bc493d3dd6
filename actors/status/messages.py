"""Routes of the messages: those of the reference (API spec 4), and ours for the outbox and for large ones."""

from __future__ import annotations

from http import HTTPStatus
from ipaddress import IPv6Address
from typing import Final

from flask import Response

from actors.api.faults import ApiError, Fault
from actors.api.messages import Letter, Received, Wish
from actors.api.objects import (
    Address,
    Base64,
    InboundMessage,
    MessageId,
    MessageStatus,
    OutboxMessage,
    PublicKey,
    PushedMessage,
    PushMessage,
)
from actors.api.reading import address_bytes, encode_base64, message, message_id, public_key
from actors.status.http import empty_answer, json_answer
from actors.status.parameters import ID, IDEMPOTENCY_KEY, PEEK, REPLY_TIMEOUT, TIMEOUT, TOPIC_FILTER
from actors.status.route import API, OCTETS, OURS, Answer, Body, Call, Parameter, Route, done
from protocol.mycelium.endpoint import ip_text
from protocol.mycelium.identity import address_of

_MESSAGES: Final = f"{API}/messages"


# --- as in the reference ----------------------------------------------------------------------------------------------


def _pop(call: Call) -> Response:
    found = _read(call)
    if found is None:
        return empty_answer(HTTPStatus.NO_CONTENT)
    return json_answer(found.as_object(call.node.messages.own_key))


def _push(call: Call) -> Response:
    letter = Letter(call.body.destination, call.body.topic, call.body.data, key=call.headers["Idempotency-Key"])
    return _pushed(call, letter)


def _pushed(call: Call, letter: Letter) -> Response:
    wait_s = call.query["reply_timeout"]
    if wait_s is None:
        return json_answer(call.node.messages.push(letter), HTTPStatus.CREATED)
    with call.node.waits.entered(wait_s, call.is_gone) as abandonment:
        pushed, reply = call.node.messages.push_and_wait(letter, wait_s, abandonment)
    if reply is None:
        return json_answer(pushed, HTTPStatus.REQUEST_TIMEOUT)
    return json_answer(reply.as_object(call.node.messages.own_key))


def _reply(call: Call) -> Response:
    letter = Letter(
        call.body.destination,
        b"",
        call.body.data,
        reply_to=call.path["id"],
        key=call.headers["Idempotency-Key"],
    )
    call.node.messages.push(letter)
    return empty_answer(HTTPStatus.NO_CONTENT)


def _status(call: Call) -> Response:
    return json_answer(call.node.messages.status(call.path["id"]))


# --- ours -------------------------------------------------------------------------------------------------------------


def _pop_raw(call: Call) -> Response:
    found = _read(call)
    if found is None:
        return empty_answer(HTTPStatus.NO_CONTENT)
    head = found.head
    answer = Response(bytes(found.data), content_type=OCTETS)
    answer.headers["Septate-Message-Id"] = head.id.hex()
    answer.headers["Septate-Source"] = _address_text(head.source)
    answer.headers["Septate-Source-Key"] = head.source_key.hex()
    answer.headers["Septate-Destination"] = _address_text(head.destination)
    answer.headers["Septate-Destination-Key"] = call.node.messages.own_key
    answer.headers["Septate-Topic"] = encode_base64(head.topic)
    return answer


def _push_raw(call: Call) -> Response:
    query = call.query
    if (query["dst"] is None) == (query["pk"] is None):
        raise ApiError(Fault.BAD_QUERY, "name the destination by exactly one of dst and pk")
    destination = query["dst"] if query["pk"] is None else address_of(query["pk"])
    letter = Letter(destination, query["topic"] or b"", call.body, query["reply"], call.headers["Idempotency-Key"])
    return _pushed(call, letter)


def _outbox(call: Call) -> Response:
    return json_answer(call.node.messages.outbox())


def _cancel(call: Call) -> Response:
    call.node.messages.cancel(call.path["id"])
    return empty_answer(HTTPStatus.NO_CONTENT)


def _read(call: Call) -> Received | None:
    wish = Wish(call.query["topic"], not call.query["peek"], call.query["timeout"])
    with call.node.waits.entered(wish.wait_s, call.is_gone) as abandonment:
        return call.node.messages.read(wish, abandonment)


def _address_text(address: bytes) -> str:
    return ip_text(IPv6Address(address))


def _destination(text: str) -> bytes:
    return address_bytes(text, Fault.BAD_QUERY)


def _destination_key(text: str) -> bytes:
    return public_key(text, Fault.BAD_QUERY)


_PUSH: Final = Body(PushMessage, message, {"dst": {"ip": "5a5:ddb0::1"}, "topic": "ZGVtbw==", "payload": "aGVsbG8="})
_OK: Final = HTTPStatus.OK
_NO_CONTENT: Final = HTTPStatus.NO_CONTENT
_NONE_CAME: Final = Answer(_NO_CONTENT, "None came in time.")
_PUSHED: Final = (
    Answer(HTTPStatus.CREATED, "It is on disk and will be sent.", PushedMessage),
    Answer(_OK, "The reply.", InboundMessage),
    Answer(HTTPStatus.REQUEST_TIMEOUT, "No reply came in time; it is still being sent.", PushedMessage),
)
_READ: Final = (PEEK, TIMEOUT, TOPIC_FILTER)
_HEADERS: Final = (
    Parameter("Septate-Message-Id", MessageId, str, "The id of the message."),
    Parameter("Septate-Source", Address, str, "Who sent it."),
    Parameter("Septate-Source-Key", PublicKey, str, "The sender's public key."),
    Parameter("Septate-Destination", Address, str, "The address that the sender used."),
    Parameter("Septate-Destination-Key", PublicKey, str, "This node's public key."),
    Parameter("Septate-Topic", Base64, str, "Its topic, empty for none."),
)
_RAW: Final = (
    Parameter("dst", Address, _destination, "Any address of the receiver."),
    Parameter("pk", PublicKey, _destination_key, "The receiver's public key, instead."),
    Parameter("topic", Base64, TOPIC_FILTER.reader, "The topic of the message."),
    Parameter("reply", MessageId, message_id, "The id of the message that this answers.", b""),
    REPLY_TIMEOUT,
)

ROUTES: Final = (
    Route(
        "GET",
        _MESSAGES,
        _pop,
        "Take the oldest message, or look at it",
        (Answer(_OK, "The message.", InboundMessage), _NONE_CAME),
        query=_READ,
        refusals=(HTTPStatus.BAD_REQUEST,),
        head=False,
    ),
    Route(
        "POST",
        _MESSAGES,
        _push,
        "Send a message, and wait for the reply where that is asked for",
        _PUSHED,
        query=(REPLY_TIMEOUT,),
        headers=(IDEMPOTENCY_KEY,),
        body=_PUSH,
        refusals=(HTTPStatus.BAD_REQUEST,),
    ),
    Route(
        "POST",
        f"{_MESSAGES}/reply/<id>",
        _reply,
        "Answer a message; the topic is ignored",
        done(_NO_CONTENT, "It is on disk and will be sent."),
        parts=(ID,),
        headers=(IDEMPOTENCY_KEY,),
        body=_PUSH,
        refusals=(HTTPStatus.BAD_REQUEST,),
    ),
    Route(
        "GET",
        f"{_MESSAGES}/status/<id>",
        _status,
        "What became of an own message",
        done(_OK, "Its state.", MessageStatus),
        parts=(ID,),
        refusals=(HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND),
    ),
    Route(
        "GET",
        f"{OURS}/messages",
        _pop_raw,
        "Take the oldest message, or look at it, as bytes",
        (Answer(_OK, "The data of the message.", bytes, OCTETS, _HEADERS), _NONE_CAME),
        query=_READ,
        refusals=(HTTPStatus.BAD_REQUEST,),
        head=False,
    ),
    Route(
        "POST",
        f"{OURS}/messages",
        _push_raw,
        "Send a message of any size, as bytes, and wait for the reply where that is asked for",
        _PUSHED,
        query=_RAW,
        headers=(IDEMPOTENCY_KEY,),
        body=Body(bytes, None),
        refusals=(HTTPStatus.BAD_REQUEST,),
    ),
    Route(
        "GET",
        f"{OURS}/messages/outbox",
        _outbox,
        "Own messages of the last minutes",
        done(_OK, "The messages, in the order in which they were sent.", list[OutboxMessage]),
    ),
    Route(
        "DELETE",
        f"{OURS}/messages/outbox/<id>",
        _cancel,
        "Give up an own message that is still being sent",
        done(_NO_CONTENT, "It will not be sent any more."),
        parts=(ID,),
        refusals=(HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND),
    ),
)
