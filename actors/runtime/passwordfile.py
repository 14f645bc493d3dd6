"""The file with passwords at SOCKS5 proxies."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from protocol.logins import LoginError, Passwords, parse_passwords

MOST_BYTES: Final = 1 << 20


def read_passwords(path: Path | None) -> Passwords:
    """The passwords in the file at `path`; where they can't be had, each dial that needs one says why."""
    if path is None:
        return Passwords({})
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
            open_to_all = os.fstat(file.fileno()).st_mode & (stat.S_IROTH | stat.S_IWOTH)
        if len(content) > MOST_BYTES:
            return Passwords({}, f"{path} has more than {MOST_BYTES} bytes")
        remark = f"everybody may read {path}; make that harder: chmod o-rwx" if open_to_all else ""
        return Passwords(parse_passwords(content.decode()), remark=remark)
    except OSError as error:
        return Passwords({}, f"cannot read {path}: {error.strerror}")
    except UnicodeDecodeError:
        return Passwords({}, f"{path} is not UTF-8")
    except LoginError as error:
        return Passwords({}, f"{path}: {error}")
