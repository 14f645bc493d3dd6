"""A place for an unprivileged caller: a user namespace in which it is root, with a /run of its own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

_ENTERED: Final = "SEPTATE_LAB_SANDBOX"


def enter_if_unprivileged(module: str, arguments: Sequence[str]) -> None:
    """Runs `python -m module arguments` again as root of new user, network and mount namespaces, unless root already.

    Returns when the caller is root, and when `unshare` is missing: then `namespaces.available` says what is needed.
    Network namespaces are named by files in /run/netns, which belongs to the real root: hence the fresh /run.
    """
    if os.geteuid() == 0 or os.environ.get(_ENTERED) or shutil.which("unshare") is None:
        return
    inner = 'mount -t tmpfs tmpfs /run && exec "$@"'
    command = ["unshare", "-Urnm", "sh", "-c", inner, "sh", sys.executable, "-m", module, *arguments]
    sys.exit(subprocess.run(command, env={**os.environ, _ENTERED: "1"}, check=False).returncode)
