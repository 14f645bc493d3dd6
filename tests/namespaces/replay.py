"""Recorded calls of the reference's APIs, made again to two living nodes: HTTP, JSON-RPC, WebSocket, metrics.

`tests/vectors/api_recorded.json` holds requests, answers, and for each what may differ (`tests/unit/recorded.py`).
Cases run in their order: many need what earlier ones left behind.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import http.client
import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Final

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Request, TextMessage

from tests.lab.api import NamespaceConnection
from tests.lab.namespaces import Namespace
from tests.unit.recorded import differences, fill, places

ANSWER_S: Final = 20.0
PAUSE_S: Final = 0.1
PORTS: Final = {"http": 8989, "rpc": 8990, "metrics": 9999}
_KEPT: Final = ("content-type", "allow")
_NO_MESSAGE: Final = "0000000000000000"


@dataclass
class Replay:
    """Two nodes, and what earlier answers left to be used by later requests."""

    namespaces: dict[str, Namespace]
    variables: dict[str, str] = field(default_factory=dict)

    def problems(self, case: dict[str, Any]) -> list[str]:
        """Makes the call of one case, again for as long as it says; what differs from the recording."""
        deadline = time.monotonic() + case.get("retry_s", 0)
        case = {**case, "also_accepted": fill(case.get("also_accepted", []), self.variables)}
        while True:
            answer = self.exchange(fill(case["request"], self.variables))
            for name, path in case.get("capture", {}).items():
                self.variables[name] = next((str(holder[key]) for holder, key in places(answer, path)), _NO_MESSAGE)
            found = differences(case, fill(case["response"], self.variables), answer)
            unready = "until" in case and differences({"must": case["until"], "must_only": True}, None, answer)
            if time.monotonic() >= deadline or not (found or unready):
                return found
            time.sleep(PAUSE_S)

    def exchange(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request, in the form of the recordings."""
        match request["kind"]:
            case "http":
                return self._http(request.get("server", "http"), request)
            case "rpc" if request.get("via") == "ws":
                return self._websocket(request)
            case "rpc":
                return self._http("rpc", _as_post(request))
            case "chain":
                return {"steps": [self._step(step) for step in request["steps"]]}
            case "parallel":
                return self._parallel(request["requests"])
        raise AssertionError(f"nobody here makes a {request['kind']}")

    def _step(self, step: dict[str, Any]) -> dict[str, Any]:
        answer = self.exchange(fill(step, self.variables))
        for name, path in step.get("capture", {}).items():
            self.variables[name] = next((str(holder[key]) for holder, key in places(answer, path)), _NO_MESSAGE)
        return answer

    def _parallel(self, requests: list[dict[str, Any]]) -> dict[str, Any]:
        results: list[Any] = [None] * len(requests)

        def one(number: int, request: dict[str, Any]) -> None:
            # The recording's own pause: what is asked later has to find the earlier call waiting.
            time.sleep(request.get("delay_s", 0))
            begin = time.monotonic()
            results[number] = self.exchange(request)
            results[number]["elapsed_s"] = round(time.monotonic() - begin, 2)

        threads = [threading.Thread(target=one, args=pair) for pair in enumerate(requests)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {"results": results}

    def _http(self, server: str, request: dict[str, Any]) -> dict[str, Any]:
        namespace = self.namespaces[request.get("node", "A")]
        connection = NamespaceConnection(namespace, "127.0.0.1", PORTS[server], ANSWER_S)
        body = _bytes_of(request.get("body"))
        try:
            connection.putrequest(request["method"], request["path"], skip_accept_encoding=True)
            for name, value in (request.get("headers") or {}).items():
                connection.putheader(name, value)
            if body is not None and request.get("chunked"):
                connection.putheader("Transfer-Encoding", "chunked")
                body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
            elif body is not None:
                connection.putheader("Content-Length", str(len(body)))
            # A body that is refused early may not be taken; the answer is there all the same.
            with contextlib.suppress(ConnectionError):
                connection.endheaders(body)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            return {"no_answer": repr(error)}
        finally:
            connection.close()
        kept = {name.lower(): value for name, value in answer.getheaders() if name.lower() in _KEPT}
        if "allow" in kept:
            kept["allow"] = ",".join(sorted(part.strip() for part in kept["allow"].split(",")))
        return {"status": answer.status, "headers": kept, "body": _body_of(content, kept.get("content-type", ""))}

    def _websocket(self, request: dict[str, Any]) -> dict[str, Any]:
        with WebSocket(self.namespaces[request.get("node", "A")], request.get("path", "/")) as socket:
            frames = []
            for frame in request["frames"]:
                socket.say(frame if isinstance(frame, str) else _compact(frame))
                heard = socket.hear(request.get("quiet_s", ANSWER_S))
                frames.append({"silence": True} if heard is None else _body_of(heard.encode(), "json"))
            return {"status": 101, "frames": frames}


class WebSocket:
    """A WebSocket of a client, over a connection into a namespace."""

    def __init__(self, namespace: Namespace, path: str) -> None:
        plain = NamespaceConnection(namespace, "127.0.0.1", PORTS["rpc"], ANSWER_S)
        plain.connect()
        self._socket = plain.sock
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._socket.sendall(self._protocol.send(Request(host=f"127.0.0.1:{PORTS['rpc']}", target=path)))
        self._events: list[Any] = []
        accepted = self._next(ANSWER_S)
        assert isinstance(accepted, AcceptConnection), accepted

    def __enter__(self) -> WebSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def say(self, text: str) -> None:
        """Sends one message."""
        self._socket.sendall(self._protocol.send(TextMessage(data=text)))

    def hear(self, within_s: float) -> str | None:
        """The next message, None where none comes in time."""
        text = ""
        while (event := self._next(within_s)) is not None:
            assert isinstance(event, TextMessage), event
            text += event.data
            if event.message_finished:
                return text
        return None

    def _next(self, within_s: float) -> AcceptConnection | TextMessage | BytesMessage | CloseConnection | None:
        self._socket.settimeout(within_s)
        while not self._events:
            try:
                data = self._socket.recv(1 << 16)
            except TimeoutError:
                return None
            self._protocol.receive_data(data or None)
            self._events += [event for event in self._protocol.events() if not hasattr(event, "payload")]
        return self._events.pop(0)


def expanded(case: dict[str, Any], rules: dict[str, Any]) -> dict[str, Any]:
    """A case with the abbreviations of the recording written out."""
    case = copy.deepcopy(case)
    _expand_request(case["request"])
    if case["request"]["kind"] == "parallel":
        for request, answer in zip(case["request"]["requests"], case["response"]["results"], strict=True):
            _expand_answer(answer, request["kind"] == "rpc")
    else:
        _expand_answer(case["response"], case["request"]["kind"] == "rpc")
    case["volatile"] = [rules[rule[1:]] if isinstance(rule, str) else rule for rule in case.get("volatile", [])]
    return case


def _expand_request(request: dict[str, Any]) -> None:
    if request.pop("json", False):
        request["headers"] = {"Content-Type": "application/json"}
    for inner in (*request.get("requests", ()), *request.get("steps", ())):
        _expand_request(inner)


def _expand_answer(answer: Any, rpc: bool) -> None:
    if isinstance(answer, list):
        for part in answer:
            _expand_answer(part, rpc)
    elif isinstance(answer, dict):
        if "status" in answer and "body" in answer and "headers" not in answer:
            answer["headers"] = _usual_headers(answer["body"], rpc)
        for part in answer.values():
            _expand_answer(part, rpc)


def _usual_headers(body: dict[str, Any], rpc: bool) -> dict[str, str]:
    if "text" in body:
        return {"content-type": "text/plain; charset=utf-8"}
    if "json" in body:
        return {"content-type": "application/json; charset=utf-8" if rpc else "application/json"}
    return {}


def _as_post(request: dict[str, Any]) -> dict[str, Any]:
    body = request["body"] if "body" in request else _compact(request["rpc"])
    usual = {"method": "POST", "path": "/", "headers": {"Content-Type": "application/json"}}
    return {**usual, **request, "body": body}


def _bytes_of(body: Any) -> bytes | None:
    if body is None or isinstance(body, str):
        return None if body is None else body.encode()
    if "base64" in body:
        return base64.b64decode(body["base64"])
    return (body.get("prefix", "") + body["repeat"] * body["count"] + body.get("suffix", "")).encode()


def _body_of(content: bytes, content_type: str) -> dict[str, Any]:
    text = content.decode(errors="replace")
    if not content:
        return {"empty": True}
    if "json" not in content_type:
        return {"text": text}
    value = json.loads(text)
    return {"json": value} if _compact(value) == text else {"json": value, "compact": False}


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
