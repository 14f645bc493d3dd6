"""`septate message` and `septate proxy`: what is printed, what is asked of the node, what happens to files."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from click.testing import CliRunner, Result

from septate.cli.progress import line
from septate.cli.root import septate
from septate.client import LARGE_BYTES
from tests.unit.scripted_api import ScriptedApi, scripted_api
from tests.unit.test_client import ADDRESS, ID, INBOUND, OWN_KEY, RAW_HEADERS, STATUS

ROOT = Path(__file__).parents[2]
LINE = (
    f'{{"id":"{ID}","srcIp":"{INBOUND["srcIp"]}","srcPk":"{INBOUND["srcPk"]}","dstIp":"{ADDRESS}","dstPk":"{OWN_KEY}"'
)
"""How a message begins on standard output (CLI spec 3.4)."""


@pytest.fixture
def api() -> Iterator[ScriptedApi]:
    with scripted_api() as served:
        yield served


@pytest.fixture(autouse=True)
def _own_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "RUST_LOG"):
        monkeypatch.delenv(name, raising=False)
    yield
    structlog.reset_defaults()


def run(api: ScriptedApi | None, *argv: str) -> Result:
    address = "127.0.0.1:1" if api is None else api.address
    result = CliRunner().invoke(septate, ("--api-addr", address, *argv), prog_name="septate")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def failed(result: Result, *words: str) -> None:
    """Exit code 1, nothing on standard output, one line on standard error with all of `words`."""
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert all(word in result.stderr for word in words), result.stderr


# --- send -------------------------------------------------------------------------------------------------------------


def test_send_prints_the_id(api: ScriptedApi) -> None:
    api.answer("POST", "/messages", {"id": ID}, status=201)
    result = run(api, "message", "send", ADDRESS, "grüße", "-t", "dëmo", "--timeout", "5")
    assert (result.exit_code, result.stdout_bytes, result.stderr) == (0, f'{{"id":"{ID}"}}\n'.encode(), "")
    assert api.calls[0].json == {"dst": {"ip": ADDRESS}, "payload": "Z3LDvMOfZQ==", "topic": "ZMOrbW8="}
    assert api.calls[0].query == {}


def test_file_wins_over_the_message(api: ScriptedApi, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\0\xff")
    api.answer("POST", "/messages", {"id": ID}, status=201)
    run(api, "message", "send", OWN_KEY, "ignored", "--msg-path", "file")
    assert api.calls[0].json == {"dst": {"pk": OWN_KEY}, "payload": "AP8="}


def test_reply_prints_nothing_and_has_no_topic(api: ScriptedApi) -> None:
    api.answer("POST", f"/messages/reply/{ID}", status=204)
    result = run(api, "message", "send", "--reply-to", ID, "-t", "x" * 300, ADDRESS, "re")
    assert (result.exit_code, result.output) == (0, "")
    assert "topic" not in api.calls[0].json


def test_reply_that_was_waited_for_is_printed_like_a_message(api: ScriptedApi) -> None:
    api.answer("POST", "/messages", INBOUND)
    result = run(api, "message", "send", "-w", "--timeout", "3", ADDRESS, "ping?")
    assert result.stdout == LINE + ',"topic":"demo","payload":"hello"}\n'
    assert api.calls[0].query == {"reply_timeout": "3"}


def test_reply_is_waited_for_a_year(api: ScriptedApi) -> None:
    api.answer("POST", "/messages", INBOUND)
    run(api, "message", "send", "-w", ADDRESS, "ping?")
    assert api.calls[0].query == {"reply_timeout": "31536000"}


def test_id_is_printed_where_no_reply_came(api: ScriptedApi) -> None:
    api.answer("POST", "/messages", {"id": ID}, status=408)
    result = run(api, "message", "send", "-w", "--timeout", "1", ADDRESS, "ping?")
    assert (result.exit_code, result.stdout) == (0, f'{{"id":"{ID}"}}\n')


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["192.0.2.1", "x"], ["192.0.2.1", "is not in 400::/7"]),
        (["600::1", "x"], ["600::1", "is not in 400::/7"]),
        (["foo", "x"], ["'foo' is no destination", "400::/7"]),
        (["400::1%1", "x"], ["is no destination"]),
        (["", "x"], ["'' is no destination"]),
        (["z" * 64, "x"], ["is no public key", "64 hexadecimal digits"]),
        (["0" * 63, "x"], ["is no destination"]),
        ([ADDRESS], ["give a MESSAGE", "--msg-path"]),
        ([ADDRESS, "--msg-path", "absent"], ["cannot read absent", "No such file"]),
        ([ADDRESS, "--msg-path", "."], ["cannot read .", "Is a directory"]),
        ([ADDRESS, "x", "-t", "x" * 256], ["--topic: 256 bytes", "at most 255"]),
        ([ADDRESS, "x", "--wait", "--reply-to", ID], ["--wait and --reply-to"]),
        ([ADDRESS, "x", "--reply-to", "xyz"], ["--reply-to: 'xyz' is no message id", "16 hexadecimal digits"]),
        ([ADDRESS, "x"], ["cannot talk to the node's API", "Connection refused"]),
    ],
)
def test_what_cannot_be_sent_is_one_line(argv: list[str], words: list[str]) -> None:
    failed(run(None, "message", "send", *argv), *words)


# --- receive ----------------------------------------------------------------------------------------------------------


def test_received_message_is_one_line(api: ScriptedApi) -> None:
    api.answer("GET", "/messages", INBOUND)
    result = run(api, "message", "receive", "--timeout", "5", "-t", "~~~")
    assert (result.exit_code, result.stdout) == (0, LINE + ',"topic":"demo","payload":"hello"}\n')
    assert api.calls[1].query == {"timeout": "5", "topic": "fn5+"}


def test_what_is_not_utf8_is_shown_in_base64(api: ScriptedApi) -> None:
    api.answer("GET", "/messages", {**INBOUND, "topic": "/w==", "payload": "AP/+gA=="})
    assert run(api, "message", "receive").stdout == LINE + ',"topic":"/w==","payload":"AP/+gA=="}\n'


def test_message_without_a_topic_shows_none(api: ScriptedApi) -> None:
    api.answer("GET", "/messages", {name: value for name, value in INBOUND.items() if name != "topic"})
    result = run(api, "message", "receive")
    assert result.stdout == LINE + ',"payload":"hello"}\n'
    assert api.calls[1].query == {"timeout": "31536000"}


def test_nothing_in_time_prints_nothing(api: ScriptedApi) -> None:
    api.answer("GET", "/messages", status=204)
    result = run(api, "message", "receive", "--timeout", "0")
    assert (result.exit_code, result.output) == (0, "")


def test_raw_payload_is_printed_as_it_is(api: ScriptedApi) -> None:
    api.answer("GET", "/septate/messages", b"\0\xff", Septate_Destination_Key=OWN_KEY, **RAW_HEADERS)
    assert run(api, "message", "receive", "--raw").stdout_bytes == b"\0\xff\n"


@pytest.mark.parametrize("before", [None, b"something longer than the message"])
def test_payload_replaces_what_is_in_the_file(api: ScriptedApi, tmp_path: Path, before: bytes | None) -> None:
    if before is not None:
        (tmp_path / "out").write_bytes(before)
    api.answer("GET", "/messages", INBOUND)
    result = run(api, "message", "receive", "--msg-path", "out")
    assert (tmp_path / "out").read_bytes() == b"hello"
    assert result.stdout == LINE + ',"topic":"demo"}\n'


def test_raw_payload_to_a_file_prints_nothing(api: ScriptedApi, tmp_path: Path) -> None:
    api.answer("GET", "/messages", INBOUND)
    assert run(api, "message", "receive", "--raw", "--msg-path", "out").output == ""
    assert (tmp_path / "out").read_bytes() == b"hello"


def test_file_is_left_alone_where_nothing_arrives(api: ScriptedApi, tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"old")
    api.answer("GET", "/messages", status=204)
    for name in ("old", "new"):
        run(api, "message", "receive", "--msg-path", name)
    assert (tmp_path / "old").read_bytes() == b"old"
    assert not (tmp_path / "new").exists()


def test_no_message_is_taken_for_a_file_that_cannot_be_written(api: ScriptedApi) -> None:
    result = run(api, "message", "receive", "--msg-path", "nodir/out")
    failed(result, "cannot write nodir/out: No such file or directory; no message was taken")
    assert api.calls == []


def test_full_disk_is_told_with_what_became_of_the_message(api: ScriptedApi) -> None:
    api.answer("GET", "/messages", INBOUND)
    failed(run(api, "message", "receive", "--msg-path", "/dev/full"), "No space left on device", "out of the inbox")


def test_topic_that_is_too_long_is_not_asked_for(api: ScriptedApi) -> None:
    failed(run(api, "message", "receive", "-t", "a" * 256), "--topic: 256 bytes")
    assert api.calls == []


# --- own messages -----------------------------------------------------------------------------------------------------


def test_list_shows_what_became_of_each_message(api: ScriptedApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1780000065.5)
    sending = {**STATUS, "state": {"sending": {"pending": 1, "sent": 1, "acked": 2}}, "msgLen": 5000}
    api.answer(
        "GET",
        "/septate/messages/outbox",
        [
            {"id": ID, "topic": "ZGVtbw==", "reply": False, **sending},
            {"id": "f" * 16, "topic": "G1szMW0=", "reply": True, **STATUS, "state": "read"},
        ],
    )
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in run(api, "message", "list").stdout.splitlines()]
    assert rows[1::2] == [
        ["Id", "Destination", "Topic", "Size", "State", "Age", "Time left"],
        [ID, ADDRESS, "demo", "4.88 KiB", "Sending 50 %", "1m 5s", "3m 55s"],
        ["f" * 16, ADDRESS, "\ufffd[31m", "5.00 B", "Read", "1m 5s", ""],
    ]
    as_json = run(api, "message", "list", "--json").stdout
    assert [row["id"] for row in json.loads(as_json)] == [ID, "f" * 16]


def test_node_without_a_list_says_what_works_instead(api: ScriptedApi) -> None:
    for argv in (["list"], ["list", "--json"]):
        failed(run(api, "message", *argv), "keeps no list of its messages (HTTP 404)", "septate message status ID")


def test_status_is_told_in_words(api: ScriptedApi) -> None:
    api.answer("GET", f"/messages/status/{ID}", STATUS)
    assert run(api, "message", "status", ID).stdout == (
        f"Destination: {ADDRESS}\nState: Pending\nSize: 5.00 B\n"
        "Created: 2026-05-28 20:26:40 UTC\nDeadline: 2026-05-28 20:31:40 UTC\n"
    )
    assert json.loads(run(api, "message", "status", "--json", ID).stdout) == STATUS


def test_status_waits_until_the_message_is_received(api: ScriptedApi) -> None:
    for state in ("pending", "received"):
        api.answer("GET", f"/messages/status/{ID}", {**STATUS, "state": state})
    result = run(api, "message", "status", "--wait", ID)
    assert result.exit_code == 0
    assert "State: Received" in result.stdout


@pytest.mark.parametrize(("state", "timeout"), [("aborted", "9"), ("pending", "0")])
def test_status_of_a_message_that_did_not_get_there_exits_with_1(api: ScriptedApi, state: str, timeout: str) -> None:
    api.answer("GET", f"/messages/status/{ID}", {**STATUS, "state": state})
    result = run(api, "message", "status", "--wait", "--timeout", timeout, ID)
    assert result.exit_code == 1
    assert f"message {ID} is {state}; look whether {ADDRESS} is online" in result.stderr


def test_cancel_stops_at_the_first_that_is_not_being_sent(api: ScriptedApi) -> None:
    api.answer("DELETE", f"/septate/messages/outbox/{ID}", status=204)
    other = "f" * 16
    failed(run(api, "message", "cancel", ID, other, ID), f"message {other}: this node is not sending it")
    assert len(api.calls) == 2


@pytest.mark.parametrize("argv", [["status", "xyz"], ["cancel", ID, "xyz"], ["cancel", ID + "0"]])
def test_what_is_no_id_is_not_asked_for(api: ScriptedApi, argv: list[str]) -> None:
    failed(run(api, "message", *argv), "is no message id: one has 16 hexadecimal digits")
    assert api.calls == []


# --- progress ---------------------------------------------------------------------------------------------------------


def test_bar_shows_share_amount_and_rate() -> None:
    assert line("receiving", 1 << 20, 4 << 20, 2.0) == (
        "receiving [#######-----------------------]  25 %  1.00 MiB of 4.00 MiB  512.00 KiB/s"
    )


def on_a_terminal(api: ScriptedApi, *argv: str) -> str:
    """What the program writes to standard error when that is a terminal."""
    ours, theirs = pty.openpty()
    program = [sys.executable, "-m", "septate.cli", "--api-addr", api.address, *argv]
    done: Any = subprocess.run(program, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=theirs, timeout=60, check=False)
    os.close(theirs)
    written = b""
    try:
        while part := os.read(ours, 65536):
            written += part
    except OSError:  # EIO: all of it was read, and the other end is closed
        pass
    finally:
        os.close(ours)
    assert done.returncode == 0, written
    return written.decode()


@pytest.mark.parametrize(("size", "shown"), [(LARGE_BYTES, False), (LARGE_BYTES + 1, True)])
def test_large_message_has_a_bar_on_a_terminal(api: ScriptedApi, tmp_path: Path, size: int, shown: bool) -> None:
    (tmp_path / "file").write_bytes(bytes(size))
    for path in ("/messages", "/septate/messages"):
        api.answer("POST", path, {"id": ID}, status=201)
    written = on_a_terminal(api, "message", "send", ADDRESS, "--msg-path", str(tmp_path / "file"))
    assert ("handing over [##############################] 100 %" in written) is shown
    assert written.endswith("\r\x1b[K" if shown else "")


# --- proxy ------------------------------------------------------------------------------------------------------------


def test_proxies_are_listed(api: ScriptedApi) -> None:
    api.answer("GET", "/admin/proxy", ["5a5::1"])
    assert "| 5a5::1       |" in run(api, "proxy", "list").stdout
    assert run(api, "proxy", "list", "--json").stdout == '["5a5::1"]\n'


def test_proxy_in_use_is_printed(api: ScriptedApi) -> None:
    api.answer("POST", "/admin/proxy", "[5a5::1]:1080")
    assert run(api, "proxy", "connect", "--remote", "[5a5::1]:1080").stdout == "[5a5::1]:1080\n"
    assert run(api, "proxy", "connect", "--json").stdout == '"[5a5::1]:1080"\n'
    assert [call.json for call in api.calls] == [{"remote": "[5a5::1]:1080"}, {"remote": None}]


@pytest.mark.parametrize(
    ("argv", "asked"),
    [
        (["disconnect"], "DELETE /admin/proxy"),
        (["probe", "start"], "GET /admin/proxy/probe"),
        (["probe", "stop"], "DELETE /admin/proxy/probe"),
    ],
)
def test_proxy_command_without_a_result_prints_nothing(api: ScriptedApi, argv: list[str], asked: str) -> None:
    api.answer(*asked.split(), status=204)
    result = run(api, "proxy", *argv)
    assert (result.exit_code, result.output, api.asked) == (0, "", [asked])


@pytest.mark.parametrize("argv", [["list"], ["list", "--json"], ["connect"], ["probe", "start"]])
def test_node_without_proxies_is_told_of_by_name(api: ScriptedApi, argv: list[str]) -> None:
    for method, path in (("GET", "/admin/proxy"), ("POST", "/admin/proxy"), ("GET", "/admin/proxy/probe")):
        api.answer(method, path, b"not in this version", status=501)
    failed(run(api, "proxy", *argv), "proxy: this node has none (HTTP 501); name the proxy's overlay address")


def test_malformed_remote_is_not_asked_for(api: ScriptedApi) -> None:
    failed(run(api, "proxy", "connect", "--remote", "foo"), "--remote: 'foo'", "give IP:PORT")
    assert api.calls == []


def test_proxy_that_does_not_answer_is_told(api: ScriptedApi) -> None:
    failed(run(api, "proxy", "connect"), "no proxy answers", "septate proxy list")
