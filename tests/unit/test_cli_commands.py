"""Commands of the command line beyond what was recorded: ours, and the corners of the reference's."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
import structlog
from click.testing import CliRunner, Result

from actors.runtime import asking
from protocol.frames import ActorList, AskActors, Direction, PacketsSeen, Role, RouteKind, RouteRow
from protocol.mycelium.endpoint import SocketAddress
from protocol.prefix import Prefix, address_text, parse_address
from septate.cli import tap
from septate.cli.parsing import spread
from septate.cli.root import septate
from septate.cli.table import age_text, size_text, table
from septate.client import ApiError, Node
from septate.config import NodeConfig
from tests.unit.stand_ins import actor, actor_row, publisher, run_folder
from tests.unit.test_status_api import served

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _own_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "RUST_LOG"):
        monkeypatch.delenv(name, raising=False)
    yield
    structlog.reset_defaults()


def run(*argv: str) -> Result:
    result = CliRunner().invoke(septate, argv, prog_name="septate")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--peers A B --silent C", "--peers A --peers B --silent C"),
        ("--peers=A B -d", "--peers=A --peers B -d"),
        ("-d --peers A", "-d --peers A"),
        ("--peers A --peers B C", "--peers A --peers B --peers C"),
        ("--peers A -- B", "--peers A -- B"),
        ("--peers -", "--peers -"),
        ("list", "list"),
        ("--peers A -- --peers", "--peers A -- --peers"),
    ],
)
def test_option_takes_all_words_up_to_the_next_option(given: str, expected: str) -> None:
    assert spread(given.split(), "--peers") == expected.split()


@pytest.mark.parametrize("given", ["--peers", "--peers --silent", "--peers --peers A", "--peers -- A"])
def test_option_without_a_word_is_a_usage_error(given: str) -> None:
    with pytest.raises(click.UsageError):
        spread(given.split(), "--peers")


@pytest.mark.parametrize(
    "argv",
    [
        ["--tun-name", "--silent"],
        ["--peer-discovery-interface", "-d"],
        ["-k", "--silent", "inspect"],
        ["--silent", "--silent"],
        ["inspect", "--json", "--json"],
        ["-t", "1_0"],
        ["-t", " 1"],
        ["--update-workers", "0"],
        ["--network-name", "x"],
        ["help", "peers", "nope"],
        ["help", "inspect", "x"],
    ],
)
def test_command_line_that_is_not_understood_exits_with_2(argv: list[str]) -> None:
    result = run(*argv)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Error: " in result.stderr


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--api-addr", "x", "peers", "list"], ["--api-addr", "'x'", "127.0.0.1:8989"]),
        (["--peers", "x"], ["--peers", "'x'", "tcp://192.0.2.10:9651"]),
        (["--allow", "x"], ["--allow", "'x'", "tcp/22"]),
        (["-c", "absent", "peers", "list"], ["absent", "No such file", "--config-file"]),
    ],
)
def test_error_names_the_thing_and_what_would_be_right(argv: list[str], words: list[str]) -> None:
    result = run(*argv)
    assert result.exit_code in (1, 2)
    assert all(word in result.stderr for word in words), result.stderr


@pytest.mark.parametrize("argv", [["help"], ["help", "peers"], ["peers", "help", "add"], ["proxy", "probe", "help"]])
def test_help_goes_to_standard_output(argv: list[str]) -> None:
    result = run(*argv)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("Usage: septate")


@pytest.mark.parametrize("group", ["peers", "routes", "stats", "message", "proxy"])
def test_group_alone_prints_its_help_to_standard_error(group: str) -> None:
    result = run(group)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Commands:" in result.stderr


# --- running a node ---------------------------------------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[NodeConfig]:
    """What the supervisor was started with; it ends at once with code 7."""
    found: list[NodeConfig] = []
    module = ModuleType("supervisor")
    module.run = lambda config: found.append(config) or 7  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "supervisor", module)
    return found


def test_node_is_run_with_what_was_given(
    started: list[NodeConfig], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.toml"
    file.write_text('tcp_listen_port = 5\ntun_name = "file"\nfoo = 1\n')
    result = run(
        *("-c", str(file), "--log-format", "plain", "--instance", "two", "-t6", "--peers", "tcp://192.0.2.1:1"),
        *("TCP://192.0.2.1:1", "quic://192.0.2.2:1", "--peer-discovery-interface", "a"),
        *("--peer-discovery-interface=b", "--disable-quic"),
    )
    assert result.exit_code == 7
    [config] = started
    assert config == NodeConfig(
        key_file=tmp_path / ".local/share/mycelium/priv_key.bin",
        make_key_folder=True,
        peers=("tcp://192.0.2.1:1", "quic://192.0.2.2:1"),
        tcp_listen_port=6,
        tun_name="file",
        log_format="plain",
        instance="two",
        quic=False,
        peer_discovery_interfaces=("a", "b"),
    )
    assert result.stdout == ""
    lines = capfd.readouterr().err.splitlines()
    assert all(line.startswith("ts=") for line in lines)
    for expected in ("unknown keys are ignored: foo", "quic://192.0.2.2:1 never"):
        assert sum(expected in line for line in lines) == 1, lines


def test_silent_node_says_nothing_about_settings(started: list[NodeConfig], capfd: pytest.CaptureFixture[str]) -> None:
    result = run("--silent", "-d", "--disable-quic", "-k", "key")
    assert (result.exit_code, result.stderr, capfd.readouterr().err) == (7, "", "")
    assert (started[0].log_level, started[0].make_key_folder) == ("error", False)


def test_node_with_a_part_that_is_missing_is_not_run(started: list[NodeConfig]) -> None:
    result = run("--cdn-cache", "/tmp/x")
    assert (result.exit_code, started) == (1, [])
    assert result.stderr.startswith("Error: --cdn-cache: this version has no CDN")


def test_workers_of_the_file_are_checked_when_a_node_starts(started: list[NodeConfig], tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("update_workers = 256\n")
    result = run("-c", str(tmp_path / "c.toml"))
    assert (result.exit_code, started) == (1, [])


def test_user_without_a_home_is_told_what_to_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    result = run("peers", "list")
    assert result.exit_code == 1
    assert "--key-file and --config-file" in result.stderr


def test_malformed_rust_log_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUST_LOG", "mycelium=nope")
    result = run("-k", "key")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: RUST_LOG")


# --- keys -------------------------------------------------------------------------------------------------------------


def test_default_key_is_generated_where_inspect_finds_it(tmp_path: Path) -> None:
    assert run("generate-keys").exit_code == 0
    path = tmp_path / ".local/share/mycelium/priv_key.bin"
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(run("--silent", "inspect", "--json").stdout)["address"][0] in "45"


def test_key_that_everybody_may_read_is_warned_of(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "key"
    path.write_bytes(bytes(range(32)))
    path.chmod(0o644)
    run("-k", str(path), "inspect")
    assert "chmod 600" in capfd.readouterr().err
    path.chmod(0o640)
    run("-k", str(path), "inspect")
    assert capfd.readouterr().err == ""


# --- tables -----------------------------------------------------------------------------------------------------------


def test_table_is_drawn_as_in_the_reference() -> None:
    assert table(("Subnet", "Query expiration"), [("5a5:ddb0:8295:ef60::/64", "11")]) == (
        "+-------------------------+------------------+\n"
        "| Subnet                  | Query expiration |\n"
        "+-------------------------+------------------+\n"
        "| 5a5:ddb0:8295:ef60::/64 | 11               |\n"
        "+-------------------------+------------------+"
    )


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (0, "0.00 B"),
        (1023, "1023.00 B"),
        (1024, "1.00 KiB"),
        (1536, "1.50 KiB"),
        (1 << 20, "1.00 MiB"),
        (1 << 63, "8.00 EiB"),
        (1 << 71, "2048.00 EiB"),
    ],
)
def test_size_is_in_the_largest_unit_that_fits(octets: int, expected: str) -> None:
    assert size_text(octets) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0s"), (59, "59s"), (60, "1m 0s"), (65, "1m 5s"), (3600, "1h 0m 0s"), (90000, "1d 1h 0m 0s")],
)
def test_age_leaves_leading_units_out(seconds: int, expected: str) -> None:
    assert age_text(seconds) == expected


def test_peers_table_shows_every_kind_of_row() -> None:
    with served("B") as api:
        api.node.add("vsock://3:9651", "linkLocalDiscovery", "connecting", discovered_age=90061.0)
        result = run("--api-addr", f"127.0.0.1:{api.port}", "peers", "list")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in result.stdout.splitlines()[3::2]]
    assert rows == [
        ["Tcp", "10.93.1.1:9651", "Static", "Alive", "69.00 B", "68.00 B", "2s", "1s"],
        ["Vsock", "3:9651", "LinkLocalDiscovery", "Connecting", "0.00 B", "0.00 B", "1d 1h 1m 1s", "Never connected"],
    ]


def test_infinite_metric_is_shown_as_a_word() -> None:
    with served("B") as api:
        api.node.routes[RouteKind.FALLBACK] = [RouteRow(parse_address("5a5::"), 64, "TCP x", 65535, 3)]
        result = run("--api-addr", f"127.0.0.1:{api.port}", "routes", "fallback")
    assert "| 5a5::/64 | TCP x    | infinite | 3      |" in result.stdout


def test_api_address_of_the_file_is_asked_unless_an_option_names_another(tmp_path: Path) -> None:
    with served("B") as api:
        (tmp_path / "c.toml").write_text(f'api_addr = "127.0.0.1:{api.port}"\n')
        assert run("-c", str(tmp_path / "c.toml"), "peers", "list", "--json").exit_code == 0
        assert run("--api-addr", "127.0.0.1:1", "-c", str(tmp_path / "c.toml"), "peers", "list").exit_code == 1


def test_refusal_of_the_api_is_told() -> None:
    with served("B") as api:
        result = run("--api-addr", f"127.0.0.1:{api.port}", "peers", "add", "foo")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: foo: ")
    assert "missing leading protocol identifier (HTTP 400)" in result.stderr


# --- answers that are none of ours ------------------------------------------------------------------------------------


@contextmanager
def answering(content: bytes) -> Iterator[str]:
    """A server that sends `content` to one caller."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(content)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def http_answer(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


@pytest.mark.parametrize("argv", [["peers", "list"], ["routes", "selected"], ["stats", "packets"]])
@pytest.mark.parametrize(
    "content",
    [b"SSH-2.0-x\r\n", b"", *map(http_answer, (b"<html>", b"[1]", b"\xff", b"[" * 100000))],
)
def test_answer_of_something_else_is_one_line(argv: list[str], content: bytes) -> None:
    with answering(content) as address:
        result = run("--api-addr", address, *argv)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1


def test_silent_api_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = SocketAddress(ip_address("127.0.0.1"), listener.getsockname()[1])
        with pytest.raises(ApiError, match="did not answer within"):
            Node(address, timeout_s=0.1).peers()


# --- actors -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def instance(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The runtime folder of the only living node."""
    with run_folder() as folder:
        here = folder / "one"
        here.mkdir()
        monkeypatch.setattr(asking, "runtime_root", lambda: folder)
        with (here / asking.LOCK_FILE).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield here


def test_actors_are_shown_while_one_of_them_lives(instance: Path) -> None:
    def reply(question: AskActors) -> Any:
        rows = (actor_row("router", Role.ROUTER), actor_row("tun", Role.TUN, ready=False, queues={}))
        return [ActorList(question.token, rows[:1], True), ActorList(question.token, rows[1:], False)]

    with actor(instance, "router", reply):
        result = run("actors", "--instance", "one")
        as_json = run("actors", "--json")
    assert result.stdout.splitlines()[1::2] == [
        "| Role   | Title                | PID  | Age   | Restarts | Memory MiB | CPU s | Queues     |",
        "| router | router title         | 4711 | 1m 5s | 2        | 20.5       | 1.23  | outgoing=3 |",
        "| tun    | tun title (starting) | 4711 | 1m 5s | 2        | 20.5       | 1.23  |            |",
    ]
    assert [row["name"] for row in json.loads(as_json.stdout)] == ["router", "tun"]


def test_no_living_actor_is_one_line(instance: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("septate.cli.actors._DEADLINE_S", 0.1)
    result = run("actors")
    assert result.exit_code == 1
    assert "none of status, router, peers, tun answers" in result.stderr


def test_no_node_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "runtime_root", lambda: tmp_path)
    for command in ("actors", "tap"):
        result = run(command)
        assert (result.exit_code, result.stderr[:31]) == (1, "Error: no node runs here; start")


# --- tap --------------------------------------------------------------------------------------------------------------

SOURCE, DESTINATION, OTHER = (parse_address(text) for text in ("5ea::1", "5a5::2", "400::3"))


def header(source: bytes, destination: bytes, *, length: int = 1234, hop_limit: int = 63) -> bytes:
    """Packet header and data header, written out by hand from wire spec 3.1 and 3.3."""
    return b"\x01\x00\x00\x00" + b"\x00" + length.to_bytes(2, "big") + bytes((hop_limit,)) + source + destination


@contextmanager
def publishing(folder: Path, names: tuple[str, ...], headers: bytes) -> Iterator[None]:
    """Actors that send one event to each new subscriber."""
    with ExitStack() as stack:
        for name in names:
            seen = PacketsSeen(name, Direction.IN if name == "tun" else Direction.OUT, headers)
            stack.enter_context(publisher(folder, name, seen))
        yield


def test_tap_prints_one_line_per_packet(instance: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tap, "_clock", lambda: "12:00:00.000000")
    headers = header(SOURCE, DESTINATION) + header(DESTINATION, SOURCE, length=65535, hop_limit=1)
    with publishing(instance, ("link-3", "peers"), headers):
        result = run("tap", "--count", "2")
    assert result.stdout.splitlines() == [
        "12:00:00.000000 link-3 out 5ea::1 > 5a5::2 hop limit 63 length 1234",
        "12:00:00.000000 link-3 out 5a5::2 > 5ea::1 hop limit 1 length 65535",
    ]


@pytest.mark.parametrize(("link", "name"), [("3", "link-3"), ("link-4", "link-4"), ("tun", "tun")])
def test_tap_may_look_at_one_process_only(instance: Path, link: str, name: str) -> None:
    with publishing(instance, ("link-3", "link-4", "tun"), header(SOURCE, DESTINATION)):
        result = run("tap", "--link", link, "--count", "1", "--instance", "one")
    assert f" {name} " in result.stdout


@pytest.mark.parametrize(("match", "count"), [("5ea::/64", 2), ("5a5::2", 1), ("400::/7", 3), ("2001:db8::/32", 0)])
def test_tap_matches_source_or_destination(match: str, count: int) -> None:
    headers = header(SOURCE, OTHER) + header(OTHER, SOURCE) + header(OTHER, DESTINATION) + b"half a header"
    wanted = Prefix.parse(match if "/" in match else f"{match}/128")
    found = list(tap.lines(PacketsSeen("tun", Direction.IN, headers), wanted, "now"))
    assert len(found) == count
    assert all(address_text(OTHER) in line for line in found)


def test_tap_prints_one_object_per_packet(instance: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tap, "_clock", lambda: "12:00:00.000000")
    with publishing(instance, ("tun",), header(SOURCE, DESTINATION)):
        result = run("tap", "--json", "--count", "1")
    assert json.loads(result.stdout) == {
        "time": "12:00:00.000000",
        "actor": "tun",
        "direction": "in",
        "source": "5ea::1",
        "destination": "5a5::2",
        "hopLimit": 63,
        "length": 1234,
    }


def test_tap_refuses_what_is_no_prefix(instance: Path) -> None:
    result = run("tap", "--match", "foo")
    assert result.exit_code == 1
    assert "'foo' is not an IPv6 address" in result.stderr


def test_tap_ends_quietly_when_interrupted(instance: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_seen: Any, _wanted: Any, _moment: str, *, as_json: bool) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(tap, "lines", interrupted)
    with publishing(instance, ("tun",), header(SOURCE, DESTINATION)):
        result = run("tap")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


# --- as a program -----------------------------------------------------------------------------------------------------


def program(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from septate.cli import main; main()", *argv],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_program_prints_its_version() -> None:
    result = program("-V")
    assert (result.returncode, result.stdout.split()[0], result.stderr) == (0, "septate", "")


def test_program_exits_with_1_and_one_line_where_no_node_runs() -> None:
    result = program("--api-addr", "127.0.0.1:1", "peers", "list")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: cannot talk to the node's API at 127.0.0.1:1: Connection refused")


def test_quick_commands_import_nothing_heavy() -> None:
    code = (
        "import sys, septate.cli.root; "
        "print([name for name in ('zmq', 'flask', 'structlog', 'cryptography', 'blake3', 'numpy', 'supervisor') "
        "if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout == "[]\n"
