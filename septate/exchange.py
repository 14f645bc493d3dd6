"""One HTTP call to a node's API: connection, limits, time limits, and what went wrong in words for people."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, TypeAlias, TypeVar
from urllib.parse import quote, urlencode

from protocol.buffers import Buffer
from protocol.mycelium.endpoint import SocketAddress, ip_text
from septate.errors import UserError

DEFAULT_TIMEOUT_S: Final = 10.0
MAX_ANSWER_BYTES: Final = 2 << 30
"""More than a routing table of ten million prefixes takes, and more than a node lets a message grow."""
PREFIX: Final = "/api/v1"
_BLOCK_BYTES: Final = 256 << 10
_MAX_REASON: Final = 500
_LONGEST_WAIT_S: Final = 2_000_000.0
"""What a socket can wait for at most, some 24 days: poll(2) counts milliseconds in 31 bits. More is for ever."""

_S = TypeVar("_S")
_T = TypeVar("_T")

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the bytes moved so far and the bytes in all."""


class ApiError(UserError):
    """The API can't be reached, refuses, or is none. `status` is the HTTP status of a refusal, else None."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class UnreachableError(ApiError):
    """No answer: nobody listens, the connection broke, or it took too long. A call that changes something may have."""


class RefusedError(ApiError):
    """The node answered and said no."""

    status: int

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message, status)


class UnexpectedAnswerError(ApiError):
    """Whoever answers there is no node, or one of another kind."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers (names in lower case) and body of an answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Exchange:
    """Calls to the API at one address. Each opens a connection of its own, so that threads may call side by side.

    Proxies of the environment are not used. All methods raise the kinds of `ApiError`.
    """

    def __init__(self, address: SocketAddress, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self.address: Final = address
        self._timeout_s = timeout_s

    def json_text(self, path: str) -> str:
        """The JSON text at `path`, as the node sent it."""
        body = self.call("GET", path).body
        self.read_json(path, body)
        return body.decode()

    def json(self, path: str, parameters: Mapping[str, str] | None = None, wait_s: float = 0.0) -> Any:
        """The JSON value at `path`; None where the node has none to give (204)."""
        answer = self.call("GET", path, parameters=parameters, wait_s=wait_s)
        return None if answer.status == HTTPStatus.NO_CONTENT else self.read_json(path, answer.body)

    def read_json(self, path: str, body: bytes) -> Any:
        """The value of an answer from `path`."""
        try:
            return json.loads(body.decode())
        except (ValueError, RecursionError):
            raise self.unexpected(path) from None

    def get(self, path: str, parse: Callable[[Any], _T]) -> _T:
        """What `parse` makes of the JSON value at `path`."""
        return self.shaped(path, parse, self.json(path))

    def get_list(self, path: str, parse: Callable[[Any], _T]) -> list[_T]:
        """What `parse` makes of each element of the JSON array at `path`."""

        def parse_all(value: Any) -> list[_T]:
            if not isinstance(value, list):
                raise TypeError("no list")
            return [parse(entry) for entry in value]

        return self.get(path, parse_all)

    def shaped(self, path: str, parse: Callable[[_S], _T], value: _S) -> _T:
        """What `parse` makes of a value from `path`; what it can't take is no answer of a node."""
        try:
            return parse(value)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            raise self.unexpected(path) from None

    def unexpected(self, path: str) -> UnexpectedAnswerError:
        """The error for an answer from `path` that no Mycelium API would give."""
        return UnexpectedAnswerError(
            f"what answers at {self.address} is no Mycelium API: {PREFIX}{path} gave something else; see --api-addr"
        )

    def post_json(
        self,
        path: str,
        body: object,
        *,
        method: str = "POST",
        parameters: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        wait_s: float = 0.0,
        also: Collection[int] = (),
    ) -> Answer:
        """Sends a JSON body."""
        data = json.dumps(body, separators=(",", ":")).encode()
        return self.call(
            method,
            path,
            parameters=parameters,
            headers={"Content-Type": "application/json", **(headers or {})},
            body=data,
            wait_s=wait_s,
            also=also,
        )

    def call(
        self,
        method: str,
        path: str,
        *,
        parameters: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Buffer | None = None,
        wait_s: float = 0.0,
        also: Collection[int] = (),
        on_sent: Progress | None = None,
        on_received: Progress | None = None,
    ) -> Answer:
        """One call of `path` below `/api/v1`.

        `wait_s` is how long the node may wait before it answers, on top of the time that any call has. Answers with
        a status from 200 to 299, or one of `also`, are returned; all others raise `RefusedError`.
        """
        target = PREFIX + path + (f"?{urlencode(parameters)}" if parameters else "")
        limit = self._timeout_s + wait_s
        connection = self._connection(limit)
        try:
            _send(connection, method, target, headers or {}, body, on_sent)
            response = connection.getresponse()
            content = self._read(response, on_received)
        except TimeoutError:
            raise UnreachableError(
                f"the node's API at {self.address} did not answer within {limit:g} s; is the node well?"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise UnreachableError(
                f"cannot talk to the node's API at {self.address}: {_one_line(reason)}; "
                "is a node running there? see --api-addr"
            ) from None
        finally:
            connection.close()
        if not HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES and response.status not in also:
            reason = content.decode(errors="replace").strip() or response.reason
            raise RefusedError(
                f"{method} {PREFIX}{path}: {_one_line(reason)} (HTTP {response.status})", response.status
            )
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, content)

    def _connection(self, limit_s: float) -> http.client.HTTPConnection:
        address = self.address
        scope = f"%{address.scope}" if address.scope else ""
        return _LastingConnection(
            f"{ip_text(address.host)}{scope}", address.port, timeout=limit_s if limit_s < _LONGEST_WAIT_S else None
        )

    def _read(self, response: http.client.HTTPResponse, on_received: Progress | None) -> bytes:
        length = response.length
        if length is None:
            content = response.read(MAX_ANSWER_BYTES + 1)
            if len(content) <= MAX_ANSWER_BYTES:
                return content
        elif length <= MAX_ANSWER_BYTES:
            return _read_blocks(response, length, on_received)
        raise UnexpectedAnswerError(
            f"the node's API at {self.address} answers with more than {MAX_ANSWER_BYTES >> 20} MiB, which nothing it "
            "has to say takes; see --api-addr"
        )


class _LastingConnection(http.client.HTTPConnection):
    """A connection that may be silent for days: a node that went away meanwhile is found out by the kernel."""

    def connect(self) -> None:
        super().connect()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _send(
    connection: http.client.HTTPConnection,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: Buffer | None,
    on_sent: Progress | None,
) -> None:
    connection.putrequest(method, target, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    if body is None:
        connection.endheaders()
        return
    data = memoryview(body).cast("B")
    connection.putheader("Content-Length", str(len(data)))
    connection.endheaders()
    # Who refuses a body may not take all of it; the answer is there all the same.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for start in range(0, len(data), _BLOCK_BYTES):
            block = data[start : start + _BLOCK_BYTES]
            connection.send(block)
            if on_sent is not None:
                on_sent(start + len(block), len(data))


def _read_blocks(response: http.client.HTTPResponse, length: int, on_received: Progress | None) -> bytes:
    if on_received is None:
        return response.read()
    blocks: list[bytes] = []
    received = 0
    while received < length:
        block = response.read(min(_BLOCK_BYTES, length - received))
        if not block:
            raise http.client.IncompleteRead(b"".join(blocks), length - received)
        blocks.append(block)
        received += len(block)
        on_received(received, length)
    return b"".join(blocks)


def path_word(text: str) -> str:
    """`text` as one part of a path, slashes and all."""
    return quote(text, safe="")


def _one_line(text: str) -> str:
    # It comes from whoever listens there, and goes to a terminal.
    return "".join(letter if letter.isprintable() else " " for letter in text[:_MAX_REASON]).strip()
