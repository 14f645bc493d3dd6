"""What a process may do: Linux's per-process rights, given up before the first foreign byte is read.

Everything here is for the calling thread and its future children, so it runs before ZeroMQ starts its threads.
Sources: prctl(2), capset(2), close_range(2), landlock(7).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import struct
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_CAPABILITY_VERSION_3: Final = 0x20080522
_LAST_CAPABILITY: Final = 63
CAP_NET_ADMIN: Final = 12

_SYS_LANDLOCK_CREATE_RULESET: Final = 444
_SYS_LANDLOCK_ADD_RULE: Final = 445
_SYS_LANDLOCK_RESTRICT_SELF: Final = 446
_LANDLOCK_CREATE_RULESET_VERSION: Final = 1
_LANDLOCK_RULE_PATH_BENEATH: Final = 1

_FS_EXECUTE: Final = 1 << 0
_FS_READ_FILE: Final = 1 << 2
_FS_READ_DIR: Final = 1 << 3
_FS_READ: Final = _FS_EXECUTE | _FS_READ_FILE | _FS_READ_DIR
_FS_BITS_BY_ABI: Final = {1: 13, 2: 14, 3: 15, 4: 15}
_FS_BITS_NEWEST: Final = 16
_NET_TCP: Final = 0b11
_NET_ABI: Final = 4
_SCOPE_ABSTRACT_SOCKET_AND_SIGNAL: Final = 0b11
_SCOPE_ABI: Final = 6

_PACKAGE_FOLDERS: Final = frozenset({"site-packages", "dist-packages"})

_libc = ctypes.CDLL(None, use_errno=True)


class ConfineError(OSError):
    """A right could not be given up."""


def die_with_parent(parent: int) -> None:
    """Makes the kernel kill this process when process `parent` ends; exits at once if it already has."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def close_all_but(keep: Iterable[int]) -> None:
    """Closes every descriptor except the standard three and `keep`.

    A copy of a sibling's socket would keep the connection of a dead process open.
    """
    low = 3
    for descriptor in sorted({number for number in keep if number >= low}):
        if descriptor > low:
            os.closerange(low, descriptor)
        low = descriptor + 1
    os.closerange(low, resource.getrlimit(resource.RLIMIT_NOFILE)[0] if low > 65536 else 65536)


def no_core_dump() -> None:
    """No core file, so that nothing this process knows reaches a disk."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def not_dumpable() -> None:
    """No sibling of the same user may attach to this process or read its memory."""
    _prctl(_PR_SET_DUMPABLE, 0)


def drop_capabilities() -> None:
    """Gives up every capability, for good."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    with contextlib.suppress(ConfineError):
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    for capability in range(_LAST_CAPABILITY + 1):
        try:
            _prctl(_PR_CAPBSET_DROP, capability)
        except ConfineError:
            # Either the kernel knows no more of them, or we never had the right to shrink the bounding set.
            break
    header = struct.pack("<Ii", _CAPABILITY_VERSION_3, 0)
    if _libc.capset(header, bytes(24)) != 0:
        raise ConfineError(ctypes.get_errno(), "cannot give up capabilities")


def has_capability(number: int) -> bool:
    """Whether this process holds a capability in its effective set."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


@dataclass(frozen=True, slots=True)
class FileRights:
    """The files that a process may still reach."""

    read: tuple[Path, ...] = ()
    """Trees it may read."""
    write: tuple[Path, ...] = ()
    """Trees in which it may do anything."""
    connect_tcp: bool = False
    """Whether it may still bind or connect TCP sockets of its own."""


def python_trees() -> tuple[Path, ...]:
    """What a Python process needs to read to import modules late."""
    candidates = {sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib"), "/usr/lib", "/usr/share/zoneinfo", "/lib"}
    candidates |= {"/lib64", "/proc", "/sys/devices/system/cpu", "/dev/urandom", "/dev/null"}
    # Of /etc what libraries look up and no more: somebody may keep a key file there.
    candidates |= {f"/etc/{name}" for name in ("ld.so.cache", "localtime", "mime.types", "nsswitch.conf", "hosts")}
    candidates |= {entry for entry in sys.path if _is_installed(Path(entry))}
    return tuple(sorted(Path(name) for name in candidates if Path(name).exists()))


def _is_installed(folder: Path) -> bool:
    """Whether a folder of modules belongs to an installation.

    `python -m` puts the working directory on the path, and a variable whatever somebody likes: there a key may lie.
    """
    if not folder.is_absolute():
        return False
    prefixes = (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix)
    return not _PACKAGE_FOLDERS.isdisjoint(folder.parts) or any(folder.is_relative_to(prefix) for prefix in prefixes)


def landlock_abi() -> int:
    """The version of Landlock in this kernel, 0 where there is none."""
    version = _libc.syscall(_SYS_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_CREATE_RULESET_VERSION)
    return max(0, int(version))


def restrict_files(rights: FileRights) -> bool:
    """Leaves this process nothing but `rights`; returns whether the kernel can do that."""
    abi = landlock_abi()
    if abi == 0:
        return False
    handled = (1 << _FS_BITS_BY_ABI.get(abi, _FS_BITS_NEWEST)) - 1
    net = 0 if rights.connect_tcp or abi < _NET_ABI else _NET_TCP
    scoped = _SCOPE_ABSTRACT_SOCKET_AND_SIGNAL if abi >= _SCOPE_ABI else 0
    attributes = struct.pack("<QQQ", handled, net, scoped)
    size = 24 if abi >= _SCOPE_ABI else 16 if abi >= _NET_ABI else 8
    ruleset = _libc.syscall(_SYS_LANDLOCK_CREATE_RULESET, attributes, size, 0)
    if ruleset < 0:
        raise ConfineError(ctypes.get_errno(), "cannot create a Landlock ruleset")
    try:
        for trees, access in ((rights.read, _FS_READ), (rights.write, handled)):
            for tree in trees:
                _allow(ruleset, tree, access)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        if _libc.syscall(_SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0) != 0:
            raise ConfineError(ctypes.get_errno(), "cannot enforce the Landlock ruleset")
    finally:
        os.close(ruleset)
    return True


def _allow(ruleset: int, tree: Path, access: int) -> None:
    try:
        descriptor = os.open(tree, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not tree.is_dir():
            # On a file only the file rights are defined; the others make the kernel refuse the rule.
            access &= _FS_EXECUTE | _FS_READ_FILE | (1 << 1)
        rule = struct.pack("<Qi", access, descriptor)
        if _libc.syscall(_SYS_LANDLOCK_ADD_RULE, ruleset, _LANDLOCK_RULE_PATH_BENEATH, rule, 0) != 0:
            raise ConfineError(ctypes.get_errno(), f"cannot allow {tree} in the Landlock ruleset")
    finally:
        os.close(descriptor)


def _prctl(option: int, *arguments: int) -> None:
    values = [ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:4]]
    if _libc.prctl(option, *values) != 0:
        raise ConfineError(ctypes.get_errno(), f"prctl({option}) is refused: {os.strerror(ctypes.get_errno())}")
