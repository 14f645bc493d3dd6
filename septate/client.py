"""A client of a node's HTTP API, ours or the reference's: blocking, standard library only."""

from __future__ import annotations

import http.client
import json
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

from protocol.mycelium.endpoint import SocketAddress, ip_text
from septate.errors import UserError

DEFAULT_TIMEOUT_S: Final = 10.0
MAX_ANSWER_BYTES: Final = 256 << 20
"""More than a routing table of a million prefixes takes."""
_PREFIX: Final = "/api/v1"
_MAX_REASON: Final = 500


class ApiError(UserError):
    """The API can't be reached, or its answer is none; `status` is that of a refusal."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """One node's API. Each call opens a connection of its own; proxies of the environment are not used.

    Every method raises `ApiError`.
    """

    def __init__(self, address: SocketAddress, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self.address = address
        self._timeout_s = timeout_s

    def peers(self) -> list[Any]:
        """The `PeerStats` objects of all peers (API spec 3.1)."""
        return self._list("/admin/peers")

    def add_peer(self, endpoint: str) -> None:
        """Has the node keep a connection to `endpoint`."""
        self._call("POST", "/admin/peers", {"endpoint": endpoint})

    def remove_peer(self, endpoint: str) -> None:
        """Has the node forget `endpoint` and close its connection."""
        self._call("DELETE", f"/admin/peers/{quote(endpoint, safe='')}")

    def routes_text(self, kind: str) -> str:
        """The routes of a kind, `selected`, `fallback` or `queried`, as the JSON text that the node sent."""
        return self._json_text(f"/admin/routes/{kind}")

    def packet_statistics_text(self) -> str:
        """The `PacketStatistics` object as the JSON text that the node sent."""
        return self._json_text("/admin/stats/packets")

    def _list(self, path: str) -> list[Any]:
        answer = json.loads(self._json_text(path))
        if not isinstance(answer, list):
            raise self._unexpected(path)
        return answer

    def _json_text(self, path: str) -> str:
        try:
            text = self._call("GET", path).decode()
            json.loads(text)
        except (ValueError, RecursionError):
            raise self._unexpected(path) from None
        return text

    def _unexpected(self, path: str) -> ApiError:
        return ApiError(
            f"what answers at {self.address} is no Mycelium API: {_PREFIX}{path} gave something else; see --api-addr"
        )

    def _call(self, method: str, path: str, body: object = None) -> bytes:
        headers = {} if body is None else {"Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        scope = f"%{self.address.scope}" if self.address.scope else ""
        connection = http.client.HTTPConnection(
            f"{ip_text(self.address.host)}{scope}", self.address.port, timeout=self._timeout_s
        )
        try:
            connection.request(method, _PREFIX + path, body=data, headers=headers)
            answer = connection.getresponse()
            content = answer.read(MAX_ANSWER_BYTES)
        except TimeoutError:
            raise ApiError(
                f"the node's API at {self.address} did not answer within {self._timeout_s:g} s; is the node well?"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise ApiError(
                f"cannot talk to the node's API at {self.address}: {_one_line(reason)}; "
                "is a node running there? see --api-addr"
            ) from None
        finally:
            connection.close()
        if not HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
            reason = content.decode(errors="replace").strip() or answer.reason
            raise ApiError(f"{method} {_PREFIX}{path}: {_one_line(reason)} (HTTP {answer.status})", answer.status)
        return content


def _one_line(text: str) -> str:
    # It comes from whoever listens there, and goes to a terminal.
    return "".join(letter if letter.isprintable() else " " for letter in text[:_MAX_REASON]).strip()
