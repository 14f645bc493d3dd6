"""Drop files into a folder of another node.

    python examples/file_drop.py serve FOLDER            on the one side
    python examples/file_drop.py drop ADDRESS FILE...    on the other

A message is the file's name, a zero byte, and the content. Nothing that exists is overwritten, and no file lands
outside the folder.
"""

import argparse
import os
import sys
from pathlib import Path

from septate.client import MessageState, Node

TOPIC = b"example/files"
DELIVERY_S = 300
"""How long a node tries to deliver a message."""


def serve(node: Node, folder: Path) -> None:
    """Writes every file that arrives into `folder`, for ever."""
    for message in node.messages(topic=TOPIC):
        name, _, content = message.payload.partition(b"\0")
        # The name comes from somebody else: only its last part counts, and it may not be hidden.
        wanted = Path(os.fsdecode(name)).name.lstrip(".") or "unnamed"
        stored = store(folder, wanted, content)
        print(f"{len(content)} bytes from {message.source}: {str(stored)!r}", flush=True)


def store(folder: Path, name: str, content: bytes) -> Path:
    """Writes a new file, under another name if this one is taken; returns where."""
    for number in range(1000):
        path = folder / (f"{number}-{name}" if number else name)
        try:
            with path.open("xb") as file:
                file.write(content)
        except FileExistsError:
            continue
        return path
    raise FileExistsError(f"{folder / name}, and a thousand others like it")


def drop(node: Node, address: str, files: list[Path]) -> int:
    """Sends the files, and says of each what became of it; returns how many did not arrive."""
    sent = {path: node.send(address, os.fsencode(path.name) + b"\0" + path.read_bytes(), topic=TOPIC) for path in files}
    lost = 0
    for path, message_id in sent.items():
        state = node.wait(message_id, timeout_s=DELIVERY_S).state
        print(f"{path}: {state.value}", flush=True)
        lost += state not in (MessageState.RECEIVED, MessageState.READ)
    return lost


def main() -> int:
    """The command line; exit code 1 when a file did not arrive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--api", default="127.0.0.1:8989", help="HTTP API of this node")
    kinds = parser.add_subparsers(dest="kind", required=True)
    kinds.add_parser("serve").add_argument("folder", type=Path)
    dropping = kinds.add_parser("drop")
    dropping.add_argument("address")
    dropping.add_argument("files", type=Path, nargs="+")
    given = parser.parse_args()
    node = Node(given.api)
    if given.kind == "drop":
        return 1 if drop(node, given.address, given.files) else 0
    serve(node, given.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
