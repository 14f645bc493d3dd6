"""Says whether this user may make a TUN device, and if not, what is missing: `python -m septate.rights`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from actors.runtime.confine import CAP_NET_ADMIN, has_capability

DEVICE: Final = Path("/dev/net/tun")


def missing() -> str:
    """What is missing, for people; empty where nothing is."""
    if not DEVICE.exists():
        return f"there is no {DEVICE} (modprobe tun)"
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return f"{DEVICE} may not be opened by this user"
    if not has_capability(CAP_NET_ADMIN):
        return "CAP_NET_ADMIN is needed (run it as root, or under the systemd unit)"
    return ""


def main() -> int:
    """Exit code 0 where a TUN device can be made; else 1 and one line."""
    reason = missing()
    if reason:
        sys.stderr.write(f"no TUN device: {reason}; running with --no-tun, which relays and answers for its key\n")
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main())
