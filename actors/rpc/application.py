"""JSON-RPC over HTTP and WebSocket on one port, as an ASGI application (API spec 6.1)."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from actors.api.faults import ApiError
from actors.api.local import check_names
from actors.api.node import Node
from actors.rpc.dialect import MAX_BYTES, METHOD_NOT_FOUND, Reply, RpcError, answer, too_big
from actors.rpc.discovery import document
from actors.rpc.method import NO_ROOM, Caller, call, call_all
from actors.rpc.methods import all_methods
from actors.runtime.dialogue import Abandoned

CONNECTIONS: Final = 100
"""With a request, or WebSockets, at a time; the reference has the same limit."""
CALLS_PER_WEBSOCKET: Final = 16
"""At a time; more wait for their turn."""
QUEUED_PER_WEBSOCKET: Final = 1024
QUEUED_BYTES_PER_WEBSOCKET: Final = 2 * MAX_BYTES
"""What waits beyond these is refused."""
_MOST_DISCARDED: Final = 8 * MAX_BYTES
"""Of a body that is too large: who has sent it all can read why it was refused."""
_CONTENT: Final = re.compile(r"application/json(-rpc)?(; ?charset=utf-8)?", re.IGNORECASE)
_TEXT: Final = "text/plain"
_JSON: Final = "application/json; charset=utf-8"
_NOTHING: Final = "null"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class _Gone(Exception):
    """The client went away in the middle of its request."""


class Client:
    """Whoever is at the other end; calls that run in threads ask whether it still is."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = False

    def is_gone(self) -> bool:
        """Whether nobody reads the answer any more."""
        return self.left


class _Line(Client):
    """One WebSocket: its calls, of which some run and some wait for their turn."""

    __slots__ = ("_octets", "calls", "running", "send")

    def __init__(self, send: Send) -> None:
        super().__init__()
        self.send = send
        self.calls: set[asyncio.Task[None]] = set()
        self.running = asyncio.Semaphore(CALLS_PER_WEBSOCKET)
        self._octets = 0

    def add(self, call: Coroutine[Any, Any, None], octets: int) -> None:
        """One more call, of so many bytes."""
        self._octets += octets
        task = asyncio.create_task(call)
        self.calls.add(task)
        task.add_done_callback(lambda done: self._done(done, octets))

    def has_room(self, octets: int) -> bool:
        """Whether one more call of so many bytes may wait."""
        return len(self.calls) < QUEUED_PER_WEBSOCKET and self._octets + octets <= QUEUED_BYTES_PER_WEBSOCKET

    def _done(self, task: asyncio.Task[None], octets: int) -> None:
        self.calls.discard(task)
        self._octets -= octets


def _refuse_crowd(_name: str, _params: Any) -> Any:
    raise RpcError(NO_ROOM, f"{QUEUED_PER_WEBSOCKET} calls of this connection wait already")


class Application:
    """The ASGI application. Calls run in threads of `pool`, everything else in the event loop."""

    def __init__(self, node: Node, pool: ThreadPoolExecutor, counters: Counter[str], *, check_host: bool) -> None:
        self._node = node
        self._pool = pool
        self._counters = counters
        self._check_host = check_host
        self._open = 0
        self._methods = all_methods(document)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request, or one WebSocket."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        serve = self._serve_websocket if scope["type"] == "websocket" else self._serve_request
        self._open += 1
        try:
            await serve(scope, headers, receive, send)
        except _Gone:
            self._counters["rpc.broken_off"] += 1
        finally:
            self._open -= 1

    def _refusal(self, headers: Mapping[str, str]) -> tuple[int, str] | None:
        if self._check_host:
            try:
                check_names(headers.get)
            except ApiError as error:
                self._counters["rpc.foreign"] += 1
                return 403, error.text
        if self._open > CONNECTIONS:
            self._counters["rpc.busy"] += 1
            return 429, "Too many connections. Please try again later."
        return None

    # --- HTTP ---------------------------------------------------------------------------------------------------------

    async def _serve_request(self, scope: Scope, headers: Mapping[str, str], receive: Receive, send: Send) -> None:
        status, content, text = await self._answer_request(scope, headers, receive)
        self._counters[f"http.{status // 100}xx"] += 1
        body = text.encode()
        lines = [(b"content-type", content.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": lines})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _answer_request(self, scope: Scope, headers: Mapping[str, str], receive: Receive) -> tuple[int, str, str]:
        if (refusal := self._refusal(headers)) is not None:
            return refusal[0], _TEXT, refusal[1]
        if scope["method"] != "POST":
            return 405, _TEXT, "this API is called by POST\n"
        if _CONTENT.fullmatch(headers.get("content-type", "")) is None:
            return 415, _TEXT, "send the call with Content-Type: application/json\n"
        body = await _body(receive)
        if body is None:
            return 413, _JSON, too_big()
        reply = await self._call_or_notice(body, receive)
        return (400 if reply.bad else 200), _JSON, reply.text if reply.text is not None else _NOTHING

    async def _call_or_notice(self, body: bytes, receive: Receive) -> Reply:
        # What comes now is nothing, or the news that the client is gone.
        client = Client()
        watcher = asyncio.create_task(_notice(client, receive))
        try:
            reply = await self._call(body, client)
        finally:
            watcher.cancel()
        if reply is None:
            raise _Gone
        return reply

    # --- WebSocket ----------------------------------------------------------------------------------------------------

    async def _serve_websocket(self, scope: Scope, headers: Mapping[str, str], receive: Receive, send: Send) -> None:
        del scope
        await receive()
        if (refusal := self._refusal(headers)) is not None:
            status, why = refusal
            lines = [(b"content-type", _TEXT.encode())]
            await send({"type": "websocket.http.response.start", "status": status, "headers": lines})
            await send({"type": "websocket.http.response.body", "body": why.encode()})
            return
        await send({"type": "websocket.accept"})
        line = _Line(send)
        try:
            # Read at all times, or nobody would notice that the client is gone.
            while (message := await receive())["type"] == "websocket.receive":
                text = message.get("text")
                data = text.encode() if text is not None else bytes(message["bytes"])
                line.add(self._answer_frame(data, line, line.has_room(len(data))), len(data))
        finally:
            line.left = True
            await asyncio.gather(*line.calls)

    async def _answer_frame(self, data: bytes, line: _Line, has_room: bool) -> None:
        if len(data) > MAX_BYTES:
            reply: Reply | None = Reply(too_big())
        elif not has_room:
            self._counters["rpc.crowded"] += 1
            reply = answer(data, _refuse_crowd)
        else:
            async with line.running:
                reply = None if line.left else await self._call(data, line)
        if reply is not None and reply.text is not None and not line.left:
            self._counters["websocket.answers"] += 1
            await line.send({"type": "websocket.send", "text": reply.text})

    # --- calls --------------------------------------------------------------------------------------------------------

    async def _call(self, data: bytes, client: Client) -> Reply | None:
        """The reply, or None where nobody is there to read it."""
        caller = Caller(self._node, client.is_gone)

        def run(name: str, params: Any) -> Any:
            method = self._methods.get(name)
            if method is None:
                raise RpcError(METHOD_NOT_FOUND)
            return call(method, caller, params)

        def run_all(calls: Sequence[tuple[str, Any]]) -> Iterator[Any]:
            return call_all(self._methods, caller, calls)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, answer, data, run, run_all)
        except Abandoned:
            return None


async def _notice(client: Client, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    client.left = True


async def _body(receive: Receive) -> bytes | None:
    """The body of a request, None for one that is too large."""
    parts: list[bytes] = []
    size = 0
    more = True
    while more and size <= _MOST_DISCARDED:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        part = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(part)
        if size <= MAX_BYTES:
            parts.append(part)
        else:
            parts.clear()
    return b"".join(parts) if size <= MAX_BYTES else None
