"""A node for Python programs: its HTTP API, ours or the reference's, as methods of one class. Standard library only.

from septate.client import Node

node = Node()                                   # or Node("192.0.2.1:8989")
sent = node.send("5ea:4578:6f:62c8:bee5:3ee9:c3f0:1fc6", b"hello", topic=b"demo")
print(node.wait(sent, timeout_s=30).state)
message = node.receive(timeout_s=60, topic=b"demo")
if message is not None:
    node.reply(message, b"hello yourself")
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final

from protocol.buffers import Buffer
from protocol.mycelium.endpoint import EndpointError, SocketAddress
from protocol.targets import Target, TargetError
from septate.answers import (
    AllowedRule,
    AllowList,
    Info,
    Message,
    MessageState,
    MessageStatus,
    Neighbour,
    OwnMessage,
    PacketStatistics,
    Peer,
    QueriedSubnet,
    Route,
    Traffic,
    checked_text,
    of_headers,
    to_base64,
)
from septate.exchange import (
    DEFAULT_TIMEOUT_S,
    Answer,
    ApiError,
    Exchange,
    Progress,
    RefusedError,
    UnexpectedAnswerError,
    UnreachableError,
    path_word,
)
from septate.topics import Topics

__all__ = [
    "AllowList",
    "AllowedRule",
    "ApiError",
    "Info",
    "Message",
    "MessageState",
    "MessageStatus",
    "Neighbour",
    "NoReplyError",
    "Node",
    "OwnMessage",
    "PacketStatistics",
    "Peer",
    "QueriedSubnet",
    "RefusedError",
    "Route",
    "Topics",
    "Traffic",
    "UnexpectedAnswerError",
    "UnreachableError",
]

DEFAULT_ADDRESS: Final = "127.0.0.1:8989"
LARGE_BYTES: Final = 1_000_000
"""Payloads above it travel as they are where the node can take that; JSON makes a third more of them."""
MESSAGES: Final = "/messages"
PROXY: Final = "/admin/proxy"
OUR_PEERS: Final = "/septate/peers"
ALLOW: Final = "/septate/allow"
OUTBOX: Final = "/septate/messages/outbox"
_RAW: Final = "/septate/messages"
_OCTETS: Final = "application/octet-stream"
_LACKING: Final = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED)
"""What a node says to a path that only others have."""
_PROXY_S: Final = 60.0
"""A node tries one proxy after the other."""
_ONE_WAIT_S: Final = 30
"""How long one call waits where nobody says how long; the next one follows at once."""
_POLL_FIRST_S: Final = 0.02
_POLL_MOST_S: Final = 1.0
_TRANSFER_OCTETS_PER_S: Final = 1_000_000
"""Slower than any machine talks to itself: what a large message may take longer than other calls."""


class NoReplyError(ApiError):
    """The reply did not come in time. The message itself may have arrived: `message_id` is good for `status`."""

    def __init__(self, message_id: str, waited_s: float) -> None:
        super().__init__(f"no reply to message {message_id} within {waited_s:g} s")
        self.message_id = message_id


class Node:
    """A running node. Threads may share it: each call has a connection of its own, and nothing is kept between calls.

    Destinations are overlay addresses or public keys (64 hex digits) as text, topics and payloads are bytes, message
    ids are 16 hex digits. Every method raises `ApiError`: `UnreachableError` when there is no answer within
    `timeout_s` (on top of what a method waits anyway), `RefusedError` with the status when the node says no,
    `UnexpectedAnswerError` when it is no node.
    """

    def __init__(self, address: str | SocketAddress = DEFAULT_ADDRESS, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """The node whose API is at `address`, `ip:port`. Raises `EndpointError` for what is none."""
        self.exchange: Final = Exchange(
            SocketAddress.parse(address) if isinstance(address, str) else address, timeout_s
        )
        self.topics: Final = Topics(self.exchange)

    # --- the node and its neighbours --------------------------------------------------------------------------------

    def info(self) -> Info:
        """Who the node is."""
        return self.exchange.get("/admin", Info.of)

    def peers(self) -> list[Peer]:
        """All peers, connected or not."""
        return self.exchange.get_list("/admin/peers", Peer.of)

    def neighbours(self) -> list[Neighbour]:
        """All peers, with the links to them. Septate's own."""
        return self.exchange.get_list(OUR_PEERS, Neighbour.of)

    def add_peer(self, endpoint: str) -> None:
        """Has the node keep a connection to `endpoint`, for example `tcp://192.0.2.10:9651`.

        A Septate node takes host names and proxies, too: `tcp://peer.example.org:9651`.
        """
        self.exchange.post_json(_path_for(endpoint), {"endpoint": endpoint})

    def remove_peer(self, endpoint: str) -> None:
        """Has the node forget `endpoint` and close its connection."""
        self.exchange.call("DELETE", f"{_path_for(endpoint)}/{path_word(_without_password(endpoint))}")

    def allowed(self) -> AllowList:
        """Who may come in from the overlay. Septate's own, like the next two."""
        return self.exchange.get(ALLOW, AllowList.of)

    def allow(self, rule: str) -> None:
        """Lets in what `rule` says, for example `any tcp/22`, until it is taken back or the node restarted."""
        self.exchange.post_json(ALLOW, {"rule": rule})

    def disallow(self, rule: str) -> None:
        """Takes `rule` back."""
        self.exchange.call("DELETE", f"{ALLOW}/{path_word(rule)}")

    def selected_routes(self) -> list[Route]:
        """The routes in use."""
        return self.exchange.get_list("/admin/routes/selected", Route.of)

    def fallback_routes(self) -> list[Route]:
        """The routes that are known and not in use."""
        return self.exchange.get_list("/admin/routes/fallback", Route.of)

    def queried_subnets(self) -> list[QueriedSubnet]:
        """The subnets that are being asked for."""
        return self.exchange.get_list("/admin/routes/queried", QueriedSubnet.of)

    def packet_statistics(self) -> PacketStatistics:
        """Packets and bytes by address."""
        return self.exchange.get("/admin/stats/packets", PacketStatistics.of)

    def public_key(self, address: str) -> str | None:
        """The key of the node that has `address`, 64 hex digits; None while no route to it is known."""
        path = f"/pubkey/{path_word(address)}"
        try:
            return self.exchange.get(path, lambda value: checked_text(value["publicKey"]))
        except RefusedError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    # --- proxies ----------------------------------------------------------------------------------------------------

    def proxies(self) -> list[str]:
        """The addresses of nodes on which probing found an open SOCKS5 proxy. A node without this part: 501."""
        return self.exchange.get_list(PROXY, checked_text)

    def connect_proxy(self, remote: str | None = None) -> str:
        """Has the node hand connections to its port 1080 on to `remote`, or to the first proxy that answers.

        Returns the socket address in use.
        """
        answer = self.exchange.post_json(PROXY, {"remote": remote}, wait_s=_PROXY_S)
        return self.exchange.shaped(PROXY, checked_text, self.exchange.read_json(PROXY, answer.body))

    def disconnect_proxy(self) -> None:
        """Has it close port 1080 and what came through it."""
        self.exchange.call("DELETE", PROXY)

    def start_proxy_probe(self) -> None:
        """Has the node look for proxies, at once and every minute."""
        self.exchange.call("GET", f"{PROXY}/probe")

    def stop_proxy_probe(self) -> None:
        """Ends that; what was found stays."""
        self.exchange.call("DELETE", f"{PROXY}/probe")

    # --- sending ----------------------------------------------------------------------------------------------------

    def send(
        self,
        destination: str,
        payload: Buffer,
        *,
        topic: bytes = b"",
        idempotency_key: str | None = None,
        on_progress: Progress | None = None,
    ) -> str:
        """Hands a message to the node, which sends it for up to 300 s; returns its id.

        A call that ended in `UnreachableError` may have sent it all the same: with an `idempotency_key` (any text of
        your own, up to 255 letters, one for each message) it can be repeated and is sent once.
        """
        answer = self._push(destination, payload, topic, None, idempotency_key, on_progress)
        return self._id_of(answer)

    def request(
        self,
        destination: str,
        payload: Buffer,
        *,
        timeout_s: int,
        topic: bytes = b"",
        idempotency_key: str | None = None,
        on_progress: Progress | None = None,
    ) -> Message:
        """Sends a message and waits up to `timeout_s` seconds for the reply. Raises `NoReplyError` when none came."""
        answer = self._push(destination, payload, topic, timeout_s, idempotency_key, on_progress)
        if answer.status != HTTPStatus.OK:
            raise NoReplyError(self._id_of(answer), timeout_s)
        return self.exchange.shaped(MESSAGES, Message.of, self.exchange.read_json(MESSAGES, answer.body))

    def reply(self, message: Message | tuple[str, str], payload: Buffer, *, idempotency_key: str | None = None) -> None:
        """Answers a message, or one that is known by id and sender: `(id, destination)`."""
        message_id, destination = message if isinstance(message, tuple) else (message.id, message.source)
        if len(memoryview(payload)) > LARGE_BYTES:
            answer = self._push_raw(destination, payload, {"reply": message_id}, idempotency_key=idempotency_key)
            if answer is not None:
                return
        with self._too_large(payload):
            self.exchange.post_json(
                f"{MESSAGES}/reply/{path_word(message_id)}",
                {"dst": _destination(destination), "payload": to_base64(payload)},
                headers=_idempotent(idempotency_key),
                wait_s=_transfer_s(payload),
            )

    def _push(
        self,
        destination: str,
        payload: Buffer,
        topic: bytes,
        reply_timeout_s: int | None,
        idempotency_key: str | None,
        on_progress: Progress | None,
    ) -> Answer:
        parameters = {} if reply_timeout_s is None else {"reply_timeout": str(reply_timeout_s)}
        wait_s = float(reply_timeout_s or 0)
        encoded = {"topic": to_base64(topic)} if topic else {}
        if len(memoryview(payload)) > LARGE_BYTES:
            answer = self._push_raw(
                destination, payload, {**parameters, **encoded}, wait_s, idempotency_key, on_progress
            )
            if answer is not None:
                return answer
        with self._too_large(payload):
            return self.exchange.post_json(
                MESSAGES,
                {"dst": _destination(destination), "payload": to_base64(payload), **encoded},
                parameters=parameters,
                headers=_idempotent(idempotency_key),
                wait_s=wait_s + _transfer_s(payload),
                also=(HTTPStatus.REQUEST_TIMEOUT,),
            )

    def _push_raw(
        self,
        destination: str,
        payload: Buffer,
        parameters: dict[str, str],
        wait_s: float = 0.0,
        idempotency_key: str | None = None,
        on_progress: Progress | None = None,
    ) -> Answer | None:
        """None where the node takes no bytes as they are."""
        ((kind, text),) = _destination(destination).items()
        try:
            return self.exchange.call(
                "POST",
                _RAW,
                parameters={"dst" if kind == "ip" else kind: text, **parameters},
                headers={"Content-Type": _OCTETS, **_idempotent(idempotency_key)},
                body=payload,
                wait_s=wait_s + _transfer_s(payload),
                also=(HTTPStatus.REQUEST_TIMEOUT,),
                on_sent=on_progress,
            )
        except RefusedError as error:
            if error.status not in _LACKING:
                raise
            return None

    @contextmanager
    def _too_large(self, payload: Buffer) -> Iterator[None]:
        try:
            yield
        except RefusedError as error:
            if error.status != HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                raise
            raise RefusedError(
                f"a message of {len(memoryview(payload))} bytes is more than the node at {self.exchange.address} "
                "takes; cut it into several",
                error.status,
            ) from None

    def _id_of(self, answer: Answer) -> str:
        return self.exchange.shaped(
            MESSAGES, lambda value: checked_text(value["id"]), self.exchange.read_json(MESSAGES, answer.body)
        )

    # --- receiving --------------------------------------------------------------------------------------------------

    def receive(
        self, *, timeout_s: int = 0, topic: bytes | None = None, on_progress: Progress | None = None
    ) -> Message | None:
        """Takes the oldest message out of the inbox, waiting up to `timeout_s` seconds for one; None when none came.

        `topic` is that of the messages that count: None for any, empty for those without.
        """
        return self._read(timeout_s, topic, peek=False, on_progress=on_progress)

    def peek(self, *, timeout_s: int = 0, topic: bytes | None = None) -> Message | None:
        """The same, but the message stays where it is."""
        return self._read(timeout_s, topic, peek=True, on_progress=None)

    def messages(
        self, *, topic: bytes | None = None, on_trouble: Callable[[ApiError], object] | None = None
    ) -> Iterator[Message]:
        """Takes one message after the other out of the inbox, for ever, also while the node is being restarted.

        `on_trouble` is told of every call without an answer. What a node had handed over when it, or the connection,
        ended may be lost on the way: who can't afford that takes messages from the stream endpoint.
        """
        pause = _POLL_FIRST_S
        while True:
            try:
                message = self.receive(timeout_s=_ONE_WAIT_S, topic=topic)
            except (UnreachableError, RefusedError) as error:
                if error.status not in (None, HTTPStatus.SERVICE_UNAVAILABLE):
                    raise
                if on_trouble is not None:
                    on_trouble(error)
                time.sleep(pause)
                pause = min(pause * 2, _POLL_MOST_S)
                continue
            pause = _POLL_FIRST_S
            if message is not None:
                yield message

    def _read(self, timeout_s: int, topic: bytes | None, *, peek: bool, on_progress: Progress | None) -> Message | None:
        parameters = {"timeout": str(timeout_s)}
        if peek:
            parameters["peek"] = "true"
        if topic is not None:
            parameters["topic"] = to_base64(topic)
        try:
            answer = self.exchange.call("GET", _RAW, parameters=parameters, wait_s=timeout_s, on_received=on_progress)
        except RefusedError as error:
            if error.status not in _LACKING:
                raise
            return self._read_json(parameters, timeout_s)
        if answer.status == HTTPStatus.NO_CONTENT:
            return None
        headers = answer.headers
        own_key = headers.get("septate-destination-key") or self.info().public_key
        return self.exchange.shaped(_RAW, lambda body: of_headers(headers, body, own_key), answer.body)

    def _read_json(self, parameters: dict[str, str], timeout_s: int) -> Message | None:
        value = self.exchange.json(MESSAGES, parameters, timeout_s)
        if value is None:
            return None
        return self.exchange.shaped(MESSAGES, Message.of, value)

    # --- what became of it ------------------------------------------------------------------------------------------

    def status(self, message_id: str) -> MessageStatus:
        """What became of a message that was sent. The node remembers it for 600 s; then it is a `RefusedError`, 404."""
        return self.exchange.get(f"{MESSAGES}/status/{path_word(message_id)}", MessageStatus.of)

    def wait(
        self,
        message_id: str,
        *,
        timeout_s: float,
        until_read: bool = False,
        on_change: Callable[[MessageStatus], object] | None = None,
    ) -> MessageStatus:
        """Waits until the message is received, or given up; with `until_read` until somebody took it out of the inbox.

        Returns the last status, whatever it is, after `timeout_s` seconds at most. `on_change` gets every new one.
        """
        deadline = time.monotonic() + timeout_s
        pause = _POLL_FIRST_S
        last: MessageStatus | None = None
        while True:
            found = self.status(message_id)
            if on_change is not None and found != last:
                on_change(found)
            last = found
            done = found.state.final and not (until_read and found.state is MessageState.RECEIVED)
            left = deadline - time.monotonic()
            if done or left <= 0:
                return found
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, _POLL_MOST_S)

    def outbox(self) -> list[OwnMessage]:
        """The messages that were sent in the last 600 s. Nodes of the reference have no such list: 404."""
        return self.exchange.get_list(OUTBOX, OwnMessage.of)

    def cancel(self, message_id: str) -> None:
        """Gives up a message that is still being sent. `RefusedError` 404 where there is none."""
        self.exchange.call("DELETE", f"{OUTBOX}/{path_word(message_id)}")


def _path_for(endpoint: str) -> str:
    """Where peers of this form are served: the reference's own path knows those that the reference knows."""
    try:
        ours = Target.parse(endpoint).endpoint is None
    except TargetError:
        # Whoever takes names has better words for what is wrong with one.
        ours = True
    except EndpointError:
        ours = False
    return OUR_PEERS if ours else "/admin/peers"


def _without_password(endpoint: str) -> str:
    """What a peer is known by: whoever sees the path of a request sees no password."""
    try:
        target = Target.parse(endpoint)
    except (EndpointError, TargetError):
        return endpoint
    return endpoint if target.login is None else str(target)


def _destination(text: str) -> dict[str, str]:
    return {"pk" if len(text) == 64 else "ip": text}


def _idempotent(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Idempotency-Key": key}


def _transfer_s(payload: Buffer) -> float:
    return len(memoryview(payload)) / _TRANSFER_OCTETS_PER_S
