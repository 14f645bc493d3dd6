"""Asking a node in a namespace: its HTTP API over TCP, or an admin socket, from this process."""

import http.client
import json
import socket
from typing import Any, Final

from tests.lab.namespaces import Namespace

REQUEST_TIMEOUT: Final = 5.0


class NamespaceConnection(http.client.HTTPConnection):
    """An HTTP connection whose socket lives in a namespace."""

    def __init__(self, namespace: Namespace, host: str, port: int, timeout: float) -> None:
        super().__init__(host, port, timeout=timeout)
        self._namespace = namespace

    def connect(self) -> None:
        made = self._namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            made.settimeout(self.timeout)
            made.connect((self.host, self.port))
        except OSError:
            made.close()
            raise
        self.sock = made


class Api:
    """The HTTP API of a node at 127.0.0.1:`port` inside `namespace`."""

    def __init__(self, namespace: Namespace, port: int) -> None:
        self._namespace = namespace
        self._port = port

    def request(
        self, method: str, path: str, body: object | None = None, *, timeout: float = REQUEST_TIMEOUT
    ) -> tuple[int, bytes]:
        """Makes one request on a connection of its own and returns status and body.

        Raises OSError or http.client.HTTPException when there is no answer.
        """
        connection = NamespaceConnection(self._namespace, "127.0.0.1", self._port, timeout)
        try:
            if body is None:
                connection.request(method, path)
            else:
                connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """The JSON value at `path`, or None when the API does not answer, or not with success."""
        try:
            status, body = self.request("GET", path)
        except (OSError, http.client.HTTPException):
            return None
        return json.loads(body) if status == 200 else None


def ask_admin_socket(path: str, request: str, **arguments: str) -> Any:
    """The response of a Yggdrasil admin socket (Unix, at `path`) to `request`, or None without a successful answer."""
    answer = b""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(REQUEST_TIMEOUT)
        try:
            stream.connect(path)
            stream.sendall(json.dumps({"request": request, "arguments": arguments}).encode())
            while part := stream.recv(65536):
                answer += part
        except OSError:
            return None
    decoded = json.loads(answer) if answer else {}
    return decoded.get("response") if decoded.get("status") == "success" else None
