"""Nodes of three kinds in namespaces: Septate, Mycelium and Yggdrasil, started, asked and stopped in the same way."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from actors.runtime.asking import runtime_root
from tests.lab.api import Api, ask_admin_socket
from tests.lab.namespaces import Lab, LabError, Namespace, stop_process
from tests.lab.waiting import WaitError, wait_until

LISTEN_PORT: Final = 9651
API_PORT: Final = 8989
TUN_NAME: Final = "overlay0"
START_TIMEOUT: Final = 40.0
LOG_TAIL_LINES: Final = 25


class Node(ABC):
    """One node: a program in a namespace, with its own key, log file and overlay address."""

    kind: ClassVar[str]

    def __init__(
        self,
        lab: Lab,
        namespace: Namespace,
        *,
        peers: Sequence[str] = (),
        options: Sequence[str] = (),
        program: str | None = None,
    ) -> None:
        missing = self.missing()
        if program is None and missing is not None:
            raise LabError(missing)
        self.lab = lab
        self.namespace = namespace
        self.peers = tuple(peers)
        self.options = tuple(options)
        self.name = f"{namespace.label}-{secrets.token_hex(2)}"
        self.folder = lab.folder / self.name
        self.folder.mkdir()
        self.log_path = self.folder / "log"
        self.key_path = self.folder / "key"
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self._address: str | None = None
        self.write_key()
        # The last to be named is the first to be done.
        lab.on_exit(self.clean_up)
        lab.on_exit(self.stop)

    @classmethod
    @abstractmethod
    def find_program(cls) -> str | None:
        """The path of the program, or None when it isn't here."""

    @classmethod
    @abstractmethod
    def missing(cls) -> str | None:
        """Says how to get the program when it isn't here, else None."""

    @abstractmethod
    def write_key(self) -> None:
        """Makes the node's key, which stays the same when it is started again."""

    @abstractmethod
    def command(self) -> list[str]:
        """The command line."""

    @abstractmethod
    def ask_address(self) -> str | None:
        """The overlay address as the running node tells it, None when it doesn't yet."""

    @abstractmethod
    def count_links(self) -> int:
        """How many peer links are up, 0 when the node doesn't answer."""

    @abstractmethod
    def add_peer(self, endpoint: str) -> None:
        """Tells the running node to dial `endpoint`. Raises LabError when it refuses."""

    @property
    def program(self) -> str:
        """The path of the program."""
        found = self._program or self.find_program()
        assert found is not None
        return found

    @property
    def process_id(self) -> int:
        """The process that was started; it may have children."""
        if self._process is None:
            raise LabError(f"{self} does not run")
        return self._process.pid

    @property
    def address(self) -> str:
        """The overlay address."""
        if self._address is None:
            self.wait_until_up()
        assert self._address is not None
        return self._address

    def endpoint(self, underlay_address: str) -> str:
        """Where others dial this node, `underlay_address` being one of its namespace's."""
        return f"tcp://{underlay_address}:{LISTEN_PORT}"

    def start(self) -> Self:
        """Starts the node. It is not up yet when this returns."""
        if self._process is not None:
            raise LabError(f"{self} runs already")
        with self.log_path.open("ab") as log:
            self._process = self.namespace.start(self.command(), output=log, errors=subprocess.STDOUT)
        return self

    def wait_until_up(self, timeout: float = START_TIMEOUT) -> str:
        """Waits until the node tells its overlay address; returns it. Raises LabError with its log when it doesn't."""

        def probe() -> str | None:
            if self._process is None or self._process.poll() is not None:
                raise LabError(f"{self} ended with {self._process and self._process.returncode}\n{self.log_tail()}")
            return self.ask_address()

        self._address = self._wait("telling its address", probe, timeout)
        return self._address

    def wait_for_links(self, count: int, timeout: float = START_TIMEOUT) -> None:
        """Waits until at least `count` peer links are up."""
        self._wait(f"{count} links up", lambda: self.count_links() >= count, timeout)

    def stop(self) -> int | None:
        """Ends the node by SIGTERM and returns its exit code, None when it didn't run."""
        process, self._process = self._process, None
        return None if process is None else stop_process(process)

    def kill(self) -> None:
        """Ends the node by SIGKILL."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def clean_up(self) -> None:
        """Removes what a node that was killed has left outside the laboratory's folder; here nothing."""
        return

    def log_tail(self) -> str:
        """The last lines of the log."""
        lines = self.log_path.read_text(errors="replace").splitlines() if self.log_path.exists() else []
        return "\n".join(lines[-LOG_TAIL_LINES:])

    def _wait(self, what: str, probe: Any, timeout: float) -> Any:
        try:
            return wait_until(f"{self}: {what}", probe, timeout)
        except WaitError as error:
            raise LabError(f"{error}\n{self.log_tail()}") from error

    def __str__(self) -> str:
        return f"{self.kind} node {self.namespace.label}"


class _HttpNode(Node):
    """What Mycelium and its drop-in have in common: key file, options, HTTP API."""

    def __init__(
        self,
        lab: Lab,
        namespace: Namespace,
        *,
        peers: Sequence[str] = (),
        options: Sequence[str] = (),
        program: str | None = None,
    ) -> None:
        super().__init__(lab, namespace, peers=peers, options=options, program=program)
        self.api = Api(namespace, API_PORT)

    def write_key(self) -> None:
        """32 random bytes."""
        self.key_path.write_bytes(secrets.token_bytes(32))
        self.key_path.chmod(0o600)

    def command(self) -> list[str]:
        """The reference's options; discovery is off so that nodes meet only where a test says so."""
        peers = ["--peers", *self.peers] if self.peers else []
        return [
            self.program,
            *("-k", str(self.key_path), "--tun-name", TUN_NAME, "--api-addr", f"127.0.0.1:{API_PORT}"),
            "--disable-peer-discovery",
            *self.options,
            *peers,
        ]

    def ask_address(self) -> str | None:
        """From `/api/v1/admin`."""
        info = self.api.get("/api/v1/admin")
        return None if info is None else str(info["nodeIp"])

    def count_links(self) -> int:
        """The peers that are alive, from `/api/v1/admin/peers`."""
        peers = self.api.get("/api/v1/admin/peers") or []
        return sum(peer["connectionState"] == "alive" for peer in peers)

    def add_peer(self, endpoint: str) -> None:
        """By the API."""
        status, body = self.api.request("POST", "/api/v1/admin/peers", {"endpoint": endpoint})
        if status >= 300:
            raise LabError(f"{self}: cannot add {endpoint}: {status} {body.decode(errors='replace')}")


class MyceliumNode(_HttpNode):
    """A node of the reference implementation, from MYCELIUM_BIN."""

    kind = "Mycelium"

    @classmethod
    def find_program(cls) -> str | None:
        """MYCELIUM_BIN, when it names a program."""
        named = os.environ.get("MYCELIUM_BIN")
        return named if named and os.access(named, os.X_OK) else None

    @classmethod
    def missing(cls) -> str | None:
        """Names the variable."""
        if cls.find_program() is not None:
            return None
        return "no Mycelium: set MYCELIUM_BIN to the path of a Mycelium 0.7.10 program"


class PrivateMyceliumNode(_HttpNode):
    """A node of the reference's other program, which knows private networks, from MYCELIUM_PRIVATE_BIN."""

    kind = "private Mycelium"

    @classmethod
    def find_program(cls) -> str | None:
        """MYCELIUM_PRIVATE_BIN, when it names a program."""
        named = os.environ.get("MYCELIUM_PRIVATE_BIN")
        return named if named and os.access(named, os.X_OK) else None

    @classmethod
    def missing(cls) -> str | None:
        """Names the variable."""
        if cls.find_program() is not None:
            return None
        return "no private Mycelium: set MYCELIUM_PRIVATE_BIN to the path of a mycelium-private 0.7.10 program"


@dataclass(frozen=True, slots=True)
class Actor:
    """One process of a Septate node, as `septate actors --json` lists it."""

    name: str
    role: str
    title: str
    process_id: int
    restarts: int


class SeptateNode(_HttpNode):
    """A node of this repository."""

    kind = "Septate"

    @classmethod
    def find_program(cls) -> str | None:
        """The `septate` beside the running interpreter, as an installation puts it there."""
        beside = Path(sys.executable).with_name("septate")
        return str(beside) if os.access(beside, os.X_OK) else None

    @classmethod
    def missing(cls) -> str | None:
        """Names the way to install it."""
        return None if cls.find_program() is not None else "no Septate: run `pip install --editable .` first"

    @property
    def instance(self) -> str:
        """The name of the runtime folder."""
        return f"{self.lab.token}-{self.name}"

    def clean_up(self) -> None:
        """The runtime folder, which a supervisor that is killed leaves to the next one of its name."""
        shutil.rmtree(runtime_root() / self.instance, ignore_errors=True)

    def command(self) -> list[str]:
        """The reference's command line and an instance of its own."""
        reference = super().command()
        messages = str(self.folder / "messages")
        return [reference[0], "--instance", self.instance, "--message-dir", messages, *reference[1:]]

    def actors(self) -> list[Actor]:
        """The node's processes. Raises LabError when `septate actors` fails."""
        done = self.namespace.run([self.program, "actors", "--json", "--instance", self.instance])
        if done.returncode != 0:
            raise LabError(f"{self}: septate actors: {done.stderr.decode(errors='replace').strip()}")
        return [
            Actor(entry["name"], entry["role"], entry["title"], entry["pid"], entry["restarts"])
            for entry in json.loads(done.stdout)
        ]


class YggdrasilNode(Node):
    """A node of Yggdrasil 0.4, as Debian ships it."""

    kind = "Yggdrasil"

    @classmethod
    def find_program(cls) -> str | None:
        """Found on PATH or in the usual place of system programs."""
        return shutil.which("yggdrasil") or shutil.which("yggdrasil", path="/usr/sbin:/usr/local/sbin")

    @classmethod
    def missing(cls) -> str | None:
        """Names the package."""
        return None if cls.find_program() is not None else "no Yggdrasil: apt-get install yggdrasil"

    def write_key(self) -> None:
        """The configuration holds the key: 32 bytes of Ed25519 seed, then the public key, in hexadecimal."""
        key = Ed25519PrivateKey.generate()
        private_key = key.private_bytes_raw() + key.public_key().public_bytes_raw()
        configuration = {
            "Peers": list(self.peers),
            "Listen": [f"tcp://0.0.0.0:{LISTEN_PORT}"],
            "AdminListen": f"unix://{self._admin_path}",
            "MulticastInterfaces": [],
            "PrivateKey": private_key.hex(),
            "IfName": TUN_NAME,
        }
        self.key_path.write_text(json.dumps(configuration))
        self.key_path.chmod(0o600)

    @property
    def _admin_path(self) -> str:
        return str(self.folder / "admin.sock")

    def command(self) -> list[str]:
        """The configuration file says everything."""
        return [self.program, "-useconffile", str(self.key_path), *self.options]

    def ask_address(self) -> str | None:
        """From the admin socket's `getself`."""
        known = ask_admin_socket(self._admin_path, "getself")
        return None if known is None else str(known["address"])

    def count_links(self) -> int:
        """The entries of `getpeers`."""
        known = ask_admin_socket(self._admin_path, "getpeers")
        return 0 if known is None else len(known["peers"])

    def add_peer(self, endpoint: str) -> None:
        """By the admin socket."""
        if ask_admin_socket(self._admin_path, "addpeer", uri=endpoint) is None:
            raise LabError(f"{self}: cannot add {endpoint}")
