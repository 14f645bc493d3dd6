"""`septate message list`, `status` and `cancel`: what became of messages that this node sends."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final

import click

from septate.cli.invocation import Invocation, api_address, file_options, pass_invocation
from septate.cli.messages import SECONDS, YEAR_S, check_message_id, text_or_base64
from septate.cli.parsing import OnceOption, json_option
from septate.cli.progress import bar
from septate.cli.table import age_text, size_text, table
from septate.client import MESSAGES, OUTBOX, ApiError, MessageState, MessageStatus, Node, OwnMessage, RefusedError
from septate.errors import UserError

_HEADER: Final = ("Id", "Destination", "Topic", "Size", "State", "Age", "Time left")
_LACKS: Final = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED)


@click.command("list")
@json_option
@file_options
@pass_invocation
def list_messages(invocation: Invocation, as_json: bool) -> None:
    """List the messages that were sent in the last ten minutes, and what became of them."""
    node = Node(api_address(invocation))
    try:
        if as_json:
            click.echo(node.exchange.json_text(OUTBOX))
            return
        found = node.outbox()
    except RefusedError as error:
        raise _lacking(node, error) from None
    now = time.time()
    click.echo(table(_HEADER, [_row(own, now) for own in found]))


@click.command()
@click.argument("message_id", metavar="ID")
@click.option("-w", "--wait", cls=OnceOption, is_flag=True, help="Wait until it is received, or given up.")
@click.option("--timeout", cls=OnceOption, type=SECONDS, help="Seconds to wait. [until it is given up]")
@json_option
@file_options
@pass_invocation
def status(invocation: Invocation, message_id: str, wait: bool, timeout: int | None, as_json: bool) -> None:
    """Show what became of a message that was sent in the last ten minutes.

    With --wait the exit code is 0 once the message is received, and 1 if it was given up or the time is over.
    """
    check_message_id("ID", message_id)
    node = Node(api_address(invocation))
    try:
        found = _wait(node, message_id, YEAR_S if timeout is None else timeout) if wait else node.status(message_id)
        if as_json:
            click.echo(node.exchange.json_text(f"{MESSAGES}/status/{message_id}"))
        else:
            click.echo(_description(found))
    except RefusedError as error:
        raise _unknown(message_id, error) from None
    if wait and found.state not in (MessageState.RECEIVED, MessageState.READ):
        raise UserError(
            f"message {message_id} is {found.state.value}; look whether {found.destination} is online and accepts "
            "its topic"
        )


@click.command()
@click.argument("message_ids", nargs=-1, metavar="[ID]...")
@file_options
@pass_invocation
def cancel(invocation: Invocation, message_ids: tuple[str, ...]) -> None:
    """Give up messages that are still being sent; stops at the first that is not."""
    for message_id in message_ids:
        check_message_id("ID", message_id)
    node = Node(api_address(invocation))
    for message_id in message_ids:
        try:
            node.cancel(message_id)
        except RefusedError as error:
            raise _unknown(message_id, error) from None


def _wait(node: Node, message_id: str, timeout_s: int) -> MessageStatus:
    with bar("delivering") as on_progress:
        return node.wait(
            message_id, timeout_s=timeout_s, on_change=None if on_progress is None else _delivery(on_progress)
        )


def _delivery(on_progress: Callable[[int, int], object]) -> Callable[[MessageStatus], None]:
    def show(found: MessageStatus) -> None:
        chunks = found.chunks_unsent + found.chunks_under_way + found.chunks_arrived
        if chunks:
            on_progress(found.length * found.chunks_arrived // chunks, found.length)

    return show


def _unknown(message_id: str, error: RefusedError) -> ApiError:
    if error.status != HTTPStatus.NOT_FOUND:
        return error
    return ApiError(
        f"message {message_id}: this node is not sending it, and has not sent it in the last ten minutes (HTTP 404); "
        "`septate message list` shows those that it has",
        error.status,
    )


def _lacking(node: Node, error: RefusedError) -> ApiError:
    if error.status not in _LACKS:
        return error
    return ApiError(
        f"the node at {node.exchange.address} keeps no list of its messages (HTTP {error.status}): it is none of ours; "
        "`septate message status ID` works there, too",
        error.status,
    )


def _row(own: OwnMessage, now: float) -> tuple[str, ...]:
    found = own.status
    topic = "".join(letter if letter.isprintable() else "\ufffd" for letter in text_or_base64(own.topic))
    return (
        own.id,
        found.destination,
        topic,
        size_text(found.length),
        _state(found),
        age_text(max(0, int(now) - found.created)),
        "" if found.state.final else age_text(max(0, found.deadline - int(now))),
    )


def _state(found: MessageStatus) -> str:
    chunks = found.chunks_unsent + found.chunks_under_way + found.chunks_arrived
    share = f" {found.chunks_arrived * 100 // chunks} %" if found.state is MessageState.SENDING and chunks else ""
    return found.state.value.capitalize() + share


def _description(found: MessageStatus) -> str:
    return (
        f"Destination: {found.destination}\nState: {_state(found)}\nSize: {size_text(found.length)}\n"
        f"Created: {_moment(found.created)}\nDeadline: {_moment(found.deadline)}"
    )


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
