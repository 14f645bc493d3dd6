"""What the examples do with names that somebody else made up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from examples import file_drop
from septate.client import Message, Node


def serve_one(folder: Path, payload: bytes) -> None:
    """Hands one message to the server."""
    message = Message("0" * 16, "400::1", "0" * 64, "400::2", "1" * 64, file_drop.TOPIC, payload)

    class OneMessage(Node):
        def messages(self, **_: object) -> Iterator[Message]:
            yield message

    file_drop.serve(OneMessage(), folder)


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        (b"a.txt", "a.txt"),
        (b"../../a.txt", "a.txt"),
        (b"/etc/passwd", "passwd"),
        (b"..", "unnamed"),
        (b"", "unnamed"),
        (b".profile", "profile"),
        (b"\xff", "\udcff"),
    ],
)
def test_dropped_file_stays_in_the_folder(
    tmp_path: Path, name: bytes, stored: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "deep" / "down"
    folder.mkdir(parents=True)
    serve_one(folder, name + b"\0content\0")
    assert [path.name for path in folder.iterdir()] == [stored]
    assert capsys.readouterr().out.isascii()
    assert (folder / stored).read_bytes() == b"content\0"
    assert list(tmp_path.iterdir()) == [tmp_path / "deep"]


def test_dropped_file_overwrites_nothing(tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        serve_one(tmp_path, b"a\0" + content)
    assert (tmp_path / "a").read_bytes() == b"first"
    assert (tmp_path / "1-a").read_bytes() == b"second"
