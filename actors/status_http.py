"""Conventions of the HTTP API: paths, bodies, answers and errors exactly as the reference has them (API spec 2)."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_to_bytes, urlsplit

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from protocol.mycelium.endpoint import EndpointError, parse_ip

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

MAX_BODY_BYTES: Final = 2_097_152
_EMPTY_ERRORS: Final = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.INTERNAL_SERVER_ERROR)
"""Errors whose body is empty; the others carry a text."""


class Refused(Exception):
    """A request that gets `status` and, where there is one, a text."""

    def __init__(self, status: HTTPStatus, text: str = "") -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text


def make_app(counters: Counter[str], *, check_host: bool) -> Flask:
    """A Flask application with these conventions and no routes.

    `check_host` refuses names other than localhost in the Host header: on a loopback address a foreign name means that
    a page in a browser had its own name point here (DNS rebinding).
    """
    app = Flask("septate", static_folder=None, template_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.url_map.merge_slashes = False
    app.register_error_handler(Refused, lambda error: text_answer(error.status, error.text))
    app.register_error_handler(HTTPException, _http_error)
    if check_host:
        app.before_request(_check_host)
    lock = threading.Lock()

    def count(answer: Response) -> Response:
        with lock:
            counters[f"http.{answer.status_code // 100}xx"] += 1
        return answer

    app.after_request(count)
    app.wsgi_app = _with_raw_paths(app.wsgi_app)  # type: ignore[method-assign, assignment]
    return app


def add_route(app: Flask, method: str, path: str, handler: Callable[..., Response]) -> None:
    """Serves `path` with `handler`; GET answers HEAD as well, and nothing answers OPTIONS by itself."""
    app.add_url_rule(path, f"{method} {path}", handler, methods=[method], provide_automatic_options=False)


# --- answers ----------------------------------------------------------------------------------------------------------


def json_answer(value: object, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """Compact JSON."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return Response(text, status, content_type="application/json")


def text_answer(status: HTTPStatus, text: str) -> Response:
    """Plain text; without a text there is no content type either."""
    if not text:
        return empty_answer(status)
    return Response(text, status, content_type="text/plain; charset=utf-8")


def empty_answer(status: HTTPStatus) -> Response:
    """A status and nothing else."""
    answer = Response(status=status)
    del answer.headers["Content-Type"]
    return answer


def _http_error(error: HTTPException) -> Response:
    status = HTTPStatus(error.code or HTTPStatus.INTERNAL_SERVER_ERROR)
    answer = text_answer(status, "" if status in _EMPTY_ERRORS else error.description or status.phrase)
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        answer.headers["Allow"] = ",".join(sorted(error.valid_methods))
    return answer


# --- requests ---------------------------------------------------------------------------------------------------------


def path_text(part: str) -> str:
    """A part of the path after percent-decoding. Raises `Refused` where that is not UTF-8."""
    try:
        return unquote_to_bytes(part).decode()
    except UnicodeDecodeError:
        raise Refused(HTTPStatus.BAD_REQUEST, "the path is not UTF-8 after percent-decoding") from None


def body_string(member: str) -> str:
    """The string `member` of the JSON object that is the request's body. Raises `Refused`.

    An array that holds the member alone will do, as it does in the reference.
    """
    if not _is_json(request.mimetype):
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send the body with Content-Type: application/json")
    value = _parse(request.get_data(cache=False))
    if isinstance(value, _Members):
        found = [part for name, part in value if name == member]
        if len(found) > 1:
            raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, f"member {member!r} is given twice")
    elif isinstance(value, list):
        if len(value) > 1:
            raise Refused(HTTPStatus.BAD_REQUEST, f"an array stands for an object with one member, {member!r}")
        found = value
    else:
        found = []
    if not found or not isinstance(found[0], str):
        raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, f"the body has to be an object with a string {member!r}")
    return found[0]


class _Members(list[tuple[str, Any]]):
    """A JSON object with doubled members still in it."""


def _parse(data: bytes) -> Any:
    try:
        # Without surrogates: half a character in an escape is no text and can't be passed on.
        text = json.loads(data.decode(), object_pairs_hook=_Members, parse_constant=_refuse_constant)
        json.dumps(text, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise Refused(HTTPStatus.BAD_REQUEST, "the body is not JSON in UTF-8") from None
    return text


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _is_json(mimetype: str) -> bool:
    return mimetype == "application/json" or (mimetype.startswith("application/") and mimetype.endswith("+json"))


def _check_host() -> None:
    named = request.headers.get("Host")
    if named is not None and not is_local_name(named):
        raise Refused(HTTPStatus.FORBIDDEN, "this API answers to addresses and localhost only, not to other names")


def is_local_name(host: str) -> bool:
    """Whether the value of a Host header is an address or localhost, with or without a port."""
    if host.startswith("["):
        name, bracket, port = host[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            return False
    else:
        name = host.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        parse_ip(name)
    except EndpointError:
        return False
    return True


def _with_raw_paths(app: WSGIApplication) -> WSGIApplication:
    """Routes by the path as it was sent.

    `%2F` inside an endpoint is no separator, and `//` at the start is no `/`; servers decode and tidy both away.
    """

    def call(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        target = environ.get("REQUEST_URI", "")
        if target:
            path = target.partition("?")[0] if target.startswith("/") else urlsplit(target).path
            # The router, too, would take `//x` for `/x`. No path of ours has an encoded slash there.
            environ["PATH_INFO"] = path.replace("//", "/%2F", 1) if path.startswith("//") else path
        return app(environ, start_response)

    return call
