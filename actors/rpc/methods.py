"""The methods of the JSON-RPC API (API spec 6.2)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any, Final

from actors.api.faults import ApiError, Fault
from actors.api.messages import Letter, Received, Wish
from actors.api.objects import (
    Address,
    Base64,
    EndpointText,
    InboundMessage,
    Info,
    MessageId,
    MessageStatus,
    PacketStatistics,
    PeerStats,
    PublicKey,
    PushedMessage,
    PushMessage,
    QueriedSubnet,
    Route,
    Subnet,
)
from actors.api.reading import (
    MAX_U64,
    Outgoing,
    boolean,
    decode_base64,
    message,
    message_id,
    socket_address,
    string,
    whole_number,
)
from actors.api.schema import Range
from actors.rpc.dialect import MAX_BYTES, RESPONSE_TOO_BIG
from actors.rpc.method import Caller, Method, Param, Together

MOST_DATA: Final = (MAX_BYTES - 2048) // 4 * 3
"""Bytes of a message that fit a response in base64, with all that stands around them."""
_KEY_BYTES: Final = 32
_PUSHES_TOGETHER: Final = 64
_POPS_TOGETHER: Final = 32
"""In a batch: so many questions, and the first parts of their answers, may be on their way."""
_Seconds = Annotated[int, Range(0, MAX_U64)]

_ENDPOINT: Final = Param(("endpoint",), EndpointText, string, "PROTO://ADDRESS:PORT")
_TOPIC: Final = Param(("topic",), Base64, string, "The topic.")
_SUBNET: Final = Param(("subnet",), Subnet, string, "ADDRESS/PREFIX, or an address.")
_ID: Final = Param(("id",), MessageId, string, "The id of the message.")
_MESSAGE: Final = Param(("message",), PushMessage, message, "The message.")
_IDEMPOTENCY_KEY: Final = Param(
    ("idempotency_key", "idempotencyKey"),
    str,
    string,
    "A repetition with the same key sends nothing and is answered as the first was.",
    optional=True,
)


# --- administration ---------------------------------------------------------------------------------------------------


def _add_peer(caller: Caller, endpoint: str) -> bool:
    caller.node.administration.add_peer(endpoint)
    return True


def _delete_peer(caller: Caller, endpoint: str) -> bool:
    caller.node.administration.remove_peer(endpoint)
    return True


def _disconnect_proxy(caller: Caller) -> bool:
    caller.node.administration.disconnect_proxy()
    return True


def _start_proxy_probe(caller: Caller) -> bool:
    caller.node.administration.start_proxy_probe()
    return True


def _stop_proxy_probe(caller: Caller) -> bool:
    caller.node.administration.stop_proxy_probe()
    return True


_ADMINISTRATION: Final = (
    Method("getInfo", "The node itself", Info, lambda caller: caller.node.administration.info()),
    Method("getPeers", "All peers", list[PeerStats], lambda caller: caller.node.administration.peers()),
    Method(
        "addPeer",
        "Keep a connection to a peer",
        bool,
        _add_peer,
        (_ENDPOINT,),
        {Fault.BAD_ENDPOINT: -32009, Fault.PEER_EXISTS: -32010},
    ),
    Method(
        "deletePeer",
        "Forget a peer and close its connection",
        bool,
        _delete_peer,
        (_ENDPOINT,),
        {Fault.PEER_UNKNOWN: -32011, Fault.BAD_ENDPOINT: -32012},
    ),
    Method(
        "getSelectedRoutes",
        "The route in use to each destination",
        list[Route],
        lambda caller: caller.node.administration.selected_routes(),
    ),
    Method(
        "getFallbackRoutes",
        "All other routes",
        list[Route],
        lambda caller: caller.node.administration.fallback_routes(),
    ),
    Method(
        "getQueriedSubnets",
        "Subnets whose routes are being searched",
        list[QueriedSubnet],
        lambda caller: caller.node.administration.queried_subnets(),
    ),
    Method(
        "getPublicKeyFromIp",
        "The public key that an address belongs to",
        PublicKey,
        lambda caller, ip: caller.node.administration.public_key_of(ip),
        # The second name is the one in the reference's own document.
        (Param(("ip", "mycelium_ip"), Address, string, "An address."),),
        {Fault.BAD_ADDRESS: -32007, Fault.NO_ROUTE: -32008},
    ),
    Method(
        "getProxies",
        "SOCKS5 proxies that were found",
        list[Address],
        lambda caller: caller.node.administration.proxies(),
    ),
    Method(
        "connectProxy",
        "Relay the local port 1080 to a proxy",
        str,
        lambda caller, remote: caller.node.administration.connect_proxy(remote),
        (Param(("remote",), str, socket_address, "The proxy; the best one where none is named.", optional=True),),
    ),
    Method("disconnectProxy", "Relay no more", bool, _disconnect_proxy),
    Method("startProxyProbe", "Look for proxies from now on", bool, _start_proxy_probe),
    Method("stopProxyProbe", "Look no more", bool, _stop_proxy_probe),
    Method(
        "getPacketStatistics",
        "Packets and bytes by address",
        PacketStatistics,
        lambda caller: caller.node.administration.packet_statistics(),
    ),
)


# --- messages ---------------------------------------------------------------------------------------------------------


def _pop_message(caller: Caller, peek: bool | None, timeout: int | None, topic: str | None) -> InboundMessage | None:
    wanted = None if topic is None else decode_base64(topic, Fault.BAD_TOPIC)
    wish = Wish(wanted, not peek, timeout or 0, MOST_DATA)
    with caller.node.waits.entered(wish.wait_s, caller.is_gone) as abandonment:
        return _as_object(caller, caller.node.messages.read(wish, abandonment))


def _push_message(
    caller: Caller, outgoing: Outgoing, reply_timeout: int | None, key: str | None
) -> PushedMessage | InboundMessage:
    letter = Letter(outgoing.destination, outgoing.topic, outgoing.data, key=_key(key))
    messages = caller.node.messages
    if reply_timeout is None:
        return messages.push(letter)
    with caller.node.waits.entered(reply_timeout, caller.is_gone) as abandonment:
        pushed, reply = messages.push_and_wait(letter, reply_timeout, abandonment, MOST_DATA)
    return _as_object(caller, reply) or pushed


def _may_pop_together(peek: bool | None, timeout: int | None, _topic: str | None) -> bool:
    # Several that look would all see the same message; whoever waits keeps nobody behind him waiting.
    return not peek and not timeout


def _may_push_together(_outgoing: Outgoing, reply_timeout: int | None, _key: str | None) -> bool:
    return reply_timeout is None


def _pop_messages(caller: Caller, calls: Sequence[Sequence[Any]]) -> Sequence[InboundMessage | ApiError | None]:
    found: list[InboundMessage | ApiError | None] = []
    wishes: list[Wish | ApiError] = []
    for peek, _, topic in calls:
        try:
            wanted = None if topic is None else decode_base64(topic, Fault.BAD_TOPIC)
        except ApiError as error:
            wishes.append(error)
        else:
            wishes.append(Wish(wanted, not peek, 0, MOST_DATA))
    received = iter(caller.node.batches.read_all([wish for wish in wishes if isinstance(wish, Wish)], MOST_DATA))
    for wish in wishes:
        answer = wish if isinstance(wish, ApiError) else next(received)
        found.append(answer if isinstance(answer, ApiError) else _as_object(caller, answer))
    return found


def _push_messages(caller: Caller, calls: Sequence[Sequence[Any]]) -> Sequence[PushedMessage | ApiError]:
    letters = [Letter(message.destination, message.topic, message.data, key=_key(key)) for message, _, key in calls]
    return caller.node.batches.push_all(letters)


def _push_message_reply(caller: Caller, answered: str, outgoing: Outgoing, key: str | None) -> bool:
    letter = Letter(outgoing.destination, b"", outgoing.data, message_id(answered), _key(key))
    caller.node.messages.push(letter)
    return True


def _as_object(caller: Caller, received: Received | None) -> InboundMessage | None:
    return None if received is None else received.as_object(caller.node.messages.own_key)


def _key(text: str | None) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=_KEY_BYTES).digest() if text else b""


_MESSAGES: Final = (
    Method(
        "popMessage",
        "Take the oldest message, or look at it; null where none came in time",
        InboundMessage | None,
        _pop_message,
        (
            Param(("peek",), bool, boolean, "Leave it where it is.", optional=True),
            Param(("timeout",), _Seconds, whole_number, "How many seconds to wait.", optional=True),
            Param(("topic",), Base64, string, "Only of exactly this topic; empty: without one.", optional=True),
        ),
        {Fault.BAD_TOPIC: -32013, Fault.TOO_LARGE: RESPONSE_TOO_BIG},
        Together(_may_pop_together, _pop_messages, _POPS_TOGETHER),
    ),
    Method(
        "pushMessage",
        "Send a message, and wait for the reply where that is asked for",
        PushedMessage | InboundMessage,
        _push_message,
        (
            _MESSAGE,
            Param(
                ("reply_timeout", "replyTimeout"), _Seconds, whole_number, "How many seconds to wait.", optional=True
            ),
            _IDEMPOTENCY_KEY,
        ),
        {Fault.TOPIC_TOO_LONG: -32015, Fault.WAITER_LOST: -32016, Fault.TOO_LARGE: RESPONSE_TOO_BIG},
        Together(_may_push_together, _push_messages, _PUSHES_TOGETHER),
    ),
    Method(
        "pushMessageReply",
        "Answer a message; the topic is ignored",
        bool,
        _push_message_reply,
        (_ID, _MESSAGE, _IDEMPOTENCY_KEY),
        {Fault.BAD_MESSAGE_ID: -32018},
    ),
    Method(
        "getMessageInfo",
        "What became of an own message",
        MessageStatus,
        lambda caller, sent: caller.node.messages.status(message_id(sent)),
        (_ID,),
        {Fault.MESSAGE_UNKNOWN: -32019, Fault.BAD_MESSAGE_ID: -32020},
    ),
)


# --- topics -----------------------------------------------------------------------------------------------------------

_BAD_TOPIC: Final = {Fault.BAD_TOPIC: -32021}
_BAD_SUBNET: Final = {Fault.BAD_TOPIC: -32021, Fault.BAD_SUBNET: -32023}


def _topic(text: str) -> bytes:
    return decode_base64(text, Fault.BAD_TOPIC)


def _set_default(caller: Caller, accept: bool) -> bool:
    caller.node.topics.accept_by_default(accept)
    return True


def _add_topic(caller: Caller, topic: str) -> bool:
    caller.node.topics.add(_topic(topic))
    return True


def _remove_topic(caller: Caller, topic: str) -> bool:
    caller.node.topics.remove(_topic(topic))
    return True


def _add_source(caller: Caller, topic: str, subnet: str) -> bool:
    caller.node.topics.add_source(_topic(topic), subnet)
    return True


def _remove_source(caller: Caller, topic: str, subnet: str) -> bool:
    caller.node.topics.remove_source(_topic(topic), subnet)
    return True


def _set_forward_socket(caller: Caller, topic: str, path: str) -> bool:
    caller.node.topics.set_forward_socket(_topic(topic), path)
    return True


def _remove_forward_socket(caller: Caller, topic: str) -> bool:
    caller.node.topics.remove_forward_socket(_topic(topic))
    return True


_TOPICS: Final = (
    Method(
        "getDefaultTopicAction",
        "Whether messages on topics without rules are accepted",
        bool,
        lambda caller: caller.node.topics.accepts_by_default(),
    ),
    Method(
        "setDefaultTopicAction",
        "Set whether messages on topics without rules are accepted",
        bool,
        _set_default,
        (Param(("accept",), bool, boolean, "Whether they are."),),
    ),
    Method("getTopics", "Topics with rules", list[Base64], lambda caller: caller.node.topics.all()),
    Method("addTopic", "Give a topic rules", bool, _add_topic, (_TOPIC,), _BAD_TOPIC),
    Method("removeTopic", "Take a topic's rules away", bool, _remove_topic, (_TOPIC,), _BAD_TOPIC),
    Method(
        "getTopicSources",
        "Subnets that may send on a topic",
        list[Subnet],
        lambda caller, topic: caller.node.topics.sources(_topic(topic)),
        (_TOPIC,),
        _BAD_TOPIC | {Fault.TOPIC_UNKNOWN: -32030},
    ),
    Method("addTopicSource", "Let a subnet send on a topic", bool, _add_source, (_TOPIC, _SUBNET), _BAD_SUBNET),
    Method("removeTopicSource", "Let a subnet send no more", bool, _remove_source, (_TOPIC, _SUBNET), _BAD_SUBNET),
    Method(
        "getTopicForwardSocket",
        "The Unix socket that messages on a topic go to",
        str | None,
        lambda caller, topic: caller.node.topics.forward_socket(_topic(topic)),
        (_TOPIC,),
        _BAD_TOPIC,
    ),
    Method(
        "setTopicForwardSocket",
        "Forward messages on a topic; nothing happens to a topic without rules",
        bool,
        _set_forward_socket,
        (_TOPIC, Param(("socket_path", "socketPath"), str, string, "The path of a Unix socket.")),
        _BAD_TOPIC,
    ),
    Method("removeTopicForwardSocket", "Forward no more", bool, _remove_forward_socket, (_TOPIC,), _BAD_TOPIC),
)

DISCOVER: Final = "rpc.discover"
_DESCRIBED: Final = (*_ADMINISTRATION, *_MESSAGES, *_TOPICS)


def all_methods(document: Any) -> dict[str, Method]:
    """Every method by its name; `document` makes what `rpc.discover` answers of the declarations."""
    discover = Method(DISCOVER, "This document", dict[str, Any], lambda _caller: found)
    methods = (*_DESCRIBED, discover)
    found = document(methods)
    return {method.name: method for method in methods}
