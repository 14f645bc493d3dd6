"""Starting where something is wrong, running without a device, and ending without a trace."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import pytest

from actors.runtime.asking import runtime_root
from bench.accounting import parent_of, tree_of
from tests.lab.icmpv6 import TIME_EXCEEDED
from tests.lab.namespaces import Lab, Namespace
from tests.lab.nodes import API_PORT, LISTEN_PORT, TUN_NAME, SeptateNode
from tests.lab.trace import trace
from tests.lab.waiting import wait_until
from tests.namespaces.networks import build_line
from tests.namespaces.raw_peer import RawPeer
from tests.namespaces.test_icmp import subnet_address

pytestmark = pytest.mark.namespaces

RUN_TIMEOUT: Final = 20.0
STOP_SECONDS: Final = 2.0
ORPHAN_SECONDS: Final = 1.0
WITHOUT_NET_ADMIN: Final = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")


@pytest.fixture
def place(lab: Lab) -> Namespace:
    return lab.namespace("here")


def run_septate(
    lab: Lab, place: Namespace, *options: str, before: Sequence[str] = (), key: bytes = bytes(range(32))
) -> subprocess.CompletedProcess[str]:
    """Runs a node that is expected to end by itself; returns its exit code and what it said on standard error."""
    key_file = lab.folder / "key"
    key_file.write_bytes(key)
    program = SeptateNode.find_program()
    assert program is not None
    arguments = [*before, program, "--instance", f"{lab.token}-start", "--tun-name", TUN_NAME, "-k", str(key_file)]
    done = place.run([*arguments, *options], timeout=RUN_TIMEOUT)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def error_lines(text: str) -> list[str]:
    """The lines that tell of an error, in a log or on a terminal."""
    return [line for line in text.splitlines() if "ERROR" in line or line.startswith("Error: ")]


# --- what ends a start ------------------------------------------------------------------------------------------------


def test_short_key_file_is_an_error_that_names_it(lab: Lab, place: Namespace) -> None:
    done = run_septate(lab, place, key=b"too short")
    (line,) = error_lines(done.stderr)
    assert done.returncode == 1
    assert str(lab.folder / "key") in line


def test_unknown_option_is_a_usage_error(lab: Lab, place: Namespace) -> None:
    done = run_septate(lab, place, "--no-such-option")
    assert done.returncode == 2
    assert "--no-such-option" in done.stderr


def test_malformed_endpoint_is_a_usage_error_that_names_it(lab: Lab, place: Namespace) -> None:
    done = run_septate(lab, place, "--peers", "tcp://example.org:9651")
    assert done.returncode == 2
    assert "tcp://example.org:9651" in done.stderr


def test_configuration_value_of_a_wrong_type_is_an_error_that_names_file_and_key(lab: Lab, place: Namespace) -> None:
    file = lab.folder / "node.toml"
    file.write_text('peers = []\ntcp_listen_port = "many"\n')
    done = run_septate(lab, place, "--config-file", str(file))
    (line,) = error_lines(done.stderr)
    assert done.returncode == 1
    assert f"{file}: tcp_listen_port" in line


def test_device_name_in_use_is_an_error_that_names_the_option(lab: Lab, place: Namespace) -> None:
    SeptateNode(lab, place).start().wait_until_up()
    done = run_septate(lab, place, "-t", "9751", "--api-addr", "127.0.0.1:9089")
    (line,) = error_lines(done.stderr)
    assert done.returncode == 1
    assert f"TUN device {TUN_NAME}" in line
    assert "--tun-name" in line


def test_taken_port_of_quic_is_an_error_that_names_it_and_the_way_out(lab: Lab, place: Namespace) -> None:
    with place.socket(socket.AF_INET6, socket.SOCK_DGRAM) as other:
        other.bind(("::", LISTEN_PORT))
        done = run_septate(lab, place, "--no-tun")
        (line,) = error_lines(done.stderr)
        assert done.returncode == 1
        assert f"QUIC port {LISTEN_PORT} (UDP): Address already in use" in line
        assert "--disable-quic" in line


def test_missing_right_to_a_device_is_an_error_that_says_how_to_get_it(lab: Lab, place: Namespace) -> None:
    done = run_septate(lab, place, before=WITHOUT_NET_ADMIN)
    (line,) = error_lines(done.stderr)
    assert done.returncode == 1
    assert "CAP_NET_ADMIN" in line
    assert "--no-tun" in line


@pytest.mark.parametrize(("kind", "options"), [("full", "size=4k,nr_inodes=2"), ("read-only", "ro")])
def test_runtime_folder_that_takes_nothing_is_an_error_that_names_it(
    lab: Lab, place: Namespace, kind: str, options: str
) -> None:
    run_folder = lab.folder / "run"
    run_folder.mkdir()
    # `ip netns exec` gives each program a mount namespace of its own: this mount ends with it.
    script = f'mount -t tmpfs -o {options} tmpfs {run_folder} && RUNTIME_DIRECTORY={run_folder} exec "$@"'
    done = run_septate(lab, place, "--no-tun", before=("sh", "-c", script, "sh"))
    (line,) = error_lines(done.stderr)
    assert done.returncode == 1
    assert str(run_folder) in line


def test_second_node_of_one_instance_name_is_refused(lab: Lab, place: Namespace) -> None:
    node = SeptateNode(lab, place).start()
    node.wait_until_up()
    second = place.run([*node.command(), "--no-tun"], timeout=RUN_TIMEOUT)
    (line,) = error_lines(second.stderr.decode())
    assert second.returncode == 1
    assert node.instance in line


# --- what doesn't -----------------------------------------------------------------------------------------------------


def occupied(place: Namespace, address: str, port: int) -> socket.socket:
    """A listening socket of somebody else."""
    listener = place.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    listener.bind((address, port))
    listener.listen(1)
    return listener


def test_node_without_its_listening_port_says_so_and_runs(lab: Lab, place: Namespace) -> None:
    with occupied(place, "::", LISTEN_PORT):
        node = SeptateNode(lab, place).start()
        node.wait_until_up()
        (line,) = error_lines(node.log_path.read_text())
    assert f"TCP port {LISTEN_PORT}" in line
    assert "--tcp-listen-port" in line


def test_node_without_its_api_port_says_so_and_runs(lab: Lab, place: Namespace) -> None:
    node = SeptateNode(lab, place)
    with occupied(place, "127.0.0.1", API_PORT):
        node.start()
        wait_until("the node is ready", lambda: "ready after" in node.log_tail(), RUN_TIMEOUT)
        (line,) = error_lines(node.log_path.read_text())
        roles = {actor.role for actor in node.actors()}
    assert "--api-addr" in line
    assert roles == {"supervisor", "router", "tun", "peers", "messagebox", "rpc"}


def test_node_without_a_device_relays_and_answers_for_its_key(lab: Lab) -> None:
    line = build_line(lab, relay_options=["--no-tun"])
    hops = trace(line.near.namespace, line.far.address)
    # Only who holds the relay's key can seal a report that the sender opens.
    assert (hops[1].kind, hops[1].source) == (TIME_EXCEEDED, subnet_address(line.relay.address))


def test_node_without_a_device_needs_no_rights(lab: Lab, place: Namespace) -> None:
    outside = lab.namespace("outside")
    wire = lab.wire(outside, place)
    node = SeptateNode(lab, place, options=["--no-tun"])
    place.start([*WITHOUT_NET_ADMIN, *node.command()], output=subprocess.DEVNULL, errors=subprocess.DEVNULL)
    wait_until("the node answers", node.ask_address, RUN_TIMEOUT)
    with RawPeer(outside, wire.right_address) as peer:
        assert peer.still_answers()


# --- the end ----------------------------------------------------------------------------------------------------------


def devices_in(place: Namespace) -> str:
    """What `ip link` lists."""
    return place.run(["ip", "-o", "link"]).stdout.decode()


def is_gone(process: int) -> Callable[[], bool]:
    """Whether a process is no more: nobody's child any more, or a zombie of whoever adopted it."""

    def gone() -> bool:
        status = Path(f"/proc/{process}/stat")
        try:
            return parent_of(process) is None or status.read_text().rpartition(")")[2].split()[0] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True

    return gone


def test_sigterm_ends_a_node_soon_and_leaves_nothing(lab: Lab) -> None:
    line = build_line(lab)
    node = line.relay
    folder = runtime_root() / node.instance
    processes = tree_of(node.process_id)
    assert folder.exists()
    assert TUN_NAME in devices_in(node.namespace)
    begin = time.monotonic()
    code = node.stop()
    took = time.monotonic() - begin
    assert code == 0
    assert took < STOP_SECONDS
    assert len(processes) >= 7
    assert [process for process in processes if not is_gone(process)()] == []
    assert not folder.exists()
    assert TUN_NAME not in devices_in(node.namespace)


def test_killed_supervisor_takes_its_children_along(lab: Lab, place: Namespace) -> None:
    node = SeptateNode(lab, place).start()
    node.wait_until_up()
    children = tree_of(node.process_id)[1:]
    os.kill(node.process_id, signal.SIGKILL)
    assert len(children) >= 4
    for child in children:
        wait_until(f"process {child} is gone", is_gone(child), ORPHAN_SECONDS)
    node.kill()


def test_node_starts_again_after_its_supervisor_was_killed(lab: Lab, place: Namespace) -> None:
    node = SeptateNode(lab, place).start()
    address = node.wait_until_up()
    node.kill()
    node.start()
    assert node.wait_until_up() == address
