"""Two nodes and the programs that people use with them: message commands, examples."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.lab.namespaces import REPOSITORY, Lab, stop_process
from tests.lab.nodes import SeptateNode
from tests.namespaces.networks import build_pair

pytestmark = pytest.mark.namespaces

PATIENCE: Final = 20.0
LARGE_BYTES: Final = 3_000_000

Pair = tuple[SeptateNode, SeptateNode]


@pytest.fixture(scope="module")
def pair(module_lab: Lab) -> Pair:
    return build_pair(module_lab)


def septate(node: SeptateNode, *arguments: str, exit_code: int = 0) -> str:
    """What the program prints when asked about this node."""
    done = node.namespace.run([node.program, *arguments])
    assert done.returncode == exit_code, done.stderr.decode()
    return done.stdout.decode()


@contextmanager
def example(node: SeptateNode, name: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """One of the examples, running beside a node, its input and output in pipes."""
    process = subprocess.Popen(
        node.namespace.command([sys.executable, f"examples/{name}.py", *arguments]),
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        stop_process(process)


def next_line(process: subprocess.Popen[bytes]) -> str:
    """The next line that a program prints, within the deadline."""
    assert process.stdout is not None
    line = b""
    deadline = time.monotonic() + PATIENCE
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            if not selector.select(max(0.0, deadline - time.monotonic())):
                pytest.fail(f"no line within {PATIENCE:g} s; so far {line!r}")
            part = os.read(process.stdout.fileno(), 1)
            assert part, f"it ended; so far {line!r}"
            line += part
    return line.decode().rstrip("\n")


# --- commands ---------------------------------------------------------------------------------------------------------


def test_message_goes_from_command_to_command(pair: Pair) -> None:
    near, far = pair
    sent = json.loads(septate(near, "message", "send", "-t", "dëmo", far.address, "grüße"))
    received = json.loads(septate(far, "message", "receive", "--timeout", "10", "-t", "dëmo"))
    assert (received["id"], received["payload"], received["srcIp"]) == (sent["id"], "grüße", near.address)
    own_keys = [json.loads(septate(node, "inspect", "--json", "-k", str(node.key_path)))["publicKey"] for node in pair]
    assert [received["srcPk"], received["dstPk"]] == own_keys


def test_reply_goes_to_the_command_that_waits(pair: Pair) -> None:
    near, far = pair
    with asking_command(near, far.address) as asking:
        question = json.loads(septate(far, "message", "receive", "--timeout", "10", "-t", "question"))
        septate(far, "message", "send", "--reply-to", question["id"], near.address, "pong")
        answer = json.loads(asking.communicate(timeout=PATIENCE)[0])
    assert (answer["id"], answer["payload"], "topic" in answer) == (question["id"], "pong", False)


@contextmanager
def asking_command(node: SeptateNode, address: str) -> Iterator[subprocess.Popen[bytes]]:
    """`septate message send --wait`, under way."""
    process = node.namespace.start([node.program, "message", "send", "-w", "-t", "question", address, "ping"])
    try:
        yield process
    finally:
        stop_process(process)


def test_large_file_arrives_as_it_is(pair: Pair, tmp_path: Path) -> None:
    near, far = pair
    sent, received = tmp_path / "sent", tmp_path / "received"
    sent.write_bytes(os.urandom(LARGE_BYTES))
    message_id = json.loads(septate(near, "message", "send", "-t", "file", "--msg-path", str(sent), far.address))["id"]
    septate(far, "message", "receive", "--timeout", "20", "-t", "file", "--raw", "--msg-path", str(received))
    assert received.read_bytes() == sent.read_bytes()
    assert "State: Re" in septate(near, "message", "status", "--wait", "--timeout", "20", message_id)


def test_message_to_nobody_is_listed_until_it_is_cancelled(pair: Pair) -> None:
    near, _ = pair
    sent = json.loads(septate(near, "message", "send", "-t", "lost", "400::9", "hello"))["id"]
    listed: list[dict[str, Any]] = json.loads(septate(near, "message", "list", "--json"))
    (row,) = [row for row in listed if row["id"] == sent]
    assert (row["dst"], row["state"], row["msgLen"]) == ("400::9", "pending", 5)
    assert sent in septate(near, "message", "list")
    septate(near, "message", "cancel", sent)
    septate(near, "message", "status", "--wait", "--timeout", "0", sent, exit_code=1)
    septate(near, "message", "cancel", sent, exit_code=1)


# --- examples ---------------------------------------------------------------------------------------------------------


def test_people_chat(pair: Pair) -> None:
    near, far = pair
    with example(near, "chat", far.address) as one, example(far, "chat", near.address) as other:
        for speaker, listener, author in ((one, other, near), (other, one, far)):
            assert speaker.stdin is not None
            speaker.stdin.write("schöne Grüße\x1b\n".encode())
            assert next_line(listener) == f"<{author.address}> schöne Grüße?"


def test_files_are_dropped(pair: Pair, tmp_path: Path) -> None:
    near, far = pair
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    contents = {"small": b"x", "large": os.urandom(LARGE_BYTES), "empty": b""}
    for name, content in contents.items():
        (source / name).write_bytes(content)
    with example(far, "file_drop", "serve", str(target)) as server:
        done = near.namespace.run(
            [sys.executable, "examples/file_drop.py", "drop", far.address, *(str(source / name) for name in contents)]
        )
        assert done.returncode == 0, done.stderr.decode()
        for _ in contents:
            next_line(server)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == contents


def test_service_answers(pair: Pair) -> None:
    near, far = pair
    with example(far, "service", "serve"):
        done = near.namespace.run([sys.executable, "examples/service.py", "ask", far.address, "to be or not to be"])
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout) == [["to", 2], ["be", 2], ["or", 1], ["not", 1]]
