"""What the manual says beside the commands: exit codes, files, environment, examples."""

from __future__ import annotations

from typing import Final

DESCRIPTION: Final = (
    "Without a command, septate runs a node of the Mycelium overlay network until SIGTERM or SIGINT. With one, it "
    "talks to a node that runs, or looks at a key, and exits.",
    "Results go to standard output, log lines and errors to standard error. The commands for peers, routes, proxies, "
    "statistics and messages use the HTTP API of the node and need no privilege. The commands actors and tap use its "
    "runtime folder, which only the user who runs the node, and root, may enter.",
)

OPTIONS_NOTE: Final = (
    "`-k`, `-c` and `--help` may stand anywhere, the others before a command. `--opt=value` and `-kVALUE` work, "
    "abbreviations don't, and an option may be given once unless it says otherwise."
)

EXIT_CODES: Final = (
    (
        "0",
        "done; help; version; node stopped by a signal; `generate-keys` kept an existing key; no message, or no reply, "
        "came in time",
    ),
    ("1", "an error, told in one line `Error: …` on standard error"),
    ("2", "the command line was not understood"),
)

FILES: Final = (
    ("$XDG_CONFIG_HOME/mycelium/mycelium.toml", "configuration; may be missing unless it is named"),
    ("$XDG_DATA_HOME/mycelium/priv_key.bin", "secret key, 32 bytes; made when a node starts without one"),
    ("/run/septate, $XDG_RUNTIME_DIR/septate", "runtime folders of the nodes of root, and of other users"),
)

ENVIRONMENT: Final = (
    ("HOME, XDG_CONFIG_HOME, XDG_DATA_HOME", "default places of the files"),
    ("XDG_RUNTIME_DIR", "holds the runtime folder, except for root (`/run/septate`)"),
    ("RUST_LOG", "if not empty, replaces the log level; one level counts for the whole node"),
    ("NO_COLOR", "if not empty, no colours"),
)

EXAMPLES: Final = (
    ("Run a node that dials one neighbour", "septate --peers tcp://192.0.2.10:9651"),
    ("Who this is", "septate inspect -k /var/lib/septate/key.bin"),
    ("Whom it knows", "septate peers list"),
    ("Send a line, and wait for the reply", "septate message send --wait --timeout 30 5ea:4578::1 'are you there?'"),
    ("Send a file", "septate message send --msg-path photo.jpg --topic photos 5ea:4578::1"),
    ("Receive it", "septate message receive --topic photos --msg-path photo.jpg"),
    ("Look at packets as they pass", "septate tap --match 5ea:4578::/64"),
)
