"""Chat with another node, line by line: `python examples/chat.py ADDRESS`, on both sides. Ends with the input."""

import argparse
import sys
import threading

from septate.client import ApiError, Node

TOPIC = b"example/chat"


def show_what_arrives(node: Node) -> None:
    """Prints every message of the topic, until the program ends."""
    for message in node.messages(topic=TOPIC):
        # It comes from somebody else, and goes to a terminal.
        text = "".join(letter if letter.isprintable() else "?" for letter in message.payload.decode(errors="replace"))
        print(f"<{message.source}> {text}", flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address", help="overlay address, or public key, of the other node")
    parser.add_argument("--api", default="127.0.0.1:8989", help="HTTP API of this node")
    given = parser.parse_args()
    node = Node(given.api)
    threading.Thread(target=show_what_arrives, args=(node,), daemon=True).start()
    for line in sys.stdin:
        try:
            node.send(given.address, line.rstrip("\n").encode(), topic=TOPIC)
        except ApiError as error:
            print(f"not sent: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
