"""Network namespaces with unique names, joined by veth pairs, and everything that runs in them, cleaned up in the end.

A `Lab` is a context manager: it makes namespaces, wires and programs, and leaves none of them behind. It touches
nothing that it did not make.
"""

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

REPOSITORY: Final = Path(__file__).resolve().parents[2]
NAMESPACE_FOLDER: Final = Path("/run/netns")
TUN_DEVICE: Final = Path("/dev/net/tun")
STOP_TIMEOUT: Final = 10.0

_CLONE_NEWNET: Final = 0x40000000
_PR_SET_PDEATHSIG: Final = 1
_libc: Final = ctypes.CDLL(None, use_errno=True)


class LabError(Exception):
    """The laboratory could not be built or a program in it did not do what it is there for."""


def available() -> str | None:
    """Says what is missing for a laboratory with TUN devices, or None when nothing is."""
    if sys.platform != "linux":
        return f"network namespaces need Linux, this is {sys.platform}"
    if shutil.which("ip") is None:
        return "the program `ip` is missing; install iproute2"
    if os.geteuid() != 0:
        return "making network namespaces needs root; run as root or under `unshare -Urnm`"
    if not TUN_DEVICE.exists():
        return f"{TUN_DEVICE} does not exist; load the tun module"
    try:
        os.close(os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"cannot open {TUN_DEVICE}: {error.strerror}"
    return _refusal_of_namespaces()


def _refusal_of_namespaces() -> str | None:
    name = f"septate-probe-{os.getpid()}-{secrets.token_hex(3)}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return f"cannot make a network namespace: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
    return None


def _end_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def run_ip(*arguments: str) -> None:
    """Runs `ip` with `arguments`; raises LabError with its words when it refuses."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


@dataclass(frozen=True, slots=True)
class Namespace:
    """One network namespace, named `name` for `ip` and `label` for people."""

    name: str
    label: str
    started: "list[subprocess.Popen[bytes]]" = field(default_factory=list, repr=False, compare=False)
    etc: dict[str, Path] = field(default_factory=dict, repr=False, compare=False)
    """Files that programs which are started from now on see in /etc, by name."""

    def ip(self, *arguments: str) -> None:
        """Runs `ip` inside the namespace."""
        run_ip("-n", self.name, *arguments)

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The command line that runs `arguments` inside; the process id stays that of what was started."""
        if self.etc:
            # `ip netns exec` gives each program mounts of its own.
            mounts = " && ".join(f"mount --bind {file} /etc/{name}" for name, file in self.etc.items())
            arguments = ["sh", "-c", f'{mounts} && exec "$@"', "sh", *arguments]
        return ["ip", "netns", "exec", self.name, *arguments]

    def start(
        self,
        arguments: Sequence[str],
        *,
        output: int | IO[bytes] = subprocess.PIPE,
        errors: int | IO[bytes] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Starts a program inside; it ends with the laboratory, or is killed when this process dies."""
        process = subprocess.Popen(
            self.command(arguments),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            cwd=REPOSITORY,
            env=dict(os.environ if environment is None else environment),
            bufsize=0,
            preexec_fn=_end_with_parent,
        )
        self.started.append(process)
        return process

    def start_tool(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Starts one of the laboratory's own tools, `python -m module arguments`, its output in a pipe."""
        return self.start([sys.executable, "-m", module, *arguments])

    def run(self, arguments: Sequence[str], timeout: float = 30.0) -> subprocess.CompletedProcess[bytes]:
        """Runs a program inside to its end, output and errors captured; its exit code is for the caller to judge."""
        return subprocess.run(
            self.command(arguments), stdin=subprocess.DEVNULL, capture_output=True, cwd=REPOSITORY, timeout=timeout
        )

    def socket(self, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
        """A socket of this process that belongs to the namespace.

        A socket stays in the namespace in which it was made, and a namespace is entered per thread: so a thread goes
        in, makes the socket, and ends there.
        """

        def make() -> socket.socket:
            descriptor = os.open(NAMESPACE_FOLDER / self.name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
                    raise LabError(f"cannot enter namespace {self.name}: {os.strerror(ctypes.get_errno())}")
            finally:
                os.close(descriptor)
            return socket.socket(family, kind)

        with ThreadPoolExecutor(max_workers=1) as visitor:
            return visitor.submit(make).result()


@dataclass(frozen=True, slots=True)
class Wire:
    """A veth pair between two namespaces, with a private IPv4 /24 of its own.

    `left_addresses` and `right_addresses` hold one address or more at each end; several let one neighbour be dialled
    several times.
    """

    left: Namespace
    right: Namespace
    left_device: str
    right_device: str
    left_addresses: tuple[str, ...]
    right_addresses: tuple[str, ...]

    @property
    def left_address(self) -> str:
        """The first address of the left end."""
        return self.left_addresses[0]

    @property
    def right_address(self) -> str:
        """The first address of the right end."""
        return self.right_addresses[0]

    def cut(self) -> None:
        """Takes the wire down, as if somebody had pulled it out."""
        self.left.ip("link", "set", self.left_device, "down")

    def mend(self) -> None:
        """Puts the wire back."""
        self.left.ip("link", "set", self.left_device, "up")


@dataclass(frozen=True, slots=True)
class Switch:
    """A bridge in a namespace of its own: who is plugged in hears everybody else, and unplugged keeps his carrier."""

    namespace: Namespace
    number: int
    plugged: "list[Namespace]" = field(default_factory=list)
    most: "list[int]" = field(default_factory=list)
    """Bytes of the largest IP packet that gets through; the last counts."""

    def device(self) -> str:
        """The name of the interface in every namespace that is plugged in."""
        return f"lan{self.number}"

    def join(self, namespace: Namespace) -> str:
        """Plugs a namespace in; returns its IPv4 address there."""
        self.plugged.append(namespace)
        address = f"10.78.{self.number}.{len(self.plugged)}"
        run_ip(
            *("link", "add", self._port(namespace), "netns", self.namespace.name, "type", "veth"),
            *("peer", "name", self.device(), "netns", namespace.name),
        )
        self.namespace.ip("link", "set", self._port(namespace), "master", "switch", "up")
        namespace.ip("address", "add", f"{address}/24", "dev", self.device())
        namespace.ip("link", "set", self.device(), "up")
        if self.most:
            self._narrow(namespace)
        return address

    def unplug(self, namespace: Namespace) -> None:
        """From now on nothing gets through, and nobody is told."""
        self.namespace.ip("link", "set", self._port(namespace), "nomaster")

    def plug(self, namespace: Namespace) -> None:
        """Takes it back."""
        self.namespace.ip("link", "set", self._port(namespace), "master", "switch")

    def carry_at_most(self, octets: int) -> None:
        """Larger packets are swallowed, and nobody is told: whoever is plugged in, now or later, has an MTU of 1500."""
        self.most.append(octets)
        for namespace in self.plugged:
            self._narrow(namespace)

    def _narrow(self, namespace: Namespace) -> None:
        # What the kernel segments only where it arrives would get through in one piece.
        namespace.ip("link", "set", self.device(), "gso_max_segs", "1")
        self.namespace.ip("link", "set", self._port(namespace), "mtu", str(self.most[-1]))

    def _port(self, namespace: Namespace) -> str:
        return f"port{self.plugged.index(namespace)}"


@dataclass(slots=True)
class Lab:
    """Namespaces, wires, a scratch folder and running programs, all gone when the context ends."""

    token: str = field(default_factory=lambda: secrets.token_hex(3))
    folder: Path = field(init=False)
    _wires: int = 0
    _cleanup: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __enter__(self) -> Self:
        missing = available()
        if missing is not None:
            raise LabError(missing)
        self.folder = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="lab-")))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()

    def on_exit(self, action: Callable[[], object]) -> None:
        """Has `action` called at the end, before what was made earlier goes away."""
        self._cleanup.callback(action)

    def namespace(self, label: str) -> Namespace:
        """Makes a namespace with its loopback up."""
        namespace = Namespace(f"septate-{self.token}-{label}", label)
        run_ip("netns", "add", namespace.name)
        self._cleanup.callback(run_ip, "netns", "delete", namespace.name)
        self._cleanup.callback(_stop_all, namespace.started)
        namespace.ip("link", "set", "lo", "up")
        return namespace

    def switch(self) -> Switch:
        """Makes a bridge that namespaces can be plugged into."""
        number = self._wires
        self._wires += 1
        switch = Switch(self.namespace(f"switch{number}"), number)
        switch.namespace.ip("link", "add", "switch", "type", "bridge", "forward_delay", "0")
        switch.namespace.ip("link", "set", "switch", "up")
        return switch

    def wire(self, left: Namespace, right: Namespace, addresses: int = 1) -> Wire:
        """Joins two namespaces by a veth pair with `addresses` (1..99) IPv4 addresses at each end."""
        if not 1 <= addresses <= 99:
            raise LabError(f"{addresses} addresses on a wire: give 1 to 99")
        number = self._wires
        self._wires += 1
        wire = Wire(
            left,
            right,
            f"wire{number}",
            f"wire{number}",
            tuple(f"10.77.{number}.{host}" for host in range(101, 101 + addresses)),
            tuple(f"10.77.{number}.{host}" for host in range(1, 1 + addresses)),
        )
        run_ip(
            *("link", "add", wire.left_device, "netns", left.name, "type", "veth"),
            *("peer", "name", wire.right_device, "netns", right.name),
        )
        for namespace, device, own in (
            (left, wire.left_device, wire.left_addresses),
            (right, wire.right_device, wire.right_addresses),
        ):
            for address in own:
                namespace.ip("address", "add", f"{address}/24", "dev", device)
            namespace.ip("link", "set", device, "up")
        return wire


def _stop_all(processes: "list[subprocess.Popen[bytes]]") -> None:
    for process in reversed(processes):
        stop_process(process)


def stop_process(process: subprocess.Popen[bytes], timeout: float = STOP_TIMEOUT) -> int:
    """Ends a program by SIGTERM, or by SIGKILL after `timeout` seconds, closes its pipes, returns its exit code."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    return process.returncode
