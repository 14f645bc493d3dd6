"""An HTTP server whose answers a test writes down beforehand, and which keeps what it was asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

from protocol.mycelium.endpoint import SocketAddress

Answers = dict[tuple[str, str], list[tuple[int, dict[str, str], bytes]]]


@dataclass(frozen=True, slots=True)
class Call:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass(slots=True)
class ScriptedApi:
    """The server. What it has no answer for it calls unknown, as the reference does: 404 without a body."""

    answers: Answers = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    port: int = 0
    prefix: str = "/api/v1"

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    @property
    def socket_address(self) -> SocketAddress:
        """Likewise."""
        return SocketAddress.parse(self.address)

    def answer(self, method: str, path: str, value: Any = None, *, status: int = 200, **headers: str) -> None:
        """One more answer to `method path`, in JSON unless `value` is bytes; the last one is given again and again."""
        body = value if isinstance(value, bytes) else b"" if value is None else json.dumps(value).encode()
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        self.answers.setdefault((method, self.prefix + path), []).append((status, named, body))

    @property
    def asked(self) -> list[str]:
        """Method and path of every call, in order."""
        return [f"{call.method} {call.path.removeprefix(self.prefix)}" for call in self.calls]


@contextmanager
def scripted_api(prefix: str = "/api/v1") -> Iterator[ScriptedApi]:
    """A server for the duration of a test, all of whose paths begin with `prefix`."""
    api = ScriptedApi(prefix=prefix)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            address = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(address.query, keep_blank_values=True).items()}
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            api.calls.append(Call(self.command, address.path, query, dict(self.headers), body))
            known = api.answers.get((self.command, address.path), [])
            status, headers, content = (known.pop(0) if len(known) > 1 else known[0]) if known else (404, {}, b"")
            self.send_response(status)
            for name, text in headers.items():
                self.send_header(name, text)
            if status != 204:
                self.send_header("Content-Length", str(len(content)))
            # Whoever asked may be gone by now.
            with suppress(ConnectionError):
                self.end_headers()
                self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = _any  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 128

    server = Server(("127.0.0.1", 0), Handler)
    api.port = server.server_port
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
