"""A service that answers requests of other nodes; this one counts words.

    python examples/service.py serve                     on the one side
    python examples/service.py ask ADDRESS 'some text'   on the other

Several workers wait side by side: each message goes to one of them.
"""

import argparse
import json
import sys
import threading
import uuid
from collections import Counter

from septate.client import Node, NoReplyError, UnreachableError

TOPIC = b"example/words"
WORKERS = 4
REPLY_S = 20
ATTEMPTS = 3


def work(node: Node) -> None:
    """Answers one request after the other, for ever."""
    for message in node.messages(topic=TOPIC):
        words = Counter(message.payload.decode(errors="replace").split())
        node.reply(message, json.dumps(words.most_common()).encode())


def ask(node: Node, address: str, text: str) -> str:
    """The answer of the service at `address`. Raises `NoReplyError` when there is none."""
    # Whatever becomes of a call, repeating it with the same key sends the request once.
    key = str(uuid.uuid4())
    for _ in range(ATTEMPTS - 1):
        try:
            return _request(node, address, text, key)
        except UnreachableError as error:
            print(f"again, because {error}", file=sys.stderr)
    return _request(node, address, text, key)


def _request(node: Node, address: str, text: str, key: str) -> str:
    return node.request(address, text.encode(), timeout_s=REPLY_S, topic=TOPIC, idempotency_key=key).payload.decode()


def main() -> int:
    """The command line; exit code 1 without an answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--api", default="127.0.0.1:8989", help="HTTP API of this node")
    kinds = parser.add_subparsers(dest="kind", required=True)
    kinds.add_parser("serve")
    asking = kinds.add_parser("ask")
    asking.add_argument("address")
    asking.add_argument("text")
    given = parser.parse_args()
    node = Node(given.api)
    if given.kind == "ask":
        try:
            print(ask(node, given.address, given.text))
        except NoReplyError as error:
            print(error, file=sys.stderr)
            return 1
        return 0
    for _ in range(WORKERS - 1):
        threading.Thread(target=work, args=(node,), daemon=True).start()
    work(node)
    return 0


if __name__ == "__main__":
    sys.exit(main())
