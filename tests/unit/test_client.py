"""The client library against an HTTP server: what it asks, what it makes of answers, how it fails."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from protocol.mycelium.endpoint import EndpointError
from septate.client import (
    LARGE_BYTES,
    ApiError,
    Message,
    MessageState,
    MessageStatus,
    Node,
    NoReplyError,
    RefusedError,
    UnexpectedAnswerError,
    UnreachableError,
)
from tests.unit.scripted_api import ScriptedApi, scripted_api

ADDRESS = "5a5:ddb0:8295:ef60:678f:3e8e:1d83:1264"
OWN_KEY = "0faa684ed28867b97f4a6a2dee5df8ce974e76b7018e3f22a1c4cf2678570f20"
ID = "0102030405060708"
INBOUND = {
    "id": ID,
    "srcIp": "5ea:4578:6f:62c8:bee5:3ee9:c3f0:1fc6",
    "srcPk": "7b4e909bbe7ffe44c465a220037d608ee35897d31ef972f07f74892cb0f73f13",
    "dstIp": ADDRESS,
    "dstPk": OWN_KEY,
    "topic": "ZGVtbw==",
    "payload": "aGVsbG8=",
}
"""The object that API spec 4 prints."""
RECEIVED = Message(ID, INBOUND["srcIp"], INBOUND["srcPk"], ADDRESS, OWN_KEY, b"demo", b"hello")
RAW_HEADERS = {
    "Septate_Message_Id": ID,
    "Septate_Source": INBOUND["srcIp"],
    "Septate_Source_Key": INBOUND["srcPk"],
    "Septate_Destination": ADDRESS,
    "Septate_Topic": "ZGVtbw==",
}
STATUS = {"dst": ADDRESS, "state": "pending", "created": 1780000000, "deadline": 1780000300, "msgLen": 5}
LARGE = bytes(LARGE_BYTES + 1)


@pytest.fixture
def api() -> Iterator[ScriptedApi]:
    with scripted_api() as served:
        yield served


@pytest.fixture
def node(api: ScriptedApi) -> Node:
    return Node(api.address)


# --- administration ---------------------------------------------------------------------------------------------------


def test_info_names_the_node(api: ScriptedApi, node: Node) -> None:
    api.answer(
        "GET", "/admin", {"nodeSubnet": "5ea::/64", "nodeIp": "5ea::1", "nodePubkey": OWN_KEY, "nodeStartTime": 9}
    )
    found = node.info()
    assert (found.subnet, found.address, found.public_key, found.started) == ("5ea::/64", "5ea::1", OWN_KEY, 9)


def test_peers_have_endpoints_that_can_be_given_back(api: ScriptedApi, node: Node) -> None:
    common = {"type": "static", "connectionState": "alive", "txBytes": 1536, "rxBytes": 2048, "discovered": 65}
    api.answer(
        "GET",
        "/admin/peers",
        [
            {"endpoint": {"proto": "tcp", "addr": {"socket": "192.0.2.10:9651"}}, **common, "lastConnected": 12},
            {"endpoint": {"proto": "vsock", "addr": {"vsock": {"cid": 2, "port": 1}}}, **common, "lastConnected": None},
        ],
    )
    first, second = node.peers()
    assert (first.endpoint, first.sent_octets, first.received_octets, first.connected_s) == (
        *("tcp://192.0.2.10:9651", 1536, 2048, 12),
    )
    assert (second.endpoint, second.connected_s) == ("vsock://2:1", None)


def test_endpoint_is_percent_encoded_to_remove_it(api: ScriptedApi, node: Node) -> None:
    api.answer("DELETE", "/admin/peers/tcp%3A%2F%2F192.0.2.10%3A9651", status=204)
    node.remove_peer("tcp://192.0.2.10:9651")
    assert len(api.calls) == 1


def test_retracted_route_has_no_metric(api: ScriptedApi, node: Node) -> None:
    api.answer(
        "GET", "/admin/routes/fallback", [{"subnet": "5a5::/64", "nextHop": "x", "metric": "infinite", "seqno": 3}]
    )
    assert [(route.metric, route.seqno) for route in node.fallback_routes()] == [(None, 3)]


def test_key_of_an_address_without_a_route_is_none(api: ScriptedApi, node: Node) -> None:
    assert node.public_key("400::1") is None
    assert api.asked == ["GET /pubkey/400%3A%3A1"]


def test_public_key_is_text(api: ScriptedApi, node: Node) -> None:
    api.answer("GET", "/pubkey/400%3A%3A1", {"publicKey": OWN_KEY})
    assert node.public_key("400::1") == OWN_KEY


# --- sending ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("destination", "expected"), [(ADDRESS, {"ip": ADDRESS}), (OWN_KEY, {"pk": OWN_KEY})])
def test_destination_is_an_address_or_a_key(
    api: ScriptedApi, node: Node, destination: str, expected: dict[str, str]
) -> None:
    api.answer("POST", "/messages", {"id": ID}, status=201)
    assert node.send(destination, b"hello", topic=b"demo") == ID
    [call] = api.calls
    assert call.json == {"dst": expected, "payload": "aGVsbG8=", "topic": "ZGVtbw=="}
    assert (call.query, "Idempotency-Key" in call.headers) == ({}, False)


def test_message_without_a_topic_names_none(api: ScriptedApi, node: Node) -> None:
    api.answer("POST", "/messages", {"id": ID}, status=201)
    node.send(ADDRESS, b"")
    assert api.calls[0].json == {"dst": {"ip": ADDRESS}, "payload": ""}


def test_idempotency_key_is_a_header(api: ScriptedApi, node: Node) -> None:
    api.answer("POST", "/messages", {"id": ID}, status=201)
    node.send(ADDRESS, b"", idempotency_key="order 66")
    assert api.calls[0].headers["Idempotency-Key"] == "order 66"


def test_large_message_travels_as_it_is(api: ScriptedApi, node: Node) -> None:
    api.answer("POST", "/septate/messages", {"id": ID}, status=201)
    moved: list[tuple[int, int]] = []
    assert node.send(OWN_KEY, LARGE, topic=b"~~~", on_progress=lambda *now: moved.append(now)) == ID
    [call] = api.calls
    assert (call.body, call.query) == (LARGE, {"pk": OWN_KEY, "topic": "fn5+"})
    assert call.headers["Content-Type"] == "application/octet-stream"
    assert moved[-1] == (len(LARGE), len(LARGE))
    assert moved == sorted(moved)


def test_large_message_goes_as_json_to_a_node_without_raw_transfer(api: ScriptedApi, node: Node) -> None:
    api.answer("POST", "/messages", {"id": ID}, status=201)
    assert node.send(ADDRESS, LARGE) == ID
    assert api.asked == ["POST /septate/messages", "POST /messages"]
    assert base64.b64decode(api.calls[1].json["payload"]) == LARGE


def test_message_that_is_too_large_is_an_error_with_its_length(api: ScriptedApi, node: Node) -> None:
    api.answer("POST", "/messages", status=413)
    with pytest.raises(RefusedError, match=f"{len(LARGE)} bytes is more than the node at") as caught:
        node.send(ADDRESS, LARGE)
    assert caught.value.status == 413


def test_large_request_and_large_reply_travel_as_they_are(api: ScriptedApi, node: Node) -> None:
    api.answer("POST", "/septate/messages", INBOUND)
    assert node.request(ADDRESS, LARGE, timeout_s=7) == RECEIVED
    node.reply(RECEIVED, LARGE)
    assert [call.query for call in api.calls] == [
        {"dst": ADDRESS, "reply_timeout": "7"},
        {"dst": INBOUND["srcIp"], "reply": ID},
    ]


def test_large_reply_goes_as_json_to_a_node_without_raw_transfer(api: ScriptedApi, node: Node) -> None:
    api.answer("POST", f"/messages/reply/{ID}", status=204)
    node.reply(RECEIVED, LARGE)
    assert api.asked == ["POST /septate/messages", f"POST /messages/reply/{ID}"]


def test_request_returns_the_reply(api: ScriptedApi, node: Node) -> None:
    api.answer("POST", "/messages", INBOUND)
    assert node.request(ADDRESS, b"hello?", timeout_s=7) == RECEIVED
    assert api.calls[0].query == {"reply_timeout": "7"}


def test_request_without_a_reply_in_time_still_names_the_message(api: ScriptedApi, node: Node) -> None:
    api.answer("POST", "/messages", {"id": ID}, status=408)
    with pytest.raises(NoReplyError, match="no reply to message 0102030405060708 within 7 s") as caught:
        node.request(ADDRESS, b"hello?", timeout_s=7)
    assert caught.value.message_id == ID


@pytest.mark.parametrize("to", [RECEIVED, (ID, INBOUND["srcIp"])])
def test_reply_goes_to_the_sender_of_the_message(api: ScriptedApi, node: Node, to: Message | tuple[str, str]) -> None:
    api.answer("POST", f"/messages/reply/{ID}", status=204)
    node.reply(to, b"hello")
    assert api.calls[0].json == {"dst": {"ip": INBOUND["srcIp"]}, "payload": "aGVsbG8="}


# --- receiving --------------------------------------------------------------------------------------------------------


def test_message_is_received_as_it_is_where_the_node_can(api: ScriptedApi, node: Node) -> None:
    api.answer("GET", "/septate/messages", b"hello", Septate_Destination_Key=OWN_KEY, **RAW_HEADERS)
    assert node.receive(timeout_s=3, topic=b"demo") == RECEIVED
    assert api.asked == ["GET /septate/messages"]
    assert api.calls[0].query == {"timeout": "3", "topic": "ZGVtbw=="}


def test_own_key_is_asked_for_where_the_answer_lacks_it(api: ScriptedApi, node: Node) -> None:
    api.answer("GET", "/septate/messages", b"hello", **RAW_HEADERS)
    api.answer("GET", "/admin", {"nodeSubnet": "x", "nodeIp": "x", "nodePubkey": OWN_KEY, "nodeStartTime": 9})
    assert node.receive() == RECEIVED


@pytest.mark.parametrize("status", [404, 405, 501])
def test_message_is_received_as_json_from_other_nodes(api: ScriptedApi, node: Node, status: int) -> None:
    api.answer("GET", "/septate/messages", status=status)
    api.answer("GET", "/messages", INBOUND)
    assert node.receive(timeout_s=3, topic=b"~~~") == RECEIVED
    assert api.calls[1].query == {"timeout": "3", "topic": "fn5+"}


def test_peek_says_so(api: ScriptedApi, node: Node) -> None:
    api.answer("GET", "/messages", INBOUND)
    assert node.peek(topic=b"") == RECEIVED
    assert api.calls[1].query == {"timeout": "0", "peek": "true", "topic": ""}


def test_messages_come_one_after_the_other_also_past_a_broken_connection() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s"
    body = json.dumps(INBOUND).encode()
    nothing = b"HTTP/1.1 204 No Content\r\n\r\n"
    unknown = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    busy = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            # Each pair: the raw path is unknown, then what is there.
            there = answer % (len(body), body)
            for said in (unknown, nothing, unknown, there, b"", busy, unknown, there):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(said)

        thread = threading.Thread(target=serve)
        thread.start()
        troubles: list[ApiError] = []
        messages = Node(f"127.0.0.1:{listener.getsockname()[1]}").messages(topic=b"demo", on_trouble=troubles.append)
        assert [next(messages), next(messages)] == [RECEIVED, RECEIVED]
        thread.join()
    assert [error.status for error in troubles] == [None, 503]


@pytest.mark.parametrize("path", ["/septate/messages", "/messages"])
def test_empty_inbox_gives_none(api: ScriptedApi, node: Node, path: str) -> None:
    api.answer("GET", path, status=204)
    assert node.receive() is None


def test_progress_of_a_large_answer_is_told(api: ScriptedApi, node: Node) -> None:
    api.answer("GET", "/septate/messages", LARGE, Septate_Destination_Key=OWN_KEY, **RAW_HEADERS)
    moved: list[tuple[int, int]] = []
    found = node.receive(on_progress=lambda *now: moved.append(now))
    assert found is not None
    assert found.payload == LARGE
    assert moved[-1] == (len(LARGE), len(LARGE))


def test_payload_is_not_in_the_text_of_a_message() -> None:
    assert "hello" not in repr(RECEIVED)


# --- what became of it ------------------------------------------------------------------------------------------------


def test_status_of_a_message_under_way_counts_chunks(api: ScriptedApi, node: Node) -> None:
    state = {"sending": {"pending": 4, "sent": 5, "acked": 6}}
    api.answer("GET", f"/messages/status/{ID}", {**STATUS, "state": state})
    assert node.status(ID) == MessageStatus(ADDRESS, MessageState.SENDING, 5, 1780000000, 1780000300, 4, 5, 6)


@pytest.mark.parametrize(
    ("until_read", "expected"), [(False, ["pending", "received"]), (True, ["pending", "received", "read"])]
)
def test_wait_ends_when_the_message_got_there(
    api: ScriptedApi, node: Node, until_read: bool, expected: list[str]
) -> None:
    for state in ("pending", "pending", "received", "read"):
        api.answer("GET", f"/messages/status/{ID}", {**STATUS, "state": state})
    seen: list[str] = []
    found = node.wait(ID, timeout_s=20, until_read=until_read, on_change=lambda status: seen.append(status.state.value))
    assert (seen, found.state.value) == (expected, expected[-1])


def test_wait_returns_what_is_so_when_time_is_over(api: ScriptedApi, node: Node) -> None:
    api.answer("GET", f"/messages/status/{ID}", STATUS)
    assert node.wait(ID, timeout_s=0.05).state is MessageState.PENDING


def test_outbox_lists_topics_and_replies(api: ScriptedApi, node: Node) -> None:
    api.answer("GET", "/septate/messages/outbox", [{"id": ID, "topic": "ZGVtbw==", "reply": True, **STATUS}])
    [own] = node.outbox()
    assert (own.id, own.topic, own.is_reply, own.status.state) == (ID, b"demo", True, MessageState.PENDING)


def test_cancel_names_the_message(api: ScriptedApi, node: Node) -> None:
    api.answer("DELETE", f"/septate/messages/outbox/{ID}", status=204)
    node.cancel(ID)


# --- topics -----------------------------------------------------------------------------------------------------------


def test_topics_are_bytes_with_rules(api: ScriptedApi, node: Node) -> None:
    topic = "%2F%2F4%2B"
    api.answer("GET", "/messages/topics/default", {"accept": True})
    api.answer("PUT", "/messages/topics/default", status=204)
    api.answer("GET", "/messages/topics", ["//4+"])
    api.answer("POST", "/messages/topics", status=201)
    api.answer("DELETE", f"/messages/topics/{topic}", status=204)
    api.answer("GET", f"/messages/topics/{topic}/sources", ["5a5::/64"])
    api.answer("POST", f"/messages/topics/{topic}/sources", status=201)
    api.answer("DELETE", f"/messages/topics/{topic}/sources/5a5%3A%3A%2F64", status=204)
    api.answer("GET", f"/messages/topics/{topic}/forward", b"null")
    api.answer("PUT", f"/messages/topics/{topic}/forward", status=204)
    api.answer("DELETE", f"/messages/topics/{topic}/forward", status=204)
    [found] = node.topics.all()
    assert found == b"\xff\xfe\x3e"
    assert node.topics.accepted_by_default()
    node.topics.accept_by_default(False)
    node.topics.add(found)
    assert node.topics.sources(found) == ["5a5::/64"]
    node.topics.add_source(found, "5a5::/64")
    node.topics.remove_source(found, "5a5::/64")
    assert node.topics.forward_socket(found) is None
    node.topics.set_forward_socket(found, "/run/x")
    node.topics.remove_forward_socket(found)
    node.topics.remove(found)
    bodies = [call.json for call in api.calls if call.body]
    assert bodies == [{"accept": False}, [255, 254, 62], {"subnet": "5a5::/64"}, {"socketPath": "/run/x"}]


def test_topic_without_a_rule_has_no_sources(node: Node) -> None:
    assert node.topics.sources(b"x") is None


# --- errors -----------------------------------------------------------------------------------------------------------


def test_address_that_is_none_is_refused() -> None:
    with pytest.raises(EndpointError):
        Node("localhost:8989")


def test_node_that_is_not_there_is_unreachable() -> None:
    with pytest.raises(UnreachableError, match=r"cannot talk to the node's API at 127\.0\.0\.1:1: Connection refused"):
        Node("127.0.0.1:1").info()


def test_node_that_says_nothing_is_given_up() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises(UnreachableError, match=r"did not answer within 0\.1 s"),
    ):
        Node(f"127.0.0.1:{listener.getsockname()[1]}", timeout_s=0.1).info()


def test_answer_that_breaks_off_is_no_answer(api: ScriptedApi) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(UnreachableError, match="IncompleteRead"):
            Node(f"127.0.0.1:{listener.getsockname()[1]}").receive(on_progress=lambda _done, _total: None)
        thread.join()


@pytest.mark.parametrize("body", [b"<html>", b"{}", b"\xff", b"null", b'{"nodeSubnet":1,"nodeIp":2}', b"[" * 100_000])
def test_answer_of_another_shape_is_no_node(api: ScriptedApi, node: Node, body: bytes) -> None:
    api.answer("GET", "/admin", body)
    with pytest.raises(UnexpectedAnswerError, match="is no Mycelium API: /api/v1/admin gave something else"):
        node.info()


@pytest.mark.parametrize("value", [{"id": None}, {}, [], {"id": 5}])
def test_id_that_is_none_is_no_node(api: ScriptedApi, node: Node, value: object) -> None:
    api.answer("POST", "/messages", value, status=201)
    with pytest.raises(UnexpectedAnswerError):
        node.send(ADDRESS, b"x")


def test_refusal_carries_status_and_reason(api: ScriptedApi, node: Node) -> None:
    api.answer("POST", "/admin/peers", b"no\x1b[31m\nway", status=409)
    with pytest.raises(RefusedError, match=r"POST /api/v1/admin/peers: no \[31m way \(HTTP 409\)") as caught:
        node.add_peer("tcp://192.0.2.1:1")
    assert caught.value.status == 409
    assert isinstance(caught.value, ApiError)


def test_threads_may_share_a_node(api: ScriptedApi, node: Node) -> None:
    api.answer("GET", f"/messages/status/{ID}", STATUS)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: node.status(ID), range(64)))
    assert len(set(found)) == 1
    assert len(api.calls) == 64


def test_environments_proxy_is_not_used(api: ScriptedApi, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    api.answer("GET", "/messages/topics", [])
    assert node.topics.all() == []
