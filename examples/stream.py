"""A consumer of the message stream that deals with each message once, whatever is killed and restarted.

    python examples/stream.py /run/septate/main done.sqlite [TOPIC]

Prints each message, and keeps in `done.sqlite` which it has dealt with: a message comes until it is acknowledged, and
may come again when this program or the node dies in between. The node's runtime folder is the first argument.
"""

import sqlite3
import sys
from pathlib import Path

import msgpack
import zmq


def consume(run: Path, done: sqlite3.Connection, topic: bytes | None) -> None:
    """Deals with messages, for ever."""
    done.execute("CREATE TABLE IF NOT EXISTS done (uid BLOB PRIMARY KEY) WITHOUT ROWID")
    stream = zmq.Context().socket(zmq.DEALER)
    # Each new connection, the first one too, begins with an empty word of ours, and `welcome` answers it.
    stream.immediate = stream.probe_router = 1
    stream.connect(f"ipc://{run / 'messagebox.stream'}")
    while True:
        word = msgpack.unpackb(stream.recv())
        match word["word"]:
            case "welcome":
                stream.send(msgpack.packb({"word": "subscribe", "topic": topic}))
            case "message":
                with done:
                    # What is done and that it is done belong into one transaction.
                    new = done.execute("INSERT OR IGNORE INTO done VALUES (?)", (word["uid"],)).rowcount
                    if new:
                        print(word["source"].hex(), word["data"].decode(errors="replace"), flush=True)
                stream.send(msgpack.packb({"word": "acknowledge", "uid": word["uid"]}))
            case "acknowledged":
                with done:
                    done.execute("DELETE FROM done WHERE uid = ?", (word["uid"],))
            case "refused":
                sys.exit(word["reason"])


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    consume(Path(sys.argv[1]), sqlite3.connect(sys.argv[2]), sys.argv[3].encode() if len(sys.argv) == 4 else None)
