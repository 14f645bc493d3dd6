"""Conventions of the HTTP API: paths, bodies, answers and errors exactly as the reference has them (API spec 2)."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, unquote_to_bytes, urlsplit

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from actors.api.faults import ApiError, Fault
from actors.api.local import check_names
from actors.api.node import Node
from actors.api.objects import Unavailable
from actors.api.reading import parse
from actors.runtime.dialogue import Abandoned
from actors.status.route import JSON, OCTETS, TEXT, Call, Parameter, Route

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

MAX_BODY_BYTES: Final = 2_097_152
"""Of a body in JSON; what the reference takes."""

_WITH_TEXT: Final = True
_EMPTY: Final = False
REFUSALS: Final[Mapping[Fault, tuple[HTTPStatus, bool]]] = {
    Fault.BAD_ENDPOINT: (HTTPStatus.BAD_REQUEST, _WITH_TEXT),
    Fault.BAD_ADDRESS: (HTTPStatus.BAD_REQUEST, _WITH_TEXT),
    Fault.BAD_TOPIC: (HTTPStatus.BAD_REQUEST, _EMPTY),
    Fault.BAD_SUBNET: (HTTPStatus.BAD_REQUEST, _EMPTY),
    Fault.BAD_MESSAGE_ID: (HTTPStatus.BAD_REQUEST, _WITH_TEXT),
    Fault.BAD_RULE: (HTTPStatus.BAD_REQUEST, _WITH_TEXT),
    Fault.BAD_QUERY: (HTTPStatus.BAD_REQUEST, _WITH_TEXT),
    Fault.BAD_HEADER: (HTTPStatus.BAD_REQUEST, _WITH_TEXT),
    Fault.NOT_JSON: (HTTPStatus.BAD_REQUEST, _WITH_TEXT),
    Fault.WRONG_TYPE: (HTTPStatus.UNSUPPORTED_MEDIA_TYPE, _WITH_TEXT),
    Fault.WRONG_SHAPE: (HTTPStatus.UNPROCESSABLE_ENTITY, _WITH_TEXT),
    Fault.TOO_LARGE: (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _WITH_TEXT),
    Fault.TOPIC_TOO_LONG: (HTTPStatus.BAD_REQUEST, _EMPTY),
    Fault.PEER_EXISTS: (HTTPStatus.CONFLICT, _WITH_TEXT),
    Fault.PEER_UNKNOWN: (HTTPStatus.NOT_FOUND, _WITH_TEXT),
    Fault.RULE_EXISTS: (HTTPStatus.CONFLICT, _WITH_TEXT),
    Fault.RULE_UNKNOWN: (HTTPStatus.NOT_FOUND, _WITH_TEXT),
    Fault.NO_ROUTE: (HTTPStatus.NOT_FOUND, _EMPTY),
    Fault.TOPIC_UNKNOWN: (HTTPStatus.NOT_FOUND, _EMPTY),
    Fault.MESSAGE_UNKNOWN: (HTTPStatus.NOT_FOUND, _EMPTY),
    Fault.KEY_IN_USE: (HTTPStatus.UNPROCESSABLE_ENTITY, _WITH_TEXT),
    Fault.REFUSED: (HTTPStatus.UNPROCESSABLE_ENTITY, _WITH_TEXT),
    Fault.NO_ROOM: (HTTPStatus.SERVICE_UNAVAILABLE, _WITH_TEXT),
    Fault.NOT_IN_THIS_VERSION: (HTTPStatus.NOT_IMPLEMENTED, _WITH_TEXT),
    Fault.FOREIGN_NAME: (HTTPStatus.FORBIDDEN, _WITH_TEXT),
}
"""What becomes of each fault, and whether its text is told; `UNAVAILABLE` has an object of its own."""
_EMPTY_ERRORS: Final = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.INTERNAL_SERVER_ERROR)
"""Errors of the framework whose body is empty; the others carry a text."""


def make_app(counters: Counter[str], *, check_host: bool) -> Flask:
    """A Flask application with these conventions and no routes.

    `check_host` refuses foreign names in Host and Origin: to be used on a loopback address.
    """
    app = Flask("septate", static_folder=None, template_folder=None)
    app.url_map.merge_slashes = False
    app.register_error_handler(ApiError, _refused)
    app.register_error_handler(HTTPException, _http_error)
    # Nobody is there to read it.
    app.register_error_handler(Abandoned, lambda _: empty_answer(HTTPStatus.NO_CONTENT))
    if check_host:
        # Flask's headers know no case.
        app.before_request(lambda: check_names(request.headers.get))
    lock = threading.Lock()

    def count(answer: Response) -> Response:
        with lock:
            counters[f"http.{answer.status_code // 100}xx"] += 1
        return answer

    app.after_request(count)
    app.wsgi_app = _with_raw_paths(app.wsgi_app)  # type: ignore[method-assign, assignment]
    return app


def add_routes(app: Flask, node: Node, routes: Iterable[Route]) -> None:
    """Serves the routes for `node`; GET answers HEAD as well, and nothing answers OPTIONS by itself."""
    for route in routes:
        app.add_url_rule(
            route.path,
            route.name,
            _endpoint(node, route),
            methods=[route.method],
            provide_automatic_options=False,
        )


def _endpoint(node: Node, route: Route) -> Callable[..., Response]:
    def serve(**parts: str) -> Response:
        if request.method == "HEAD" and not route.head:
            raise MethodNotAllowed(valid_methods=[route.method])
        # In this order: the first thing that is wrong is what the reference complains about.
        path = {part.name: part.reader(path_text(parts[part.name])) for part in route.parts}
        query = _query(route)
        headers = {header.name: _header(header) for header in route.headers}
        is_gone = request.environ.get("waitress.client_disconnected", _never)
        return route.handler(Call(node, path, query, headers, _body(route), is_gone))

    return serve


def _never() -> bool:
    return False


# --- answers ----------------------------------------------------------------------------------------------------------


def json_answer(value: object, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """Compact JSON."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return Response(text, status, content_type=JSON)


def text_answer(status: HTTPStatus, text: str) -> Response:
    """Plain text; without a text there is no content type either."""
    if not text:
        return empty_answer(status)
    return Response(text, status, content_type=TEXT)


def empty_answer(status: HTTPStatus) -> Response:
    """A status and nothing else."""
    answer = Response(status=status)
    del answer.headers["Content-Type"]
    return answer


def _refused(error: ApiError) -> Response:
    if error.fault is Fault.UNAVAILABLE:
        found: Unavailable = {"error": error.text, "actor": error.actor}
        return json_answer(found, HTTPStatus.SERVICE_UNAVAILABLE)
    status, with_text = REFUSALS[error.fault]
    return text_answer(status, str(error) if with_text else "")


def _http_error(error: HTTPException) -> Response:
    status = HTTPStatus(error.code or HTTPStatus.INTERNAL_SERVER_ERROR)
    answer = text_answer(status, "" if status in _EMPTY_ERRORS else error.description or status.phrase)
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        answer.headers["Allow"] = ",".join(sorted(error.valid_methods))
    return answer


# --- requests ---------------------------------------------------------------------------------------------------------


def path_text(part: str) -> str:
    """A part of the path after percent-decoding. Raises `ApiError` where that is not UTF-8."""
    try:
        return unquote_to_bytes(part).decode()
    except UnicodeDecodeError:
        raise ApiError(Fault.BAD_QUERY, "the path is not UTF-8 after percent-decoding") from None


def _query(route: Route) -> dict[str, Any]:
    if not route.query:
        return {}
    # As bytes: what a server hands over is one letter per byte.
    given = parse_qsl(request.environ.get("QUERY_STRING", ""), keep_blank_values=True)
    found = {}
    for parameter in route.query:
        texts = [text for name, text in given if name == parameter.name]
        if len(texts) > 1:
            raise ApiError(Fault.BAD_QUERY, f"query parameter {parameter.name!r} is given twice")
        found[parameter.name] = parameter.reader(texts[0]) if texts else parameter.default
    return found


def _header(parameter: Parameter) -> Any:
    text = request.headers.get(parameter.name)
    return parameter.default if text is None else parameter.reader(text)


def _body(route: Route) -> Any:
    if route.body is None:
        return None
    if route.body.reader is None:
        if request.mimetype != OCTETS:
            raise ApiError(Fault.WRONG_TYPE, f"send the data with Content-Type: {OCTETS}")
        return _octets()
    if not _is_json(request.mimetype):
        raise ApiError(Fault.WRONG_TYPE, f"send the body with Content-Type: {JSON}")
    return route.body.reader(parse(request.get_data(cache=False)))


def _octets() -> memoryview:
    # The server has the whole body in memory: a copy of 100 MB would be one too many.
    source = request.environ["wsgi.input"]
    view = getattr(source, "getbuffer", None)
    return view() if view is not None else memoryview(source.read())


def _is_json(mimetype: str) -> bool:
    return mimetype == JSON or (mimetype.startswith("application/") and mimetype.endswith("+json"))


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
