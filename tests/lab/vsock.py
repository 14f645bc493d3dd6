"""Whether this machine reaches itself over vsock."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Final

LOOPBACK: Final = 1
"""The CID by which a machine reaches itself (vsock(7), VMADDR_CID_LOCAL)."""
_MODULE: Final = Path("/sys/module/vsock_loopback")


def reaches_itself() -> bool:
    """Whether the kernel has the module that connects a machine to itself. Without it callers wait in vain."""
    try:
        # The first socket of the family loads the modules that there are for it.
        socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()
    except OSError:
        return False
    return _MODULE.exists()
