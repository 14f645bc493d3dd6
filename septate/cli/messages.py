"""`septate message send` and `septate message receive`, to the byte as the reference has them."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any, Final

import click

from protocol.mycelium.endpoint import EndpointError, parse_ip
from septate.answers import MESSAGE_ID_DIGITS, to_base64
from septate.cli.invocation import Invocation, api_address, file_options, pass_invocation
from septate.cli.parsing import Group, Number, OnceOption
from septate.cli.progress import bar
from septate.client import Message, Node, NoReplyError
from septate.errors import UserError

SECONDS: Final = Number(0, 2**64 - 1)
YEAR_S: Final = 365 * 24 * 3600
"""How long the reference waits where nobody says how long."""
_KEY_DIGITS: Final = 64
_MAX_TOPIC_BYTES: Final = 255
_HEX: Final = re.compile(r"[0-9A-Fa-f]*", re.ASCII)
_OVERLAY: Final = (0x04, 0x05)
"""First bytes of the addresses in 400::/7."""


@click.group(cls=Group)
@file_options
def message() -> None:
    """Send messages to other nodes, and receive theirs."""


# --- send -------------------------------------------------------------------------------------------------------------


@message.command()
@click.argument("destination")
@click.argument("text", required=False, metavar="[MESSAGE]")
@click.option("-w", "--wait", cls=OnceOption, is_flag=True, help="Wait for a reply.")
@click.option("--timeout", cls=OnceOption, type=SECONDS, help="Seconds to wait for a reply. [a year]")
@click.option("-t", "--topic", cls=OnceOption, help="Topic of the message, up to 255 bytes.")
@click.option("--msg-path", cls=OnceOption, type=click.Path(path_type=Path), help="File to send instead of MESSAGE.")
@click.option("--reply-to", cls=OnceOption, metavar="ID", help="Id of the message that this answers.")
@file_options
@pass_invocation
def send(
    invocation: Invocation,
    destination: str,
    text: str | None,
    wait: bool,
    timeout: int | None,
    topic: str | None,
    msg_path: Path | None,
    reply_to: str | None,
) -> None:
    """Send MESSAGE, or a file, to DESTINATION: an address in 400::/7, or a public key.

    Prints the id of the message. With --wait, prints the reply in the form of `message receive`; if none comes in
    time, the id. Nothing is printed with --reply-to.
    """
    if wait and reply_to is not None:
        raise UserError("--wait and --reply-to don't go together: a reply has no reply; leave one of them out")
    if reply_to is not None:
        check_message_id("--reply-to", reply_to)
    payload = _payload(text, msg_path)
    _check_destination(destination)
    octets = _topic(topic or "") if reply_to is None else b""
    node = Node(api_address(invocation))
    with bar("handing over") as on_progress:
        if reply_to is not None:
            node.reply((reply_to, destination), payload)
            return
        if not wait:
            _print_id(node.send(destination, payload, topic=octets, on_progress=on_progress))
            return
        timeout_s = YEAR_S if timeout is None else timeout
        try:
            reply = node.request(destination, payload, timeout_s=timeout_s, topic=octets, on_progress=on_progress)
        except NoReplyError as error:
            _print_id(error.message_id)
            return
    _print_message(reply, with_payload=True)


def _payload(text: str | None, path: Path | None) -> bytes:
    if path is not None:
        try:
            return path.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}; name a file that can be read") from None
    if text is None:
        raise UserError("nothing to send: give a MESSAGE, or a file by --msg-path")
    return os.fsencode(text)


def _topic(text: str) -> bytes:
    octets = os.fsencode(text)
    if len(octets) > _MAX_TOPIC_BYTES:
        raise UserError(f"--topic: {len(octets)} bytes, and a topic has at most {_MAX_TOPIC_BYTES}; shorten it")
    return octets


def _check_destination(text: str) -> None:
    shown = repr(text[:80])
    if len(text) == _KEY_DIGITS:
        if _HEX.fullmatch(text) is None:
            raise UserError(f"{shown} is no public key: one has {_KEY_DIGITS} hexadecimal digits")
        return
    try:
        address = parse_ip(text)
    except EndpointError:
        raise UserError(
            f"{shown} is no destination: give an address in 400::/7, or a public key of {_KEY_DIGITS} digits"
        ) from None
    if address.version != 6 or address.packed[0] not in _OVERLAY:
        raise UserError(f"{shown} is not in 400::/7, where all nodes are; see `septate inspect` at the receiver")


def check_message_id(what: str, text: str) -> None:
    """Raises `UserError` for what is no message id; `what` says where it stood."""
    if len(text) != MESSAGE_ID_DIGITS or _HEX.fullmatch(text) is None:
        raise UserError(f"{what}: {text[:80]!r} is no message id: one has {MESSAGE_ID_DIGITS} hexadecimal digits")


# --- receive ----------------------------------------------------------------------------------------------------------


@message.command()
@click.option("--timeout", cls=OnceOption, type=SECONDS, help="Seconds to wait for a message. [a year]")
@click.option("-t", "--topic", cls=OnceOption, help="Messages of this topic only.")
@click.option("--msg-path", cls=OnceOption, type=click.Path(path_type=Path), help="File to write the payload to.")
@click.option("--raw", cls=OnceOption, is_flag=True, help="Print the payload only, as it is.")
@file_options
@pass_invocation
def receive(invocation: Invocation, timeout: int | None, topic: str | None, msg_path: Path | None, raw: bool) -> None:
    """Take the oldest message out of the inbox, waiting for one, and print it as one line of JSON.

    Topic and payload are shown as text if they are UTF-8, else in base64. With --msg-path the payload goes to a file
    instead. If nothing arrives in time, nothing is printed.
    """
    octets = None if topic is None else _topic(topic)
    node = Node(api_address(invocation))
    # Before the message is taken: one that could not be written would be lost.
    target = None if msg_path is None else _Target(msg_path)
    try:
        with bar("receiving") as on_progress:
            timeout_s = YEAR_S if timeout is None else timeout
            found = node.receive(timeout_s=timeout_s, topic=octets, on_progress=on_progress)
        if found is None:
            return
        if target is not None:
            target.write(found.payload)
    finally:
        if target is not None:
            target.close()
    if not raw:
        _print_message(found, with_payload=target is None)
    elif target is None:
        click.echo(found.payload)


class _Target:
    """The file that a payload goes to: writable before there is one, and unchanged if none comes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._made = self._written = False
        try:
            try:
                self._file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
                self._made = True
        except OSError as error:
            raise UserError(
                f"cannot write {path}: {error.strerror}; no message was taken, name a file that can be written"
            ) from None

    def write(self, payload: bytes) -> None:
        """Makes `payload` all that is in the file."""
        self._written = True
        try:
            if stat.S_ISREG(os.fstat(self._file).st_mode):
                os.ftruncate(self._file, 0)
            left = memoryview(payload)
            while left:
                left = left[os.write(self._file, left) :]
        except OSError as error:
            raise UserError(
                f"cannot write {self._path}: {error.strerror}; the message is out of the inbox, ask its sender for it"
            ) from None

    def close(self) -> None:
        """Closes the file, and removes it if it was made for nothing."""
        os.close(self._file)
        if self._made and not self._written:
            self._path.unlink(missing_ok=True)


# --- how it looks -----------------------------------------------------------------------------------------------------


def _print_id(message_id: str) -> None:
    _print_json({"id": message_id})


def _print_message(found: Message, *, with_payload: bool) -> None:
    shown = {
        "id": found.id,
        "srcIp": found.source,
        "srcPk": found.source_key,
        "dstIp": found.destination,
        "dstPk": found.destination_key,
    }
    if found.topic:
        shown["topic"] = text_or_base64(found.topic)
    if with_payload:
        shown["payload"] = text_or_base64(found.payload)
    _print_json(shown)


def _print_json(value: Any) -> None:
    # In bytes: the reference prints UTF-8 whatever the locale says.
    click.echo(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


def text_or_base64(octets: bytes) -> str:
    """Text where it is UTF-8; which of the two it is, the reference does not say either (CLI spec Q8)."""
    try:
        return octets.decode()
    except UnicodeDecodeError:
        return to_base64(octets)
